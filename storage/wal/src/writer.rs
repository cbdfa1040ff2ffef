//! The one thread that writes: group commit, syncs, markers, new segments.
//!
//! Guarantees: a group is what arrived during the sync before, at most 1 MiB (a larger record goes alone); an idle disk syncs at once. The
//! durable number moves after a successful sync only, then the control page, then the tickets. After a failed write or sync
//! nothing is written or synced again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::error::{Error, FullReason, Kind};
use crate::format::SegmentHeader;
use crate::options::Ack;
use crate::segment::{CreateError, GROUP_BYTES, NewSegment, SegmentMeta, SegmentWriter, planned_bytes};
use crate::shared::{Inner, Mark, Plan, Queued, Shared, writer_panicked};

/// In [`Ack::Write`]: the longest that acknowledged bytes stay unsynced.
pub const SYNC_DELAY: Duration = Duration::from_millis(100);
/// Idle time after which a marker says what is durable.
pub const MARKER_DELAY: Duration = Duration::from_secs(1);

pub(crate) struct Writer {
    shared: Arc<Shared>,
    segment: Option<SegmentWriter>,
    /// Last number written.
    written: u64,
    /// When unsynced bytes are to be synced.
    sync_due: Option<Duration>,
    /// When a marker is to be written.
    marker_due: Option<Duration>,
}

/// A writer that panics poisons the log, before anybody learns of it by another way.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison(writer_panicked());
        }
    }
}

enum Work {
    Group(Vec<Queued>, Option<Plan>),
    Sync,
    Marker,
}

enum Next {
    Work(Work),
    Idle(Option<Duration>),
    Stop,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Writer {
        let written = shared.durable();
        Writer {
            shared,
            segment: None,
            written,
            sync_due: None,
            marker_due: None,
        }
    }

    /// Works until the log is closed or poisoned.
    pub(crate) fn run(mut self) {
        let _guard = Guard(self.shared.clone());
        while let Some(work) = self.wait() {
            self.work(work);
        }
    }

    /// Does everything that is due now, on the caller's thread.
    #[cfg(test)]
    pub(crate) fn pump(&mut self) {
        let shared = self.shared.clone();
        loop {
            let next = self.next(&mut shared.inner.lock());
            match next {
                Next::Work(work) => self.work(work),
                Next::Idle(_) | Next::Stop => return,
            }
        }
    }

    fn work(&mut self, work: Work) {
        let done = match work {
            Work::Group(group, plan) => self.group(group, plan),
            Work::Sync => self.sync(),
            Work::Marker => self.marker(),
        };
        if let Err(error) = done {
            self.shared.poison(error);
        }
    }

    fn wait(&mut self) -> Option<Work> {
        let shared = self.shared.clone();
        let mut inner = shared.inner.lock();
        loop {
            match self.next(&mut inner) {
                Next::Work(work) => return Some(work),
                Next::Stop => return None,
                Next::Idle(due) => {
                    if inner.ticks_done != inner.ticks_asked {
                        inner.ticks_done = inner.ticks_asked;
                        shared.ticked.notify_all();
                    }
                    match due.and_then(|due| shared.options.clock.sleep(due)) {
                        Some(wait) => drop(shared.work.wait_for(&mut inner, wait)),
                        None => shared.work.wait(&mut inner),
                    }
                }
            }
        }
    }

    /// What to do now. Idle says how long until something is due.
    fn next(&self, inner: &mut Inner) -> Next {
        if inner.failed.is_some() {
            return Next::Stop;
        }
        let now = self.shared.options.clock.now();
        if self.sync_due.is_some_and(|due| due <= now) {
            return Next::Work(Work::Sync);
        }
        if !inner.queue.is_empty() {
            return Next::Work(take_group(inner));
        }
        // A closing log leaves nothing in doubt for the next start.
        if self.marker_due.is_some_and(|due| due <= now || inner.closing) {
            return Next::Work(if self.sync_due.is_some() {
                Work::Sync
            } else {
                Work::Marker
            });
        }
        if inner.closing {
            return Next::Stop;
        }
        let due = [self.sync_due, self.marker_due].into_iter().flatten().min();
        Next::Idle(due.map(|due| due.saturating_sub(now)))
    }

    fn group(&mut self, group: Vec<Queued>, plan: Option<Plan>) -> Result<(), Error> {
        // Goes before the group does, which tells those who wait.
        let _guard = Guard(self.shared.clone());
        let result = self.write_group(&group, plan);
        match result {
            Ok(true) => {}
            // Refused before anything was written; the tickets are done.
            Ok(false) => return Ok(()),
            Err(error) => {
                for queued in &group {
                    queued.cell.complete(Err(error.clone()));
                }
                return Err(error);
            }
        }
        for queued in group {
            queued.cell.complete(Ok(queued.header.seq));
        }
        Ok(())
    }

    fn write_group(&mut self, group: &[Queued], plan: Option<Plan>) -> Result<bool, Error> {
        if let Some(plan) = plan {
            let base = group[0].header.seq;
            if let Some(refusal) = self.roll(plan, base)? {
                self.refuse(group, &refusal);
                return Ok(false);
            }
        }
        let durable = self.shared.durable();
        let last = group[group.len() - 1].header.seq;
        let segment = self
            .segment
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Poisoned, "a record without a segment"))?;
        let before = segment.end();
        let broken = |e| {
            Error::with(
                Kind::Poisoned,
                "writing to the log failed, nobody knows what is on disk",
                e,
            )
        };
        for queued in group {
            let header = crate::format::RecordHeader {
                generation: segment.header.generation,
                durable,
                ..queued.header
            };
            segment.put(&header, &queued.head, &queued.body).map_err(broken)?;
        }
        segment.flush(last + 1, durable).map_err(broken)?;
        let bytes = segment.end() - before;
        let mark = Mark {
            generation: segment.header.generation,
            at: before,
        };
        self.written = last;
        let now = self.shared.options.clock.now();
        self.sync_due.get_or_insert(now + SYNC_DELAY);
        match self.shared.options.ack {
            Ack::Fsync => self.sync()?,
            Ack::Write => segment.start_write_back(before).map_err(broken)?,
        }
        self.marker_due = Some(self.shared.options.clock.now() + MARKER_DELAY);
        let mut inner = self.shared.inner.lock();
        inner.mark(group[0].header.seq, mark);
        inner.counts.groups += 1;
        inner.counts.records += group.len() as u64;
        inner.counts.bytes += bytes;
        self.give_back_room(&mut inner);
        Ok(true)
    }

    /// Planning assumed the worst about padding and markers; what a group really took is known now.
    fn give_back_room(&self, inner: &mut Inner) {
        let Some(segment) = &self.segment else { return };
        if inner.planned.is_empty() {
            let slack = planned_bytes(0, self.shared.options.direct());
            inner.room = segment.len.saturating_sub(segment.end() + slack + inner.queue_planned);
        }
    }

    /// Closes the segment and makes the next. `Some` is a refusal: there is no room, and nothing has happened.
    fn roll(&mut self, plan: Plan, base: u64) -> Result<Option<Error>, Error> {
        if self.sync_due.is_some() {
            self.sync()?;
        }
        let shared = self.shared.clone();
        let options = &shared.options;
        let (generation, recycled) = {
            let mut inner = shared.inner.lock();
            inner.next_generation += 1;
            (
                inner.next_generation - 1,
                if plan.recycled { inner.free.pop() } else { None },
            )
        };
        let new = NewSegment {
            disk: &*shared.disk,
            dir: &options.dir,
            header: SegmentHeader {
                log_id: options.log_id,
                kind: options.kind,
                generation,
                base,
                preamble_len: options.preamble.len() as u32,
                preamble_crc: crc32c::crc32c(&options.preamble),
            },
            preamble: &options.preamble,
            salt: shared.salt,
            len: plan.len,
            direct: options.direct(),
            recycled: recycled.as_ref(),
        };
        let broken = |e| {
            Error::with(
                Kind::Poisoned,
                "making a segment failed, nobody knows what is on disk",
                e,
            )
        };
        let made = new.create().and_then(|segment| Ok((segment, new.publish()?)));
        let (segment, meta): (SegmentWriter, SegmentMeta) = match made {
            Ok(made) => made,
            Err(CreateError::NoRoom(error)) => {
                shared.inner.lock().free.extend(recycled);
                let message = format!(
                    "no room for a segment of {} bytes in {}",
                    plan.len,
                    options.dir.display()
                );
                return Ok(Some(Error::with(Kind::Full(FullReason::Disk), message, error)));
            }
            Err(CreateError::Broken(error)) => return Err(broken(error)),
        };
        shared.inner.lock().segments.push(meta);
        self.segment = Some(segment);
        Ok(None)
    }

    /// Takes back the numbers of `group` and of everything behind it: none of it was written.
    fn refuse(&mut self, group: &[Queued], refusal: &Error) {
        let mut inner = self.shared.inner.lock();
        let queue = std::mem::take(&mut inner.queue);
        inner.next_seq = group[0].header.seq;
        inner.queue_bytes = 0;
        inner.queue_planned = 0;
        inner.planned.clear();
        inner.room = 0;
        inner.counts.refused[FullReason::Disk as usize] += (group.len() + queue.len()) as u64;
        drop(inner);
        for cell in group.iter().map(|q| &q.cell).chain(queue.iter().map(|q| &q.cell)) {
            cell.complete(Err(refusal.clone()));
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let start = Instant::now();
        segment.sync().map_err(|e| {
            Error::with(
                Kind::Poisoned,
                "syncing the log failed, nobody knows what is on disk",
                e,
            )
        })?;
        let nanos = start.elapsed().as_nanos() as u64;
        self.sync_due = None;
        let durable = self.written;
        self.shared.durable.store(durable, Ordering::Release);
        if let Some(control) = &self.shared.control {
            let mut control = control.lock();
            control.1.durable = durable;
            control.1.generation = segment.header.generation;
            control.1.base = segment.header.base;
            control.1.end = segment.end();
            control.0.publish(&control.1);
        }
        let mut inner = self.shared.inner.lock();
        inner.counts.syncs += 1;
        inner.counts.sync_nanos += nanos;
        inner.counts.sync_nanos_max = inner.counts.sync_nanos_max.max(nanos);
        let mut ready = Vec::new();
        inner.durable_waiters.retain(|(seq, cell)| {
            let wait = *seq > durable;
            if !wait {
                ready.push((*seq, cell.clone()));
            }
            wait
        });
        drop(inner);
        for (seq, cell) in ready {
            cell.complete(Ok(seq));
        }
        Ok(())
    }

    fn marker(&mut self) -> Result<(), Error> {
        self.marker_due = None;
        let Some(segment) = &mut self.segment else {
            return Ok(());
        };
        let durable = self.shared.durable();
        let broken = |e| {
            Error::with(
                Kind::Poisoned,
                "writing a sync marker failed, nobody knows what is on disk",
                e,
            )
        };
        segment.put_marker(durable + 1, durable).map_err(broken)?;
        segment.flush(durable + 1, durable).map_err(broken)?;
        self.sync()?;
        let mut inner = self.shared.inner.lock();
        inner.counts.markers += 1;
        self.give_back_room(&mut inner);
        Ok(())
    }
}

fn take_group(inner: &mut Inner) -> Work {
    let mut group: Vec<Queued> = Vec::new();
    let mut bytes = 0;
    while let Some(next) = inner.queue.front() {
        let total = next.header.total();
        if !group.is_empty() && (next.opens || bytes + total > GROUP_BYTES) {
            break;
        }
        bytes += total;
        inner.queue_planned -= next.planned;
        group.extend(inner.queue.pop_front());
    }
    inner.queue_bytes -= bytes;
    let plan = if group[0].opens {
        inner.planned.pop_front()
    } else {
        None
    };
    Work::Group(group, plan)
}
