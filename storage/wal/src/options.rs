//! Settings of one log, resolved: the config crate turns keys into these.

use std::path::PathBuf;

use bytes::Bytes;

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::{BLOCK, RECORD_HEADER, data_start, record_total};
use crate::segment::planned_bytes;

/// When a ticket completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// After the fdatasync that covers the record.
    Fsync,
    /// After the write. A sync follows at most 100 ms later, so that much can be lost with the power.
    Write,
}

/// How segments are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Through the page cache.
    Buffered,
    /// O_DIRECT: every group fills whole 4 KiB blocks. Falls back to [`Io::Buffered`] where the file system has no O_DIRECT. Readers
    /// that map such a log fetch its records from the disk, once.
    Direct,
}

/// When the bodies of records that are known to be durable are verified. Others always are at opening: that tells a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// At opening, all that are needed.
    AtOpening,
    /// When somebody reads them, who calls [`Wal::set_aside`](crate::Wal::set_aside) for what does not verify. Opening then touches headers
    /// and heads alone, several segments at a time.
    WhenRead,
}

/// Everything [`Wal::open`](crate::Wal::open) needs. Start from [`Options::new`] and set what differs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The log's own directory; made if missing.
    pub dir: PathBuf,
    /// Random identity of the data directory.
    pub log_id: [u8; 16],
    /// Which of the data directory's logs this is; any number the caller keeps.
    pub kind: u32,
    /// Length of a segment. A record too large for it gets a segment of its own.
    pub segment_bytes: u64,
    /// Stored once per segment and handed back with its records.
    pub preamble: Bytes,
    /// When tickets complete.
    pub ack: Ack,
    /// How segments are written.
    pub io: Io,
    /// Trimmed segments kept for reuse; they count for the budget and are used up first, so the disk taken stays at the largest ever
    /// needed, until the file system is nearly at the reserve: they are given back then. First writes into fresh segments cost several times as much. 0 for a log that other processes map.
    pub recycle: usize,
    /// Most bytes of disk the log takes, free segments included, those of [`Wal::lend`](crate::Wal::lend) apart. At least two segments.
    pub budget_bytes: u64,
    /// Free bytes of the file system that are left alone.
    pub reserve_bytes: u64,
    /// Most bytes that wait for the disk; a single larger record is taken when nothing waits.
    pub queue_bytes_max: u64,
    /// Largest record, header and padding included.
    pub record_bytes_max: u64,
    /// Control page for readers in other processes.
    pub control: Option<PathBuf>,
    /// Largest sequence number known durable from elsewhere (checkpoint, outbox). The next number is larger, and everything up to
    /// it that is needed and not readable is damage.
    pub floor: u64,
    /// First sequence number the caller still needs; what is before it is neither verified nor missed. 0: whatever is there.
    pub needed: u64,
    /// When bodies are verified.
    pub bodies: Bodies,
    /// Accept [`Ack::Fsync`] on a file system that cannot keep it (tmpfs, ramfs, NFS).
    pub allow_volatile: bool,
    /// Time for the timers.
    pub clock: Clock,
}

impl Options {
    /// Defaults: 64 MiB segments, fsync before ack, direct (see `docs/decisions/002-wal-io.md`), 64 segments recycled (all that the
    /// budget holds), 4 GiB budget, 256 MiB reserve, 64 MiB queue, 256 MiB records, no control page, everything verified at opening.
    pub fn new(dir: impl Into<PathBuf>, log_id: [u8; 16], kind: u32) -> Options {
        const MIB: u64 = 1 << 20;
        Options {
            dir: dir.into(),
            log_id,
            kind,
            segment_bytes: 64 * MIB,
            preamble: Bytes::new(),
            ack: Ack::Fsync,
            io: Io::Direct,
            recycle: 64,
            budget_bytes: 4096 * MIB,
            reserve_bytes: 256 * MIB,
            queue_bytes_max: 64 * MIB,
            record_bytes_max: 256 * MIB,
            control: None,
            floor: 0,
            needed: 0,
            bodies: Bodies::AtOpening,
            allow_volatile: false,
            clock: Clock::system(),
        }
    }

    pub(crate) fn direct(&self) -> bool {
        self.io == Io::Direct
    }

    /// Offset of the first record in the segments this program makes.
    pub(crate) fn data_start(&self) -> u64 {
        data_start(self.preamble.len() as u64)
    }

    /// Length of a segment that is to hold `need` planned bytes.
    pub(crate) fn segment_len(&self, need: u64) -> u64 {
        crate::format::align_up(self.segment_bytes, BLOCK).max(self.least_segment_len(need))
    }

    /// Length of a segment that holds nothing but `need` planned bytes.
    pub(crate) fn least_segment_len(&self, need: u64) -> u64 {
        crate::format::align_up(self.data_start() + need, BLOCK)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::new(Kind::Options, message));
        let smallest = self.data_start() + planned_bytes(record_total(0, 0), self.direct());
        if self.segment_bytes < smallest {
            return refuse(format!(
                "segment_bytes {} is below {smallest}: no record fits",
                self.segment_bytes
            ));
        }
        if self.budget_bytes < 2 * self.segment_bytes {
            return refuse(format!(
                "budget_bytes {} is below two segments of {} bytes: trimming could never make room",
                self.budget_bytes, self.segment_bytes
            ));
        }
        if self.record_bytes_max < RECORD_HEADER {
            return refuse(format!(
                "record_bytes_max {} is below a record header",
                self.record_bytes_max
            ));
        }
        if self.control.is_some() && self.recycle > 0 {
            return refuse("a log with a control page is mapped by readers, so recycle must be 0".to_owned());
        }
        Ok(())
    }
}
