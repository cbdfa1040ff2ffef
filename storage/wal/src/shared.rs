//! What the appending threads, the writer thread and trimming share, and the rules for taking room.
//!
//! Guarantees: room in a segment is taken, and its disk space checked, before a sequence number is given. So a refused append leaves
//! no trace, and a record that has a number has room.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::control::{ControlWriter, Published};
use crate::error::{Error, FullReason, Kind, Result};
use crate::file::Disk;
use crate::format::{Body, FileName, RecordHeader};
use crate::options::Options;
use crate::segment::{FreeFile, SegmentMeta, planned_bytes};
use crate::ticket::{Cell, Ticket};

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) salt: u32,
    pub(crate) inner: Mutex<Inner>,
    /// Wakes the writer.
    pub(crate) work: Condvar,
    /// Wakes those who wait in `tick`.
    pub(crate) ticked: Condvar,
    pub(crate) durable: AtomicU64,
    pub(crate) control: Option<Mutex<(ControlWriter, Published)>>,
    /// One trim at a time.
    pub(crate) trimming: Mutex<()>,
    pub(crate) known_lost: Vec<(u64, u64)>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) queue_bytes: u64,
    pub(crate) queue_planned: u64,
    pub(crate) next_seq: u64,
    /// Records through this one may go beyond the budget and into the reserve.
    pub(crate) lent_through: u64,
    /// Planned bytes still free in the segment that the last accepted record goes to.
    pub(crate) room: u64,
    /// Segments promised to queued records and not made yet.
    pub(crate) planned: VecDeque<Plan>,
    /// In order of generation.
    pub(crate) segments: Vec<SegmentMeta>,
    pub(crate) free: Vec<FreeFile>,
    pub(crate) next_generation: u64,
    pub(crate) failed: Option<Error>,
    pub(crate) closing: bool,
    pub(crate) durable_waiters: Vec<(u64, Arc<Cell>)>,
    pub(crate) ticks_asked: u64,
    pub(crate) ticks_done: u64,
    pub(crate) counts: Counts,
    /// Where some records lie, by sequence number: a reader need not begin at the start of a segment.
    pub(crate) marks: BTreeMap<u64, Mark>,
}

/// Where a record begins: generation of its segment, offset in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) generation: u64,
    pub(crate) at: u64,
}

impl Inner {
    /// Notes where record `seq` lies, if the last note is far enough behind.
    pub(crate) fn mark(&mut self, seq: u64, mark: Mark) {
        let last = self.marks.last_key_value().map(|(_, last)| *last);
        if last.is_none_or(|last| last.generation != mark.generation || mark.at >= last.at + MARK_BYTES) {
            self.marks.insert(seq, mark);
        }
    }
}

/// Bytes between two marks: some 32 bytes of memory each, and at most so much is read for nothing.
const MARK_BYTES: u64 = 256 << 10;

/// Counters since opening.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) groups: u64,
    pub(crate) bytes: u64,
    pub(crate) syncs: u64,
    pub(crate) sync_nanos: u64,
    pub(crate) sync_nanos_max: u64,
    pub(crate) markers: u64,
    pub(crate) refused: [u64; 4],
}

/// A segment to be made.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) len: u64,
    /// It will take a free file, so it costs no disk.
    pub(crate) recycled: bool,
}

/// A record on its way to the writer.
pub(crate) struct Queued {
    pub(crate) header: RecordHeader,
    pub(crate) head: Bytes,
    pub(crate) body: Body,
    pub(crate) cell: Arc<Cell>,
    pub(crate) planned: u64,
    /// It is the first of the next planned segment.
    pub(crate) opens: bool,
}

/// Goes down with a writer that panics, and says so to whoever waits for it.
impl Drop for Queued {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.cell.complete(Err(writer_panicked()));
        }
    }
}

/// What is known of the log then.
pub(crate) fn writer_panicked() -> Error {
    Error::new(Kind::Poisoned, "the writer of the log panicked")
}

impl Shared {
    pub(crate) fn append(&self, head: Bytes, body: Body) -> Result<Ticket> {
        let body_len = body.stored_len();
        let head_len = u32::try_from(head.len()).unwrap_or(u32::MAX);
        let mut header = RecordHeader {
            seq: 0,
            generation: 0,
            durable: 0,
            body_len,
            head_len,
            head_crc: 0,
            body_crc: 0,
            marker: false,
        };
        let total = header.total();
        if total > self.options.record_bytes_max || head.len() as u64 != u64::from(head_len) {
            let max = self.options.record_bytes_max;
            return Err(Error::new(
                Kind::TooLarge,
                format!("a record of {total} bytes exceeds the limit of {max}"),
            ));
        }
        header.head_crc = crc32c::crc32c(&head);
        header.body_crc = body.crc();

        let mut inner = self.inner.lock();
        if let Some(error) = &inner.failed {
            return Err(error.clone());
        }
        if inner.closing {
            return Err(Error::new(Kind::Closed, "the log is closed"));
        }
        if !inner.queue.is_empty() && inner.queue_bytes + total > self.options.queue_bytes_max {
            let waiting = inner.queue_bytes;
            return Err(inner.refuse(FullReason::Queue, || {
                format!(
                    "{waiting} bytes wait for the disk, {total} more would exceed {}",
                    self.options.queue_bytes_max
                )
            }));
        }
        let planned = planned_bytes(total, self.options.direct());
        let opens = planned > inner.room;
        if opens {
            let plan = self.plan(&mut inner, planned)?;
            inner.planned.push_back(plan);
            inner.room = plan.len - self.options.data_start();
        }
        inner.room -= planned;
        header.seq = inner.next_seq;
        inner.next_seq += 1;
        let (ticket, cell) = Ticket::new(header.seq);
        inner.queue_bytes += total;
        inner.queue_planned += planned;
        inner.queue.push_back(Queued {
            header,
            head,
            body,
            cell,
            planned,
            opens,
        });
        drop(inner);
        self.work.notify_one();
        Ok(ticket)
    }

    /// Finds room for one more segment, or says why there is none.
    fn plan(&self, inner: &mut Inner, need: u64) -> Result<Plan> {
        let options = &self.options;
        let len = options.segment_len(need);
        if inner.can_recycle(len) {
            return Ok(Plan { len, recycled: true });
        }
        let mut room = self.has_room(inner, len);
        // Free files are in the way of a record that is too large for them.
        while room.is_err()
            && let Some(spare) = inner.spare()
        {
            if let Err(error) = self.unlink_free(spare) {
                inner.free.push(spare);
                tracing::warn!(%error, "a free segment stays");
                break;
            }
            room = self.has_room(inner, len);
        }
        match room {
            Ok(()) => Ok(Plan { len, recycled: false }),
            // No longer than the record: what is lent is not there for others.
            Err(_) if inner.next_seq <= inner.lent_through => Ok(Plan {
                len: options.least_segment_len(need),
                recycled: false,
            }),
            Err((reason, error)) => {
                inner.counts.refused[reason as usize] += 1;
                Err(error)
            }
        }
    }

    /// Why there is no room for one more segment of the usual length, if so.
    pub(crate) fn no_room(&self) -> Option<Error> {
        let inner = self.inner.lock();
        let len = self.options.segment_len(0);
        if inner.can_recycle(len) {
            return None;
        }
        self.has_room(&inner, len).err().map(|(_, error)| error)
    }

    /// Unlinks free segments while the file system is within the reserve and one segment of being full: others need the room more than new
    /// segments need to be fast. Answers the bytes given back.
    pub(crate) fn give_back(&self) -> Result<u64> {
        let options = &self.options;
        let wanted = options.reserve_bytes.saturating_add(options.segment_len(0));
        let is_short = || self.disk.free_bytes(&options.dir).is_ok_and(|free| free < wanted);
        let mut given_back = 0;
        while is_short() {
            // Not under the lock: unlinking a large file takes a while.
            let Some(spare) = self.inner.lock().spare() else { break };
            if let Err(error) = self.unlink_free(spare) {
                self.inner.lock().free.push(spare);
                return Err(error);
            }
            given_back += spare.len;
        }
        Ok(given_back)
    }

    /// The name may come back with the power: a free file is one all the same.
    fn unlink_free(&self, file: FreeFile) -> Result<()> {
        let FreeFile { generation, .. } = file;
        let path = self.path(&FileName::Free { generation }.format());
        let done = self.disk.unlink(&path);
        done.map_err(|error| Error::io(format!("giving back {}", path.display()), error))
    }

    /// Whether budget and reserve allow another `len` bytes.
    fn has_room(&self, inner: &Inner, len: u64) -> std::result::Result<(), (FullReason, Error)> {
        let options = &self.options;
        let refuse = |reason, why: String| Err((reason, Error::new(Kind::Full(reason), why)));
        let planned: u64 = inner.planned.iter().filter(|p| !p.recycled).map(|p| p.len).sum();
        let used = inner.disk_bytes() + planned;
        if used.saturating_add(len) > options.budget_bytes {
            let budget = options.budget_bytes;
            return refuse(
                FullReason::Budget,
                format!("the log takes {used} bytes, another {len} would exceed its budget of {budget}"),
            );
        }
        match self.disk.free_bytes(&options.dir) {
            Ok(free) if free >= planned.saturating_add(len).saturating_add(options.reserve_bytes) => Ok(()),
            Ok(free) => {
                let reserve = options.reserve_bytes;
                refuse(
                    FullReason::Reserve,
                    format!("{free} bytes are free, another {len} would touch the reserve of {reserve}"),
                )
            }
            Err(error) => {
                let message = format!("asking for free space of {}", options.dir.display());
                let reason = FullReason::Disk;
                Err((reason, Error::with(Kind::Full(reason), message, error)))
            }
        }
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Everything stops: each waiter learns why.
    pub(crate) fn poison(&self, error: Error) {
        tracing::error!(%error, dir = %self.options.dir.display(), "log poisoned, nothing more is accepted");
        let mut inner = self.inner.lock();
        inner.failed.get_or_insert(error.clone());
        let queue = std::mem::take(&mut inner.queue);
        let waiters = std::mem::take(&mut inner.durable_waiters);
        inner.queue_bytes = 0;
        inner.queue_planned = 0;
        drop(inner);
        for cell in queue
            .iter()
            .map(|q| q.cell.clone())
            .chain(waiters.into_iter().map(|(_, c)| c))
        {
            cell.complete(Err(error.clone()));
        }
        self.work.notify_all();
        self.ticked.notify_all();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.options.dir.join(name)
    }
}

impl Inner {
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.len).sum::<u64>() + self.free.iter().map(|f| f.len).sum::<u64>()
    }

    /// A free file is there for a segment of this length.
    fn can_recycle(&self, len: u64) -> bool {
        self.free.len() > self.promised() && self.free.iter().all(|file| file.len >= len)
    }

    /// Free files that planned segments take.
    fn promised(&self) -> usize {
        self.planned.iter().filter(|plan| plan.recycled).count()
    }

    /// Takes out a free file that no planned segment counts on; the writer takes from the other end.
    fn spare(&mut self) -> Option<FreeFile> {
        (self.free.len() > self.promised()).then(|| self.free.remove(0))
    }

    pub(crate) fn refuse(&mut self, reason: FullReason, why: impl FnOnce() -> String) -> Error {
        self.counts.refused[reason as usize] += 1;
        Error::new(Kind::Full(reason), why())
    }
}
