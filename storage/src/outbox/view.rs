//! The outbox of a collector, read by another process: the live segments mapped read-only, no lock taken.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tailwater_model::ids::{BatchSeq, LogId};
use tailwater_model::table::Table;
use tailwater_wal::Kind as WalKind;
use tailwater_wal::reader::{Reader, Record, Segment};
use tracing::warn;

use super::{FrameRef, Head, Schemas};
use crate::{Error, ErrorKind, Result};

/// Which of a data directory's logs the outbox is (`kind` of `tailwater_wal::Options`).
pub const OUTBOX_KIND: u32 = 2;
/// Name of the control page in the outbox's directory.
pub const CONTROL: &str = "control";

/// A collector's outbox, seen from outside. Share it: what was checked and decoded once is not again, as long as the mapping
/// lives. It may be opened before the collector has made it.
pub struct Outbox {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reader: Option<Reader>,
    view: View,
    /// Of the segments that are mapped, by generation.
    schemas: HashMap<u64, Option<Arc<Schemas>>>,
}

/// The durable batches of the outbox at one instant.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Whose outbox; `None` if there is none yet.
    pub log_id: Option<LogId>,
    /// The last durable batch (S); 0 if there is none.
    pub durable: u64,
    /// The first batch that is still in a segment; above `durable` if there is none.
    pub first: u64,
    /// Batches between `first` and `durable` that do not verify, as ranges, ascending.
    pub holes: Arc<Vec<(u64, u64)>>,
    frames: Arc<Vec<Vec<FrameRef>>>,
}

impl View {
    /// The frames of a table, in order of their batches.
    pub fn frames(&self, table: Table) -> &[FrameRef] {
        self.frames.get(table as usize - 1).map_or(&[], Vec::as_slice)
    }

    /// The frames of a table whose batch is above `v`.
    pub fn frames_after(&self, table: Table, v: u64) -> &[FrameRef] {
        let frames = self.frames(table);
        &frames[frames.partition_point(|frame| frame.seq.0 <= v)..]
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// The outbox in a directory, which need not exist yet. Touches nothing.
    pub fn open_readonly(directory: &Path) -> Outbox {
        Outbox {
            directory: directory.to_path_buf(),
            state: Mutex::default(),
        }
    }

    /// Everything durable now. Cheap when nothing was added: one read of the control page.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if a segment cannot be listed or mapped; [`ErrorKind::Incompatible`] for a log of another kind or a
    /// newer format.
    pub fn view(&self) -> Result<View> {
        let mut state = self.state.lock();
        if state.reader.is_none() {
            match Reader::open(&self.directory, self.directory.join(CONTROL), OUTBOX_KIND) {
                Ok(reader) => state.reader = Some(reader),
                Err(error) if not_there(&error) => {
                    return Ok(View {
                        first: 1,
                        ..View::default()
                    });
                }
                Err(error) => return Err(wal_error(error)),
            }
        }
        let Some(reader) = &state.reader else {
            return Ok(View::default());
        };
        let log_id = Some(LogId(reader.log_id()));
        let read = reader.view().map_err(wal_error)?;
        if log_id == state.view.log_id && read.durable == state.view.durable && read.first_seq() == state.view.first {
            return Ok(state.view.clone());
        }
        state.advance(log_id, &read);
        Ok(state.view.clone())
    }
}

impl Outbox {
    /// Lets go of what is mapped: a segment that is trimmed leaves the disk only when nobody maps it. Frames that were handed out stay as they
    /// are; the next view maps again.
    pub fn let_go(&self) {
        *self.state.lock() = State::default();
    }
}

impl State {
    /// Takes over what is new in `read`, and lets go of what was trimmed.
    fn advance(&mut self, log_id: Option<LogId>, read: &tailwater_wal::reader::View) {
        let first = read.first_seq();
        let mut frames = (*self.view.frames).clone();
        frames.resize(Table::COLLECTED.len(), Vec::new());
        for frames in &mut frames {
            frames.drain(..frames.partition_point(|frame| frame.seq.0 < first));
        }
        self.schemas
            .retain(|generation, _| read.segments.iter().any(|segment| segment.generation == *generation));
        let mut holes: Vec<(u64, u64)> = (*read.holes).clone();
        let known_holes = self
            .view
            .holes
            .iter()
            .filter(|hole| hole.1 >= first && !read.holes.contains(hole));
        holes.extend(known_holes.copied());
        for (segment, record) in read.records(self.view.durable + 1) {
            match self.frames_of(segment, record) {
                Ok(found) => found
                    .into_iter()
                    .for_each(|frame| frames[frame.table() as usize - 1].push(frame)),
                Err(error) => {
                    warn!(batch = record.seq, %error, "outbox batch cannot be read");
                    holes.push((record.seq, record.seq));
                }
            }
        }
        holes.sort_unstable();
        let (holes, frames) = (Arc::new(holes), Arc::new(frames));
        self.view = View {
            log_id,
            durable: read.durable,
            first,
            holes,
            frames,
        };
    }

    fn frames_of(&mut self, segment: &Segment, record: &Record) -> Result<Vec<FrameRef>> {
        let schemas = self.schemas.entry(segment.generation).or_insert_with(|| {
            let preamble = segment.preamble.clone()?;
            Schemas::parse(preamble)
                .map(Arc::new)
                .inspect_err(|error| warn!(%error, "outbox segment without schemas"))
                .ok()
        });
        let head = Head::decode(record.head.clone())?;
        let frames = head.frames.into_iter().map(|frame| {
            // Frames of the same program have the schemas of the preamble; those of a damaged one, of this program.
            let schemas = match schemas {
                Some(schemas) => schemas.clone(),
                None => Arc::new(Schemas::parse(super::preamble())?),
            };
            FrameRef::new(BatchSeq(record.seq), frame, &record.body, schemas)
        });
        frames.collect()
    }
}

fn not_there(error: &tailwater_wal::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::NotFound;
        }
        source = error.source();
    }
    false
}

fn wal_error(error: tailwater_wal::Error) -> Error {
    let kind = match error.kind() {
        WalKind::Foreign | WalKind::Newer => ErrorKind::Incompatible,
        WalKind::Damaged { .. } => ErrorKind::Damaged,
        _ => ErrorKind::Store,
    };
    Error::caused(kind, "outbox", error)
}
