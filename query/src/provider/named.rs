//! Puts the file's name into what goes wrong while it is read: a damaged footer says which file to look at.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

/// A factory whose readers name their file.
#[derive(Debug)]
pub(super) struct NamedReaders<F> {
    pub table: &'static str,
    pub inner: F,
}

impl<F: ParquetFileReaderFactory> ParquetFileReaderFactory for NamedReaders<F> {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let name = format!("{}/{}", self.table, file.object_meta.location);
        let inner = self.inner.create_reader(partition, file, metadata_size_hint, metrics)?;
        Ok(Box::new(Named { name, inner }))
    }
}

struct Named {
    name: String,
    inner: Box<dyn AsyncFileReader + Send>,
}

impl Named {
    fn name(name: &str, error: ParquetError) -> ParquetError {
        match error {
            // The store may be down: that is no damage, and the cause must stay what it is.
            ParquetError::External(cause) => ParquetError::External(cause),
            error => ParquetError::General(format!("file {name}: {error}")),
        }
    }
}

impl AsyncFileReader for Named {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        // A list of one: the store of a local disk answers lists from the page cache where it can, without a turn to another thread.
        let Named { name, inner } = self;
        let read = inner.get_byte_ranges(vec![range]);
        read.map(move |read| {
            let bytes = read.map_err(|error| Named::name(name, error))?.pop();
            bytes.ok_or_else(|| ParquetError::EOF(format!("file {name}: nothing read")))
        })
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        let Named { name, inner } = self;
        inner
            .get_byte_ranges(ranges)
            .map(|read| read.map_err(|error| Named::name(name, error)))
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let Named { name, inner } = self;
        inner
            .get_metadata(options)
            .map(|read| read.map_err(|error| Named::name(name, error)))
            .boxed()
    }
}
