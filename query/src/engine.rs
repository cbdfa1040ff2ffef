//! Runs queries: one session each, within limits, over one cut of the lake and the outbox.
//!
//! ```text
//!  text ─ guard ─ rewrite ─ pin a cut ─ plan ─ execute ─> Answer (a channel of two batches)
//!  └────────────── all on threads of the engine's own, with large stacks ──────────────┘
//! ```
//!
//! Guarantees: a query sees one cut; it ends when its time is up, when its [`Answer`] or the future of [`Engine::query`] is dropped, or when
//! a limit is reached; memory that DataFusion accounts for stays within one pool for all queries. Assumes: planning is bounded by the
//! limits on the text (it cannot be interrupted; the caller gets its timeout nevertheless). An engine shows the rows of its
//! [`Scope`] alone, and all that a tenant's engine runs counts as one of the queries that the tenant may have. Leaves out: who may ask ([`crate::http`]), how answers
//! are written ([`crate::format`]).

mod answer;
mod session;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use parking_lot::Mutex;
use tailwater_model::table::Table;
use tailwater_openslo::{ResolvedObjective, ResolvedSlo};
use tailwater_storage::lake::Lake;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant as Deadline, timeout_at};

use crate::cut::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::functions::Remarks;
use crate::guard;
use crate::limits::{Limits, STACK_BYTES};
use crate::provider::{Hints, WINDOW_ROWS_MIN};
use crate::rewrite::rewrite;
use crate::stats::Stats;
use crate::tenant::{self, Scope};
use crate::views::{self, VIEWS, View};

pub use answer::Answer;

/// Rows that a computation holds take at most this share of the query memory, in bytes of Arrow columns.
const READ_SHARE: usize = 4;

/// What an engine reads and may use.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The tables.
    pub lake: Lake,
    /// Directory of the outbox on this machine; `None` reads the tables alone.
    pub outbox: Option<PathBuf>,
    /// Where queries put what does not fit into memory; `None` keeps them off the disk.
    pub temp: Option<PathBuf>,
    /// What they may use.
    pub limits: Limits,
}

/// A question: SQL, and values for its `$1`, `$2`, ...
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The SQL text.
    pub text: String,
    /// Values of the placeholders, in order.
    pub params: Vec<ScalarValue>,
}

impl From<&str> for Query {
    fn from(text: &str) -> Query {
        Query {
            text: text.to_owned(),
            params: Vec::new(),
        }
    }
}

impl From<String> for Query {
    fn from(text: String) -> Query {
        Query {
            text,
            params: Vec::new(),
        }
    }
}

/// The query engine. Cloning shares it.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    asker: Asker,
    // Last owner stops the threads.
    threads: Arc<Threads>,
}

/// For whom an engine works.
#[derive(Debug, Clone, Default)]
struct Asker {
    scope: Scope,
    /// Requests of the tenant that ask at once; `None` is no limit of its own.
    queries: Option<u32>,
    /// Plans name files and count rows that are not the tenant's alone.
    no_plans: bool,
    /// Of this request: empty until it asks, then shared by all that it asks, so that a report of many queries is never refused half-way.
    seat: SharedSeat,
}

type SharedSeat = Arc<Mutex<Option<Seat>>>;

struct Shared {
    limits: Limits,
    source: Source,
    /// Functions, rules and settings; a query adds its tables.
    base: SessionState,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Requests of tenants that ask.
    tenants: Mutex<HashMap<Arc<str>, u32>>,
    stats: Stats,
    slos: OnceLock<Vec<ResolvedSlo>>,
    /// For tests: read everything, leave nothing out early.
    no_pruning: AtomicBool,
    window_rows_min: AtomicU64,
}

struct Threads(Mutex<Option<Runtime>>, tokio::runtime::Handle);

impl Drop for Threads {
    fn drop(&mut self) {
        // Not `drop(runtime)`: that blocks, and panics where an engine is dropped inside another runtime.
        if let Some(runtime) = self.0.lock().take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("source", &self.shared.source)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine over a lake that may not exist yet: queries answer [`ErrorKind::Unavailable`] until it does. Takes no locks and
    /// writes nothing but temporary files.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if threads cannot be started, [`ErrorKind::Unavailable`] if the temporary directory cannot be used.
    pub fn open(config: EngineConfig) -> Result<Engine> {
        let EngineConfig {
            lake,
            outbox,
            temp,
            limits,
        } = config;
        let base = session::base(&lake, temp, &limits)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits.threads.max(1))
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| Error::new(ErrorKind::Internal, format!("starting query threads: {error}")))?;
        let handle = runtime.handle().clone();
        let shared = Shared {
            source: Source::new(lake, outbox),
            base,
            permits: Arc::new(Semaphore::new(limits.concurrency.max(1))),
            waiting: AtomicUsize::new(0),
            tenants: Mutex::default(),
            stats: Stats::default(),
            slos: OnceLock::new(),
            limits,
            no_pruning: AtomicBool::new(false),
            window_rows_min: AtomicU64::new(WINDOW_ROWS_MIN),
        };
        Ok(Engine {
            shared: Arc::new(shared),
            asker: Asker::default(),
            threads: Arc::new(Threads(Mutex::new(Some(runtime)), handle)),
        })
    }

    /// The same engine for one request of a tenant: it shows that tenant's rows and no others, whatever is asked. `queries` is how many of the
    /// tenant's requests may ask at once: this one does from its first query until the engine and its answers are dropped. `plans` says whether EXPLAIN
    /// is answered, which names files and counts rows of all tenants.
    #[must_use]
    pub fn for_tenant(&self, tenant: Arc<str>, queries: Option<u32>, plans: bool) -> Engine {
        Engine {
            asker: Asker {
                scope: Scope::Tenant(tenant),
                queries,
                no_plans: !plans,
                seat: SharedSeat::default(),
            },
            ..self.clone()
        }
    }

    /// Whose rows it shows.
    pub fn scope(&self) -> &Scope {
        &self.asker.scope
    }

    /// Runs a query. Returns when its columns are known; rows follow through the [`Answer`].
    ///
    /// # Errors
    /// Every kind but [`ErrorKind::AnswerTooLarge`], which shows while reading.
    pub async fn query(&self, query: impl Into<Query>) -> Result<Answer> {
        let started = Instant::now();
        let result = self.start(query.into(), started).await;
        if let Err(error) = &result {
            self.shared.stats.failed(error.kind(), started.elapsed());
        }
        result
    }

    async fn start(&self, query: Query, started: Instant) -> Result<Answer> {
        let deadline = Deadline::from_std(started) + self.shared.limits.timeout;
        let permit = self.shared.permit(&self.asker, deadline).await?;
        let (head, columns) = oneshot::channel();
        let (rows, answer) = mpsc::channel(2);
        let (shared, asker) = (self.shared.clone(), self.asker.clone());
        let task = self.threads.1.spawn(async move {
            let running = shared.stats.running();
            let work = shared.run(&asker, query, head, rows.clone());
            if timeout_at(deadline, work).await.is_err() {
                // The reader's own clock says the same; this is for one that is not looking.
                let _ = rows.try_send(Err(timed_out(&shared.limits)));
            }
            drop((running, permit));
        });
        // From here on, dropping this future or the answer stops the query.
        let stop = answer::AbortOnDrop(task.abort_handle());
        match timeout_at(deadline, columns).await {
            Ok(Ok(Ok((schema, notes)))) => Ok(Answer::new(
                schema,
                notes,
                answer,
                deadline,
                stop,
                self.clone(),
                started,
            )),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) if task.is_finished() => Err(panicked(task).await),
            Ok(Err(_)) | Err(_) => Err(timed_out(&self.shared.limits)),
        }
    }

    /// Takes the seat of this request before it asks anything, so that a tenant that has no seat left is refused before more of the request is read.
    ///
    /// # Errors
    /// [`ErrorKind::OverQuota`].
    pub(crate) fn sit(&self) -> Result<()> {
        let seated = self.asker.sit(&self.shared);
        if let Err(error) = &seated {
            self.shared.stats.failed(error.kind(), Duration::ZERO);
        }
        seated.map(drop)
    }

    /// Runs a query and gathers its rows.
    ///
    /// # Errors
    /// As [`Engine::query`] and [`Answer::next`].
    pub async fn collect(&self, query: impl Into<Query>) -> Result<Vec<arrow::array::RecordBatch>> {
        self.query(query).await?.collect().await
    }

    /// Rows for a computation of this crate, such as PromQL. As [`Engine::query`], but bounded by a share of the query memory instead of by what an
    /// answer to a person may have.
    pub(crate) async fn read(&self, query: Query) -> Result<Answer> {
        let answer = self.query(query).await?;
        Ok(answer.with_bytes_max(self.shared.limits.memory_bytes_max / READ_SHARE))
    }

    /// The same for rows that are not held: time alone bounds how many pass by.
    pub(crate) async fn pass(&self, query: Query) -> Result<Answer> {
        Ok(self.query(query).await?.with_bytes_max(usize::MAX))
    }

    /// Runs a computation where queries run: in one of their places, on a large stack, within their time. `work` is handed a function that says
    /// whether to stop: the time is up, or this future was dropped.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<T> {
        struct Raise(Arc<AtomicBool>);
        impl Drop for Raise {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let deadline = Deadline::now() + self.shared.limits.timeout;
        let permit = self.shared.permit(&self.asker, deadline).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let _raise = Raise(stop.clone());
        let shared = self.shared.clone();
        let task = self.threads.1.spawn_blocking(move || {
            let _held = (permit, shared.stats.running());
            work(&|| stop.load(Ordering::Relaxed))
        });
        match timeout_at(deadline, task).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => {
                tracing::error!(%error, "a computation ended without a result");
                Err(Error::new(
                    ErrorKind::Internal,
                    "the query ran into a defect of the engine",
                ))
            }
            Err(_) => Err(timed_out(&self.shared.limits)),
        }
    }

    /// Whether queries can be answered now: every table is there.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] while they are not.
    pub async fn ready(&self) -> Result<()> {
        self.shared.source.ready().await
    }

    /// Says which SLOs have series (`slo:...`). Once, before queries; later calls change nothing.
    pub fn declare(&self, slos: Vec<ResolvedSlo>) {
        let _ = self.shared.slos.set(slos);
    }

    /// The objectives that were declared, as far as they are for whoever asks: those whose selectors name tenants are for these alone.
    pub(crate) fn objectives(&self) -> impl Iterator<Item = (&ResolvedSlo, &ResolvedObjective)> {
        let tenant = self.asker.scope.tenant();
        let slos = self.shared.slos.get().into_iter().flatten();
        slos.flat_map(|slo| slo.objectives.iter().map(move |objective| (slo, objective)))
            .filter(move |(_, objective)| tenant.is_none_or(|tenant| objective.indicator.admits(tenant)))
    }

    /// The limits it was opened with.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// What it did so far.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Whether this engine's plan of a query would be let through for another scope. For tests of the check itself.
    #[doc(hidden)]
    pub async fn verify_as(&self, text: &str, scope: &Scope) -> Result<()> {
        let (plan, _, _) = self.shared.plan(&self.asker, text.into()).await?;
        tenant::verify(&plan, scope).map_err(Error::from_datafusion)
    }

    /// Turns the choice of files and frames by statistics off and on. The answers are the same; tests compare them.
    #[doc(hidden)]
    pub fn set_pruning(&self, on: bool) {
        self.shared.no_pruning.store(!on, Ordering::Relaxed);
    }

    /// From how many rows on a trace is looked for in `traces` first. For tests, whose lakes are small.
    #[doc(hidden)]
    pub fn set_window_rows_min(&self, rows: u64) {
        self.shared.window_rows_min.store(rows, Ordering::Relaxed);
    }
}

async fn panicked(task: tokio::task::JoinHandle<()>) -> Error {
    match task.await {
        Err(error) if error.is_panic() => {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            tracing::error!(panic = text, "query panicked");
            Error::new(ErrorKind::Internal, "the query ran into a defect of the engine")
        }
        _ => Error::new(ErrorKind::Internal, "the query ended without an answer"),
    }
}

pub(crate) fn timed_out(limits: &Limits) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("the query took longer than {:?}", limits.timeout),
    )
}

type Rows = mpsc::Sender<Result<arrow::array::RecordBatch>>;
/// Columns and notes.
type Head = oneshot::Sender<Result<(arrow::datatypes::SchemaRef, Notes)>>;

/// What is known of an answer as a whole: before it begins, and what its estimates add.
#[derive(Debug, Clone, Default)]
struct Notes {
    cut: Vec<String>,
    remarks: Remarks,
}

/// A place among the queries that run; given back on drop.
struct Permit {
    _place: tokio::sync::OwnedSemaphorePermit,
    _seat: SharedSeat,
}

/// One of the requests that a tenant may have.
struct Seat {
    shared: Arc<Shared>,
    tenant: Arc<str>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

impl Asker {
    /// Sits down, unless the request does already or the tenant has no limit.
    fn sit(&self, shared: &Arc<Shared>) -> Result<SharedSeat> {
        let mut seat = self.seat.lock();
        if let (None, Some(tenant), Some(most)) = (&*seat, self.scope.tenant(), self.queries) {
            *seat = Some(Seat::take(shared, tenant, most)?);
        }
        Ok(self.seat.clone())
    }
}

impl Seat {
    fn take(shared: &Arc<Shared>, tenant: &Arc<str>, most: u32) -> Result<Seat> {
        let mut taken = shared.tenants.lock();
        let count = taken.get(tenant).copied().unwrap_or(0);
        if count >= most {
            let message = format!("as many queries run as this tenant may have at once ({most})");
            return Err(Error::new(ErrorKind::OverQuota, message));
        }
        taken.insert(tenant.clone(), count + 1);
        Ok(Seat {
            shared: shared.clone(),
            tenant: tenant.clone(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.shared.tenants.lock();
        if let Some(count) = taken.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

impl Shared {
    /// A place among the queries that run, for a request that the tenant may have.
    async fn permit(self: &Arc<Self>, asker: &Asker, deadline: Deadline) -> Result<Permit> {
        let _seat = asker.sit(self)?;
        let _place = self.place(deadline).await?;
        Ok(Permit { _place, _seat })
    }

    /// Waits, but not with too many others.
    async fn place(&self, deadline: Deadline) -> Result<tokio::sync::OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let busy = || {
            Error::new(
                ErrorKind::Busy,
                format!("{} queries run and as many wait as may", self.limits.concurrency),
            )
        };
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.limits.concurrency * 4 {
            return Err(busy());
        }
        match timeout_at(deadline, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    /// The whole life of a query: its columns to `head`, its rows to `rows`.
    async fn run(&self, asker: &Asker, query: Query, head: Head, rows: Rows) {
        let (plan, state, notes) = match self.plan(asker, query).await {
            Ok(planned) => planned,
            Err(error) => {
                let _ = head.send(Err(error));
                return;
            }
        };
        let mut stream = match execute_stream(plan, state.task_ctx()) {
            Ok(stream) => stream,
            Err(error) => {
                let _ = head.send(Err(Error::from_datafusion(error)));
                return;
            }
        };
        if head.send(Ok((stream.schema(), notes))).is_err() {
            return;
        }
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(Error::from_datafusion);
            let failed = batch.is_err();
            if rows.send(batch).await.is_err() || failed {
                return;
            }
        }
    }

    async fn plan(&self, asker: &Asker, query: Query) -> Result<(Arc<dyn ExecutionPlan>, SessionState, Notes)> {
        let mut statement = guard::parse(&query.text, &self.limits)?;
        if asker.no_plans && guard::explains(&statement) {
            let message = "EXPLAIN shows files and counts of all tenants: it needs a token with the role admin";
            return Err(Error::new(ErrorKind::NotAllowed, message));
        }
        rewrite(&mut statement, &query.params)?;
        let hints = Arc::new(Hints::new(
            self.no_pruning.load(Ordering::Relaxed),
            self.window_rows_min.load(Ordering::Relaxed),
        ));
        let (tables, views) = self.mentioned(&statement)?;
        let cut = self.source.pin(&tables).await?;
        let remarks = Remarks::default();
        let state = session::of_query(&self.base, cut.tables, &hints, &asker.scope, &remarks)?;
        for view in views {
            views::register(view, &state).await.map_err(Error::from_datafusion)?;
        }
        let mut plan = state
            .statement_to_plan(statement)
            .await
            .map_err(Error::from_datafusion)?;
        if !query.params.is_empty() {
            let params = ParamValues::List(query.params.into_iter().map(Into::into).collect());
            plan = plan.with_param_values(params).map_err(Error::from_datafusion)?;
        }
        if let Some(name) = plan
            .get_parameter_names()
            .map_err(Error::from_datafusion)?
            .into_iter()
            .next()
        {
            return Err(Error::new(ErrorKind::BadQuery, format!("there is no value for {name}")));
        }
        // The guard has read the text; this reads what became of it.
        let only_reads = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        only_reads
            .verify_plan(&plan)
            .map_err(|error| Error::new(ErrorKind::NotAllowed, error.strip_backtrace()))?;
        hints.learn(&plan).map_err(Error::from_datafusion)?;
        let physical = state
            .create_physical_plan(&plan)
            .await
            .map_err(Error::from_datafusion)?;
        tenant::verify(&physical, &asker.scope).map_err(Error::from_datafusion)?;
        Ok((
            physical,
            state,
            Notes {
                cut: cut.notes,
                remarks,
            },
        ))
    }

    /// The tables to pin, and the views over them. All of both for a question about the catalog: it lists them.
    fn mentioned(&self, statement: &Statement) -> Result<(Vec<Table>, Vec<View>)> {
        let names = self
            .base
            .resolve_table_references(statement)
            .map_err(Error::from_datafusion)?;
        if names.iter().any(|name| name.schema() == Some("information_schema")) {
            return Ok((Table::ALL.to_vec(), VIEWS.to_vec()));
        }
        let views: Vec<View> = VIEWS
            .into_iter()
            .filter(|view| names.iter().any(|name| name.table() == view.name))
            .collect();
        let mut tables: Vec<Table> = names.iter().filter_map(|name| Table::from_name(name.table())).collect();
        tables.extend(views.iter().map(|view| view.table));
        if tables.contains(&Table::Spans) {
            // Says when a trace was, see `provider::window`.
            tables.push(Table::Traces);
        }
        if tables.iter().any(|table| table.derived_slice_s().is_some()) {
            // Has the hours that a derived table lacks, see `provider::level`.
            tables.push(Table::Red);
        }
        tables.sort_unstable();
        tables.dedup();
        Ok((tables, views))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_computation_that_nobody_waits_for_is_told_to_stop() {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(EngineConfig {
            lake: Lake::open(directory.path()).unwrap(),
            outbox: None,
            temp: None,
            limits: Limits::default(),
        })
        .unwrap();
        let (started, begun) = oneshot::channel();
        let (stopped, ended) = oneshot::channel();
        let work = engine.compute(move |stop| {
            started.send(()).unwrap();
            while !stop() {
                std::thread::yield_now();
            }
            stopped.send(()).unwrap();
        });
        tokio::select! {
            _ = work => panic!("it was not told to stop yet"),
            begun = begun => begun.unwrap(),
        }
        ended.await.unwrap();
        assert!(!engine.compute(|stop| stop()).await.unwrap());
    }
}
