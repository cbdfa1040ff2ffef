//! A table of the lake as DataFusion sees it: Parquet files of one snapshot, and the outbox frames that are not in it yet.
//!
//! ```text
//!   filters ──> which files may match (statistics of the log) ──> DataSourceExec(parquet: page index, blooms, row filters) ─┐
//!          └──> which frames may match (times, services, traces) ──> HotExec (Arrow in the mapping, columns cast on the way) ─┴─> UnionExec
//! ```
//!
//! Guarantees: the answer is the rows of exactly this snapshot and these frames; pruning only ever leaves out files and frames in
//! which no row can match. Assumes: bounds of the log are never narrower than the values. Leaves out: which snapshot and frames go together
//! ([`crate::cut`]).

mod constant;
mod files;
mod hot;
mod level;
mod named;
mod prune;
mod top;
mod window;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use tailwater_model::table::{self, Table};
use tailwater_storage::hot::HotTable;
use tailwater_storage::lake::{FileEntry, Snapshot};
use tailwater_storage::outbox::FrameRef;

pub(crate) use files::{FOOTER_BYTES, store_url};
pub(crate) use hot::HotExec;
pub(crate) use level::{level, with_conditions};
use top::Top;
use window::Window;

use crate::tenant::{self, Holds, Scope, TenantExec};

/// What the whole query looks like; a scan sees only its own filters. Set between planning and optimising.
#[derive(Debug)]
pub(crate) struct Hints {
    /// Few rows are wanted (LIMIT or top-k, nothing aggregated): decode the other columns only for rows that match.
    few_rows: AtomicBool,
    /// That these are the first of a table by one of its columns.
    top: OnceLock<Option<Top>>,
    /// For tests: read everything, leave nothing out early.
    no_pruning: bool,
    /// In fewer rows than this a trace is looked for by its id alone.
    window_rows_min: u64,
}

/// Below this many rows, asking `traces` first takes longer than it saves.
pub(crate) const WINDOW_ROWS_MIN: u64 = 1 << 20;

impl Hints {
    pub(crate) fn new(no_pruning: bool, window_rows_min: u64) -> Hints {
        Hints {
            few_rows: AtomicBool::new(false),
            top: OnceLock::new(),
            no_pruning,
            window_rows_min,
        }
    }

    /// Learns from the plan.
    pub(crate) fn learn(&self, plan: &LogicalPlan) -> Result<()> {
        use datafusion::common::tree_node::TreeNodeRecursion;
        let (mut limited, mut aggregated) = (false, false);
        plan.apply_with_subqueries(|node| {
            match node {
                LogicalPlan::Limit(_) => limited = true,
                LogicalPlan::Sort(sort) => limited |= sort.fetch.is_some(),
                LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => aggregated = true,
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        self.few_rows.store(limited && !aggregated, Ordering::Relaxed);
        let top = Top::wanted(plan)?;
        self.top.get_or_init(|| top);
        Ok(())
    }
}

/// One table at one instant.
pub(crate) struct LakeTable {
    table: Table,
    schema: SchemaRef,
    snapshot: Option<Arc<Snapshot>>,
    frames: Arc<[FrameRef]>,
    hints: Arc<Hints>,
    scope: Scope,
    /// For `spans`: the `traces` of the same cut.
    traces: Option<Arc<LakeTable>>,
}

impl LakeTable {
    /// The files of the snapshot, if the table exists, and the frames above it.
    pub(crate) fn new(pinned: HotTable, hints: Arc<Hints>, scope: Scope) -> LakeTable {
        let HotTable {
            table,
            snapshot,
            frames,
            ..
        } = pinned;
        let schema = sql_schema(table, snapshot.as_deref());
        LakeTable {
            table,
            schema,
            snapshot,
            frames,
            hints,
            scope,
            traces: None,
        }
    }

    /// Lets a trace be found in time first.
    pub(crate) fn with_traces(mut self, traces: Option<Arc<LakeTable>>) -> LakeTable {
        self.traces = traces;
        self
    }
}

impl fmt::Debug for LakeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.snapshot.as_ref().map(|snapshot| snapshot.version);
        write!(
            f,
            "{} at version {version:?} and {} frames",
            self.table.name(),
            self.frames.len()
        )
    }
}

/// The columns a query sees: those this program knows, then those that only the table has. Strings and bytes as views: a scan then
/// hands out pieces of pages instead of copies.
fn sql_schema(table: Table, snapshot: Option<&Snapshot>) -> SchemaRef {
    let known = table::schema(table);
    let foreign = snapshot.map(|snapshot| {
        let foreign = snapshot
            .schema
            .fields()
            .iter()
            .filter(|field| known.field_with_name(field.name()).is_err());
        foreign
            .map(|field| Field::new(field.name(), field.data_type().clone(), true))
            .collect::<Vec<_>>()
    });
    let known = known.fields().iter().map(|field| field.as_ref().clone());
    let fields: Vec<Field> = known.chain(foreign.into_iter().flatten()).map(as_view).collect();
    Arc::new(Schema::new(fields))
}

fn as_view(field: Field) -> Field {
    match field.data_type() {
        DataType::Utf8 => field.with_data_type(DataType::Utf8View),
        DataType::Binary => field.with_data_type(DataType::BinaryView),
        _ => field,
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // Filters choose files here and are then pushed into the scan by the physical optimiser, as far as that pays.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let predicate = self.predicate(state, filters)?;
        let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if let Some(snapshot) = &self.snapshot {
            let mut kept = match &predicate {
                Some(predicate) => prune::files(snapshot.files(), &self.schema, predicate),
                None => snapshot.files().to_vec(),
            };
            // Not by pruning, which may be off or not understand: whose a file is is no matter of speed.
            let mixed = self.split(&mut kept);
            let all: Vec<_> = kept.iter().chain(&mixed).cloned().collect();
            let mut mixed = mixed;
            let (times, window) = match self.window(state, filters, &all).await? {
                Some(Window::Within(times)) => (Some(times), Some(times.filter())),
                Some(Window::Nowhere) => {
                    (kept, mixed) = (Vec::new(), Vec::new());
                    (None, None)
                }
                None => (None, self.bound(state, filters, &kept).await?),
            };
            if let Some(window) = &window
                && let Some(predicate) = self.predicate(state, std::slice::from_ref(window))?
            {
                kept = prune::files(&kept, &self.schema, &predicate);
                mixed = prune::files(&mixed, &self.schema, &predicate);
            }
            if let Scope::Tenant(tenant) = &self.scope
                && !mixed.is_empty()
            {
                // Compared with bounds alone, so the query's filters see nobody's rows here; they run above the barrier.
                let known = std::iter::once(tenant::condition(tenant)).chain(window.clone());
                let known = known.chain(filters.iter().filter(|_| !self.hints.no_pruning).cloned());
                let (columns, width) = tenant::with_column(&self.schema, projection)?;
                let scan = files::Scan {
                    table: self.table,
                    schema: &self.schema,
                    files: mixed,
                    projection: Some(&columns),
                    limit: None,
                    window: conjunction(known),
                    times: None,
                    row_filters: false,
                    is_filtered: true,
                    constants: false,
                    whole: None,
                };
                parts.push(Arc::new(TenantExec::new(
                    scan.plan(state).await?,
                    tenant.clone(),
                    width,
                )?));
            }
            if !kept.is_empty() {
                let row_filters = self.hints.few_rows.load(Ordering::Relaxed) || finds_needle(filters);
                let scan = files::Scan {
                    table: self.table,
                    schema: &self.schema,
                    files: kept,
                    projection,
                    // Filters run above the scan unless pushed down, so only an unfiltered scan may stop early.
                    limit: limit.filter(|_| filters.is_empty()),
                    window,
                    times,
                    row_filters,
                    is_filtered: !filters.is_empty(),
                    constants: row_filters && !self.hints.no_pruning,
                    whole: self.scope.tenant().cloned(),
                };
                parts.push(scan.plan(state).await?);
            }
        }
        let frames = match &predicate {
            Some(predicate) => prune::frames(self.table, &self.frames, &self.schema, predicate),
            None => self.frames.to_vec(),
        };
        if !frames.is_empty() {
            let partitions = state.config().target_partitions();
            parts.push(Arc::new(HotExec::new(
                self.table,
                frames,
                &self.schema,
                projection,
                partitions,
                &self.scope,
            )?));
        }
        match parts.len() {
            0 => {
                let schema = match projection {
                    Some(projection) => Arc::new(self.schema.project(projection)?),
                    None => self.schema.clone(),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => Ok(parts.swap_remove(0)),
            _ => UnionExec::try_new(parts),
        }
    }
}

impl LakeTable {
    /// Leaves the files whose rows may all be shown, and takes out those that hold others too.
    fn split(&self, files: &mut Vec<Arc<FileEntry>>) -> Vec<Arc<FileEntry>> {
        let Scope::Tenant(tenant) = &self.scope else {
            return Vec::new();
        };
        let all = std::mem::take(files);
        let mut mixed = Vec::new();
        for file in all {
            match tenant::holds(&file, tenant) {
                Holds::Only => files.push(file),
                Holds::Some => mixed.push(file),
                Holds::None => {}
            }
        }
        mixed
    }

    /// The times of the one trace that is asked for, where knowing them pays.
    async fn window(&self, state: &dyn Session, filters: &[Expr], files: &[Arc<FileEntry>]) -> Result<Option<Window>> {
        let Some(traces) = &self.traces else { return Ok(None) };
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        match window::wanted_trace(filters) {
            Some(trace)
                if !self.hints.no_pruning && rows >= self.hints.window_rows_min && window::covers(traces, files) =>
            {
                window::of_trace(traces, trace, state).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The filter that the first rows of the table pass, where these are asked for and knowing them pays.
    async fn bound(&self, state: &dyn Session, filters: &[Expr], files: &[Arc<FileEntry>]) -> Result<Option<Expr>> {
        let top = self.hints.top.get().and_then(Option::as_ref);
        let top = top.filter(|top| top.table == self.table.name() && filters.is_empty() && !self.hints.no_pruning);
        let Some(top) = top else { return Ok(None) };
        let Ok(field) = self.schema.field_with_name(&top.column) else {
            return Ok(None);
        };
        let footers = files::footers(state, self.table, files).await?;
        Ok(top.bound(field, footers.iter().map(Arc::as_ref)))
    }

    fn predicate(&self, state: &dyn Session, filters: &[Expr]) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        if self.hints.no_pruning {
            return Ok(None);
        }
        let Some(filter) = conjunction(filters.iter().cloned()) else {
            return Ok(None);
        };
        let schema = DFSchema::try_from(self.schema.clone())?;
        state.create_physical_expr(filter, &schema).map(Some)
    }
}

/// Whether a filter asks for one of very many values: reading that column first and the others only where it matches then pays.
/// For wide filters it costs (apache/datafusion#20324).
fn finds_needle(filters: &[Expr]) -> bool {
    const NEEDLES: [&str; 4] = ["trace_id", "span_id", "parent_span_id", "series_id"];
    let is_needle = |expr: &Expr| matches!(expr, Expr::Column(column) if NEEDLES.contains(&column.name.as_str()));
    filters.iter().any(|filter| match filter {
        Expr::BinaryExpr(binary) if binary.op == datafusion::logical_expr::Operator::Eq => {
            is_needle(&binary.left) || is_needle(&binary.right)
        }
        Expr::InList(list) => !list.negated && is_needle(&list.expr),
        _ => false,
    })
}
