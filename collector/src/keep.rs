//! Keeping: checkpoints at intervals, and trimming what they make superfluous (P7, P8).
//!
//! Guarantees: one checkpoint at a time, later ones later, whoever asks and whoever gives up waiting. A full outbox leaves again once the tables
//! have what is in it: checkpoints then come sooner than their interval, and the batches that one waits for find room beyond the budget.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tailwater_journal::Journal;
use tailwater_journal::checkpoint::Section;
use tailwater_model::ids::{BatchSeq, Lsn};
use tailwater_red::Aggregator;
use tailwater_wal::Wal;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use crate::checkpoint;
use crate::dedup::Dedup;
use crate::outbox::is_crowded;
use crate::tail::Tail;

/// What checkpoints are made of.
pub struct Keeper {
    /// The data directory.
    pub data: PathBuf,
    /// How often.
    pub interval: Duration,
    /// The rules.
    pub journal: Arc<Mutex<Journal>>,
    /// Recent digests.
    pub dedup: Option<Arc<Dedup>>,
    /// Whose guard is kept.
    pub red: Option<Arc<Mutex<Aggregator>>>,
    /// Whose budget is kept.
    pub tail: Option<Arc<Mutex<Tail>>>,
    /// To be trimmed.
    pub intake: Arc<Wal>,
    /// To be trimmed.
    pub outbox: Arc<Wal>,
    /// The last durable batch.
    pub durable: watch::Receiver<BatchSeq>,
    /// Held while a checkpoint is made, until its file is whole on the disk.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

/// Section of the checkpoint with the keys and services that RED knows (rule P7).
pub const GUARD_SECTION: u64 = 64;

/// Section of the checkpoint with what the sampler has spent and saved up.
pub const SAMPLER_SECTION: u64 = 65;

/// Digests copied into a checkpoint under one hold of the register.
const DIGESTS_A_PIECE: usize = 4096;

/// How often the keeper looks whether the outbox needs it.
const LOOK: Duration = Duration::from_secs(1);

impl Keeper {
    /// Keeps until dropped.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.interval.min(LOOK));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (BatchSeq(0), Vec::new());
        let (mut due, mut refused) = (Instant::now(), 0);
        loop {
            ticks.tick().await;
            let is_needed = self.is_needed(&mut refused);
            if Instant::now() < due && !is_needed {
                continue;
            }
            due = Instant::now() + self.interval;
            let state = {
                let journal = self.journal.lock();
                let versions = tailwater_model::table::Table::COLLECTED
                    .map(|table| journal.version(table))
                    .to_vec();
                (journal.batch(), versions)
            };
            if state == last {
                continue;
            }
            match self.keep().await {
                Ok(()) => last = state,
                Err(error) => warn!(%error, "no checkpoint; the logs grow until one succeeds"),
            }
        }
    }

    /// Whether the outbox fills up, or has refused batches since there were `refused`, and nothing but a checkpoint is missing to trim it.
    fn is_needed(&self, refused: &mut u64) -> bool {
        let stats = self.outbox.stats();
        let before = std::mem::replace(
            refused,
            stats.refused_budget + stats.refused_reserve + stats.refused_disk,
        );
        (*refused > before || is_crowded(&self.outbox)) && self.journal.lock().waits_for_checkpoint()
    }

    /// Returns when no checkpoint is being written: a task that was aborted leaves its last one to the disk.
    pub async fn rest(&self) {
        drop(self.turn.lock().await);
    }

    /// Writes one checkpoint and trims both logs.
    ///
    /// # Errors
    /// Those of the file system; the checkpoint before is still whole, and nothing was trimmed.
    pub async fn keep(&self) -> std::io::Result<()> {
        let turn = self.turn.clone().lock_owned().await;
        // Not what is only queued: the number may be refused yet, or gone with the power, and would be taken for a lost record.
        let lsn_high = Lsn(self.intake.durable());
        // The journal first: a record it has settled has finished its digest before. The digests in pieces, because acks need
        // the register too.
        let (mut draft, sampler) = {
            // Nothing is decided between the two: of what is in no batch of the draft's the sampler must say nothing.
            let tail = self.tail.as_ref().map(|tail| tail.lock());
            let draft = self.journal.lock().draft_checkpoint(lsn_high);
            let sampler = tail.map(|tail| tail.encode(draft.mark().batch));
            (draft, sampler)
        };
        if let Some(dedup) = &self.dedup {
            while !dedup.with(|register| draft.digests(register, DIGESTS_A_PIECE)) {
                tokio::task::yield_now().await;
            }
        }
        // Later than the journal is well: what the guard has let in since, it lets in again when the replay comes there.
        let guard = self.red.as_ref().map(|red| red.lock().guard());
        let sections = [(GUARD_SECTION, guard), (SAMPLER_SECTION, sampler)].into_iter();
        let sections: Vec<Section> = sections
            .filter_map(|(id, bytes)| {
                Some(Section {
                    id,
                    required: false,
                    bytes: bytes?,
                })
            })
            .collect();
        let (bytes, mark) = draft.finish(&sections);
        self.wait_until_durable(mark.batch).await?;
        let (data, size) = (self.data.clone(), bytes.len());
        let store = move || {
            let _turn = turn;
            checkpoint::store(&data, &bytes)
        };
        tokio::task::spawn_blocking(store)
            .await
            .map_err(std::io::Error::other)??;
        self.journal.lock().checkpointed(mark);
        let freed = self.trim().await?;
        debug!(
            batch = mark.batch.0,
            low = mark.low.0,
            bytes = size,
            freed,
            "checkpoint"
        );
        Ok(())
    }

    /// Waits for a batch. It may wait in turn, for room in the outbox: what tables have committed meanwhile goes by the checkpoint before. When
    /// that is all they can commit, only the checkpoint itself makes room.
    async fn wait_until_durable(&self, batch: BatchSeq) -> std::io::Result<()> {
        let mut durable = self.durable.clone();
        loop {
            let is_delivered = self.journal.lock().is_delivered(*durable.borrow());
            if is_delivered {
                self.outbox.lend(batch.0);
            }
            let look = self.interval.min(LOOK);
            let waited = tokio::time::timeout(look, durable.wait_for(|seq| *seq >= batch)).await;
            match waited.map(|seen| seen.is_ok()) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(std::io::Error::other("the outbox has ended")),
                Err(_) => _ = self.trim().await?,
            }
        }
    }

    /// Trims both logs as far as the last durable checkpoint and the tables allow. Answers the bytes that it freed.
    async fn trim(&self) -> std::io::Result<u64> {
        let trim = self.journal.lock().trim_points();
        let (intake, outbox) = (self.intake.clone(), self.outbox.clone());
        tokio::task::spawn_blocking(move || {
            Ok::<_, tailwater_wal::Error>(
                intake.trim_below(trim.intake_below.0)? + outbox.trim_below(trim.outbox_below.0)?,
            )
        })
        .await
        .map_err(std::io::Error::other)?
        .map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::pin::pin;

    use bytes::Bytes;
    use futures::poll;
    use tailwater_journal::settlement::TableSet;
    use tailwater_journal::{Reasons, Recovery, Settings};
    use tailwater_model::ids::LogId;
    use tailwater_model::table::Table;
    use tailwater_wal::{Ack, Clock, Options};

    use super::*;

    const LOG_ID: LogId = LogId([7; 16]);
    const SEGMENT: u64 = 64 << 10;

    struct World {
        keeper: Keeper,
        sender: watch::Sender<BatchSeq>,
        data: tempfile::TempDir,
    }

    impl World {
        /// An outbox of two segments, and checkpoints that never come by themselves. Nothing becomes durable in the intake log.
        fn new() -> World {
            let data = tempfile::tempdir().unwrap();
            let log = |name: &str| Options {
                segment_bytes: SEGMENT,
                budget_bytes: 2 * SEGMENT,
                reserve_bytes: 0,
                recycle: 0,
                allow_volatile: true,
                ..Options::new(data.path().join(name), LOG_ID.0, 1)
            };
            let still = Options {
                ack: Ack::Write,
                clock: Clock::manual().0,
                ..log("intake")
            };
            let settings = Settings {
                log_id: LOG_ID,
                shards: 1,
                decisions_max: 10,
                decision_age_max_ns: u64::MAX,
                reasons: Reasons::default(),
            };
            let (sender, durable) = watch::channel(BatchSeq(0));
            let keeper = Keeper {
                data: data.path().to_owned(),
                interval: Duration::from_secs(600),
                journal: Arc::new(Mutex::new(Recovery::new(settings, None).unwrap().finish())),
                dedup: None,
                red: None,
                tail: None,
                intake: Arc::new(Wal::open(still).unwrap().0),
                outbox: Arc::new(Wal::open(log("outbox")).unwrap().0),
                durable,
                turn: Arc::default(),
            };
            World { keeper, sender, data }
        }

        /// Cuts a batch with a frame for these tables.
        fn cut(&self, tables: TableSet) -> BatchSeq {
            let mut journal = self.keeper.journal.lock();
            let next = Lsn(journal.batch().0 + 1);
            journal.advance_all(next);
            journal.cut(0, tables).unwrap().unwrap().seq
        }

        /// Whether the outbox has taken the next batch.
        fn append(&self) -> bool {
            match self.keeper.outbox.append("head", Bytes::from(vec![1; 20_000])) {
                Ok(ticket) => {
                    self.sender.send_replace(BatchSeq(ticket.wait().unwrap()));
                    true
                }
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    false
                }
            }
        }

        /// Cuts batches until the outbox has no room for the last one, which it answers.
        fn fill(&self, tables: TableSet) -> BatchSeq {
            loop {
                let batch = self.cut(tables);
                if !self.append() {
                    return batch;
                }
            }
        }

        fn stored(&self) -> tailwater_journal::checkpoint::Checkpoint {
            checkpoint::load(self.data.path(), &Reasons::default())
                .unwrap()
                .unwrap()
        }
    }

    #[tokio::test]
    async fn a_batch_that_the_checkpoint_waits_for_finds_room_once_tables_have_the_others() {
        let world = World::new();
        let tables = TableSet::EMPTY.with(Table::Spans);
        let refused = world.fill(tables);
        assert!(is_crowded(&world.keeper.outbox));
        assert!(!world.keeper.is_needed(&mut 0), "a checkpoint alone makes no room");
        {
            let mut keeping = pin!(world.keeper.keep());
            assert!(poll!(&mut keeping).is_pending());
            assert!(!world.append(), "tables have nothing of it yet");
        }
        world
            .keeper
            .journal
            .lock()
            .committed(Table::Spans, BatchSeq(refused.0 - 1));
        assert!(world.keeper.is_needed(&mut 0));
        let mut keeping = pin!(world.keeper.keep());
        assert!(poll!(&mut keeping).is_pending());
        assert!(world.append());
        keeping.await.unwrap();
        assert_eq!(world.stored().batch, refused);
        assert!(!is_crowded(&world.keeper.outbox), "what is in it has been trimmed");
        world.cut(tables);
        assert!(world.append());
    }

    #[tokio::test]
    async fn a_checkpoint_names_no_record_that_a_crash_may_take() {
        let world = World::new();
        let record = world.keeper.intake.append("head", Bytes::from_static(b"body")).unwrap();
        record.await.unwrap();
        assert_eq!((world.keeper.intake.next_seq(), world.keeper.intake.durable()), (2, 0));
        world.keeper.keep().await.unwrap();
        assert_eq!(world.stored().lsn_high, Lsn(0));
    }

    #[test]
    fn who_gives_up_waiting_leaves_the_file_to_no_other() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let world = World::new();
            world.cut(TableSet::EMPTY);
            assert!(world.append());
            // The disk is slow: the only thread that may wait for it is busy.
            let (busy, wait) = std::sync::mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || wait.recv());
            {
                let mut keeping = pin!(world.keeper.keep());
                assert!(poll!(&mut keeping).is_pending());
            }
            world.cut(TableSet::EMPTY);
            assert!(world.append());
            assert!(poll!(pin!(world.keeper.rest())).is_pending());
            let mut again = pin!(world.keeper.keep());
            assert!(poll!(&mut again).is_pending());
            drop(busy);
            again.await.unwrap();
            assert_eq!(world.stored().batch, BatchSeq(2));
        });
    }
}
