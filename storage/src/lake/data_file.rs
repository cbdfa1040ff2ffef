//! Writing one Parquet file and the Add that puts it into a table.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use deltalake_core::kernel::Add;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, ArrowWriter, ArrowWriterOptions};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::writer::SerializedFileWriter;
use tailwater_model::table::Table;
use uuid::Uuid;

use super::hours::{Hours, TAG_HOURS};
use super::replay::{TAG_CRC32C, TAG_SORTED, TAG_TIER};
use super::stats::Collector;
use super::{Lake, encode, layout};
use crate::store::{PacedFile, Syncs};
use crate::{Error, ErrorKind, Result};

/// How far compaction has come with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Written by a collector's commit.
    Flushed,
    /// Written by compaction.
    Merged,
}

impl Tier {
    /// Name in tags.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Flushed => "flushed",
            Tier::Merged => "merged",
        }
    }

    /// The tier of this name.
    pub fn from_name(name: &str) -> Option<Tier> {
        [Tier::Flushed, Tier::Merged]
            .into_iter()
            .find(|tier| tier.name() == name)
    }
}

/// Makes the files of one table.
#[derive(Debug, Clone)]
pub(crate) struct FileMaker {
    pub table: Table,
    pub tier: Tier,
    /// Leaves that are not worth compressing, by their paths.
    thin: HashSet<String>,
    group_bytes: usize,
    store: Arc<dyn ObjectStore>,
    local: Option<PathBuf>,
    syncs: Syncs,
}

impl FileMaker {
    pub fn new(lake: &Lake, table: Table, tier: Tier) -> FileMaker {
        let (store, local) = (lake.table_store(table), lake.local_table_dir(table));
        FileMaker {
            table,
            tier,
            thin: HashSet::new(),
            group_bytes: layout::ROW_GROUP_BYTES,
            store,
            local,
            syncs: lake.syncs().clone(),
        }
    }

    /// Files of the rows that the files with these footers hold.
    pub fn knowing(&self, sources: &[Arc<ParquetMetaData>]) -> FileMaker {
        FileMaker {
            thin: layout::thin(sources),
            ..self.clone()
        }
    }

    /// Files whose row groups have at most about so many bytes: one is in memory while it is written.
    pub fn groups_of(self, group_bytes: usize) -> FileMaker {
        FileMaker { group_bytes, ..self }
    }

    /// Starts a file for rows of one date. `schema` is that of the rows; `date` is left out of the file, as Delta wants it.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the file cannot be made.
    pub fn start(&self, schema: &SchemaRef, date: i32, now_ms: i64) -> Result<DataFile> {
        let (writer, head) = self.open(schema, date, now_ms)?;
        Ok(DataFile { writer, head })
    }

    /// As [`FileMaker::start`], for a file of all rows of these batches, which is written by row groups; `plans` are those of
    /// their columns.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the file cannot be made; [`ErrorKind::Invalid`] if there is no batch.
    pub(super) fn start_groups<'a>(
        &self,
        batches: &[RecordBatch],
        plans: &'a [encode::Plan],
        date: i32,
        now_ms: i64,
    ) -> Result<GroupFile<'a>> {
        let first = batches
            .first()
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "a file of no rows"))?;
        let schema = first.schema();
        let (writer, mut head) = self.open(&schema, date, now_ms)?;
        for batch in batches {
            head.stats.add(&batch.project(&head.kept)?)?;
        }
        let (writer, _) = writer.into_serialized_writer()?;
        // The library's writers each hold a compressor, which costs more than most chunks do: only those that are needed.
        let properties = writer.properties().as_ref().clone();
        let own = encode::library_columns(&head.kept, plans);
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let library = ArrowWriter::try_new_with_options(io::sink(), Arc::new(schema.project(&own)?), options)?;
        let (_, library) = library.into_serialized_writer()?;
        Ok(GroupFile {
            writer,
            library,
            pages: encode::Pages::new(layout::zstd_level(self.tier))?,
            plans,
            schema,
            head,
        })
    }

    fn open(&self, schema: &SchemaRef, date: i32, now_ms: i64) -> Result<(ArrowWriter<Sink>, Head)> {
        let day = layout::format_date(date)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("no calendar date: {date} days since 1970")))?;
        let path = format!("date={day}/{}-{}.parquet", self.tier.name(), Uuid::new_v4());
        let kept: Vec<usize> = (0..schema.fields().len())
            .filter(|index| schema.field(*index).name() != "date")
            .collect();
        let file_schema = Arc::new(schema.project(&kept)?);
        let parquet_schema = ArrowSchemaConverter::new().convert(&file_schema)?;
        let properties =
            layout::writer_properties(self.table, self.tier, &parquet_schema, &self.thin, self.group_bytes);
        // Without Arrow's own schema in the footer a reader sees what the Parquet schema says: plain strings, whatever the
        // writer had in memory. It would also be the largest part of a small file.
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let sink = match &self.local {
            Some(directory) => Place::File(PacedFile::create(&directory.join(&path), &self.syncs)?),
            None => Place::Memory(Vec::new()),
        };
        let sink = Sink { place: sink, crc: 0 };
        let writer = ArrowWriter::try_new_with_options(sink, file_schema.clone(), options)?;
        let stats = Collector::new(&file_schema, &layout::stats_columns(self.table));
        let head = Head {
            stats,
            schema: file_schema,
            kept,
            path,
            day,
            now_ms,
            tier: self.tier,
        };
        Ok((writer, head))
    }

    /// Runs `make` on a thread that may block, and makes the files that it finished durable. If it fails, or the store does,
    /// none of them is left: a full disk must not fill up with the remains of attempts.
    ///
    /// # Errors
    /// What `make` says; [`ErrorKind::Store`].
    pub async fn make(
        &self,
        make: impl FnOnce(&FileMaker, &mut Vec<Written>) -> Result<()> + Send + 'static,
    ) -> Result<Vec<Written>> {
        let maker = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let mut written = Vec::new();
            let outcome = make(&maker, &mut written);
            (written, outcome)
        });
        let (mut written, mut outcome) = made.await?;
        if outcome.is_ok() {
            outcome = self.upload(&mut written).await;
        }
        if let Err(error) = outcome {
            self.discard(&written).await;
            return Err(error);
        }
        Ok(written)
    }

    async fn upload(&self, written: &mut [Written]) -> Result<()> {
        for file in written {
            if let Some(bytes) = file.upload.take() {
                self.store
                    .put(&Path::from(file.add.path.as_str()), bytes.into())
                    .await?;
            }
        }
        Ok(())
    }

    /// Removes files that no commit names. What cannot be removed is swept by `maintain`.
    pub async fn discard(&self, written: &[Written]) {
        for file in written {
            if let Err(error) = self.store.delete(&Path::from(file.add.path.as_str())).await {
                tracing::debug!(path = file.add.path, %error, "orphan left for the sweep");
            }
        }
    }
}

/// What is known of a file besides its bytes.
struct Head {
    stats: Collector,
    schema: SchemaRef,
    /// The columns of the rows that the file has.
    kept: Vec<usize>,
    path: String,
    day: String,
    now_ms: i64,
    tier: Tier,
}

impl Head {
    /// Ends the file. On this machine it is durable now; otherwise [`FileMaker::make`] makes it so.
    fn finish(self, sink: Sink) -> Result<Written> {
        let (stats, mut tags) = self.stats.finish(&self.schema);
        let (size, upload) = match sink.place {
            Place::File(file) => (file.finish()?, None),
            Place::Memory(bytes) => (bytes.len() as u64, Some(Bytes::from(bytes))),
        };
        tags.insert(TAG_CRC32C.to_owned(), Some(format!("{:08x}", sink.crc)));
        tags.insert(TAG_TIER.to_owned(), Some(self.tier.name().to_owned()));
        tags.insert(TAG_SORTED.to_owned(), Some("true".to_owned()));
        let add = Add {
            path: self.path,
            partition_values: [("date".to_owned(), Some(self.day))].into(),
            size: i64::try_from(size).map_err(|_| Error::new(ErrorKind::Invalid, "file above 2^63 bytes"))?,
            modification_time: self.now_ms,
            data_change: true,
            stats: Some(stats),
            tags: Some(tags),
            ..Add::default()
        };
        Ok(Written {
            add,
            rows: self.stats.rows(),
            bytes: size,
            hours: None,
            upload,
        })
    }
}

/// A file being written from rows.
pub(crate) struct DataFile {
    writer: ArrowWriter<Sink>,
    head: Head,
}

impl DataFile {
    /// Appends rows, which come in the table's order.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the disk says no; [`ErrorKind::Invalid`] for rows of another schema.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let rows = rows.project(&self.head.kept)?;
        self.head.stats.add(&rows)?;
        self.writer.write(&rows)?;
        Ok(())
    }

    /// Whether the file has reached `target` bytes. The size of a row group in memory is only an estimate, and a high one, so it is
    /// written out first: a file cut by an estimate could be small enough to be merged with its other half again, for ever.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub fn reached(&mut self, target: u64) -> Result<bool> {
        if (self.writer.bytes_written() + self.writer.in_progress_size()) as u64 >= target {
            self.writer.flush()?;
        }
        Ok(self.writer.bytes_written() as u64 >= target)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub fn finish(self) -> Result<Written> {
        self.head.finish(self.writer.into_inner()?)
    }
}

/// A file being written from stretches of frames.
pub(crate) struct GroupFile<'a> {
    writer: SerializedFileWriter<Sink>,
    library: ArrowRowGroupWriterFactory,
    pages: encode::Pages,
    plans: &'a [encode::Plan],
    schema: SchemaRef,
    head: Head,
}

impl GroupFile<'_> {
    /// Appends a row group. The columns of the rows come first in the batches of `runs`; others may follow.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the disk says no; [`ErrorKind::Invalid`] for rows of another schema.
    pub fn write(&mut self, runs: &encode::Runs) -> Result<()> {
        let rows = encode::Rows {
            schema: &self.schema,
            plans: self.plans,
            columns: &self.head.kept,
            page_rows: layout::PAGE_ROWS,
        };
        encode::write_group(&mut self.writer, &self.library, runs, &rows, &mut self.pages)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub fn finish(self) -> Result<Written> {
        self.head.finish(self.writer.into_inner()?)
    }
}

/// A finished file.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub add: Add,
    pub rows: u64,
    pub bytes: u64,
    /// Of a new file of `red`: the hours of its day that it adds to, a bit each. The commit says in which version.
    pub hours: Option<u32>,
    upload: Option<Bytes>,
}

impl Written {
    /// The Add that brings the file's rows into the table in this version.
    pub fn add_in(&self, version: u64) -> Add {
        let mut add = self.add.clone();
        if let Some(mask) = self.hours {
            let hours = Hours::of_mask(mask, version).to_string();
            add.tags
                .get_or_insert_default()
                .insert(TAG_HOURS.to_owned(), Some(hours));
        }
        add
    }
}

/// Where a file's bytes go, and their CRC-32C: neither zstd nor the ids that are not compressed tell that a byte has changed.
struct Sink {
    place: Place,
    crc: u32,
}

enum Place {
    File(PacedFile),
    Memory(Vec<u8>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match &mut self.place {
            Place::File(file) => file.write(bytes),
            Place::Memory(memory) => memory.write(bytes),
        }?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
