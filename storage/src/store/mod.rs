//! The object store under the lake: what it says is written is on the disk.
//!
//! `object_store` 0.13 never calls fsync for local files, so a committed table could vanish with the power while the outbox that
//! held its rows is already trimmed. [`SyncedStore`] wraps it.
//!
//! Guarantees, for every call that returns `Ok`: the file's bytes, its name and the directories made for it are synced. A file
//! put in one piece becomes visible under its name only after its bytes are synced, so no reader ever sees a log entry that a
//! power cut could take back.
//! Assumes: one file system below the root; hard links (as `object_store` does for `PutMode::Create`).
//! Leaves out: remote stores, whose PUT acknowledgement is the guarantee already.

mod local;
mod paced;
mod sys;

use std::fmt;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

pub use paced::PacedFile;

/// A call that made something durable; what a [`Recorder`] sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncEvent {
    /// fsync or fdatasync of a file.
    File(PathBuf),
    /// fsync of a directory.
    Directory(PathBuf),
    /// `sync_file_range` over this many bytes of a file, to start write-back early.
    Range(PathBuf, u64),
    /// The file's pages were given back to the kernel (`POSIX_FADV_DONTNEED`).
    Forget(PathBuf),
}

/// Told of every sync, after it succeeded. Tests count with it, metrics may.
pub type Recorder = Arc<dyn Fn(SyncEvent) + Send + Sync>;

/// Makes syncs and reports them.
#[derive(Clone, Default)]
pub struct Syncs {
    recorder: Option<Recorder>,
    /// Directories whose sync fails.
    #[cfg(test)]
    broken: Option<Broken>,
}

#[cfg(test)]
type Broken = Arc<dyn Fn(&FsPath) -> bool + Send + Sync>;

impl fmt::Debug for Syncs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syncs")
            .field("recorded", &self.recorder.is_some())
            .finish()
    }
}

impl Syncs {
    /// Syncs that tell `recorder`.
    pub fn recorded(recorder: Recorder) -> Syncs {
        Syncs {
            recorder: Some(recorder),
            #[cfg(test)]
            broken: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn broken(broken: impl Fn(&FsPath) -> bool + Send + Sync + 'static) -> Syncs {
        Syncs {
            broken: Some(Arc::new(broken)),
            ..Syncs::default()
        }
    }

    /// Syncs the names in a directory.
    fn directory(&self, directory: &FsPath) -> std::io::Result<()> {
        #[cfg(test)]
        if self.broken.as_ref().is_some_and(|broken| broken(directory)) {
            return Err(std::io::Error::other("the test said so"));
        }
        std::fs::File::open(directory)?.sync_all()?;
        self.tell(|| SyncEvent::Directory(directory.to_path_buf()));
        Ok(())
    }

    fn tell(&self, event: impl FnOnce() -> SyncEvent) {
        if let Some(recorder) = &self.recorder {
            recorder(event());
        }
    }
}

/// [`LocalFileSystem`] that syncs files and directories. Rooted at `/`: object paths are absolute paths without the first slash.
#[derive(Debug, Clone)]
pub struct SyncedStore {
    inner: Arc<LocalFileSystem>,
    syncs: Syncs,
}

impl Default for SyncedStore {
    fn default() -> Self {
        SyncedStore::new(Syncs::default())
    }
}

impl SyncedStore {
    /// A store over the whole file system.
    pub fn new(syncs: Syncs) -> SyncedStore {
        SyncedStore {
            inner: Arc::new(LocalFileSystem::new()),
            syncs,
        }
    }

    fn file_path(&self, location: &Path) -> Result<PathBuf> {
        self.inner.path_to_filesystem(location)
    }
}

impl fmt::Display for SyncedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SyncedStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for SyncedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(object_store::Error::NotImplemented {
                    operation: "`put_opts` with mode `PutMode::Update`".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let path = self.file_path(location)?;
        let syncs = self.syncs.clone();
        blocking(move || local::put(&path, &payload, create, &syncs)).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let path = self.file_path(location)?;
        prepare_parent(&path, &self.syncs).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(SyncedUpload {
            inner,
            path,
            syncs: self.syncs.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // A turn to another thread and back takes longer than most reads from the page cache. Whatever is not plain success is told by the other way.
        let path = self.file_path(location)?;
        match local::read_cached(&path, ranges) {
            Ok(read) => Ok(read),
            Err(_) => self.inner.get_ranges(location, ranges).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // The directory is synced after each file rather than once at the end: a caller that stops polling early
        // must not be left with names that come back.
        let store = self.clone();
        self.inner
            .delete_stream(locations)
            .then(move |deleted| {
                let store = store.clone();
                async move {
                    let location = deleted?;
                    let path = store.file_path(&location)?;
                    sync_names(&[&path], &store.syncs).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, target) = (self.file_path(from)?, self.file_path(to)?);
        // A copy is a hard link to the same bytes: sync them first, so that the new name never shows unsynced ones.
        sync_file_at(&source, &self.syncs).await?;
        prepare_parent(&target, &self.syncs).await?;
        self.inner.copy_opts(from, to, options).await?;
        sync_names(&[&target], &self.syncs).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (source, target) = (self.file_path(from)?, self.file_path(to)?);
        sync_file_at(&source, &self.syncs).await?;
        prepare_parent(&target, &self.syncs).await?;
        self.inner.rename_opts(from, to, options).await?;
        sync_names(&[&target, &source], &self.syncs).await
    }
}

/// A multipart upload whose completion is durable. Its parts carry no name until then, so syncing after the rename is enough:
/// nothing refers to a multipart object before `complete` returned.
#[derive(Debug)]
struct SyncedUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
    syncs: Syncs,
}

#[async_trait]
impl MultipartUpload for SyncedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        sync_file_at(&self.path, &self.syncs).await?;
        sync_names(&[&self.path], &self.syncs).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

async fn prepare_parent(path: &FsPath, syncs: &Syncs) -> Result<()> {
    let (path, syncs) = (path.to_path_buf(), syncs.clone());
    blocking(move || local::create_parent(&path, &syncs)).await
}

async fn sync_file_at(path: &FsPath, syncs: &Syncs) -> Result<()> {
    let (path, syncs) = (path.to_path_buf(), syncs.clone());
    blocking(move || local::sync_file(&path, &syncs)).await
}

async fn sync_names(paths: &[&PathBuf], syncs: &Syncs) -> Result<()> {
    let mut directories: Vec<PathBuf> = paths
        .iter()
        .filter_map(|path| path.parent().map(FsPath::to_path_buf))
        .collect();
    directories.dedup();
    let syncs = syncs.clone();
    blocking(move || {
        directories
            .iter()
            .try_for_each(|directory| local::sync_directory(directory, &syncs))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| object_store::Error::JoinError { source })?
}

/// Syncs the names in a directory, once more if need be.
///
/// # Errors
/// Whatever the file system says.
pub async fn sync_directory(directory: PathBuf, syncs: &Syncs) -> Result<()> {
    let syncs = syncs.clone();
    blocking(move || local::sync_directory(&directory, &syncs)).await
}

/// Makes a directory and what is missing above it, each name synced in its parent.
///
/// # Errors
/// Whatever the file system says.
pub fn create_dir_synced(directory: &FsPath, syncs: &Syncs) -> std::io::Result<()> {
    local::create_dir(directory, syncs)
}

#[cfg(test)]
mod tests;
