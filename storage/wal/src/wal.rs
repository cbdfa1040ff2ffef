//! The handle: open, append, read back, trim, close.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::buffer::AlignedBuf;
use crate::control::{ControlWriter, Published};
use crate::error::{Error, Kind, Result};
use crate::file::{Disk, Open, Os, write_all};
use crate::format::{BLOCK, Body, FileName, log_salt};
use crate::options::{Ack, Io, Options};
use crate::picks::{Pick, Picks};
use crate::records::Records;
use crate::recover::{Ask, Recovered, State, recover, set_aside};
use crate::segment::{FreeFile, SegmentMeta, limits};
use crate::shared::{Inner, Shared};
use crate::stats::Stats;
use crate::ticket::Ticket;
use crate::turns;
use crate::walk::Verify;
use crate::writer::Writer;

/// An open log. Clones share it; when the last one goes it is closed as by [`Wal::close`].
#[derive(Clone)]
pub struct Wal {
    core: Arc<Core>,
}

struct Core {
    shared: Arc<Shared>,
    writer: Mutex<Option<Running>>,
    /// Released after the writer has ended.
    _lock: Box<dyn Any + Send + Sync>,
}

/// Where the writer runs.
enum Running {
    Thread(JoinHandle<()>),
    /// On whatever thread calls `tick` or `close`: the same sequence of file operations every time.
    #[cfg(test)]
    Inline(Box<Writer>),
}

impl Wal {
    /// Locks the directory, recovers what is in it and starts the writer thread. See [`Recovered`] for what it found; damage is
    /// reported there and does not fail the opening.
    ///
    /// # Errors
    /// [`Kind::Locked`], [`Kind::Foreign`], [`Kind::Newer`], [`Kind::Options`], [`Kind::Io`]; [`Kind::Full`] if a tail of unknown durability has
    /// to be copied and there is no room for it (the reserve may be used for that).
    pub fn open(options: Options) -> Result<(Wal, Recovered)> {
        Wal::open_threaded(Arc::new(Os::default()), options)
    }

    pub(crate) fn open_threaded(disk: Arc<dyn Disk>, options: Options) -> Result<(Wal, Recovered)> {
        Wal::open_on(disk, options, |writer| {
            let thread = std::thread::Builder::new()
                .name("wal-writer".to_owned())
                .spawn(move || {
                    if let Err(error) = turns::ask_for_short() {
                        tracing::debug!(%error, "acks wait for turns on the processor as long as any thread does");
                    }
                    writer.run();
                });
            thread
                .map(Running::Thread)
                .map_err(|e| Error::io("starting the writer thread", e))
        })
    }

    /// On any disk, without a thread: nothing is written before `tick` or `close`.
    #[cfg(test)]
    pub(crate) fn open_inline(disk: Arc<dyn Disk>, options: Options) -> Result<(Wal, Recovered)> {
        Wal::open_on(disk, options, |writer| Ok(Running::Inline(Box::new(writer))))
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        mut options: Options,
        run: impl FnOnce(Writer) -> Result<Running>,
    ) -> Result<(Wal, Recovered)> {
        options.check()?;
        let dir = &options.dir.clone();
        let failed = |what: &str, e| Error::io(format!("{what} {}", dir.display()), e);
        disk.create_dir(dir).map_err(|e| failed("making", e))?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            disk.sync_dir(parent)
                .map_err(|e| failed("syncing the directory above", e))?;
        }
        // Also proves that this directory can be synced at all.
        disk.sync_dir(dir).map_err(|e| failed("syncing", e))?;
        let lock = disk.lock(&dir.join("lock")).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => {
                Error::new(Kind::Locked, format!("{} is in use by another process", dir.display()))
            }
            _ => failed("locking", e),
        })?;
        if options.ack == Ack::Fsync
            && !options.allow_volatile
            && let Some(kind) = disk
                .volatile(dir)
                .map_err(|e| failed("asking for the file system of", e))?
        {
            let message = format!("{} is on {kind}, where fsync promises nothing", dir.display());
            return Err(Error::new(Kind::Options, message));
        }
        if options.direct() && !takes_direct_writes(&*disk, dir) {
            tracing::warn!(dir = %dir.display(), "no O_DIRECT on this file system, writing through the page cache");
            options.io = Io::Buffered;
        }
        let salt = log_salt(&options.log_id, options.kind);
        let control = match &options.control {
            Some(path) => Some(ControlWriter::open(path, &options.log_id, options.kind)?),
            None => None,
        };
        let published = control.as_ref().and_then(|(_, last)| *last).unwrap_or_default();
        let state = recover(&Ask {
            disk: &*disk,
            dir,
            log_id: options.log_id,
            kind: options.kind,
            salt,
            direct: options.direct(),
            floor: options.floor.max(published.durable),
            needed: options.needed,
            bodies: options.bodies,
        })?;
        let (shared, recovered) = start(disk, options, salt, control.map(|(writer, _)| writer), state)?;
        let running = run(Writer::new(shared.clone()))?;
        let core = Core {
            shared,
            writer: Mutex::new(Some(running)),
            _lock: lock,
        };
        Ok((Wal { core: Arc::new(core) }, recovered))
    }

    /// Queues a record. Ok means it has a place in the order and on the disk; the ticket tells when it is durable. The CRCs
    /// are computed here, on the caller's thread.
    ///
    /// # Errors
    /// [`Kind::Full`] (nothing happened, try later), [`Kind::TooLarge`], [`Kind::Poisoned`], [`Kind::Closed`].
    pub fn append(&self, head: impl Into<Bytes>, body: impl Into<Body>) -> Result<Ticket> {
        self.core.shared.append(head.into(), body.into())
    }

    /// Records through `seq` are taken even when budget or reserve leave no room for a segment, each in one of no more than its own length:
    /// for those that must be in before [`Wal::trim_below`] can make room.
    pub fn lend(&self, seq: u64) {
        let mut inner = self.core.shared.inner.lock();
        inner.lent_through = inner.lent_through.max(seq);
    }

    /// A ticket that completes when everything up to `seq` is durable; of use in [`Ack::Write`], where an append's ticket says less.
    pub fn until_durable(&self, seq: u64) -> Ticket {
        let shared = &self.core.shared;
        let (ticket, cell) = Ticket::new(seq);
        let mut inner = shared.inner.lock();
        if shared.durable() >= seq {
            cell.complete(Ok(seq));
        } else if let Some(error) = &inner.failed {
            cell.complete(Err(error.clone()));
        } else if inner.closing {
            cell.complete(Err(Error::new(Kind::Closed, "the log is closed")));
        } else {
            inner.durable_waiters.push((seq, cell));
        }
        ticket
    }

    /// The number the next record gets.
    pub fn next_seq(&self) -> u64 {
        self.core.shared.inner.lock().next_seq
    }

    /// The largest durable number; 0 if there is none.
    pub fn durable(&self) -> u64 {
        self.core.shared.durable()
    }

    /// Why nothing is accepted any more, if so.
    pub fn poisoned(&self) -> Option<Error> {
        self.core.shared.inner.lock().failed.clone()
    }

    /// Why a record that needs a new segment would be refused now for want of room, if so: [`Kind::Full`]. Counts nothing.
    pub fn no_room(&self) -> Option<Error> {
        self.core.shared.no_room()
    }

    /// The records from `from` on that are durable now, in order.
    pub fn records(&self, from: u64) -> Records {
        self.read(from, Verify::ALL)
    }

    /// The same with their heads alone.
    pub fn heads(&self, from: u64) -> Records {
        self.read(from, Verify::Head)
    }

    /// The records of these numbers, which ascend. Assumes that none of them is trimmed meanwhile.
    pub fn pick(&self, numbers: impl IntoIterator<Item = u64>) -> Picks {
        let shared = &self.core.shared;
        let durable = shared.durable();
        let inner = shared.inner.lock();
        let limits = limits(&inner.segments);
        let pick = |seq: u64| {
            let of = |(segment, limit): (&SegmentMeta, &u64)| segment.base <= seq && seq < *limit;
            let at = inner
                .segments
                .iter()
                .zip(&limits)
                .position(of)
                .filter(|_| seq <= durable);
            let mark = inner.marks.range(..=seq).next_back().map(|(seq, mark)| (*seq, *mark));
            Pick {
                seq,
                segment: at.map(|at| (inner.segments[at].clone(), limits[at])),
                mark,
            }
        };
        let wanted: Vec<Pick> = numbers.into_iter().map(pick).collect();
        Picks::new(shared.clone(), wanted)
    }

    fn read(&self, from: u64, verify: Verify) -> Records {
        let shared = &self.core.shared;
        let until = shared.durable();
        let inner = shared.inner.lock();
        let limits = limits(&inner.segments);
        let segments = inner.segments.iter().cloned().zip(limits);
        let segments: std::collections::VecDeque<(SegmentMeta, u64)> = segments
            .map(|(segment, limit)| (segment, limit.min(until + 1)))
            .filter(|(segment, limit)| segment.base < *limit && *limit > from)
            .collect();
        let first = segments.front().map_or(until + 1, |(segment, _)| segment.base);
        let mark = inner.marks.range(..=from).next_back().map(|(seq, mark)| (*seq, *mark));
        Records {
            disk: shared.disk.clone(),
            dir: shared.options.dir.clone(),
            log_id: shared.options.log_id,
            kind: shared.options.kind,
            salt: shared.salt,
            from,
            verify,
            mark,
            segments,
            known_lost: shared.known_lost.clone(),
            current: None,
            next: from.max(first),
            until,
        }
    }

    /// For a reader that found records `first..=last` damaged: sets their segments aside as opening does. Answers whether any of them does
    /// not verify.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn set_aside(&self, first: u64, last: u64) -> Result<bool> {
        let shared = &self.core.shared;
        let _no_trim = shared.trimming.lock();
        let mut segments = shared.inner.lock().segments.clone();
        let options = &shared.options;
        let log = (&options.log_id, options.kind, shared.salt);
        let any = set_aside(&*shared.disk, &options.dir, log, &mut segments, (first, last))?;
        let mut inner = shared.inner.lock();
        for segment in &mut inner.segments {
            let is_aside = |known: &&SegmentMeta| known.generation == segment.generation && known.quarantined;
            segment.quarantined |= segments.iter().any(|known| is_aside(&known));
        }
        Ok(any)
    }

    /// Lets go of every segment whose records are all below `seq`: unlinked, or kept for reuse. Numbers that are not durable are never
    /// trimmed. While the file system has no more than the reserve and one segment left, those kept for reuse are unlinked too, also those of
    /// earlier trims. Answers the bytes of disk given back.
    ///
    /// # Errors
    /// [`Kind::Io`] if a file cannot be removed (it stays part of the log), [`Kind::Poisoned`].
    pub fn trim_below(&self, seq: u64) -> Result<u64> {
        let shared = &self.core.shared;
        let _one_at_a_time = shared.trimming.lock();
        let seq = seq.min(shared.durable() + 1);
        let (victims, mut keep) = {
            let inner = shared.inner.lock();
            if let Some(error) = &inner.failed {
                return Err(error.clone());
            }
            let limits = limits(&inner.segments);
            // The newest always stays: it remembers the generation and the sequence.
            let victims: Vec<SegmentMeta> = inner
                .segments
                .iter()
                .zip(&limits)
                .filter(|(_, limit)| **limit <= seq)
                .map(|(s, _)| s.clone())
                .collect();
            (victims, shared.options.recycle.saturating_sub(inner.free.len()))
        };
        if victims.is_empty() {
            return shared.give_back();
        }
        let mut gone = Vec::new();
        let mut free = Vec::new();
        let mut failure = None;
        for segment in &victims {
            let path = segment.path(&shared.options.dir);
            let recycle = keep > 0 && !segment.quarantined && segment.len == shared.options.segment_len(0);
            let done = if recycle {
                keep -= 1;
                let name = FileName::Free {
                    generation: segment.generation,
                }
                .format();
                free.push(FreeFile {
                    generation: segment.generation,
                    len: segment.len,
                });
                shared.disk.rename(&path, &shared.path(&name))
            } else {
                shared.disk.unlink(&path)
            };
            match done {
                Ok(()) => gone.push(segment.generation),
                Err(error) => {
                    free.retain(|f| f.generation != segment.generation);
                    failure = Some(Error::io(format!("trimming {}", path.display()), error));
                    break;
                }
            }
        }
        // Before a free file may be written again its old name must be gone for good.
        if let Err(error) = shared.disk.sync_dir(&shared.options.dir) {
            let error = Error::with(Kind::Poisoned, "syncing the log's directory failed", error);
            shared.poison(error.clone());
            return Err(error);
        }
        let kept: u64 = free.iter().map(|f| f.len).sum();
        let freed: u64 = victims
            .iter()
            .filter(|s| gone.contains(&s.generation))
            .map(|s| s.len)
            .sum();
        let first_generation = {
            let mut inner = shared.inner.lock();
            inner.segments.retain(|s| !gone.contains(&s.generation));
            inner.marks.retain(|_, mark| !gone.contains(&mark.generation));
            inner.free.extend(free);
            inner.segments.first().map_or(0, |s| s.generation)
        };
        if let Some(control) = &shared.control {
            let mut control = control.lock();
            control.1.first_generation = first_generation;
            control.0.publish(&control.1);
        }
        match failure {
            None => Ok(freed - kept + shared.give_back()?),
            Some(error) => Err(error),
        }
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Stats {
        let shared = &self.core.shared;
        let durable_seq = shared.durable();
        let inner = shared.inner.lock();
        let counts = &inner.counts;
        Stats {
            segments: inner.segments.len() as u64,
            free_segments: inner.free.len() as u64,
            disk_bytes: inner.disk_bytes(),
            budget_bytes: shared.options.budget_bytes,
            first_seq: inner.segments.first().map_or(inner.next_seq, |s| s.base),
            next_seq: inner.next_seq,
            durable_seq,
            queue_records: inner.queue.len() as u64,
            queue_bytes: inner.queue_bytes,
            queue_bytes_max: shared.options.queue_bytes_max,
            records: counts.records,
            groups: counts.groups,
            bytes: counts.bytes,
            syncs: counts.syncs,
            sync_nanos: counts.sync_nanos,
            sync_nanos_max: counts.sync_nanos_max,
            markers: counts.markers,
            refused_queue: counts.refused[0],
            refused_budget: counts.refused[1],
            refused_reserve: counts.refused[2],
            refused_disk: counts.refused[3],
            poisoned: inner.failed.is_some(),
        }
    }

    /// Makes the writer look at the clock and waits until it has done what was due. For tests with a [`ManualClock`](crate::ManualClock).
    pub fn tick(&self) {
        let shared = &self.core.shared;
        #[cfg(test)]
        if let Some(Running::Inline(writer)) = &mut *self.core.writer.lock() {
            return writer.pump();
        }
        let mut inner = shared.inner.lock();
        inner.ticks_asked += 1;
        let mine = inner.ticks_asked;
        shared.work.notify_all();
        while inner.ticks_done < mine && inner.failed.is_none() && !inner.closing {
            shared.ticked.wait(&mut inner);
        }
    }

    /// Writes and syncs what is queued, leaves a marker, ends the writer thread. Later appends get [`Kind::Closed`].
    ///
    /// # Errors
    /// The error that poisoned the log, if one did.
    pub fn close(&self) -> Result<()> {
        self.core.close()
    }
}

impl Core {
    fn close(&self) -> Result<()> {
        self.shared.inner.lock().closing = true;
        self.shared.work.notify_all();
        self.shared.ticked.notify_all();
        match self.writer.lock().take() {
            Some(Running::Thread(thread)) => {
                let ended = thread.join();
                if ended.is_err() {
                    self.shared
                        .poison(Error::new(Kind::Poisoned, "the writer thread panicked"));
                }
            }
            #[cfg(test)]
            Some(Running::Inline(mut writer)) => writer.pump(),
            None => {}
        }
        let mut inner = self.shared.inner.lock();
        let waiters = std::mem::take(&mut inner.durable_waiters);
        let failed = inner.failed.clone();
        drop(inner);
        for (_, cell) in waiters {
            cell.complete(Err(Error::new(Kind::Closed, "the log is closed")));
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _ = self.close();
    }
}

/// Tries one block. Only a clear no counts: a full disk says nothing about O_DIRECT.
fn takes_direct_writes(disk: &dyn Disk, dir: &Path) -> bool {
    // A name that the next start would clean up.
    let path = dir.join(FileName::New { generation: 0 }.format());
    let block = AlignedBuf::new(BLOCK as usize);
    let tried = disk
        .open(&path, Open::Create { direct: true })
        .and_then(|file| write_all(&*file, &block, 0));
    // If it cannot be removed now, recovery does it.
    let _ = disk.unlink(&path);
    let no = |e: io::Error| matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
    !tried.is_err_and(no)
}

/// Builds the shared state from what recovery found and tells readers.
fn start(
    disk: Arc<dyn Disk>,
    options: Options,
    salt: u32,
    control: Option<ControlWriter>,
    state: State,
) -> Result<(Arc<Shared>, Recovered)> {
    let State {
        segments,
        free,
        next_generation,
        next_seq,
        end,
        recovered,
    } = state;
    let wanted = options.segment_len(0);
    let (mut free, useless): (Vec<_>, Vec<_>) = free.into_iter().partition(|f| f.len == wanted);
    let surplus = free.split_off(free.len().min(options.recycle));
    for file in useless.into_iter().chain(surplus) {
        let path = options.dir.join(
            FileName::Free {
                generation: file.generation,
            }
            .format(),
        );
        disk.unlink(&path)
            .map_err(|e| Error::io(format!("removing {}", path.display()), e))?;
    }
    let durable = next_seq - 1;
    let control = control.map(|writer| {
        let last = segments.last();
        let published = Published {
            durable,
            generation: last.map_or(0, |s| s.generation),
            base: last.map_or(0, |s| s.base),
            end,
            first_generation: segments.first().map_or(0, |s| s.generation),
        };
        writer.publish(&published);
        Mutex::new((writer, published))
    });
    let shared = Shared {
        disk,
        salt,
        inner: Mutex::new(Inner {
            next_seq,
            segments,
            free,
            next_generation,
            ..Inner::default()
        }),
        work: Condvar::new(),
        ticked: Condvar::new(),
        durable: AtomicU64::new(durable),
        control,
        trimming: Mutex::new(()),
        known_lost: recovered.lost().collect(),
        options,
    };
    Ok((Arc::new(shared), recovered))
}
