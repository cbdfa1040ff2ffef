//! One frame of the outbox, read where it lies.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use arrow::buffer::Buffer;
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use tailwater_model::ids::BatchSeq;
use tailwater_model::table::Table;

use super::head::{FrameHead, damaged};
use super::preamble::Schemas;
use crate::{Error, ErrorKind, Result};

/// A frame: its head, and its rows on demand. Cloning shares the mapping and what was decoded.
#[derive(Debug, Clone)]
pub struct FrameRef {
    /// The batch it belongs to; its rows' `batch_id`.
    pub seq: BatchSeq,
    /// What is known without decoding.
    pub head: Arc<FrameHead>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes: Bytes,
    schemas: Arc<Schemas>,
    /// Decoded at the first read: the checksum, UTF-8 and offsets are checked once as long as the mapping lives.
    decoded: OnceLock<RecordBatch>,
}

impl FrameRef {
    /// A frame of the record `seq` with this body.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if the body is too short.
    pub fn new(seq: BatchSeq, head: FrameHead, body: &Bytes, schemas: Arc<Schemas>) -> Result<FrameRef> {
        let range = usize::try_from(head.offset).ok().zip(usize::try_from(head.len).ok());
        let range = range.and_then(|(offset, len)| Some(offset..offset.checked_add(len)?));
        let Some(range) = range.filter(|range| range.end <= body.len()) else {
            return Err(damaged(format!(
                "batch {}: a frame lies outside the body of {} bytes",
                seq.0,
                body.len()
            )));
        };
        let shared = Shared {
            bytes: body.slice(range),
            schemas,
            decoded: OnceLock::new(),
        };
        Ok(FrameRef {
            seq,
            head: Arc::new(head),
            shared: Arc::new(shared),
        })
    }

    /// Whose rows.
    pub fn table(&self) -> Table {
        self.head.table
    }

    /// How many.
    pub fn rows(&self) -> usize {
        self.head.rows as usize
    }

    /// The rows: the frame's columns as they lie (words are dictionaries) and `batch_id` last. Nothing is copied; the
    /// batch keeps the mapping alive.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if the checksum is wrong or the bytes are no Arrow.
    pub fn read(&self) -> Result<RecordBatch> {
        if let Some(batch) = self.shared.decoded.get() {
            return Ok(batch.clone());
        }
        let batch = self
            .decode()
            .map_err(|error| error.within(format_args!("outbox batch {}", self.seq.0)))?;
        Ok(self.shared.decoded.get_or_init(|| batch).clone())
    }

    /// The rows as the columns of `schema`, each cast to its type: dictionaries become strings where the schema says so, and
    /// columns newer than the segment become nulls.
    ///
    /// # Errors
    /// As [`FrameRef::read`]; [`ErrorKind::Incompatible`] if a column cannot be cast.
    pub fn read_as(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        as_schema(&self.read()?, schema)
    }

    /// The frame's bytes as they lie in the segment.
    pub fn mapped(&self) -> &Bytes {
        &self.shared.bytes
    }

    fn decode(&self) -> Result<RecordBatch> {
        let crc = crc32c::crc32c(&self.shared.bytes);
        if crc != self.head.crc {
            return Err(damaged(format!(
                "frame checksum is {crc:08x}, its head says {:08x}",
                self.head.crc
            )));
        }
        let mut decoder = self.shared.schemas.decoder(self.head.table)?;
        let mut buffer = Buffer::from(self.shared.bytes.clone());
        let no_arrow = |error| Error::caused(ErrorKind::Damaged, "frame is no Arrow batch", error);
        let rows = decoder
            .decode(&mut buffer)
            .map_err(no_arrow)?
            .ok_or_else(|| damaged("frame holds no batch"))?;
        if rows.num_rows() != self.rows() || !buffer.is_empty() {
            let text = format!("frame holds {} rows, its head says {}", rows.num_rows(), self.head.rows);
            return Err(damaged(text));
        }
        with_batch_id(&rows, self.seq)
    }
}

/// Rows of a frame of batch `seq`, as [`FrameRef::read`] answers them: with column `batch_id` last.
///
/// # Errors
/// [`ErrorKind::Damaged`] for a number that no log gives.
pub fn with_batch_id(rows: &RecordBatch, seq: BatchSeq) -> Result<RecordBatch> {
    let seq = i64::try_from(seq.0).map_err(|_| damaged("batch number above 2^63"))?;
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(seq, rows.num_rows())));
    let mut fields: Vec<Arc<Field>> = rows.schema_ref().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("batch_id", DataType::Int64, false)));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The rows as the columns of `schema`: by name, cast where the type differs, null where the column is missing.
///
/// # Errors
/// [`ErrorKind::Incompatible`] if a column cannot be cast, or is missing and may not be null.
pub fn as_schema(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if rows.schema_ref() == schema {
        return Ok(rows.clone());
    }
    let columns = schema
        .fields()
        .iter()
        .map(|field| match rows.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => compute::cast(column, field.data_type())
                .map_err(|error| Error::caused(ErrorKind::Incompatible, format!("column {}", field.name()), error)),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), rows.num_rows())),
            None => Err(Error::new(
                ErrorKind::Incompatible,
                format!("column {} is missing", field.name()),
            )),
        });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|error| Error::caused(ErrorKind::Incompatible, "rows do not fit the schema", error))
}
