//! Reading one segment from front to back: the only place that decides what a record is.
//!
//! Guarantees: yields records in dense order of sequence; never yields one of another log, generation or place in the order; says exactly
//! which sequence numbers it had to leave out before a later record verified again. Whether what is left out is damage or a torn
//! tail is not decided here, because that depends on the largest durable number seen anywhere.
//!
//! After bytes that do not verify it looks on at every multiple of 64 for the next header of the same log and generation that
//! fits the order. A body could only fake one by knowing the log id.

use std::io;

use crate::buffer::AlignedBuf;
use crate::file::{File, read_full};
use crate::format::{ALIGN, BLOCK, RECORD_HEADER, RecordHeader, RecordRead, align_up, looks_like_record};

/// Where bytes come from: a file window or a mapping.
pub(crate) trait Source {
    /// The bytes at `at..at + len`, fewer at the end.
    fn get(&mut self, at: u64, len: u64) -> io::Result<&[u8]>;
}

/// A moving window over a file. One record is in memory at a time. Whole blocks are read into whole blocks, as O_DIRECT wants it.
pub(crate) struct Window {
    file: Box<dyn File>,
    buf: AlignedBuf,
    /// Offset of `buf[0]` in the file.
    at: u64,
    /// How much of `buf` is read.
    valid: usize,
    /// How much is read at once.
    ahead: u64,
}

/// Most read-ahead of a [`Window`], where one byte after the other is wanted.
const WINDOW_BYTES: u64 = 1 << 20;
/// Its read-ahead where bodies are passed over: one trip to the disk fetches this, or 64 KiB that lie in a row.
const JUMP_WINDOW_BYTES: u64 = 16 << 10;
/// A step over more than this is a jump.
const JUMP_BYTES: u64 = 64 << 10;

impl Window {
    pub(crate) fn new(file: Box<dyn File>) -> Window {
        Window {
            file,
            buf: AlignedBuf::new(0),
            at: 0,
            valid: 0,
            ahead: JUMP_WINDOW_BYTES / 2,
        }
    }
}

impl Source for Window {
    fn get(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let inside = at >= self.at && at + len <= self.at + self.valid as u64;
        if !inside {
            let is_jump = at < self.at || at >= self.at + self.valid as u64 + JUMP_BYTES;
            self.ahead = if is_jump {
                JUMP_WINDOW_BYTES
            } else {
                WINDOW_BYTES.min(self.ahead * 2)
            };
            let first = at - at % BLOCK;
            let want = align_up((at - first + len).max(self.ahead), BLOCK) as usize;
            if self.buf.len() < want {
                self.buf = AlignedBuf::new(want);
            }
            (self.at, self.valid) = (first, 0);
            self.valid = read_full(&*self.file, &mut self.buf[..want], first)?;
        }
        let from = ((at - self.at) as usize).min(self.valid);
        let to = (from + len as usize).min(self.valid);
        Ok(&self.buf[from..to])
    }
}

/// How much of a record is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Header and head.
    Head,
    /// Those, and of records above this number the body.
    Above(u64),
}

impl Verify {
    /// Every body: numbers begin at 1.
    pub(crate) const ALL: Verify = Verify::Above(0);
}

/// Which bytes did not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A segment's first block.
    SegmentHeader,
    /// The preamble.
    Preamble,
    /// A record's header: its numbers are unknown, so everything up to the next good one is lost.
    Header,
    /// A record's head.
    Head,
    /// A record's body.
    Body,
    /// Nothing is there at all: the segment ends early or is missing.
    Missing,
}

impl Part {
    /// A word for messages.
    pub fn name(self) -> &'static str {
        match self {
            Part::SegmentHeader => "segment header",
            Part::Preamble => "preamble",
            Part::Header => "record header",
            Part::Head => "head",
            Part::Body => "body",
            Part::Missing => "missing",
        }
    }
}

/// What [`Walk::step`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A record, verified as asked, at this offset.
    Record { header: RecordHeader, at: u64 },
    /// Records `first..=last` do not verify (none of them if `last < first`: a marker).
    Bad { first: u64, last: u64, at: u64, part: Part },
    /// Nothing more of this generation that fits.
    End,
}

/// A walk over one segment's records.
pub(crate) struct Walk<S> {
    source: S,
    salt: u32,
    generation: u64,
    verify: Verify,
    /// Offset of the next header.
    pub(crate) at: u64,
    /// Sequence number expected there.
    pub(crate) expect: u64,
    /// First sequence number that belongs to a later segment.
    pub(crate) limit: u64,
    /// Offset behind which nothing is read.
    pub(crate) end: u64,
    /// Largest durable number claimed by any header met.
    pub(crate) claim: u64,
}

impl<S: Source> Walk<S> {
    pub(crate) fn new(
        source: S,
        salt: u32,
        generation: u64,
        verify: Verify,
        from: (u64, u64),
        limit: u64,
        end: u64,
    ) -> Self {
        Walk {
            source,
            salt,
            generation,
            verify,
            at: from.0,
            expect: from.1,
            limit,
            end,
            claim: 0,
        }
    }

    /// The next thing. After `End` it stays `End`.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        loop {
            if self.expect >= self.limit {
                self.skip_markers()?;
                return Ok(Step::End);
            }
            let at = self.at;
            let Some(header) = self.header_at(at)? else {
                return self.resync();
            };
            if header.seq != self.expect {
                return self.resync();
            }
            self.claim = self.claim.max(header.durable);
            self.at = at + header.total();
            if header.marker {
                continue;
            }
            self.expect += 1;
            let bad = |part| Step::Bad {
                first: header.seq,
                last: header.seq,
                at,
                part,
            };
            let head_len = u64::from(header.head_len);
            let head = self.source.get(at + RECORD_HEADER, head_len)?;
            if head.len() as u64 != head_len || crc32c::crc32c(head) != header.head_crc {
                return Ok(bad(Part::Head));
            }
            let with_body = match self.verify {
                Verify::Head => false,
                Verify::Above(seq) => header.seq > seq,
            };
            if with_body {
                // The whole record at once, so that head and body are in the window together for the caller.
                let record = self.source.get(at, header.body_offset() + header.body_len)?;
                let body = record.get(header.body_offset() as usize..).unwrap_or(&[]);
                if body.len() as u64 != header.body_len || crc32c::crc32c(body) != header.body_crc {
                    return Ok(bad(Part::Body));
                }
            }
            return Ok(Step::Record { header, at });
        }
    }

    /// Head and body of the record that `step` just yielded at `at`.
    pub(crate) fn content(&mut self, header: &RecordHeader, at: u64) -> io::Result<(&[u8], &[u8])> {
        let record = self.source.get(at, header.body_offset() + header.body_len)?;
        if (record.len() as u64) < header.body_offset() + header.body_len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (front, body) = record.split_at(header.body_offset() as usize);
        let head = &front[RECORD_HEADER as usize..(RECORD_HEADER + u64::from(header.head_len)) as usize];
        Ok((head, body))
    }

    /// Head of the record that `step` just yielded at `at`.
    pub(crate) fn head(&mut self, header: &RecordHeader, at: u64) -> io::Result<&[u8]> {
        let len = u64::from(header.head_len);
        let head = self.source.get(at + RECORD_HEADER, len)?;
        match head.len() as u64 == len {
            true => Ok(head),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Goes on with record `seq` at `at`.
    pub(crate) fn go_to(&mut self, seq: u64, at: u64) {
        (self.at, self.expect) = (at, seq);
    }

    /// A header of this generation whose record fits into the file.
    fn header_at(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        if at.saturating_add(RECORD_HEADER) > self.end {
            return Ok(None);
        }
        let (generation, end, salt) = (self.generation, self.end, self.salt);
        Ok(match RecordHeader::decode(self.source.get(at, RECORD_HEADER)?, salt) {
            RecordRead::Good(h) if h.generation == generation && at.saturating_add(h.total()) <= end => Some(h),
            _ => None,
        })
    }

    /// Markers behind the last record of the range still tell what was durable.
    fn skip_markers(&mut self) -> io::Result<()> {
        while let Some(header) = self.header_at(self.at)? {
            if !header.marker || header.seq != self.expect {
                break;
            }
            self.claim = self.claim.max(header.durable);
            self.at += header.total();
        }
        Ok(())
    }

    /// After `End`: whether the next bytes were meant as a record of this generation.
    pub(crate) fn half_written(&mut self) -> io::Result<bool> {
        let generation = self.generation.to_le_bytes();
        let bytes = self.source.get(self.at, RECORD_HEADER)?;
        Ok(looks_like_record(bytes) && bytes[16..24] == generation)
    }

    fn resync(&mut self) -> io::Result<Step> {
        let mut at = self.at;
        while at.saturating_add(RECORD_HEADER) <= self.end {
            let chunk_len = BLOCK.max(WINDOW_BYTES / 4).min(self.end - at);
            let chunk = self.source.get(at, chunk_len)?;
            let usable = chunk.len() as u64 / ALIGN * ALIGN;
            if usable == 0 {
                break;
            }
            let mut hit = None;
            for offset in (0..usable).step_by(ALIGN as usize) {
                if looks_like_record(&chunk[offset as usize..]) {
                    hit = Some(at + offset);
                    break;
                }
            }
            let Some(candidate) = hit else {
                at += usable;
                continue;
            };
            let fits = self
                .header_at(candidate)?
                .filter(|h| h.seq >= self.expect && (h.seq < self.limit || (h.marker && h.seq == self.limit)));
            match fits {
                // The very place that did not fit before cannot be the answer.
                Some(header) if candidate != self.at || header.seq != self.expect => {
                    let bad = Step::Bad {
                        first: self.expect,
                        last: header.seq - 1,
                        at: self.at,
                        part: Part::Header,
                    };
                    self.at = candidate;
                    self.expect = header.seq;
                    return Ok(bad);
                }
                _ => at = candidate + ALIGN,
            }
        }
        Ok(Step::End)
    }
}
