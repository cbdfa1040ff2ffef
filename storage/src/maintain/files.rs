//! Reading data files back: for merging, and to count rows by tenant.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaData;
use tailwater_model::table::Table;

use crate::lake::{FileEntry, Lake, Source};
use crate::outbox::as_schema;
use crate::verify::parquet_metadata;
use crate::{Error, ErrorKind, Result};

/// Rows read at once.
const READ_ROWS: usize = 2048;
/// Bytes that a checksum is told at once.
const CRC_BYTES: usize = 256 << 10;

/// A data file opened for one pass.
pub(crate) enum Opened {
    /// On this machine: pages are read as they are needed.
    Local(File),
    /// Fetched whole; groups to be merged are bounded in bytes.
    Fetched(Bytes),
}

pub(crate) async fn open(lake: &Lake, table: Table, file: &FileEntry) -> Result<Opened> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::caused(ErrorKind::Store, format!("file {}", file.path), error)
    };
    match lake.local_table_dir(table) {
        Some(directory) => {
            let opened = File::open(directory.join(&*file.path));
            Ok(Opened::Local(
                opened.map_err(|error| failed(error.into()).of_files([&file.path]))?,
            ))
        }
        None => {
            let store = lake.table_store(table);
            let fetched = match store.get(&Path::from(&*file.path)).await {
                Ok(found) => found.bytes().await,
                Err(error) => Err(error),
            };
            Ok(Opened::Fetched(fetched.map_err(|error| match error {
                object_store::Error::NotFound { .. } => failed(error.into()).of_files([&file.path]),
                // Whatever else a store says of one file it would say of others.
                error => failed(error.into()),
            })?))
        }
    }
}

/// Whether the file can be read and is as it was written, as far as the log says how that was.
///
/// # Errors
/// [`ErrorKind::Store`] if the disk or store cannot read it; [`ErrorKind::Damaged`] for other bytes.
pub(super) async fn check(lake: &Lake, table: Table, file: &FileEntry) -> Result<()> {
    let opened = open(lake, table, file).await?;
    let Some(expected) = file.crc32c else {
        return Ok(());
    };
    let found = tokio::task::spawn_blocking(move || opened.crc32c()).await?;
    let found = found.map_err(|error| error.within(format_args!("file {}", file.path)).of_files([&file.path]))?;
    if found != expected {
        return Err(damaged(
            &file.path,
            format!("CRC-32C {found:08x}, written was {expected:08x}"),
        ));
    }
    Ok(())
}

impl Opened {
    /// CRC-32C of all its bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the disk cannot read them.
    pub fn crc32c(&self) -> Result<u32> {
        let file = match self {
            Opened::Fetched(bytes) => return Ok(crc32c::crc32c(bytes)),
            Opened::Local(file) => file,
        };
        let (mut crc, mut at) = (0, 0);
        let mut piece = vec![0; CRC_BYTES];
        loop {
            match file.read_at(&mut piece, at)? {
                0 => return Ok(crc),
                count => {
                    crc = crc32c::crc32c_append(crc, &piece[..count]);
                    at += count as u64;
                }
            }
        }
    }

    /// The file's footer.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn metadata(&self, path: &Arc<str>) -> Result<Arc<ParquetMetaData>> {
        let metadata = match self {
            Opened::Local(file) => parquet_metadata(file.try_clone()?),
            Opened::Fetched(bytes) => parquet_metadata(bytes.clone()),
        };
        metadata.map_err(|error| damaged(path, error))
    }

    /// The rows in order, with the columns of `schema`; `columns` limits which are read.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if this is no Parquet file; later, from the iterator, if a page is not readable.
    pub fn rows(self, path: &Arc<str>, schema: &SchemaRef, columns: Option<&[&str]>) -> Result<Source> {
        match self {
            Opened::Local(file) => {
                // Read once: what is merged away must not push out what queries use.
                if let Err(error) = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::NoReuse) {
                    tracing::trace!(%error, "no read advice");
                }
                let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(path, error))?;
                source(builder, path, schema, columns)
            }
            Opened::Fetched(bytes) => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| damaged(path, error))?;
                source(builder, path, schema, columns)
            }
        }
    }
}

fn source<T: parquet::file::reader::ChunkReader + 'static>(
    mut builder: ParquetRecordBatchReaderBuilder<T>,
    path: &Arc<str>,
    schema: &SchemaRef,
    columns: Option<&[&str]>,
) -> Result<Source> {
    let mut schema = schema.clone();
    if let Some(columns) = columns {
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        builder = builder.with_projection(mask);
        let kept: Vec<_> = schema
            .fields()
            .iter()
            .filter(|field| columns.contains(&field.name().as_str()))
            .cloned()
            .collect();
        schema = Arc::new(Schema::new(kept));
    }
    let reader = builder
        .with_batch_size(READ_ROWS)
        .build()
        .map_err(|error| damaged(path, error))?;
    let path = path.clone();
    Ok(Box::new(reader.map(move |batch| -> Result<RecordBatch> {
        let batch = batch.map_err(|error| damaged(&path, error))?;
        as_schema(&batch, &schema).map_err(|error| error.within(format_args!("file {path}")).of_files([&path]))
    })))
}

fn damaged(path: &Arc<str>, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::caused(ErrorKind::Damaged, format!("file {path}"), error).of_files([path])
}
