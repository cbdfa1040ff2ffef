//! The schemas of all frames, once at the head of every segment.
//!
//! ```text
//!  "TWO1" | u16 count | per table: u8 code, u32 length, Arrow IPC schema message (continuation, length, flatbuffer, padding)
//! ```
//! A frame is decoded with the schema of its own segment, so a program that has since learnt a column still reads the
//! segments of the one before it; [`super::as_schema`] then fills the new column with nulls.

use std::collections::HashMap;
use std::sync::LazyLock;

use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow::ipc::MetadataVersion;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamEncoder};
use bytes::{Buf, BufMut, Bytes};
use tailwater_model::table::{Table, frame_schema};

use super::head::damaged;
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 4] = b"TWO1";
/// Arrow buffers begin at multiples of this many bytes, so that a mapped frame is used as it lies.
const ALIGNMENT: usize = 64;

pub(super) fn write_options() -> IpcWriteOptions {
    IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)
        .expect("64 bytes and V5 are a combination Arrow allows")
}

/// The Arrow schema message of a frame schema: what a stream of frames would begin with.
pub(super) fn schema_message(schema: &Schema) -> Result<Vec<u8>> {
    // A stream without batches is the schema message and the 8-byte end mark.
    const END_MARK_BYTES: usize = 8;
    let stream = StreamEncoder::try_new_with_options(schema, write_options())?.finish()?;
    let mut message: Vec<u8> = stream.iter().flat_map(|buffer| buffer.as_slice()).copied().collect();
    message.truncate(message.len() - END_MARK_BYTES);
    Ok(message)
}

/// The preamble that the outbox's segments begin with, from the frame schemas of this program.
pub fn preamble() -> Bytes {
    static PREAMBLE: LazyLock<Bytes> =
        LazyLock::new(|| encode(Table::COLLECTED.map(|table| (table, frame_schema(table)))));
    PREAMBLE.clone()
}

fn encode(
    tables: impl IntoIterator<Item = (Table, arrow::datatypes::SchemaRef), IntoIter: ExactSizeIterator>,
) -> Bytes {
    let tables = tables.into_iter();
    let mut out = Vec::new();
    out.put_slice(MAGIC);
    out.put_u16_le(tables.len() as u16);
    for (table, schema) in tables {
        let message = schema_message(&schema).expect("the frame schemas have only types that Arrow IPC can write");
        out.put_u8(table as u8);
        out.put_u32_le(message.len() as u32);
        out.put_slice(&message);
    }
    out.into()
}

/// The frame schemas of one segment.
#[derive(Debug, Clone)]
pub struct Schemas {
    messages: HashMap<Table, Buffer>,
}

impl Schemas {
    /// Parses a segment's preamble. Tables that this program does not know are left out; their frames cannot be read.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it is no preamble, or cut short.
    pub fn parse(mut bytes: Bytes) -> Result<Schemas> {
        let mut take = |count: usize| {
            if bytes.remaining() < count {
                return Err(damaged("outbox preamble is cut short"));
            }
            Ok(bytes.split_to(count))
        };
        if take(4)?.as_ref() != MAGIC {
            return Err(damaged("not an outbox preamble"));
        }
        let count = take(2)?.get_u16_le();
        let mut messages = HashMap::new();
        for _ in 0..count {
            let code = take(1)?.get_u8();
            let length = take(4)?.get_u32_le() as usize;
            let message = take(length)?;
            if let Some(table) = Table::from_code(code) {
                // Copied: flatbuffers wants alignment, and the preamble packs its messages.
                messages.insert(table, Buffer::from(message.as_ref()));
            }
        }
        Ok(Schemas { messages })
    }

    /// A decoder that knows the table's schema and waits for a frame.
    pub(super) fn decoder(&self, table: Table) -> Result<StreamDecoder> {
        let message = self.messages.get(&table).ok_or_else(|| {
            Error::new(
                ErrorKind::Incompatible,
                format!("the outbox segment has no schema of table {}", table.name()),
            )
        })?;
        let mut decoder = StreamDecoder::new();
        decoder.decode(&mut message.clone()).map_err(|error| {
            Error::caused(
                ErrorKind::Damaged,
                format!("schema of table {} in the outbox preamble", table.name()),
                error,
            )
        })?;
        Ok(decoder)
    }
}
