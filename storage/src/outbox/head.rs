//! The head of an outbox record: what is inside, without touching the body.
//!
//! All integers little-endian:
//! ```text
//!  u8 version = 1
//!  u32 length, settlement
//!  u16 frames, then for each:
//!    u8 table code | u8 flags: 1 = times known, 2 = services known, 4 = trace filter | u32 rows
//!    i64 ts_min | i64 ts_max | u64 offset in the body | u64 length | u32 CRC-32C of the frame
//!    u16 services, each: u16 length, UTF-8        (flag 2)
//!    u32 length, trace filter bits                (flag 4)
//! ```

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use tailwater_model::table::Table;

use super::TraceFilter;
use crate::{Error, ErrorKind, Result};

const VERSION: u8 = 1;
const TIMES: u8 = 1;
const SERVICES: u8 = 2;
const TRACES: u8 = 4;

/// More services than this in one frame are not listed: the frame then may hold any.
pub(super) const SERVICES_MAX: usize = 64;
/// A service name longer than this makes the frame "may hold any".
pub(super) const SERVICE_BYTES_MAX: usize = 256;

/// What is known of a frame without decoding it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHead {
    /// Whose rows.
    pub table: Table,
    /// How many; never 0.
    pub rows: u32,
    /// Smallest and largest time of the rows, in microseconds since 1970; `None` if unknown.
    pub times: Option<(i64, i64)>,
    /// The services of the rows, each once, sorted; `None` if unknown or too many. Rows without a service are not listed.
    pub services: Option<Arc<[Arc<str>]>>,
    /// Which traces may be inside; `None` for tables without trace ids.
    pub traces: Option<Arc<TraceFilter>>,
    /// Where the frame begins in the body, in bytes; a multiple of 64.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// CRC-32C of its bytes.
    pub crc: u32,
}

/// The head of an outbox record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The journal's bytes, as given to the builder.
    pub settlement: Bytes,
    /// The frames, in the order of the body.
    pub frames: Vec<FrameHead>,
}

impl Head {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 + self.settlement.len() + self.frames.len() * 128);
        out.put_u8(VERSION);
        out.put_u32_le(self.settlement.len() as u32);
        out.put_slice(&self.settlement);
        out.put_u16_le(self.frames.len() as u16);
        for frame in &self.frames {
            frame.encode(&mut out);
        }
        out.into()
    }

    /// Parses a record's head.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it is cut short, of an unknown version, or names an unknown table.
    pub fn decode(mut bytes: Bytes) -> Result<Head> {
        let version = take(&mut bytes, 1)?.get_u8();
        if version != VERSION {
            return Err(damaged(format!(
                "outbox head of version {version}, this program knows {VERSION}"
            )));
        }
        let settlement_len = take(&mut bytes, 4)?.get_u32_le() as usize;
        let settlement = take(&mut bytes, settlement_len)?;
        let count = take(&mut bytes, 2)?.get_u16_le();
        let frames = (0..count)
            .map(|_| FrameHead::decode(&mut bytes))
            .collect::<Result<Vec<_>>>()?;
        if bytes.has_remaining() {
            return Err(damaged(format!("outbox head is {} bytes too long", bytes.remaining())));
        }
        Ok(Head { settlement, frames })
    }
}

impl FrameHead {
    fn encode(&self, out: &mut Vec<u8>) {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.put_u8(self.table as u8);
        out.put_u8(
            flag(self.times.is_some(), TIMES)
                | flag(self.services.is_some(), SERVICES)
                | flag(self.traces.is_some(), TRACES),
        );
        out.put_u32_le(self.rows);
        let (ts_min, ts_max) = self.times.unwrap_or_default();
        out.put_i64_le(ts_min);
        out.put_i64_le(ts_max);
        out.put_u64_le(self.offset);
        out.put_u64_le(self.len);
        out.put_u32_le(self.crc);
        if let Some(services) = &self.services {
            out.put_u16_le(services.len() as u16);
            for service in services.iter() {
                out.put_u16_le(service.len() as u16);
                out.put_slice(service.as_bytes());
            }
        }
        if let Some(traces) = &self.traces {
            out.put_u32_le(traces.as_bytes().len() as u32);
            out.put_slice(traces.as_bytes());
        }
    }

    fn decode(bytes: &mut Bytes) -> Result<FrameHead> {
        let mut fixed = take(bytes, 42)?;
        let code = fixed.get_u8();
        let table = Table::from_code(code).ok_or_else(|| damaged(format!("outbox frame of unknown table {code}")))?;
        let flags = fixed.get_u8();
        let rows = fixed.get_u32_le();
        let times = (fixed.get_i64_le(), fixed.get_i64_le());
        let (offset, len, crc) = (fixed.get_u64_le(), fixed.get_u64_le(), fixed.get_u32_le());
        let services = if flags & SERVICES != 0 {
            let count = take(bytes, 2)?.get_u16_le();
            let names = (0..count).map(|_| {
                let length = take(bytes, 2)?.get_u16_le() as usize;
                let name = take(bytes, length)?;
                let name = std::str::from_utf8(&name).map_err(|_| damaged("a service name is not UTF-8"))?;
                Ok(Arc::from(name))
            });
            Some(names.collect::<Result<Vec<Arc<str>>>>()?.into())
        } else {
            None
        };
        let traces = if flags & TRACES != 0 {
            let length = take(bytes, 4)?.get_u32_le() as usize;
            Some(Arc::new(TraceFilter::from_bytes(&take(bytes, length)?)))
        } else {
            None
        };
        let times = (flags & TIMES != 0).then_some(times);
        Ok(FrameHead {
            table,
            rows,
            times,
            services,
            traces,
            offset,
            len,
            crc,
        })
    }

    /// Whether rows of `service` may be inside.
    pub fn may_have_service(&self, service: &str) -> bool {
        self.services
            .as_ref()
            .is_none_or(|known| known.binary_search_by(|name| (**name).cmp(service)).is_ok())
    }

    /// Whether rows of this trace may be inside.
    pub fn may_have_trace(&self, trace_id: &[u8]) -> bool {
        self.traces.as_ref().is_none_or(|filter| filter.may_contain(trace_id))
    }

    /// Whether rows with a time in `from..=to` (microseconds since 1970) may be inside.
    pub fn may_have_time(&self, from: i64, to: i64) -> bool {
        self.times.is_none_or(|(min, max)| min <= to && max >= from)
    }
}

fn take(bytes: &mut Bytes, count: usize) -> Result<Bytes> {
    if bytes.remaining() < count {
        return Err(damaged(format!(
            "outbox head ends {} bytes early",
            count - bytes.remaining()
        )));
    }
    Ok(bytes.split_to(count))
}

pub(super) fn damaged(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, text)
}
