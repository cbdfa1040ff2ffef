//! Making tables, and checking that a table is one this program can use.

use std::sync::Arc;

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use deltalake_core::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::kernel::{Metadata, Protocol, StructField, StructType};
use deltalake_core::protocol::SaveMode;
use deltalake_core::{DeltaTable, DeltaTableError};
use tailwater_model::table::{Table, schema};
use tracing::info;

use super::{Lake, layout};
use crate::{Error, ErrorKind, Result};

const PARTITION: &str = "date";

/// Creates the table, or adds what it lacks.
pub(super) async fn ensure(lake: &Lake, table: Table) -> Result<()> {
    match lake.snapshot(table).await {
        Ok(snapshot) => match missing_columns(&schema(table), &snapshot.schema)? {
            fields if fields.is_empty() => Ok(()),
            fields => add_columns(lake, table, fields).await,
        },
        Err(error) if error.kind() == ErrorKind::MissingTable => create(lake, table).await,
        Err(error) => Err(error),
    }
}

async fn create(lake: &Lake, table: Table) -> Result<()> {
    let columns: StructType = delta_schema(&schema(table))?;
    let created = DeltaTable::new(lake.log(table).clone())
        .create()
        .with_table_name(table.name())
        .with_columns(columns.fields().cloned())
        .with_partition_columns([PARTITION])
        .with_configuration(layout::properties(table).map(|(key, value)| (key, Some(value))))
        .with_save_mode(SaveMode::ErrorIfExists)
        .with_commit_properties(no_hooks())
        .await;
    match created {
        Ok(_) => info!(table = table.name(), "table created"),
        // Lost a race, or a PUT whose reply was lost: there is a table, and the next snapshot judges it.
        Err(error) => match lake.snapshot(table).await {
            Ok(snapshot) if missing_columns(&schema(table), &snapshot.schema)?.is_empty() => {}
            _ => return Err(error.into()),
        },
    }
    Ok(())
}

async fn add_columns(lake: &Lake, table: Table, fields: Vec<StructField>) -> Result<()> {
    let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
    let mut delta = DeltaTable::new(lake.log(table).clone());
    delta.load().await?;
    let added = delta
        .add_columns()
        .with_fields(fields)
        .with_commit_properties(no_hooks().with_max_retries(5))
        .await;
    match added {
        Ok(_) => info!(table = table.name(), columns = ?names, "columns added"),
        Err(error) => {
            let snapshot = lake.snapshot(table).await?;
            if !missing_columns(&schema(table), &snapshot.schema)?.is_empty() {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

fn no_hooks() -> CommitProperties {
    CommitProperties::default()
        .with_create_checkpoint(false)
        .with_cleanup_expired_logs(Some(false))
        .with_max_retries(0)
}

/// The columns of `wanted` that the table lacks.
fn missing_columns(wanted: &SchemaRef, table: &SchemaRef) -> Result<Vec<StructField>> {
    check(wanted, table)?;
    let missing = wanted
        .fields()
        .iter()
        .filter(|field| table.field_with_name(field.name()).is_err());
    let missing = ArrowSchema::new(missing.cloned().collect::<Vec<_>>());
    Ok(delta_schema(&missing)?.fields().cloned().collect())
}

/// Refuses a table whose columns contradict those of this program. A table may have columns that we do not know: files
/// written by us lack them, which is null.
///
/// # Errors
/// [`ErrorKind::Incompatible`], naming the column.
pub(super) fn check(wanted: &SchemaRef, table: &SchemaRef) -> Result<()> {
    let incompatible = |text: String| Err(Error::new(ErrorKind::Incompatible, text));
    for field in wanted.fields() {
        match table.field_with_name(field.name()) {
            Ok(found) if found.data_type() != field.data_type() => {
                let (found, wanted) = (found.data_type(), field.data_type());
                return incompatible(format!(
                    "column {} is {found}, this program writes {wanted}",
                    field.name()
                ));
            }
            Ok(found) if field.is_nullable() && !found.is_nullable() => {
                return incompatible(format!(
                    "column {} must not be null, this program writes nulls",
                    field.name()
                ));
            }
            Ok(_) => {}
            Err(_) if field.is_nullable() => {}
            Err(_) => {
                return incompatible(format!(
                    "column {} is missing and may not be null: not one of our tables?",
                    field.name()
                ));
            }
        }
    }
    for field in table.fields() {
        if !field.is_nullable() && wanted.field_with_name(field.name()).is_err() {
            return incompatible(format!(
                "column {} must not be null, and this program does not know it",
                field.name()
            ));
        }
    }
    Ok(())
}

/// Refuses tables that need more than Delta reader 1 and writer 2.
pub(super) fn check_protocol(protocol: &Protocol) -> Result<()> {
    let (reader, writer) = (protocol.min_reader_version(), protocol.min_writer_version());
    if reader > 1 || writer > 2 {
        let text = format!("needs Delta reader {reader} and writer {writer}, this program has reader 1 and writer 2");
        return Err(Error::new(ErrorKind::Incompatible, text));
    }
    Ok(())
}

/// The Arrow schema of a table's metadata.
pub(super) fn from_metadata(metadata: &Metadata) -> Result<SchemaRef> {
    if metadata.partition_columns() != [PARTITION] {
        let text = format!(
            "is partitioned by {:?}, not by {PARTITION}",
            metadata.partition_columns()
        );
        return Err(Error::new(ErrorKind::Incompatible, text));
    }
    let unreadable = |error: DeltaTableError| Error::caused(ErrorKind::Damaged, "schema in the log", error);
    let columns = metadata.parse_schema().map_err(|error| unreadable(error.into()))?;
    let arrow: ArrowSchema = (&columns)
        .try_into_arrow()
        .map_err(|error| Error::caused(ErrorKind::Incompatible, "schema in the log", error))?;
    Ok(Arc::new(arrow))
}

fn delta_schema(schema: &ArrowSchema) -> Result<StructType> {
    schema
        .try_into_kernel()
        .map_err(|error| Error::caused(ErrorKind::Invalid, "schema", error))
}
