//! The `tailwater query` process: the engine behind HTTP, its admin endpoints, and its drain.
//!
//! Guarantees: it starts, and says that it is not ready, while the lake does not exist yet; it stops when told, letting running queries end
//! within [`DRAIN_LIMIT`]. A query that kills this process kills nothing else: the supervisor starts it again.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tailwater_config::Config;
use tailwater_config::settings::Query;
use tailwater_runtime::health::Handle;
use tailwater_runtime::reload::{self, Part};
use tailwater_runtime::serve::{self, Web};
use tailwater_runtime::shutdown::Drained;
use tailwater_runtime::tls::{Speaks, Tls};
use tailwater_runtime::{Access, Admin, Metrics, Readiness, Shutdown, listen};

use crate::engine::{Engine, EngineConfig};
use crate::error::ErrorKind;
use crate::http::{self, Desk};
use crate::limits::Limits;

/// How long running queries may go on after the process was told to stop.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What a request may take beside the time of a query: its body, the wait for a slot, and the answer's way.
const REQUEST_EXTRA: Duration = Duration::from_secs(60);

/// How often the lake is looked for until it is there, and how often it is looked at from then on.
const LOOK_FIRST: Duration = Duration::from_millis(200);
const LOOK_LATER: Duration = Duration::from_secs(10);

/// What the role needs.
#[derive(Debug)]
pub struct Role {
    /// What queries read and may use. The temporary directory is the role's alone: leftovers in it are removed at start.
    pub engine: EngineConfig,
    /// Documents whose SLOs have series in the Prometheus API, a file or a folder. Read once, at the start.
    pub slos: Option<PathBuf>,
    /// Listener of the query interfaces (4319).
    pub query: TcpListener,
    /// Listener of the admin endpoints (4321).
    pub admin: TcpListener,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Who may ask, and the certificates of both listeners.
    pub guard: Guard,
    /// Data directory for `run/query.json`, which tells the command line where to ask; `None` writes none.
    pub data: Option<PathBuf>,
}

/// What stands before the listeners.
#[derive(Debug)]
pub struct Guard {
    /// Tokens.
    pub access: Arc<Access>,
    /// Certificate of the query listener.
    pub query: Option<Arc<Tls>>,
    /// Certificate of the admin listener.
    pub admin: Option<Arc<Tls>>,
    /// Limits of tenants.
    pub settings: Query,
    /// How often files are looked at.
    pub reload: Duration,
}

impl Guard {
    /// As the settings say.
    ///
    /// # Errors
    /// When tokens or certificates cannot be read.
    pub fn open(config: &Config, metrics: &Metrics) -> io::Result<Guard> {
        let tls = |listener: &str| {
            config
                .tls_of(listener)
                .map(|files| Tls::open(files, Speaks::Both))
                .transpose()
        };
        Ok(Guard {
            access: Access::open(config, metrics)?,
            query: tls("query.listen")?,
            admin: tls("admin.query")?,
            settings: config.query.clone(),
            reload: config.access.reload,
        })
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = vec![Part::Access(self.access.clone())];
        parts.extend(self.query.clone().map(|tls| Part::Tls("query.listen", tls)));
        parts.extend(self.admin.clone().map(|tls| Part::Tls("admin.query", tls)));
        parts
    }
}

/// Limits of the engine from the configuration; `memory_bytes` is `query_memory_bytes` of [`tailwater_config::Limits`].
pub fn limits(config: &Config, memory_bytes: u64, cpus: usize) -> Limits {
    let query = &config.query;
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    Limits {
        memory_bytes_max: bytes(memory_bytes),
        temp_bytes_max: query.temp.bytes(),
        timeout: query.timeout,
        rows_max: query.rows as usize,
        answer_bytes_max: bytes(query.result.bytes()),
        text_bytes_max: bytes(query.text.bytes()),
        depth_max: query.depth as usize,
        terms_max: query.terms as usize,
        concurrency: query.concurrency as usize,
        threads: cpus,
    }
}

/// Limits of connections to the query interfaces of an engine whose queries may take `timeout`.
pub const fn connections(timeout: Duration) -> serve::Limits {
    // PromQL of a dashboard comes in the head of a GET, and may be long.
    serve::limits(1024, 256, 128 << 10, timeout.saturating_add(REQUEST_EXTRA))
}

/// Runs the role until `shutdown` begins and its queries have ended.
///
/// # Errors
/// When the engine cannot be opened or a listener cannot be used.
pub async fn run(role: Role, shutdown: Shutdown) -> io::Result<()> {
    if let Some(temp) = &role.engine.temp {
        clear(temp);
    }
    let engine = Engine::open(role.engine).map_err(io::Error::other)?;
    if let Some(path) = &role.slos {
        let checked = tailwater_openslo::files::check(&[path]);
        for problem in &checked.problems {
            tracing::warn!("slo.files: {problem}");
        }
        engine.declare(checked.slos);
    }
    register(&role.metrics, &engine);
    let readiness = Readiness::new();
    let lake = readiness.condition("lake");
    let _reloading = reload::watch(role.guard.parts(), role.guard.reload, &role.metrics)?;
    let Guard {
        access,
        query: query_tls,
        admin: admin_tls,
        settings,
        ..
    } = role.guard;
    let limits = connections(engine.limits().timeout);
    let admin = Admin::new("query", role.metrics.clone(), readiness)
        .guarded(access.clone(), admin_tls)
        .spawn(role.admin)?;
    let query = listen::tokio(role.query)?;
    let addresses = [("query.listen", query.local_addr()?), ("admin.query", admin.address())];
    let _registered = match &role.data {
        Some(data) => tailwater_runtime::run_dir::RunFile::new("query", addresses).announce(data),
        None => None,
    };
    let watch = tokio::spawn(watch_lake(engine.clone(), lake));
    tracing::info!(address = %addresses[0].1, admin = %addresses[1].1, "query role listens");

    let stop = shutdown.clone();
    let desk = Desk::new(engine, access, settings);
    let web = Web::new("query", http::router(desk), limits, &role.metrics);
    // How long the drain takes is said below; here nothing is cut before a request may end by itself.
    let stopped = async move { stop.begun().await };
    let mut serve = std::pin::pin!(serve::serve(query, query_tls, limits, web, stopped, limits.grace));
    tokio::select! {
        () = &mut serve => {}
        () = shutdown.begun() => {
            if let Drained::Cut(why) = shutdown.drain(DRAIN_LIMIT, &mut serve).await {
                tracing::warn!(why, "queries were cut off");
            }
        }
    }
    watch.abort();
    drop(admin);
    Ok(())
}

/// Removes what queries of a process that was killed left behind. The directory is the role's own.
fn clear(temp: &Path) {
    let Ok(entries) = std::fs::read_dir(temp) else { return };
    let left = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("datafusion-"));
    for entry in left {
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "temporary files of an earlier run stay");
        }
    }
}

async fn watch_lake(engine: Engine, lake: Handle) {
    let mut was_there = false;
    loop {
        match engine.ready().await {
            Ok(()) => {
                was_there = true;
                lake.ready();
            }
            Err(error) if was_there => lake.degraded(error.to_string()),
            Err(error) => lake.not_ready(error.to_string()),
        }
        tokio::time::sleep(if was_there { LOOK_LATER } else { LOOK_FIRST }).await;
    }
}

fn register(metrics: &Metrics, engine: &Engine) {
    let of = |read: fn(&Engine) -> u64| {
        let engine = engine.clone();
        move || read(&engine)
    };
    let running = engine.clone();
    metrics.gauge_fn("tailwater_query_running", "queries that run now", move || {
        running.stats().running_now() as f64
    });
    let slots = engine.limits().concurrency as f64;
    metrics.gauge_fn(
        "tailwater_query_running_max",
        "queries that may run at once",
        move || slots,
    );
    metrics.counter_fn(
        "tailwater_query_answered",
        "queries answered in full",
        of(|engine| engine.stats().succeeded_total()),
    );
    metrics.counter_fn(
        "tailwater_query_rows",
        "rows of all answers",
        of(|engine| engine.stats().rows_total()),
    );
    metrics.counter_fn(
        "tailwater_query_milliseconds",
        "time of all queries together, waiting included",
        of(|engine| u64::try_from(engine.stats().time_total().as_millis()).unwrap_or(u64::MAX)),
    );
    for kind in ErrorKind::ALL {
        let engine = engine.clone();
        let name = format!("tailwater_query_failed_{}", kind.name());
        metrics.counter_fn(&name, "queries that ended in this error", move || {
            engine.stats().failed_total(kind)
        });
    }
}
