//! Reading the log back in its own process: one record in memory at a time.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::buffer::AlignedBuf;
use crate::error::{Error, Kind, Result};
use crate::file::{Disk, Open};
use crate::recover::{first_record, read_segment_header};
use crate::segment::SegmentMeta;
use crate::shared::Mark;
use crate::walk::{Step, Verify, Walk, Window};

/// A record read back, completely verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number.
    pub seq: u64,
    /// As appended.
    pub head: Bytes,
    /// As appended, with the zeros between slices if they were aligned. Starts at a multiple of 4096 in memory. Empty and not verified in
    /// [`Wal::heads`](crate::Wal::heads).
    pub body: Bytes,
    /// The preamble of its segment; `None` if that is damaged.
    pub preamble: Option<Bytes>,
}

/// The records that were durable when [`Wal::records`](crate::Wal::records) was called. Ranges that [`Wal::open`](crate::Wal::open) reported
/// lost are passed over silently; anything else that does not verify is one [`Kind::Damaged`] for its range, and the records behind
/// it follow. Assumes that nothing from its start on is trimmed meanwhile.
pub struct Records {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) log_id: [u8; 16],
    pub(crate) kind: u32,
    pub(crate) salt: u32,
    pub(crate) from: u64,
    /// [`Verify::Head`] reads no bodies.
    pub(crate) verify: Verify,
    /// A place at or before `from`, in the segment of its generation.
    pub(crate) mark: Option<(u64, Mark)>,
    /// Segments still to read, with the first number behind what is to be read of each.
    pub(crate) segments: VecDeque<(SegmentMeta, u64)>,
    pub(crate) known_lost: Vec<(u64, u64)>,
    pub(crate) current: Option<Current>,
    /// Next number to account for.
    pub(crate) next: u64,
    /// Last number to account for.
    pub(crate) until: u64,
}

pub(crate) struct Current {
    walk: Walk<Window>,
    preamble: Option<Bytes>,
}

impl Records {
    fn open_next(&mut self) -> Option<Result<()>> {
        let (meta, limit) = self.segments.pop_front()?;
        let path = meta.path(&self.dir);
        let open = || -> Result<Current> {
            let failed = |e: io::Error| Error::io(format!("reading {}", path.display()), e);
            let file = self.disk.open(&path, Open::Read).map_err(failed)?;
            let (header, preamble) = read_segment_header(&*file, &meta, &self.log_id, self.kind, &path)?;
            let from = match self.mark {
                Some((seq, mark)) if mark.generation == meta.generation => (mark.at, seq),
                _ => (first_record(header.as_ref()), meta.base),
            };
            let window = Window::new(file);
            let walk = Walk::new(window, self.salt, meta.generation, self.verify, from, limit, meta.len);
            Ok(Current { walk, preamble })
        };
        Some(open().map(|current| self.current = Some(current)))
    }

    /// The error for `first..=last` not being there, unless that was known or is not asked for.
    fn missing(&mut self, first: u64, last: u64) -> Option<Error> {
        let (first, last) = (first.max(self.from), last.min(self.until));
        self.next = self.next.max(last.saturating_add(1));
        if first > last || self.known_lost.iter().any(|&(a, b)| a <= first && last <= b) {
            return None;
        }
        Some(Error::new(
            Kind::Damaged { first, last },
            format!("records {first} to {last} do not verify"),
        ))
    }

    fn read(&mut self) -> Result<Option<Record>> {
        loop {
            let Some(current) = &mut self.current else {
                match self.open_next() {
                    Some(opened) => opened?,
                    None if self.next <= self.until => {
                        let (next, until) = (self.next, self.until);
                        return self.missing(next, until).map_or(Ok(None), Err);
                    }
                    None => return Ok(None),
                }
                continue;
            };
            let failed = |e: io::Error| Error::io("reading the log".to_owned(), e);
            match current.walk.step().map_err(failed)? {
                Step::Record { header, .. } if header.seq < self.next => {}
                Step::Record { header, at } => {
                    let (head, body) = match self.verify {
                        Verify::Head => (current.walk.head(&header, at).map_err(failed)?, [].as_slice()),
                        _ => current.walk.content(&header, at).map_err(failed)?,
                    };
                    let head = Bytes::copy_from_slice(head);
                    let body = match body {
                        [] => Bytes::new(),
                        body => {
                            let mut copy = AlignedBuf::new(body.len());
                            copy.copy_from_slice(body);
                            Bytes::from_owner(copy)
                        }
                    };
                    let record = Record {
                        seq: header.seq,
                        head,
                        body,
                        preamble: current.preamble.clone(),
                    };
                    let gap = (self.next < record.seq)
                        .then(|| self.missing(self.next, record.seq - 1))
                        .flatten();
                    if let Some(gap) = gap {
                        // Say the gap first, come back for the record.
                        if let Some(current) = &mut self.current {
                            current.walk.go_to(header.seq, at);
                        }
                        return Err(gap);
                    }
                    self.next = record.seq + 1;
                    return Ok(Some(record));
                }
                Step::Bad { first, last, .. } => {
                    if first <= last
                        && let Some(error) = self.missing(first, last)
                    {
                        return Err(error);
                    }
                }
                Step::End => self.current = None,
            }
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        match self.read() {
            Ok(record) => record.map(Ok),
            Err(error) => {
                // An I/O error would repeat for ever; damage is behind us already.
                if !matches!(error.kind(), Kind::Damaged { .. }) {
                    self.current = None;
                    self.segments.clear();
                    self.next = self.until.saturating_add(1);
                }
                Some(Err(error))
            }
        }
    }
}
