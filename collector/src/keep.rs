//! Keeping: checkpoints at intervals, and trimming what they make superfluous (P7, P8).

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
use tracing::{debug, warn};

use crate::checkpoint;
use crate::dedup::Dedup;
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
}

/// Section of the checkpoint with the keys and services that RED knows (rule P7).
pub const GUARD_SECTION: u64 = 64;

/// Section of the checkpoint with what the sampler has spent and saved up.
pub const SAMPLER_SECTION: u64 = 65;

/// Digests copied into a checkpoint under one hold of the register.
const DIGESTS_A_PIECE: usize = 4096;

impl Keeper {
    /// Keeps until dropped.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = (BatchSeq(0), Vec::new());
        loop {
            ticks.tick().await;
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

    /// Writes one checkpoint and trims both logs.
    ///
    /// # Errors
    /// Those of the file system; the checkpoint before is still whole, and nothing was trimmed.
    pub async fn keep(&self) -> std::io::Result<()> {
        let lsn_high = Lsn(self.intake.next_seq() - 1);
        // The journal first: a record it has settled has finished its digest before. The digests in pieces, because acks need
        // the register too.
        let mut draft = self.journal.lock().draft_checkpoint(lsn_high);
        if let Some(dedup) = &self.dedup {
            while !dedup.with(|register| draft.digests(register, DIGESTS_A_PIECE)) {
                tokio::task::yield_now().await;
            }
        }
        // Later than the journal is well: what the guard has let in since, it lets in again when the replay comes there.
        let guard = self.red.as_ref().map(|red| red.lock().guard());
        let sampler = self.tail.as_ref().map(|tail| tail.lock().encode());
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
        tokio::task::spawn_blocking(move || checkpoint::store(&data, &bytes))
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

    /// Waits for a batch. It may wait in turn, for room in the outbox: what tables have committed meanwhile goes by the checkpoint before.
    async fn wait_until_durable(&self, batch: BatchSeq) -> std::io::Result<()> {
        let mut durable = self.durable.clone();
        loop {
            let waited = tokio::time::timeout(self.interval, durable.wait_for(|seq| *seq >= batch)).await;
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
