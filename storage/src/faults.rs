//! A store that fails on demand, for tests.
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// What happens to a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused before anything was stored.
    Before,
    /// Stored, and the reply lost.
    After,
    /// Stored, the reply lost, and the client's own repetition told that it exists (412).
    AfterThenExists,
}

/// Fails the next puts of log entries, and reads, as told.
#[derive(Debug)]
pub(crate) struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    /// For the next puts below `_delta_log`, in order.
    pub entries: Mutex<Vec<Fault>>,
    /// For the next puts of data files.
    pub data: Mutex<Vec<Fault>>,
    /// How many reads fail from now on.
    pub reads: AtomicU64,
}

impl FaultStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<FaultStore> {
        Arc::new(FaultStore {
            inner,
            entries: Mutex::default(),
            data: Mutex::default(),
            reads: AtomicU64::new(0),
        })
    }

    fn read_fault(&self) -> Result<()> {
        let left = self
            .reads
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_or(Ok(()), |_| Err(lost("read")))
    }
}

fn lost(what: &'static str) -> object_store::Error {
    object_store::Error::Generic {
        store: "FaultStore",
        source: what.into(),
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let faults = if location.as_ref().contains("_delta_log/0") {
            &self.entries
        } else {
            &self.data
        };
        let fault = {
            let mut faults = faults.lock();
            if faults.is_empty() {
                None
            } else {
                Some(faults.remove(0))
            }
        };
        match fault {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::Before) => Err(lost("refused")),
            Some(fault) => {
                self.inner.put_opts(location, payload, opts).await?;
                match fault {
                    Fault::AfterThenExists => {
                        let (path, source) = (location.to_string(), "precondition failed".into());
                        Err(object_store::Error::AlreadyExists { path, source })
                    }
                    _ => Err(lost("reply lost")),
                }
            }
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read_fault()?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.read_fault()?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
