//! The control page: how a log's writer tells readers in other processes what they may read.
//!
//! Guarantees: a reader gets numbers that were true together at one moment, and none of them before the fdatasync that made them
//! true. A value that survives a crash is therefore a true (perhaps old) statement of what was durable.
//!
//! ```text
//! word 0  magic               5  durable seq
//!      1  version | kind<<32  6  generation of the last segment with durable records
//!      2  log id              7  its base seq
//!      3  log id              8  end offset of durable bytes in it
//!      4  turn (odd: being    9  generation of the oldest live segment
//!         written)           10  check over 5..=9
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use crate::error::{Error, Kind, Result};
use crate::map::{PAGE_BYTES, SharedPage};

const MAGIC: u64 = u64::from_le_bytes(*b"TWWALCTL");
const VERSION: u32 = 1;
/// Retries of a read that met the writer in the middle; a write takes nanoseconds.
const READ_TURNS: usize = 1 << 16;

/// What the control page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Largest durable sequence number; 0 if none.
    pub durable: u64,
    /// Generation of the last segment with durable records.
    pub generation: u64,
    /// Its first sequence number.
    pub base: u64,
    /// Offset behind the last durable byte in it.
    pub end: u64,
    /// Generation of the oldest live segment.
    pub first_generation: u64,
}

impl Published {
    fn words(&self) -> [u64; 5] {
        [
            self.durable,
            self.generation,
            self.base,
            self.end,
            self.first_generation,
        ]
    }

    fn check(&self) -> u64 {
        self.words().iter().fold(MAGIC, |sum, word| {
            sum.rotate_left(13).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word
        })
    }
}

/// The writer's side.
pub(crate) struct ControlWriter {
    page: SharedPage,
}

impl ControlWriter {
    /// Opens or makes the page. Also answers what the last writer said, if the page is of this log.
    pub(crate) fn open(path: &Path, log_id: &[u8; 16], kind: u32) -> Result<(ControlWriter, Option<Published>)> {
        let failed = |e| Error::io(format!("control page {}", path.display()), e);
        let ids = identity(log_id, kind);
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => match SharedPage::map(&file, true) {
                Ok(page) if page_identity(&page) == ids => {
                    let last = read(&page);
                    return Ok((ControlWriter { page }, last));
                }
                // Too short, or of another log: replaced below, so that readers of the old one are not confused.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(failed(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let page = make(path, &ids).map_err(failed)?;
        Ok((ControlWriter { page }, None))
    }

    /// Publishes. Call after the sync that makes it true, from one thread at a time.
    pub(crate) fn publish(&self, what: &Published) {
        let words = self.page.words();
        // A writer that died in the middle left an odd turn; `| 1` takes it from there.
        let turn = words[4].load(Ordering::Relaxed) | 1;
        words[4].store(turn, Ordering::Relaxed);
        fence(Ordering::Release);
        for (slot, word) in words[5..10].iter().zip(what.words()) {
            slot.store(word, Ordering::Relaxed);
        }
        words[10].store(what.check(), Ordering::Relaxed);
        words[4].store(turn.wrapping_add(1), Ordering::Release);
    }
}

/// The reader's side.
pub(crate) struct ControlReader {
    page: SharedPage,
    pub(crate) log_id: [u8; 16],
    pub(crate) kind: u32,
}

impl ControlReader {
    pub(crate) fn open(path: &Path) -> Result<ControlReader> {
        let failed = |e| Error::io(format!("control page {}", path.display()), e);
        let file = File::open(path).map_err(failed)?;
        let page = SharedPage::map(&file, false).map_err(failed)?;
        let [magic, version_kind, a, b] = page_identity(&page);
        let version = version_kind as u32;
        if magic != MAGIC {
            return Err(Error::new(
                Kind::Foreign,
                format!("{} is not a control page", path.display()),
            ));
        }
        if version > VERSION {
            let message = format!(
                "control page {} has format {version}, this program knows {VERSION}",
                path.display()
            );
            return Err(Error::new(Kind::Newer, message));
        }
        let mut log_id = [0; 16];
        log_id[..8].copy_from_slice(&a.to_le_bytes());
        log_id[8..].copy_from_slice(&b.to_le_bytes());
        Ok(ControlReader {
            page,
            log_id,
            kind: (version_kind >> 32) as u32,
        })
    }

    /// One consistent reading; `None` while nothing was published or if the writer died in the middle.
    pub(crate) fn read(&self) -> Option<Published> {
        read(&self.page)
    }
}

fn read(page: &SharedPage) -> Option<Published> {
    let words = page.words();
    for _ in 0..READ_TURNS {
        let before = words[4].load(Ordering::Acquire);
        let at = |i: usize| words[i].load(Ordering::Relaxed);
        let what = Published {
            durable: at(5),
            generation: at(6),
            base: at(7),
            end: at(8),
            first_generation: at(9),
        };
        let check = at(10);
        fence(Ordering::Acquire);
        let after = words[4].load(Ordering::Relaxed);
        if before == after && before & 1 == 0 {
            return (before != 0 && check == what.check()).then_some(what);
        }
        std::hint::spin_loop();
    }
    None
}

fn identity(log_id: &[u8; 16], kind: u32) -> [u64; 4] {
    let mut halves = [[0u8; 8]; 2];
    halves[0].copy_from_slice(&log_id[..8]);
    halves[1].copy_from_slice(&log_id[8..]);
    let [a, b] = halves.map(u64::from_le_bytes);
    [MAGIC, u64::from(VERSION) | u64::from(kind) << 32, a, b]
}

fn page_identity(page: &SharedPage) -> [u64; 4] {
    let words = page.words();
    [0, 1, 2, 3].map(|i: usize| words[i].load(Ordering::Relaxed))
}

/// Writes all 4096 bytes before mapping, so that a full disk is an error here and not a SIGBUS later.
fn make(path: &Path, ids: &[u64; 4]) -> io::Result<SharedPage> {
    let mut block = [0u8; PAGE_BYTES];
    for (slot, word) in block.chunks_exact_mut(8).zip(ids) {
        slot.copy_from_slice(&word.to_ne_bytes());
    }
    let aside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&aside)?;
    file.write_all(&block)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    if let Some(dir) = path.parent() {
        File::open(if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        })?
        .sync_all()?;
    }
    SharedPage::map(&file, true)
}
