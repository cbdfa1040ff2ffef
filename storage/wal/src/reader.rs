//! Reading a live log from another process: read-only maps, zero copies.
//!
//! Guarantees: a [`View`] holds exactly the records up to the durable number that the control page showed at one moment; bytes handed
//! out never change, and live as long as somebody holds them, even when their segment is trimmed. Header and head CRC are checked
//! once per mapping; the body's only by [`Record::check_body`], because callers have checksums of their own inside.
//!
//! Assumes: the log has a control page and does not recycle. Takes no lock and writes nothing, so it also reads a log
//! whose writer is down.
//!
//! [`Reader::view`] is cheap when nothing was rolled or trimmed: one read of the control page and a walk over the new records.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::control::{ControlReader, Published};
use crate::error::{Error, Kind, Result};
use crate::file::{Disk, Os};
use crate::format::{BLOCK, FileName, HeaderRead, SegmentHeader, log_salt};
use crate::map::map_file;
use crate::segment::{SegmentMeta, limits};
use crate::walk::{Source, Step, Verify, Walk};

/// A log opened for reading. Share it: all methods take `&self`.
pub struct Reader {
    dir: PathBuf,
    control: ControlReader,
    salt: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    mapped: Vec<Mapped>,
    last: Option<(Published, View)>,
}

struct Mapped {
    meta: SegmentMeta,
    bytes: Bytes,
    preamble: Option<Bytes>,
    /// Where the walk goes on.
    at: u64,
    expect: u64,
    /// Limit and end of the walk before, so that a segment that ends early is not searched again.
    walked: (u64, u64),
    records: Arc<Vec<Record>>,
}

/// A record in a mapped segment.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its sequence number.
    pub seq: u64,
    /// As appended; verified.
    pub head: Bytes,
    /// As appended, not verified. Starts at a multiple of 64 in memory.
    pub body: Bytes,
    body_crc: u32,
}

impl Record {
    /// Verifies the body: one pass over it.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn check_body(&self) -> Result<()> {
        match crc32c::crc32c(&self.body) == self.body_crc {
            true => Ok(()),
            false => {
                let kind = Kind::Damaged {
                    first: self.seq,
                    last: self.seq,
                };
                Err(Error::new(kind, format!("body of record {} does not verify", self.seq)))
            }
        }
    }
}

/// The readable part of one segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Grows with every segment of the log.
    pub generation: u64,
    /// Sequence number of its first record.
    pub base: u64,
    /// Stored at its head; `None` if damaged.
    pub preamble: Option<Bytes>,
    /// In order of sequence. Dense unless [`View::holes`] says otherwise.
    pub records: Arc<Vec<Record>>,
}

/// One consistent cut through the log.
#[derive(Clone, Debug)]
pub struct View {
    /// Largest durable number; 0 if none.
    pub durable: u64,
    /// In order of sequence.
    pub segments: Arc<Vec<Segment>>,
    /// Numbers between the first and `durable` that do not verify, as ranges.
    pub holes: Arc<Vec<(u64, u64)>>,
}

impl View {
    /// The records with `seq >= from`, with their segments.
    pub fn records(&self, from: u64) -> impl Iterator<Item = (&Segment, &Record)> {
        self.segments.iter().flat_map(move |segment| {
            let start = segment.records.partition_point(|r| r.seq < from);
            segment.records[start..].iter().map(move |r| (segment, r))
        })
    }

    /// The first readable number; `durable + 1` if there is none.
    pub fn first_seq(&self) -> u64 {
        self.records(0).next().map_or(self.durable + 1, |(_, r)| r.seq)
    }
}

impl Reader {
    /// Opens the log in `dir` by its control page.
    ///
    /// # Errors
    /// [`Kind::Io`] (with [`io::ErrorKind::NotFound`] as source if the log was never opened for writing), [`Kind::Foreign`] for another kind of log,
    /// [`Kind::Newer`].
    pub fn open(dir: impl Into<PathBuf>, control: impl AsRef<Path>, kind: u32) -> Result<Reader> {
        let control = ControlReader::open(control.as_ref())?;
        if control.kind != kind {
            return Err(Error::new(
                Kind::Foreign,
                format!("the control page is of kind {}, not {kind}", control.kind),
            ));
        }
        let salt = log_salt(&control.log_id, kind);
        Ok(Reader {
            dir: dir.into(),
            control,
            salt,
            state: Mutex::default(),
        })
    }

    /// The log's identity.
    pub fn log_id(&self) -> [u8; 16] {
        self.control.log_id
    }

    /// The largest durable number now, 0 if there is none; one read of the control page.
    ///
    /// # Errors
    /// [`Kind::Io`] if the page does not verify.
    pub fn durable(&self) -> Result<u64> {
        Ok(self.control.read()?.map_or(0, |p| p.durable))
    }

    /// Everything durable now. Lists the directory only if a segment was made or trimmed since the last view.
    ///
    /// # Errors
    /// [`Kind::Io`], [`Kind::Newer`], [`Kind::Foreign`].
    pub fn view(&self) -> Result<View> {
        let mut state = self.state.lock();
        let Some(published) = self.control.read()? else {
            return Ok(View {
                durable: 0,
                segments: Arc::default(),
                holes: Arc::default(),
            });
        };
        if let Some((last, view)) = &state.last
            && *last == published
        {
            return Ok(view.clone());
        }
        let same_files = state.last.as_ref().is_some_and(|(l, _)| {
            l.generation == published.generation && l.first_generation == published.first_generation
        });
        if !same_files {
            self.list(&mut state, &published)?;
        }
        let view = self.walk(&mut state, &published)?;
        state.last = Some((published, view.clone()));
        Ok(view)
    }

    /// Maps new segments, lets go of trimmed ones.
    fn list(&self, state: &mut State, published: &Published) -> Result<()> {
        let failed = |e| Error::io(format!("listing {}", self.dir.display()), e);
        let mut metas: Vec<SegmentMeta> = Os::default()
            .list(&self.dir)
            .map_err(failed)?
            .into_iter()
            .filter_map(|entry| match FileName::parse(&entry.name)? {
                FileName::Segment { base, generation } => Some(SegmentMeta {
                    generation,
                    base,
                    len: entry.len,
                    quarantined: false,
                }),
                _ => None,
            })
            // Nothing durable is in a later one.
            .filter(|meta| meta.generation <= published.generation)
            .collect();
        metas.sort_by_key(|m| m.generation);
        state
            .mapped
            .retain(|mapped| metas.iter().any(|m| m.generation == mapped.meta.generation));
        for meta in metas {
            if state.mapped.iter().any(|m| m.meta.generation == meta.generation) {
                continue;
            }
            if let Some(mapped) = self.map(meta)? {
                state.mapped.push(mapped);
            }
        }
        state.mapped.sort_by_key(|m| m.meta.generation);
        Ok(())
    }

    /// `None` if it was trimmed since it was listed.
    fn map(&self, meta: SegmentMeta) -> Result<Option<Mapped>> {
        let path = meta.path(&self.dir);
        let failed = |e| Error::io(format!("mapping {}", path.display()), e);
        let bytes = match File::open(&path).and_then(|file| map_file(&file)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let header = match SegmentHeader::decode(&bytes) {
            HeaderRead::Good(h) if h.log_id != self.control.log_id || h.kind != self.control.kind => {
                return Err(Error::new(
                    Kind::Foreign,
                    format!("{} belongs to another log", path.display()),
                ));
            }
            HeaderRead::Good(h) if h.generation == meta.generation && h.base == meta.base => Some(h),
            HeaderRead::Newer(version) => {
                let message = format!("{} has format {version}: use the newer program", path.display());
                return Err(Error::new(Kind::Newer, message));
            }
            _ => None,
        };
        let preamble = header.and_then(|h| {
            let end = BLOCK as usize + h.preamble_len as usize;
            (end <= bytes.len())
                .then(|| bytes.slice(BLOCK as usize..end))
                .filter(|p| crc32c::crc32c(p) == h.preamble_crc)
        });
        let at = crate::recover::first_record(header.as_ref());
        let expect = meta.base;
        Ok(Some(Mapped {
            meta,
            bytes,
            preamble,
            at,
            expect,
            walked: (0, 0),
            records: Arc::default(),
        }))
    }

    fn walk(&self, state: &mut State, published: &Published) -> Result<View> {
        let metas: Vec<SegmentMeta> = state.mapped.iter().map(|m| m.meta.clone()).collect();
        let mut segments = Vec::with_capacity(metas.len());
        let mut holes: Vec<(u64, u64)> = Vec::new();
        let mut next = None;
        for (mapped, limit) in state.mapped.iter_mut().zip(limits(&metas)) {
            let limit = limit.min(published.durable.saturating_add(1));
            let newest = mapped.meta.generation == published.generation;
            let len = mapped.bytes.len() as u64;
            let end = if newest { published.end.min(len) } else { len };
            if mapped.expect < limit && mapped.walked != (limit, end) {
                mapped.walk(self.salt, limit, end)?;
                mapped.walked = (limit, end);
            }
            let visible = mapped.records.partition_point(|r| r.seq < limit);
            let records = match visible == mapped.records.len() {
                true => mapped.records.clone(),
                false => Arc::new(mapped.records[..visible].to_vec()),
            };
            let mut expect = *next.get_or_insert(mapped.meta.base);
            for record in records.iter() {
                if record.seq > expect {
                    holes.push((expect, record.seq - 1));
                }
                expect = record.seq + 1;
            }
            next = Some(expect);
            if mapped.meta.base < limit {
                let SegmentMeta { generation, base, .. } = mapped.meta;
                segments.push(Segment {
                    generation,
                    base,
                    preamble: mapped.preamble.clone(),
                    records,
                });
            }
        }
        if let Some(next) = next
            && next <= published.durable
        {
            holes.push((next, published.durable));
        }
        Ok(View {
            durable: published.durable,
            segments: Arc::new(segments),
            holes: Arc::new(holes),
        })
    }
}

/// A mapping as a source: no I/O, no copy.
struct MapSource(Bytes);

impl Source for MapSource {
    fn get(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let from = (at as usize).min(self.0.len());
        let to = from.saturating_add(len as usize).min(self.0.len());
        Ok(&self.0[from..to])
    }
}

impl Mapped {
    fn walk(&mut self, salt: u32, limit: u64, end: u64) -> Result<()> {
        let source = MapSource(self.bytes.clone());
        let from = (self.at, self.expect);
        let mut walk = Walk::new(source, salt, self.meta.generation, Verify::Head, from, limit, end);
        let mut records = Vec::new();
        loop {
            match walk.step().map_err(|e| Error::io("reading a mapped segment", e))? {
                Step::Record { header, at } => {
                    let head = at as usize + crate::format::RECORD_HEADER as usize;
                    let body = (at + header.body_offset()) as usize;
                    records.push(Record {
                        seq: header.seq,
                        head: self.bytes.slice(head..head + header.head_len as usize),
                        body: self.bytes.slice(body..body + header.body_len as usize),
                        body_crc: header.body_crc,
                    });
                }
                Step::Bad { .. } => {}
                Step::End => break,
            }
        }
        self.at = walk.at;
        self.expect = walk.expect;
        if !records.is_empty() {
            // Views that are out keep the list they have.
            Arc::make_mut(&mut self.records).extend(records);
        }
        Ok(())
    }
}
