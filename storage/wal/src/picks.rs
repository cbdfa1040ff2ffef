//! Reading single records back while the log is being written: only those that are asked for, verified, and not copied.
//!
//! A log that is written past the page cache is read past it, too: what is needed once need not take the place of something else there, nor
//! the time to be copied out of it. Between the records only headers are read.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::file::Open;
use crate::format::{BLOCK, HeaderRead, RecordHeader, SegmentHeader};
use crate::recover::first_record;
use crate::segment::SegmentMeta;
use crate::shared::{Mark, Shared};
use crate::walk::{Source, Step, Verify, Walk, Window};

/// A record, verified, for as long as the next is not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked<'a> {
    /// Its sequence number.
    pub seq: u64,
    /// As appended.
    pub head: &'a [u8],
    /// As appended, with the zeros between slices if they were aligned.
    pub body: &'a [u8],
}

/// What is asked for, and where it may lie.
pub(crate) struct Pick {
    pub(crate) seq: u64,
    /// With the first number that belongs to a later segment; `None` if no segment has it.
    pub(crate) segment: Option<(SegmentMeta, u64)>,
    /// A place at or before it, if of the same segment.
    pub(crate) mark: Option<(u64, Mark)>,
}

/// Records by their numbers: see [`Wal::pick`](crate::Wal::pick).
pub struct Picks {
    shared: Arc<Shared>,
    wanted: std::vec::IntoIter<Pick>,
    /// The segment that is open, by its generation.
    open: Option<(u64, Walk<Window>)>,
}

impl Picks {
    pub(crate) fn new(shared: Arc<Shared>, wanted: Vec<Pick>) -> Picks {
        Picks {
            shared,
            wanted: wanted.into_iter(),
            open: None,
        }
    }

    /// The next record. [`Kind::Damaged`] with its number if it is not there or does not verify; those behind it still follow.
    #[allow(clippy::should_implement_trait)] // An iterator cannot lend.
    pub fn next(&mut self) -> Option<Result<Picked<'_>>> {
        let pick = self.wanted.next()?;
        Some(self.read(&pick))
    }

    fn read(&mut self, pick: &Pick) -> Result<Picked<'_>> {
        let seq = pick.seq;
        let missing = || {
            let kind = Kind::Damaged { first: seq, last: seq };
            Error::new(kind, format!("record {seq} does not verify"))
        };
        let Some((header, at)) = self.find(pick)? else {
            return Err(missing());
        };
        let (_, walk) = self.open.as_mut().expect("a record was found in it");
        let (head, body) = walk.content(&header, at).map_err(failed)?;
        match crc32c::crc32c(body) == header.body_crc {
            true => Ok(Picked { seq, head, body }),
            false => Err(missing()),
        }
    }

    /// Header and offset of a record whose header and head verify.
    fn find(&mut self, pick: &Pick) -> Result<Option<(RecordHeader, u64)>> {
        let Some((segment, limit)) = &pick.segment else {
            return Ok(None);
        };
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment.generation) {
            self.open = None;
            self.open = Some((segment.generation, self.walk(segment, *limit)?));
        }
        let (_, walk) = self.open.as_mut().expect("opened above");
        if let Some((seq, mark)) = pick.mark
            && mark.generation == segment.generation
            && seq > walk.expect
        {
            walk.go_to(seq, mark.at);
        }
        loop {
            match walk.step().map_err(failed)? {
                Step::Record { header, at } if header.seq == pick.seq => return Ok(Some((header, at))),
                Step::Record { header, .. } if header.seq < pick.seq => {}
                Step::Bad { last, .. } if last < pick.seq => {}
                Step::Record { header, at } => {
                    // It may be what is asked for next.
                    walk.go_to(header.seq, at);
                    return Ok(None);
                }
                Step::Bad { .. } | Step::End => return Ok(None),
            }
        }
    }

    fn walk(&self, segment: &SegmentMeta, limit: u64) -> Result<Walk<Window>> {
        let shared = &self.shared;
        let how = match shared.options.direct() {
            true => Open::ReadDirect,
            false => Open::Read,
        };
        let file = shared
            .disk
            .open(&segment.path(&shared.options.dir), how)
            .map_err(failed)?;
        let mut window = Window::new(file);
        let header = match SegmentHeader::decode(window.get(0, BLOCK).map_err(failed)?) {
            HeaderRead::Good(header) => Some(header),
            HeaderRead::Bad | HeaderRead::Newer(_) => None,
        };
        let from = (first_record(header.as_ref()), segment.base);
        Ok(Walk::new(
            window,
            shared.salt,
            segment.generation,
            Verify::Head,
            from,
            limit,
            segment.len,
        ))
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("reading the log".to_owned(), error)
}
