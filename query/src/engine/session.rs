//! What a DataFusion session of ours is: which functions, which settings, which stores.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::config::Dialect;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SessionState, SessionStateDefaults};
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use tailwater_model::table::Table;
use tailwater_storage::hot::HotTable;
use tailwater_storage::lake::Lake;

use crate::error::{Error, ErrorKind, Result};
use crate::functions::{self, Remarks};
use crate::limits::Limits;
use crate::provider::{FOOTER_BYTES, Hints, LakeTable, level, store_url};
use crate::runs::AggregateRuns;
use crate::tenant::Scope;

/// Names of the one catalog and schema.
const CATALOG: &str = "tailwater";
const SCHEMA: &str = "lake";

/// Functions that make a value as large as a number in the query says, outside of any memory limit. `generate_series` in a FROM makes rows, which
/// is bounded, and stays. Those that multiply texts have a bound ([`functions::bounded`]).
const BOMBS: [&str; 12] = [
    "repeat",
    "lpad",
    "rpad",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "generate_series",
    "range",
    "gen_series",
    "array_range",
    "space",
];

/// Footers of files are kept in memory up to this share of the query memory, beside the pool.
const METADATA_SHARE: usize = 4;
const METADATA_BYTES_MAX: usize = 512 << 20;

/// The state that all queries start from.
pub(super) fn base(lake: &Lake, temp: Option<PathBuf>, limits: &Limits) -> Result<SessionState> {
    let wrong = |error: datafusion::error::DataFusionError| Error::new(ErrorKind::Unavailable, error.strip_backtrace());
    let disk = match temp {
        Some(directory) if limits.temp_bytes_max > 0 => {
            std::fs::create_dir_all(&directory).map_err(|error| wrong(error.into()))?;
            DiskManagerBuilder::default()
                .with_mode(DiskManagerMode::Directories(vec![directory]))
                .with_max_temp_directory_size(limits.temp_bytes_max)
        }
        _ => DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
    };
    let consumers = NonZeroUsize::new(3).expect("three is not zero");
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(TrackConsumersPool::new(
            FairSpillPool::new(limits.memory_bytes_max),
            consumers,
        )))
        .with_disk_manager_builder(disk)
        .with_metadata_cache_limit((limits.memory_bytes_max / METADATA_SHARE).min(METADATA_BYTES_MAX))
        .with_object_store_registry(stores(lake))
        .build_arc()
        .map_err(wrong)?;
    let mut rules = PhysicalOptimizer::new().rules;
    rules.push(Arc::new(AggregateRuns));
    let state = SessionStateBuilder::new_with_default_features()
        .with_physical_optimizer_rules(rules)
        .with_config(config(limits))
        .with_runtime_env(runtime)
        .with_file_formats(Vec::new())
        .with_table_factories(Default::default())
        .with_scalar_functions(scalars())
        .with_aggregate_functions(
            [
                SessionStateDefaults::default_aggregate_functions(),
                functions::aggregates(),
            ]
            .concat(),
        )
        .build();
    Ok(state)
}

fn scalars() -> Vec<Arc<ScalarUDF>> {
    let is_bomb = |name: &str| BOMBS.contains(&name);
    let mut scalars = SessionStateDefaults::default_scalar_functions();
    scalars.retain(|function| !is_bomb(function.name()) && !function.aliases().iter().any(|alias| is_bomb(alias)));
    scalars.extend(functions::scalars());
    scalars.into_iter().map(functions::bounded).collect()
}

/// Only the tables' own stores: no path in a query can reach another file.
fn stores(lake: &Lake) -> Arc<dyn ObjectStoreRegistry> {
    let stores = DefaultObjectStoreRegistry::new();
    let local = url::Url::parse("file://").expect("a constant that is a URL");
    let _ = stores.deregister_store(&local);
    for table in Table::ALL {
        stores.register_store(store_url(table).as_ref(), lake.table_store(table));
    }
    Arc::new(stores)
}

fn config(limits: &Limits) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_target_partitions(limits.threads.max(1));
    let options = config.options_mut();
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.sql_parser.collect_spans = true;
    options.execution.parquet.metadata_size_hint = Some(FOOTER_BYTES);
    // Decided per scan, see `provider`.
    options.execution.parquet.pushdown_filters = false;
    options.execution.parquet.reorder_filters = true;
    config
}

/// The state of one query: the base and its tables.
pub(super) fn of_query(
    base: &SessionState,
    cut: Vec<HotTable>,
    hints: &Arc<Hints>,
    scope: &Scope,
    remarks: &Remarks,
) -> Result<SessionState> {
    let schema = MemorySchemaProvider::new();
    // `spans` looks into the `traces` of its own cut.
    let traces = cut.iter().find(|pinned| pinned.table == Table::Traces);
    let traces = traces.map(|pinned| Arc::new(LakeTable::new(pinned.clone(), hints.clone(), scope.clone())));
    let red = cut.iter().find(|pinned| pinned.table == Table::Red).cloned();
    for pinned in cut {
        let table = pinned.table;
        let provider: Arc<dyn TableProvider> = match &red {
            Some(red) if table.derived_slice_s().is_some() => {
                level(red, pinned, hints, scope).map_err(Error::from_datafusion)?
            }
            _ => {
                let traces = traces.clone().filter(|_| table == Table::Spans);
                Arc::new(LakeTable::new(pinned, hints.clone(), scope.clone()).with_traces(traces))
            }
        };
        schema
            .register_table(table.name().to_owned(), provider)
            .map_err(Error::from_datafusion)?;
    }
    let catalog = MemoryCatalogProvider::new();
    catalog
        .register_schema(SCHEMA, Arc::new(schema))
        .map_err(Error::from_datafusion)?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    let mut state = base.clone();
    // `now()` is the instant at which the query began, the same in all of it.
    state.mark_start_execution();
    for function in functions::estimators(remarks) {
        state.register_udaf(function).map_err(Error::from_datafusion)?;
    }
    state.register_catalog_list(Arc::new(catalogs));
    Ok(state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A new DataFusion may bring functions that open files or make giants. This list is looked at whenever it grows.
    #[test]
    fn table_functions_are_the_known_ones() {
        let mut names: Vec<_> = SessionStateDefaults::default_table_functions()
            .iter()
            .map(|f| f.name().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["generate_series", "range"]);
    }

    #[test]
    fn functions_that_make_giants_are_gone() {
        let names: Vec<_> = scalars()
            .iter()
            .flat_map(|f| [vec![f.name().to_owned()], f.aliases().to_vec()].concat())
            .collect();
        assert!(names.iter().any(|name| name == "exphist_quantile") && names.iter().any(|name| name == "coalesce"));
        for bomb in BOMBS {
            assert!(!names.iter().any(|name| name == bomb), "{bomb}");
        }
    }
}
