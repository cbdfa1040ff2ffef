//! Building one outbox record from decided rows.

use std::sync::Arc;

use ahash::AHashSet;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::compute;
use arrow::datatypes::{DataType, Int32Type, TimeUnit, TimestampMicrosecondType};
use arrow::ipc::writer::StreamEncoder;
use bytes::Bytes;
use tailwater_model::table::{Table, frame_schema, time_column};

use super::head::{FrameHead, Head, SERVICE_BYTES_MAX, SERVICES_MAX};
use super::preamble::{schema_message, write_options};
use super::traces::TraceFilter;
use crate::{Error, ErrorKind, Result};

/// Arrow buffers at least this long go to the log as they are; shorter ones, and padding, are gathered first. A frame has
/// some hundred buffers, most of them tiny, and a `writev` entry costs more than copying 4 KiB.
const GATHER_BYTES: usize = 4 << 10;

/// A finished record, ready for the log.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The record's head.
    pub head: Bytes,
    /// The record's body in slices, to be written one after the other.
    pub body: Vec<Bytes>,
    /// Length of the body in bytes.
    pub body_len: u64,
    /// CRC32C of the body.
    pub body_crc: u32,
    /// Rows in all frames.
    pub rows: u64,
}

/// Collects the frames of one batch. Frames may be several per table; each is sorted in the table's order by its maker.
#[derive(Debug)]
pub struct BatchBuilder {
    head: Head,
    body: Vec<Bytes>,
    body_len: u64,
    body_crc: u32,
    gathered: Vec<u8>,
}

impl BatchBuilder {
    /// A batch with the journal's settlement, which may hold no rows at all.
    pub fn new(settlement: Bytes) -> BatchBuilder {
        let head = Head {
            settlement,
            frames: Vec::new(),
        };
        BatchBuilder {
            head,
            body: Vec::new(),
            body_len: 0,
            body_crc: 0,
            gathered: Vec::new(),
        }
    }

    /// Adds rows of a table; a batch without rows adds nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the columns are not those of [`frame_schema`], or if there are 65,535 frames already.
    pub fn frame(mut self, table: Table, rows: &RecordBatch) -> Result<BatchBuilder> {
        if rows.num_rows() == 0 {
            return Ok(self);
        }
        if self.head.frames.len() == usize::from(u16::MAX) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "an outbox batch holds at most 65535 frames",
            ));
        }
        let schema = frame_schema(table);
        if rows.schema_ref() != &schema {
            let text = format!(
                "rows of table {} do not have the frame schema: {:?}",
                table.name(),
                rows.schema_ref()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let buffers = encode(rows)?;
        let offset = self.body_len;
        let mut crc = 0;
        for buffer in buffers {
            crc = crc32c::crc32c_append(crc, &buffer);
            self.push(buffer);
        }
        let len = self.body_len - offset;
        // What a frame's bytes add up to need not be added up again for the record.
        self.body_crc = crc32c::crc32c_combine(self.body_crc, crc, len as usize);
        let (services, traces) = (services(rows), traces(rows));
        self.head.frames.push(FrameHead {
            table,
            rows: rows.num_rows() as u32,
            times: times(table, rows)?,
            services,
            traces,
            offset,
            len,
            crc,
        });
        Ok(self)
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.head.frames.iter().map(|frame| u64::from(frame.rows)).sum()
    }

    /// Bytes of the body so far.
    pub fn body_len(&self) -> u64 {
        self.body_len
    }

    /// The record.
    pub fn finish(mut self) -> Encoded {
        self.flush();
        Encoded {
            rows: self.rows(),
            head: self.head.encode(),
            body: self.body,
            body_len: self.body_len,
            body_crc: self.body_crc,
        }
    }

    fn push(&mut self, buffer: Buffer) {
        self.body_len += buffer.len() as u64;
        if buffer.len() < GATHER_BYTES {
            self.gathered.extend_from_slice(&buffer);
        } else {
            self.flush();
            self.body.push(Bytes::from_owner(Shared(buffer)));
        }
    }

    fn flush(&mut self) {
        if !self.gathered.is_empty() {
            self.body.push(Bytes::from(std::mem::take(&mut self.gathered)));
        }
    }
}

/// Lets `Bytes` share an Arrow buffer.
struct Shared(Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// The frame's bytes: dictionary messages and the record batch message, each a multiple of 64 bytes long.
fn encode(rows: &RecordBatch) -> Result<Vec<Buffer>> {
    let schema = rows.schema();
    let mut buffers = StreamEncoder::try_new_with_options(&schema, write_options())?.encode(rows)?;
    // The encoder starts every stream with the schema, which the segment has in its preamble already.
    let mut schema_left = schema_message(&schema)?.len();
    buffers.retain(|buffer| {
        let is_schema = schema_left > 0;
        schema_left = schema_left.saturating_sub(buffer.len());
        !is_schema
    });
    Ok(buffers)
}

fn times(table: Table, rows: &RecordBatch) -> Result<Option<(i64, i64)>> {
    // A part of a trace covers an interval; everything else is a point in time.
    let first = rows.column_by_name(time_column(table));
    let last = rows.column_by_name("ts_max").or(first);
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(None);
    };
    if !matches!(first.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
        return Ok(None);
    }
    let min = compute::min(first.as_primitive::<TimestampMicrosecondType>());
    let max = compute::max(last.as_primitive::<TimestampMicrosecondType>());
    Ok(min.zip(max))
}

fn services(rows: &RecordBatch) -> Option<Arc<[Arc<str>]>> {
    let column = rows.column_by_name("service_name")?.as_dictionary_opt::<Int32Type>()?;
    let values = column.values().as_string_opt::<i32>()?;
    // A dictionary may hold words that no row uses: only the used ones count, or frames could never be skipped.
    let mut used = vec![false; values.len()];
    for key in column.keys().iter().flatten() {
        used[key as usize] = true;
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for (index, used) in used.into_iter().enumerate() {
        if !used || values.is_null(index) {
            continue;
        }
        let name = values.value(index);
        if name.len() > SERVICE_BYTES_MAX || names.len() == SERVICES_MAX {
            return None;
        }
        names.push(Arc::from(name));
    }
    names.sort_unstable();
    names.dedup();
    Some(names.into())
}

fn traces(rows: &RecordBatch) -> Option<Arc<TraceFilter>> {
    let column: &ArrayRef = rows.column_by_name("trace_id")?;
    let ids = column.as_binary_opt::<i32>()?;
    let distinct: AHashSet<&[u8]> = ids.iter().flatten().collect();
    Some(Arc::new(TraceFilter::of(distinct.into_iter())))
}
