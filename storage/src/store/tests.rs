#![allow(clippy::unwrap_used)]
use std::io::Write;

use object_store::{ObjectStoreExt, PutMode};
use parking_lot::Mutex;

use super::*;

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<SyncEvent>>>);

impl Seen {
    fn syncs(&self) -> Syncs {
        let seen = self.0.clone();
        Syncs::recorded(Arc::new(move |event| seen.lock().push(event)))
    }

    fn take(&self) -> Vec<SyncEvent> {
        std::mem::take(&mut *self.0.lock())
    }
}

fn location(path: &FsPath) -> Path {
    Path::from_absolute_path(path).unwrap()
}

fn fixture() -> (tempfile::TempDir, Seen, SyncedStore) {
    let seen = Seen::default();
    let store = SyncedStore::new(seen.syncs());
    (tempfile::tempdir().unwrap(), seen, store)
}

#[tokio::test]
async fn create_syncs_file_then_every_new_directory_and_the_name() {
    let (dir, seen, store) = fixture();
    let path = dir.path().join("a/b/0.json");
    let create = PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    store
        .put_opts(&location(&path), "one".into(), create.clone())
        .await
        .unwrap();
    let expected = vec![
        SyncEvent::Directory(dir.path().to_path_buf()),
        SyncEvent::Directory(dir.path().join("a")),
        SyncEvent::File(path.clone()),
        SyncEvent::Directory(dir.path().join("a/b")),
    ];
    assert_eq!(seen.take(), expected);
    let second = store.put_opts(&location(&path), "two".into(), create).await;
    assert!(
        matches!(second, Err(object_store::Error::AlreadyExists { .. })),
        "{second:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"one");
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "no staging file is left: {left:?}");
}

#[tokio::test]
async fn overwrite_copy_rename_delete_sync_what_they_name() {
    let (dir, seen, store) = fixture();
    let at = |name: &str| dir.path().join(name);
    store.put(&location(&at("x")), "one".into()).await.unwrap();
    store.put(&location(&at("x")), "two".into()).await.unwrap();
    assert_eq!(std::fs::read(at("x")).unwrap(), b"two");
    seen.take();

    let here = SyncEvent::Directory(dir.path().to_path_buf());
    store.copy(&location(&at("x")), &location(&at("y"))).await.unwrap();
    assert_eq!(seen.take(), vec![SyncEvent::File(at("x")), here.clone()]);
    store
        .rename(&location(&at("y")), &location(&at("sub/z")))
        .await
        .unwrap();
    assert_eq!(
        seen.take(),
        vec![
            SyncEvent::File(at("y")),
            here.clone(),
            SyncEvent::Directory(at("sub")),
            here.clone()
        ],
    );
    store.delete(&location(&at("x"))).await.unwrap();
    assert_eq!(seen.take(), vec![here]);
    assert!(!at("x").exists());
    assert_eq!(
        store
            .get(&location(&at("sub/z")))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .as_ref(),
        b"two"
    );
}

#[tokio::test]
async fn multipart_is_durable_when_complete_returns() {
    let (dir, seen, store) = fixture();
    let path = dir.path().join("part.parquet");
    let mut upload = store.put_multipart(&location(&path)).await.unwrap();
    upload.put_part("abc".into()).await.unwrap();
    upload.put_part("def".into()).await.unwrap();
    assert!(seen.take().is_empty(), "nothing to sync before the end");
    upload.complete().await.unwrap();
    assert_eq!(
        seen.take(),
        vec![
            SyncEvent::File(path.clone()),
            SyncEvent::Directory(dir.path().to_path_buf())
        ]
    );
    assert_eq!(std::fs::read(path).unwrap(), b"abcdef");
}

#[test]
fn a_paced_file_starts_write_back_every_mebibyte_and_forgets_its_pages() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    let path = dir.path().join("data.parquet");
    let mut file = PacedFile::create(&path, &seen.syncs()).unwrap();
    for _ in 0..40 {
        file.write_all(&[7; 64 << 10]).unwrap();
    }
    assert_eq!(file.finish().unwrap(), 40 * (64 << 10));
    let range = || SyncEvent::Range(path.clone(), 1 << 20);
    assert_eq!(
        seen.take(),
        vec![
            range(),
            range(),
            SyncEvent::File(path.clone()),
            SyncEvent::Directory(dir.path().to_path_buf()),
            SyncEvent::Forget(path.clone()),
        ],
    );
}

/// What the page cache has and what it may not have are told alike, and so is what cannot be read.
#[tokio::test]
async fn ranges_are_pieces_of_the_file() {
    let (dir, _, store) = fixture();
    let path = dir.path().join("a");
    let bytes: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let (at, absent) = (location(&path), location(&dir.path().join("b")));
    let ranges = [0..1, 99_999..100_000, 4_095..70_001, 5..5, 0..100_000];
    for _ in 0..2 {
        let read = store.get_ranges(&at, &ranges).await.unwrap();
        let expected = ranges
            .iter()
            .map(|range| &bytes[range.start as usize..range.end as usize]);
        assert!(read.iter().map(|read| &read[..]).eq(expected));
        let file = std::fs::File::open(&path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    for past_the_end in [100_000..100_001, 99_000..100_001, 0..u64::MAX] {
        assert!(
            local::read_cached(&path, std::slice::from_ref(&past_the_end)).is_err(),
            "{past_the_end:?}"
        );
    }
    let error = store.get_ranges(&absent, &ranges).await.unwrap_err();
    assert!(matches!(error, object_store::Error::NotFound { .. }), "{error}");
}
