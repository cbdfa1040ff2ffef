//! Delivery: batches of the outbox become commits of tables, each table at its own pace.
//!
//! ```text
//! durable batch --> waiting frames of a table --(bytes or age)--> rows of (v, hi] --> one Delta commit --> v = hi
//! ```
//!
//! A table that cannot be committed (the store is down, the table does not exist yet) holds nobody up: its frames wait in
//! the outbox, where queries read them, until the outbox's budget is used up and intake refuses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tailwater_journal::{CommitPlan, Journal};
use tailwater_model::ids::BatchSeq;
use tailwater_model::table::Table;
use tailwater_runtime::health;
use tailwater_storage::lake::{self, Committer, Lake};
use tailwater_storage::outbox::{self, FrameRef, Outbox};
use tailwater_storage::{Error, ErrorKind};
use tailwater_wal::Wal;
use tokio::sync::{Semaphore, watch};
use tracing::{error, info, warn};

use crate::fatal::Fatal;
use crate::outbox::{Waiting, is_crowded};
use crate::stats::Stats;

/// When rows leave for their table.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Longest wait of a row in the outbox.
    pub interval: Duration,
    /// A table is committed when this many bytes of its frames wait.
    pub bytes: u64,
}

/// What the tasks of all tables share.
pub struct Delivery {
    /// When.
    pub settings: Settings,
    /// The rules.
    pub journal: Arc<Mutex<Journal>>,
    /// What waits.
    pub waiting: Arc<Waiting>,
    /// The outbox as any reader sees it, for what is not in memory any more.
    pub outbox: Outbox,
    /// The outbox itself, which sets aside what is damaged.
    pub wal: Arc<Wal>,
    /// Where to.
    pub lake: Lake,
    /// The last durable batch.
    pub durable: watch::Receiver<BatchSeq>,
    /// Set to deliver whatever there is: the process drains.
    pub flush: watch::Receiver<bool>,
    /// Set when the replay is done. What arrives meanwhile waits for that, in a backlog that is soon full; rows in the outbox can wait.
    pub replayed: watch::Receiver<bool>,
    /// One table at a time sorts and encodes: two cores, and a bound on memory.
    pub turn: Semaphore,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Whether each table can be reached. Part [`DAMAGE`] fails once rows were lost, and stays so.
    pub health: health::Parts,
    /// The end.
    pub fatal: Fatal,
}

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The lake said no.
    #[error("{0}")]
    Lake(#[from] Error),
    /// Going on would make it worse: rows are missing, or someone else commits under our name.
    #[error("{0}")]
    Final(String),
}

impl Trouble {
    fn is_final(&self) -> bool {
        match self {
            Trouble::Lake(error) => matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Invalid),
            Trouble::Final(_) => true,
        }
    }
}

/// What is in trouble once rows were lost to damage.
const DAMAGE: &str = "outbox";

const LOOK: Duration = Duration::from_millis(250);
/// How often a collector looks for the tables before it makes them itself.
const MAINTAIN_LOOKS: u32 = 8;
/// Delivery leaves the cores to the replay for no longer than this.
const REPLAY_MAX: Duration = Duration::from_secs(30);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A commit takes at most this many times the bytes that start one, so that a backlog is worked off in bounded memory.
pub const COMMIT_TIMES_MAX: u64 = 4;

impl Delivery {
    /// Delivers one table until the flush is done.
    pub async fn run(self: Arc<Self>, table: Table) {
        let committer = self.lake.committer(table, self.app_id(table));
        let mut pause = RETRY_MIN;
        let mut flush = self.flush.clone();
        let mut durable = self.durable.clone();
        let (mut read, mut open) = (false, true);
        let mut tried = None;
        self.let_replay().await;
        loop {
            let flushing = *flush.borrow_and_update();
            let step = match read {
                true => self.step(&committer, flushing, &mut tried).await,
                false => self.read_version(&committer).await.map(|()| {
                    read = true;
                    Step::Again
                }),
            };
            if step.is_ok() {
                self.health.works(table.name());
            }
            let sleep = match step {
                Ok(Step::Again) => {
                    pause = RETRY_MIN;
                    continue;
                }
                Ok(Step::Done) => return,
                Ok(Step::Wait) => LOOK,
                Err(error) => {
                    self.stats.commit_failed(table.name());
                    if error.is_final() {
                        self.fatal.report("delivery", &error);
                        return;
                    }
                    warn!(table = table.name(), %error, "the table cannot be committed; its rows wait in the outbox");
                    self.health.fails(table.name(), error.to_string());
                    pause = (pause * 2).min(RETRY_MAX);
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                changed = flush.changed() => if changed.is_err() { return },
                // The outbox has ended before the flush begins: nothing new will come, what waits still goes.
                changed = durable.changed(), if open && sleep == LOOK => open = changed.is_ok(),
            }
        }
    }

    /// Leaves the cores to the replay, unless it may be waiting for room that only delivery makes.
    async fn let_replay(&self) {
        let mut replayed = self.replayed.clone();
        let until = Instant::now() + REPLAY_MAX;
        while Instant::now() < until && !is_crowded(&self.wal) {
            if let Ok(_done) = tokio::time::timeout(LOOK, replayed.wait_for(|is_done| *is_done)).await {
                return;
            }
        }
    }

    fn app_id(&self, table: Table) -> String {
        lake::app_id(self.journal.lock().log_id(), table)
    }

    /// P6, P9: what the table itself says of us gates commits, never intake.
    async fn read_version(&self, committer: &Committer) -> Result<(), Trouble> {
        let table = committer.table();
        let version = match committer.version().await {
            Err(error) if error.kind() == ErrorKind::MissingTable => {
                self.make_tables(committer).await?;
                committer.version().await?
            }
            other => other?,
        };
        let known = (version > 0).then_some(BatchSeq(version));
        self.journal
            .lock()
            .read_version(table, known)
            .map_err(|error| Trouble::Final(error.to_string()))?;
        self.committed(table, BatchSeq(version), 0);
        Ok(())
    }

    /// Tables are `maintain`'s to make, at its start. A collector that runs alone makes them when nobody else has.
    async fn make_tables(&self, committer: &Committer) -> Result<(), Trouble> {
        for _ in 0..MAINTAIN_LOOKS {
            tokio::time::sleep(LOOK).await;
            match committer.version().await {
                Err(error) if error.kind() == ErrorKind::MissingTable => {}
                _ => return Ok(()),
            }
        }
        let _turn = self
            .turn
            .acquire()
            .await
            .map_err(|_| Trouble::Final("delivery has ended".into()))?;
        Ok(self.lake.ensure_tables().await?)
    }

    /// Commits what is due. A commit that failed is tried again as it was, whatever has come since: the committer knows then whether it arrived
    /// after all.
    async fn step(&self, committer: &Committer, flush: bool, tried: &mut Option<CommitPlan>) -> Result<Step, Trouble> {
        let plan = match *tried {
            Some(plan) => plan,
            None => match self.due(committer.table(), flush) {
                Ok(plan) => plan,
                Err(step) => return Ok(step),
            },
        };
        let _turn = self
            .turn
            .acquire()
            .await
            .map_err(|_| Trouble::Final("delivery has ended".into()))?;
        *tried = Some(plan);
        self.commit(committer, plan).await?;
        *tried = None;
        Ok(Step::Again)
    }

    /// What a commit takes now, or what to do if there is none to make.
    fn due(&self, table: Table, flush: bool) -> Result<CommitPlan, Step> {
        let durable = *self.durable.borrow();
        let Some(plan) = self.journal.lock().plan_commit(table, durable) else {
            return Err(if flush { Step::Done } else { Step::Wait });
        };
        let Some((bytes, since)) = self.waiting.of(table) else {
            return Err(Step::Wait);
        };
        if !flush && bytes < self.settings.bytes && since.elapsed() < self.settings.interval {
            return Err(Step::Wait);
        }
        let most = self
            .waiting
            .through(table, self.settings.bytes.saturating_mul(COMMIT_TIMES_MAX));
        Ok(CommitPlan {
            through: most.map_or(plan.through, |most| most.min(plan.through)),
            ..plan
        })
    }

    async fn commit(&self, committer: &Committer, plan: CommitPlan) -> Result<(), Trouble> {
        let started = Instant::now();
        let rows = self.rows(plan).await?;
        let committed = committer.commit(plan.after.0, plan.through.0, rows).await?;
        self.journal.lock().committed(plan.table, plan.through);
        self.committed(plan.table, plan.through, committed.bytes);
        self.stats.committed(plan.table.name(), started.elapsed());
        info!(
            table = plan.table.name(),
            version = committed.version,
            rows = committed.rows,
            bytes = committed.bytes,
            files = committed.files,
            batches = plan.through.0 - plan.after.0,
            ms = started.elapsed().as_millis() as u64,
            "committed"
        );
        Ok(())
    }

    /// What a table has waits no more. Once everything else is in memory, the outbox's file is let go of, so that it can be trimmed.
    fn committed(&self, table: Table, through: BatchSeq, stored: u64) {
        self.waiting.committed(table, through, stored);
        if !self.waiting.needs_file() {
            self.outbox.let_go();
        }
    }

    /// The table's rows of a plan, in the order of their batches.
    async fn rows(&self, plan: CommitPlan) -> Result<Vec<RecordBatch>, Trouble> {
        let kept = self.waiting.frames(plan.table, plan.after, plan.through);
        let mut read = match kept.iter().all(|(_, rows)| rows.is_some()) {
            true => Vec::new().into_iter().peekable(),
            false => self.frames(plan)?.into_iter().peekable(),
        };
        // Both are in the order of the batches and, within one, of its head. The outbox lacks batches that are damaged.
        let frames = kept.into_iter().filter_map(move |(seq, rows)| {
            while read.next_if(|frame| frame.seq < seq).is_some() {}
            let frame = read.next_if(|frame| frame.seq == seq);
            match rows {
                Some(rows) => Some((seq, outbox::with_batch_id(&rows, seq))),
                None => frame.map(|frame| (seq, frame.read())),
            }
        });
        let frames = tokio::task::spawn_blocking(move || frames.collect::<Vec<_>>())
            .await
            .map_err(|error| Trouble::Final(format!("reading the outbox panicked: {error}")))?;
        let mut rows = Vec::with_capacity(frames.len());
        for (seq, frame) in frames {
            match frame {
                Ok(frame) => rows.push(frame),
                // Opening looks at heads alone, so this may be news.
                Err(error) if error.kind() == ErrorKind::Damaged && self.is_damaged(seq) => {
                    self.lost(plan.table, (seq.0, seq.0));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rows)
    }

    /// Whether a batch does not verify as stored; then its segment is set aside.
    fn is_damaged(&self, seq: BatchSeq) -> bool {
        self.wal.set_aside(seq.0, seq.0).unwrap_or_else(|error| {
            warn!(batch = seq.0, %error, "a damaged batch cannot be looked at");
            false
        })
    }

    /// Rows of these batches are lost to media damage: what else there is goes on, and the loss stays visible.
    fn lost(&self, table: Table, (first, last): (u64, u64)) {
        error!(
            table = table.name(),
            first, last, "outbox batches do not verify; their rows are lost"
        );
        self.stats.batches_lost(table.name(), last - first + 1);
        let reason = format!("batches {first} to {last} are damaged, their rows are lost");
        self.health.fails(DAMAGE, reason);
    }

    /// The table's frames of a plan, in the order of their batches. Damaged batches are passed over, loudly.
    fn frames(&self, plan: CommitPlan) -> Result<Vec<FrameRef>, Trouble> {
        let view = self.outbox.view()?;
        let (after, through) = (plan.after.0, plan.through.0);
        for hole in view
            .holes
            .iter()
            .filter(|(first, last)| *last > after && *first <= through)
        {
            self.lost(plan.table, *hole);
        }
        if view.durable < through {
            return Err(Trouble::Final(format!(
                "outbox ends at batch {}, {through} was durable",
                view.durable
            )));
        }
        let frames = view.frames_after(plan.table, after).iter();
        Ok(frames.take_while(|frame| frame.seq.0 <= through).cloned().collect())
    }
}

enum Step {
    /// Something was done: look again at once.
    Again,
    /// Nothing to do yet.
    Wait,
    /// Nothing left, and nothing will come.
    Done,
}
