//! Making a segment file and appending to it. Used by the writer thread and by recovery.
//!
//! Guarantees: a file that bears a segment's name has a durable header, because it is made under another name first. Records
//! go through one aligned staging buffer, in writes of at most 1 MiB; pieces of a larger record are handed to the disk as
//! they are written, so that the final sync has at most 1 MiB to wait for and other writers' syncs do not queue behind it.

use std::io;
use std::path::{Path, PathBuf};

use crate::buffer::AlignedBuf;
use crate::file::{Disk, File, Open, write_all};
use crate::format::{BLOCK, Body, FileName, RECORD_HEADER, RecordHeader, SegmentHeader, align_up};

/// Bytes per write, and the target of one group commit.
pub const GROUP_BYTES: u64 = 1 << 20;

/// A segment as the directory knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    pub(crate) generation: u64,
    pub(crate) base: u64,
    /// File length, preallocated room included.
    pub(crate) len: u64,
    /// A second name in `quarantine/` shares the bytes: never overwrite them.
    pub(crate) quarantined: bool,
}

impl SegmentMeta {
    pub(crate) fn name(&self) -> String {
        FileName::Segment {
            base: self.base,
            generation: self.generation,
        }
        .format()
    }

    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(self.name())
    }
}

/// For each segment (in order of generation) the first sequence number that belongs to a later one: from its base
/// on, the later generation counts, whatever older files still hold.
pub(crate) fn limits(segments: &[SegmentMeta]) -> Vec<u64> {
    let mut limits = vec![u64::MAX; segments.len()];
    let mut limit = u64::MAX;
    for (i, segment) in segments.iter().enumerate().rev() {
        limits[i] = limit;
        limit = limit.min(segment.base);
    }
    limits
}

/// A trimmed segment waiting for reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeFile {
    pub(crate) generation: u64,
    pub(crate) len: u64,
}

/// Room a record may take at most, whatever group it lands in: itself, a marker after it, and filling up blocks.
pub(crate) fn planned_bytes(total: u64, direct: bool) -> u64 {
    match direct {
        false => total + RECORD_HEADER,
        true => align_up(total + RECORD_HEADER, BLOCK) + BLOCK,
    }
}

/// An open segment being written.
pub(crate) struct SegmentWriter {
    file: Box<dyn File>,
    stage: AlignedBuf,
    staged: usize,
    /// Offset of `stage[0]` in the file.
    at: u64,
    direct: bool,
    salt: u32,
    pub(crate) header: SegmentHeader,
    pub(crate) len: u64,
}

/// What making a segment needs to know.
pub(crate) struct NewSegment<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a Path,
    pub(crate) header: SegmentHeader,
    pub(crate) preamble: &'a [u8],
    pub(crate) salt: u32,
    /// File length.
    pub(crate) len: u64,
    pub(crate) direct: bool,
    /// Reuse this file, which must be at least as long as needed.
    pub(crate) recycled: Option<&'a FreeFile>,
}

/// Where making a segment failed decides what it means.
pub(crate) enum CreateError {
    /// Before anything of the log was touched: no room.
    NoRoom(io::Error),
    /// Anything else.
    Broken(io::Error),
}

impl NewSegment<'_> {
    /// Makes the file, header durable, under its temporary name.
    pub(crate) fn create(&self) -> Result<SegmentWriter, CreateError> {
        use CreateError::{Broken, NoRoom};
        let path = self.temporary();
        let file = match self.recycled {
            Some(_) => self.disk.open(&path, Open::Write { direct: self.direct }),
            None => self.disk.open(&path, Open::Create { direct: self.direct }),
        };
        let file = file.map_err(|e| {
            if crate::error::is_no_room(&e) {
                NoRoom(e)
            } else {
                Broken(e)
            }
        })?;
        let len = match self.recycled {
            Some(free) => free.len,
            None => {
                if let Err(error) = file.allocate(self.len) {
                    drop(file);
                    let no_room = crate::error::is_no_room(&error);
                    // What is left over is removed at the next start if this fails too.
                    let _ = self.disk.unlink(&path);
                    return Err(if no_room { NoRoom(error) } else { Broken(error) });
                }
                self.len
            }
        };
        let block = self.header.encode(self.preamble);
        let mut stage = AlignedBuf::new(block.len().max(GROUP_BYTES as usize));
        stage[..block.len()].copy_from_slice(&block);
        write_all(&*file, &stage[..block.len()], 0).map_err(Broken)?;
        file.sync().map_err(Broken)?;
        let at = self.header.data_start();
        Ok(SegmentWriter {
            file,
            stage,
            staged: 0,
            at,
            direct: self.direct,
            salt: self.salt,
            header: self.header,
            len,
        })
    }

    /// Gives the file its name, durably. From here on it is part of the log. A new name can need room in the directory.
    pub(crate) fn publish(&self) -> Result<SegmentMeta, CreateError> {
        let meta = SegmentMeta {
            generation: self.header.generation,
            base: self.header.base,
            len: self.recycled.map_or(self.len, |free| free.len),
            quarantined: false,
        };
        if let Err(error) = self.disk.rename(&self.temporary(), &meta.path(self.dir)) {
            if !crate::error::is_no_room(&error) {
                return Err(CreateError::Broken(error));
            }
            if self.recycled.is_none() {
                let _ = self.disk.unlink(&self.temporary());
            }
            return Err(CreateError::NoRoom(error));
        }
        self.disk.sync_dir(self.dir).map_err(CreateError::Broken)?;
        Ok(meta)
    }

    fn temporary(&self) -> PathBuf {
        let name = match self.recycled {
            Some(free) => FileName::Free {
                generation: free.generation,
            },
            None => FileName::New {
                generation: self.header.generation,
            },
        };
        self.dir.join(name.format())
    }
}

impl SegmentWriter {
    /// Offset behind the last byte put.
    pub(crate) fn end(&self) -> u64 {
        self.at + self.staged as u64
    }

    /// Stages a record; writes whenever the buffer is full.
    pub(crate) fn put(&mut self, header: &RecordHeader, head: &[u8], body: &Body) -> io::Result<()> {
        let start = self.end();
        let bytes = header.encode(self.salt);
        self.bytes(&bytes)?;
        self.bytes(head)?;
        self.zeros(start + header.body_offset())?;
        let mut result = Ok(());
        body.for_each_run(|run| {
            if result.is_ok() {
                result = self.bytes(run);
            }
        });
        result?;
        self.zeros(start + header.total())
    }

    /// Stages a marker.
    pub(crate) fn put_marker(&mut self, seq: u64, durable: u64) -> io::Result<()> {
        let bytes = RecordHeader::marker(seq, self.header.generation, durable, 0).encode(self.salt);
        self.bytes(&bytes)
    }

    /// Writes what is staged, in direct mode up to the end of a block.
    pub(crate) fn flush(&mut self, next_seq: u64, durable: u64) -> io::Result<()> {
        let end = self.end();
        let full = align_up(end, BLOCK);
        if self.direct && full > end {
            let fill = full - end - RECORD_HEADER;
            let marker = RecordHeader::marker(next_seq, self.header.generation, durable, fill).encode(self.salt);
            self.bytes(&marker)?;
            self.zeros(full)?;
        }
        self.write_staged(false)
    }

    /// Asks the disk to start on what was written since `from`; nobody waits for it.
    pub(crate) fn start_write_back(&self, from: u64) -> io::Result<()> {
        match self.direct {
            true => Ok(()),
            false => self.file.write_back(from, self.at - from, false),
        }
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.staged == self.stage.len() {
                self.write_staged(true)?;
            }
            let n = bytes.len().min(self.stage.len() - self.staged);
            self.stage[self.staged..self.staged + n].copy_from_slice(&bytes[..n]);
            self.staged += n;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn zeros(&mut self, until: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        while self.end() < until {
            let n = (until - self.end()).min(BLOCK);
            self.bytes(&ZEROS[..n as usize])?;
        }
        Ok(())
    }

    /// `more`: this is a piece of something larger than the buffer.
    fn write_staged(&mut self, more: bool) -> io::Result<()> {
        let n = self.staged as u64;
        debug_assert!(self.at + n <= self.len, "whatever is written was planned for");
        write_all(&*self.file, &self.stage[..self.staged], self.at)?;
        if more && !self.direct {
            // Start this piece, wait for the one before: never more than two in flight, and never 64 MiB at the final sync.
            self.file.write_back(self.at, n, false)?;
            if let Some(before) = self.at.checked_sub(GROUP_BYTES) {
                self.file.write_back(before, GROUP_BYTES, true)?;
            }
        }
        self.at += n;
        self.staged = 0;
        Ok(())
    }
}
