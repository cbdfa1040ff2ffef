//! The role from start to end: open, recover, listen, carry, drain.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tailwater_config::settings::Logs;
use tailwater_config::{Config, Limits, Problems};
use tailwater_model::ids::BatchSeq;
use tailwater_model::table::Table;
use tailwater_runtime::health::Parts;
use tailwater_runtime::reload::{self, Part};
use tailwater_runtime::run_dir::RunFile;
use tailwater_runtime::shutdown::Drained;
use tailwater_runtime::tls::{Speaks, Tls};
use tailwater_runtime::{Access, Admin, Exit, Metrics, Readiness, Shutdown, listen};
use tailwater_sampling::{KeepAll, Memory};
use tailwater_storage::lake::Lake;
use tailwater_storage::outbox::Outbox;
use tailwater_wal::Wal;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::admit::{Backlog, Budget};
use crate::dedup::Dedup;
use crate::deliver::{self, Delivery};
use crate::fatal::Fatal;
use crate::figures::Figures;
use crate::gate::Gate;
use crate::intake::Intake;
use crate::intake::serve::{Protocol, serve};
use crate::keep::Keeper;
use crate::log::Log;
use crate::open;
use crate::outbox::{self, Waiting};
use crate::road::{self, Road};
use crate::settings;
use crate::stats::Stats;
use crate::suspects::Suspects;
use crate::tail::{self, PolicyFile, Tail};
use crate::tenants::Tenants;

/// The sockets of the role, bound by whoever starts it.
pub struct Listeners {
    /// OTLP/gRPC.
    pub grpc: TcpListener,
    /// OTLP/HTTP.
    pub http: TcpListener,
    /// `/metrics`, `/healthz`, `/readyz`, `/status`.
    pub admin: TcpListener,
}

/// Why the role ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// A file or directory.
    #[error("{0}")]
    Io(String),
    /// Tokens or certificates.
    #[error("{0}")]
    Guard(std::io::Error),
    /// A directory that forgets, for a promise to keep.
    #[error("{0}")]
    Volatile(String),
    /// A log could not be opened.
    #[error("{0}")]
    Log(#[from] tailwater_wal::Error),
    /// The checkpoint or a batch breaks the rules.
    #[error("{0}")]
    Journal(#[from] tailwater_journal::Error),
    /// The outbox cannot be read.
    #[error("outbox: {0}")]
    Outbox(String),
    /// The lake cannot be used.
    #[error("lake: {0}")]
    Lake(#[from] tailwater_storage::Error),
    /// Another collector has this directory.
    #[error("{0} is in use by another collector")]
    Locked(String),
    /// The sampling policy is wrong.
    #[error("{0}")]
    Policy(Problems),
    /// Something failed while running.
    #[error("{0}")]
    Fatal(String),
}

impl CollectorError {
    pub(crate) fn io(path: &Path, error: std::io::Error) -> CollectorError {
        CollectorError::Io(format!("{}: {error}", path.display()))
    }

    /// The process's exit code.
    pub fn exit(&self) -> Exit {
        match self {
            CollectorError::Policy(_) | CollectorError::Guard(_) | CollectorError::Volatile(_) => Exit::Config,
            CollectorError::Io(_) | CollectorError::Log(_) | CollectorError::Fatal(_) => Exit::Io,
            _ => Exit::Trouble,
        }
    }
}

/// How long a request waits for a place in the backlog before it is refused.
const BACKLOG_WAIT: Duration = Duration::from_secs(2);
/// The part of the intake log that the sides of calls that wait may keep.
const HOLD_PART: u64 = 4;

/// What is known of log records that wait for their trace: about a million of them.
const LOG_WAIT_BYTES: u64 = 64 << 20;

/// Decisions remembered beyond those of the journal, in at most 28 MB: a quarter of either number is what fills a map of a power of two, which
/// is by 7/8. All of it goes into every checkpoint: some 21 MB when full.
const LATE_MEMORY: Memory = Memory {
    age_ns: 300 * 1_000_000_000,
    kept_max: 7 << 15,
    dropped_max: 7 << 18,
};

/// Runs the collector until `shutdown` begins and everything accepted is in the outbox, delivered as far as the drain allows.
///
/// # Errors
/// [`CollectorError`], after which a restart recovers.
pub async fn run(
    config: &Config,
    limits: &Limits,
    listeners: Listeners,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<(), CollectorError> {
    // Before anything is opened: a server that was to be guarded must not start without its guard.
    let access = Access::open(config, &metrics).map_err(CollectorError::Guard)?;
    let tls = |listener: &str, speaks| {
        let opened = config.tls_of(listener).map(|files| Tls::open(files, speaks));
        opened.transpose().map_err(CollectorError::Guard)
    };
    let locks = [
        tls("intake.grpc.listen", Speaks::Http2)?,
        tls("intake.http.listen", Speaks::Both)?,
    ];
    let admin_lock = tls("admin.collector", Speaks::Both)?;
    let readiness = Readiness::new();
    let recovering = readiness.condition("recovery");
    recovering.not_ready("opening the data directory");
    let stats = Stats::new(&metrics);
    let directory = settings::directory(config, limits)?;
    let lake = Lake::open(&directory.data.join("lake"))?;
    let addresses = addresses(&listeners)?;

    let opening = directory.clone();
    let opened = tokio::task::spawn_blocking(move || open::open(&opening))
        .await
        .map_err(|error| CollectorError::Fatal(format!("recovery panicked: {error}")))??;
    stats.restore(opened.journal.ledger().totals());
    let journal = Arc::new(Mutex::new(opened.journal));
    let dedup = opened.register.map(Dedup::new);
    let (fatal, mut failed) = Fatal::new();

    // The logs and the threads that carry records between them.
    let waiting = Arc::new(Waiting::new(deliver::COMMIT_TIMES_MAX * limits.commit_bytes));
    for (seq, head) in &opened.heads {
        waiting.add(*seq, head, Vec::new(), None, std::time::Instant::now());
    }
    let (durable_sender, durable) = watch::channel(BatchSeq(opened.outbox.durable()));
    let outbox_health = readiness.condition("outbox");
    outbox_health.ready();
    let starting = |error| CollectorError::Io(format!("starting a thread: {error}"));
    let (sealed, outbox_thread) = outbox::start(
        opened.outbox.clone(),
        waiting.clone(),
        durable_sender,
        stats.clone(),
        outbox_health,
        &fatal,
    )
    .map_err(starting)?;
    let (records_sender, records) = mpsc::channel();
    let (log, acker) = Log::start(
        opened.intake.clone(),
        records_sender,
        stats.clone(),
        readiness.condition("intake_log"),
        fatal.clone(),
    )
    .map_err(starting)?;
    let watching_room = tokio::spawn(log.clone().watch_room());
    let caps = settings::caps(config);
    let red = settings::red(config, &caps, opened.guard.as_deref());
    let policy_slot = Arc::new(Mutex::new(None));
    let gate = Arc::new(match &config.sampling.policy {
        Some(_) => Gate::new(readiness.condition("overload")),
        None => Gate::default(),
    });
    let behind = |gate: Arc<Gate>, live_traces: tail::LiveTraces| {
        Box::new(tail::Logs {
            intake: opened.intake.clone(),
            waiting: waiting.clone(),
            commit_bytes: limits.commit_bytes,
            policy: policy_slot.clone(),
            live_traces,
            gate,
            begun: std::time::Instant::now(),
        })
    };
    let settings = tail::Settings {
        recent_bytes: limits.recent_bytes,
        waiting_bytes_max: limits.waiting_bytes_max,
        follow_logs: config.sampling.logs == Logs::FollowTrace,
        log_bytes: LOG_WAIT_BYTES,
        memory: LATE_MEMORY,
        delay: config.storage.batch.delay,
        commit: config.storage.commit.interval,
        batch_bytes: limits.batch_bytes,
        log_lasts: settings::log_lasts(config),
    };
    let log_id = journal.lock().log_id();
    let wrong = |error| CollectorError::Fatal(format!("sampling.policy: {error}"));
    let (tail, leftover, policy_file) = match &config.sampling.policy {
        // What is left of a policy refuses nothing and has no limits of tenants.
        None => {
            let behind = behind(Arc::new(Gate::default()), Box::new(|_| None));
            let leftover = Tail::leftover(settings, log_id, behind, unix_ns()).map_err(wrong)?;
            (None, Some(leftover), None)
        }
        Some(path) => {
            let (file, policy) = PolicyFile::open(path).map_err(CollectorError::Policy)?;
            let saved = opened.sampler.as_deref();
            let behind = behind(gate.clone(), settings::live_traces(config, &access));
            let tail = Tail::new(settings, policy, saved, log_id, behind, unix_ns()).map_err(wrong)?;
            (Some(Arc::new(Mutex::new(tail))), None, Some(file))
        }
    };
    let watching = policy_file.map(|file| tokio::spawn(file.watch(policy_slot)));
    let keeper = Arc::new(Keeper {
        data: directory.data.clone(),
        interval: config.storage.checkpoint_interval,
        journal: journal.clone(),
        dedup: dedup.clone(),
        red: red.clone(),
        tail: tail.clone(),
        intake: opened.intake.clone(),
        outbox: opened.outbox.clone(),
        durable: durable.clone(),
        turn: Arc::default(),
    });
    // Once the road has cut a batch, a checkpoint waits for it. If it is to find room at all, what is there now needs one first.
    if outbox::is_crowded(&opened.outbox)
        && let Err(error) = keeper.keep().await
    {
        warn!(%error, "no checkpoint at the start");
    }
    let road = Road::new(road::Parts {
        settings: road::Settings {
            delay: config.storage.batch.delay,
            rows: config.storage.batch.rows as usize,
            bytes: usize::try_from(limits.batch_bytes).unwrap_or(usize::MAX),
        },
        journal: journal.clone(),
        sampler: KeepAll { epoch: 0 },
        tail: tail.clone(),
        leftover,
        red,
        hold_bytes: directory.intake.budget_bytes / HOLD_PART,
        outbox: sealed,
        stats: stats.clone(),
        caps: caps.clone(),
        now: unix_ns,
        suspects: Suspects::open(&directory.logs, log_id, opened.replay_from),
    });
    // Records that arrive from now on come over the channel: the replay ends where the log ends at this moment.
    let replay = open::replay(&opened.intake, opened.replay_from, opened.lost.clone());
    let (replayed_sender, is_replayed) = watch::channel(false);
    let road_thread = {
        let of_road = fatal.clone();
        let recovering = recovering.clone();
        let lost = opened.lost.clone();
        let work = move || {
            road.run(
                replay,
                &records,
                |count| {
                    replayed(count, &lost.lock(), &recovering);
                    replayed_sender.send_replace(true);
                },
                &of_road,
            );
        };
        fatal.spawn("road", work).map_err(starting)?
    };

    // Delivery and keeping.
    let (flush_sender, flush) = watch::channel(false);
    let delivery_health = readiness.condition("tables");
    delivery_health.ready();
    let delivery = Arc::new(Delivery {
        settings: deliver::Settings {
            interval: config.storage.commit.interval,
            bytes: limits.commit_bytes,
        },
        journal: journal.clone(),
        waiting: waiting.clone(),
        outbox: Outbox::open_readonly(&directory.logs.join("outbox")),
        wal: opened.outbox.clone(),
        unwritable: directory.logs.join("unwritable"),
        lake,
        durable: durable.clone(),
        flush,
        replayed: is_replayed,
        turn: Semaphore::new(1),
        stats: stats.clone(),
        health: Parts::new(delivery_health),
        fatal: fatal.clone(),
    });
    let mut tables = JoinSet::new();
    for table in Table::COLLECTED {
        let watch = fatal.watch(table.name());
        let delivering = delivery.clone().run(table);
        tables.spawn(async move {
            let _watch = watch;
            delivering.await;
        });
    }
    let keeping = tokio::spawn(keeper.clone().run());

    // The way in.
    let intake = Arc::new(Intake {
        limits: settings::request_limits(config, limits, caps),
        tenants: Tenants::new(
            access.clone(),
            limits.tenant_memory_bytes,
            config.intake.rate.clone(),
            config.query.clone(),
        ),
        memory: Budget::new(limits.intake_memory_bytes),
        backlog: Backlog::new(limits.backlog_bytes, BACKLOG_WAIT),
        dedup,
        log: log.clone(),
        gate,
        stats: stats.clone(),
        now: unix_ns,
        closing: AtomicBool::new(false),
    });
    let figures = Figures {
        intake: intake.clone(),
        intake_log: opened.intake.clone(),
        outbox: opened.outbox.clone(),
        journal: journal.clone(),
        waiting: waiting.clone(),
        tail: tail.clone(),
        readiness: readiness.clone(),
    };
    figures.watch(&metrics);
    let of_trace = figures.clone();
    let admin = Admin::new("collector", metrics.clone(), readiness.clone())
        .status(move || figures.status())
        .trace(move |id| of_trace.trace(id))
        .guarded(access.clone(), admin_lock.clone())
        .spawn(listeners.admin)
        .map_err(|error| CollectorError::Io(format!("admin.collector: {error}")))?;
    let mut parts = vec![Part::Access(access)];
    let keys = ["intake.grpc.listen", "intake.http.listen", "admin.collector"];
    let all_locks = locks.iter().cloned().chain([admin_lock]);
    parts.extend(
        keys.into_iter()
            .zip(all_locks)
            .filter_map(|(key, lock)| Some(Part::Tls(key, lock?))),
    );
    let reloading = reload::watch(parts, config.access.reload, &metrics)
        .map_err(|error| CollectorError::Io(format!("watching for SIGHUP: {error}")))?;
    let mut serving = JoinSet::new();
    let ways = [(Protocol::Grpc, listeners.grpc), (Protocol::Http, listeners.http)];
    for ((protocol, listener), lock) in ways.into_iter().zip(locks) {
        let listener = listen::tokio(listener).map_err(|error| CollectorError::Io(format!("{protocol:?}: {error}")))?;
        let stop = shutdown.clone();
        let limits = settings::connection_limits(config);
        let intake = intake.clone();
        serving.spawn(async move {
            serve(
                protocol,
                listener,
                lock,
                limits,
                intake,
                async move { stop.begun().await },
                DRAIN_REQUESTS,
            )
            .await
        });
    }
    let registered = RunFile::new("collector", addresses.clone()).announce(&directory.data);
    info!(?addresses, "collector is up");

    let end = tokio::select! {
        () = shutdown.begun() => Ok(()),
        Some(cause) = failed.recv() => Err(CollectorError::Fatal(cause)),
    };
    intake.closing.store(true, Ordering::Relaxed);
    // Awaited, so that it holds the log no longer.
    watching_room.abort();
    let _ = watching_room.await;
    if let Err(error) = end {
        keeping.abort();
        keeper.rest().await;
        return Err(error);
    }

    // Drain: requests, then records, then batches, then tables, then a last checkpoint.
    info!(reason = shutdown.reason(), "draining");
    let draining = async {
        while serving.join_next().await.is_some() {}
        log.close();
        join(acker).await;
        join(road_thread).await;
        join(outbox_thread).await;
        flush_sender.send_replace(true);
        while tables.join_next().await.is_some() {}
        keeping.abort();
        if let Err(error) = keeper.keep().await {
            warn!(%error, "no last checkpoint; the next start replays from the one before");
        }
    };
    match shutdown.drain(config.drain_timeout, draining).await {
        Drained::Done(()) => info!("drained"),
        Drained::Cut(why) => warn!(why, "the drain was cut short; the next start goes on from the logs"),
    }
    keeping.abort();
    // The lock of the directory is not let go while a checkpoint is on its way to the disk.
    keeper.rest().await;
    close(&opened.intake, &opened.outbox).await;
    if let Some(watching) = watching {
        watching.abort();
    }
    drop((registered, admin, reloading, opened.lock));
    match failed.try_recv() {
        Ok(cause) => Err(CollectorError::Fatal(cause)),
        Err(_) => Ok(()),
    }
}

/// Requests in flight when the drain begins have this long to be answered.
const DRAIN_REQUESTS: Duration = Duration::from_secs(5);

fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

async fn join(thread: JoinHandle<()>) {
    if let Ok(Err(_)) = tokio::task::spawn_blocking(move || thread.join()).await {
        warn!("a thread panicked; recovery sorts it out at the next start");
    }
}

async fn close(intake: &Arc<Wal>, outbox: &Arc<Wal>) {
    for wal in [intake.clone(), outbox.clone()] {
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || wal.close()).await {
            warn!(%error, "closing a log");
        }
    }
}

fn replayed(count: u64, lost: &[(u64, u64)], recovering: &tailwater_runtime::health::Handle) {
    if count > 0 {
        info!(records = count, "replay is done");
    }
    match lost {
        [] => recovering.ready(),
        lost => {
            let records: u64 = lost.iter().map(|(first, last)| last - first + 1).sum();
            recovering.degraded(format!(
                "{records} records of the intake log are lost to damage: {lost:?}"
            ));
        }
    }
}

fn addresses(listeners: &Listeners) -> Result<Vec<(&'static str, std::net::SocketAddr)>, CollectorError> {
    let all = [
        ("intake.grpc.listen", &listeners.grpc),
        ("intake.http.listen", &listeners.http),
        ("admin.collector", &listeners.admin),
    ];
    all.into_iter()
        .map(|(key, listener)| {
            let address = listener
                .local_addr()
                .map_err(|error| CollectorError::Io(format!("{key}: {error}")))?;
            Ok((key, address))
        })
        .collect()
}
