//! Delivery: batches of the outbox become commits of tables, each table at its own pace.
//!
//! ```text
//! durable batch --> waiting frames of a table --(bytes or age)--> rows of (v, hi] --> one Delta commit --> v = hi
//! ```
//!
//! A table that cannot be committed (the store is down, the table does not exist yet) holds nobody up: its frames wait in
//! the outbox, where queries read them, until the outbox's budget is used up and intake refuses.
//!
//! Rows that no file can be made of would hold up all that come after them. The commit they are in is halved until it is one batch; that batch's rows of
//! the table go into a file of their own, `unwritable/<table>-<batch>.arrow` beside the logs, and the table passes over them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use parking_lot::Mutex;
use tailwater_journal::{CommitPlan, Journal};
use tailwater_model::ids::BatchSeq;
use tailwater_model::table::Table;
use tailwater_runtime::health;
use tailwater_runtime::run_dir::make_private;
use tailwater_storage::lake::{self, Committer, Lake};
use tailwater_storage::outbox::{self, FrameRef, Outbox};
use tailwater_storage::{Error, ErrorKind};
use tailwater_wal::Wal;
use tokio::sync::{Semaphore, watch};
use tracing::{error, info, warn};

use crate::checkpoint;
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
    /// Where rows go that no file can be made of; made when there are some.
    pub unwritable: PathBuf,
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
    /// Rows that cannot be committed cannot be put elsewhere either.
    #[error("rows that cannot be written, and not set aside either: {0}")]
    Aside(#[from] io::Error),
    /// Going on would make it worse: rows are missing, or someone else commits under our name.
    #[error("{0}")]
    Final(String),
}

impl Trouble {
    fn is_final(&self) -> bool {
        match self {
            Trouble::Lake(error) => matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Invalid),
            Trouble::Aside(_) => false,
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
        let rows = self.rows(plan).await?;
        *tried = match self.commit(committer, plan, rows.clone()).await {
            Err(Trouble::Lake(error)) if error.kind() == ErrorKind::Unwritable => {
                self.stats.commit_failed(plan.table.name());
                match half(plan) {
                    Some(half) => Some(half),
                    None => {
                        self.set_aside(plan, rows, &error).await?;
                        self.commit(committer, plan, Vec::new()).await?;
                        None
                    }
                }
            }
            outcome => {
                outcome?;
                None
            }
        };
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

    async fn commit(&self, committer: &Committer, plan: CommitPlan, rows: Vec<RecordBatch>) -> Result<(), Trouble> {
        let started = Instant::now();
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
                    self.lost(plan.table, (seq.0, seq.0), "do not verify");
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

    /// The table will not have the rows of these batches: what else there is goes on, and the loss stays visible.
    fn lost(&self, table: Table, (first, last): (u64, u64), why: &str) {
        let table = table.name();
        error!(table, first, last, why, "the table lacks the rows of outbox batches");
        self.stats.batches_lost(table, last - first + 1);
        let reason = format!("{table} lacks the rows of batches {first} to {last}, which {why}");
        self.health.fails(DAMAGE, reason);
    }

    /// Keeps the rows of a batch that no file can be made of, durably: the outbox will let go of them.
    async fn set_aside(&self, plan: CommitPlan, rows: Vec<RecordBatch>, error: &Error) -> Result<(), Trouble> {
        let name = format!("{}-{}.arrow", plan.table.name(), plan.through.0);
        let path = self.unwritable.join(name);
        let writing = path.clone();
        tokio::task::spawn_blocking(move || write_aside(&writing, &rows))
            .await
            .map_err(|error| Trouble::Final(format!("rows set aside: {error}")))??;
        let batch = plan.through.0;
        self.lost(
            plan.table,
            (batch, batch),
            &format!("cannot be written ({error}) and are in {}", path.display()),
        );
        Ok(())
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
            self.lost(plan.table, *hole, "do not verify");
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

/// The first half of a plan's batches; `None` if it is one batch.
fn half(plan: CommitPlan) -> Option<CommitPlan> {
    let batches = (plan.through.0 - plan.after.0) / 2;
    let through = BatchSeq(plan.after.0 + batches);
    (batches > 0).then_some(CommitPlan { through, ..plan })
}

/// Writes rows as a stream of Arrow IPC.
fn write_aside(path: &Path, rows: &[RecordBatch]) -> io::Result<()> {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let of_arrow = |error: ArrowError| match error {
        ArrowError::IoError(_, error) => error,
        error => io::Error::other(error),
    };
    let mut stream = StreamWriter::try_new(Vec::new(), first.schema_ref()).map_err(of_arrow)?;
    rows.iter().try_for_each(|rows| stream.write(rows)).map_err(of_arrow)?;
    let bytes = stream.into_inner().map_err(of_arrow)?;
    make_private(path.parent().unwrap_or(Path::new(".")))?;
    checkpoint::replace(path, &bytes)
}

enum Step {
    /// Something was done: look again at once.
    Again,
    /// Nothing to do yet.
    Wait,
    /// Nothing left, and nothing will come.
    Done,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tailwater_journal::settlement::TableSet;
    use tailwater_journal::{Reasons, Recovery};
    use tailwater_model::ids::LogId;
    use tailwater_model::red::{RedKey, RedRow, red_batch};
    use tailwater_runtime::metrics::Metrics;
    use tailwater_storage::outbox::{BatchBuilder, Head};
    use tailwater_wal::{Body, Options};

    use super::*;

    const LOG: LogId = LogId([7; 16]);
    const FIRST_NS: u64 = 1_700_000_000_000_000_000;

    /// Two rows of one key. Their histograms must be read to be added up, and those of a batch that is `bad` cannot be.
    fn red(batch: u64, is_bad: bool) -> RecordBatch {
        let [service_name, operation] = ["checkout".into(), format!("op-{batch}").into()];
        let key = RedKey {
            tenant: "default".into(),
            service_name,
            operation,
            kind: 2,
            is_entry: true,
            is_error: false,
            ..RedKey::default()
        };
        let row = RedRow {
            key: key.into(),
            slice_ns: FIRST_NS,
            slice_s: 10,
            n: 1,
            sum_ns: 5,
            max_ns: 5,
            exphist: if is_bad { b"pony".to_vec() } else { Vec::new() },
            registers: Vec::new(),
            n_weighted: 1,
            exemplar: None,
        };
        red_batch(&[row.clone(), row])
    }

    #[test]
    fn plans_are_halved_down_to_a_batch() {
        let plan = |after, through| CommitPlan {
            table: Table::Red,
            after: BatchSeq(after),
            through: BatchSeq(through),
        };
        assert_eq!(half(plan(3, 4)), None);
        assert_eq!(half(plan(3, 5)), Some(plan(3, 4)));
        assert_eq!(half(plan(0, 9)), Some(plan(0, 4)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_that_no_file_can_be_made_of_hold_up_no_others() {
        const BATCHES: u64 = 9;
        const BAD: u64 = 6;
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(&dir.path().join("lake")).unwrap();
        lake.ensure_tables().await.unwrap();
        let settings = tailwater_journal::Settings {
            log_id: LOG,
            shards: 4,
            decisions_max: 8,
            decision_age_max_ns: 1,
            reasons: Reasons::new([]),
        };
        let mut journal = Recovery::new(settings, None).unwrap().finish();
        let mut options = Options::new(dir.path().join("outbox"), LOG.0, outbox::OUTBOX_KIND);
        options.preamble = outbox::preamble();
        options.control = Some(dir.path().join("outbox").join(outbox::CONTROL));
        options.recycle = 0;
        options.allow_volatile = true;
        let (wal, _) = Wal::open(options).unwrap();
        let waiting = Arc::new(Waiting::new(0));
        for number in 1..=BATCHES {
            let cut = journal
                .cut(FIRST_NS + number, TableSet::EMPTY.with(Table::Red))
                .unwrap()
                .unwrap();
            let batch = BatchBuilder::new(cut.settlement.into())
                .frame(Table::Red, &red(number, number == BAD))
                .unwrap()
                .finish();
            let head = Head::decode(batch.head.clone()).unwrap();
            let body = Body::checked(batch.body, batch.body_crc);
            assert_eq!(wal.append(batch.head, body).unwrap().wait().unwrap(), number);
            waiting.add(cut.seq, &head, Vec::new(), None, Instant::now());
        }
        let (_durable, durable) = watch::channel(BatchSeq(BATCHES));
        let (_flush, flush) = watch::channel(true);
        let (_replayed, replayed) = watch::channel(true);
        let metrics = Metrics::new();
        let readiness = health::Readiness::new();
        let (fatal, mut failed) = Fatal::new();
        let delivery = Arc::new(Delivery {
            settings: Settings {
                interval: Duration::ZERO,
                bytes: u64::MAX,
            },
            journal: Arc::new(Mutex::new(journal)),
            waiting,
            outbox: Outbox::open_readonly(&dir.path().join("outbox")),
            wal: Arc::new(wal),
            unwritable: dir.path().join("unwritable"),
            lake: lake.clone(),
            durable,
            flush,
            replayed,
            turn: Semaphore::new(1),
            stats: Stats::new(&metrics),
            health: health::Parts::new(readiness.condition("tables")),
            fatal,
        });
        delivery.clone().run(Table::Red).await;

        assert!(failed.try_recv().is_err());
        let app = lake::app_id(LOG, Table::Red);
        assert_eq!(lake.committer(Table::Red, app).version().await.unwrap(), BATCHES);
        let snapshot = lake.snapshot(Table::Red).await.unwrap();
        let rows: u64 = snapshot.files().iter().map(|file| file.rows).sum();
        assert_eq!(rows, BATCHES - 1, "a row of each of the others");
        let aside = std::fs::File::open(dir.path().join("unwritable/red-6.arrow")).unwrap();
        let kept: Vec<RecordBatch> = arrow::ipc::reader::StreamReader::try_new(aside, None)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(kept.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
        assert!(
            metrics
                .encode()
                .contains("tailwater_outbox_batches_lost_total{table=\"red\"} 1")
        );
    }
}
