//! The control page: how a log's writer tells readers in other processes what they may read.
//!
//! Guarantees: a reader gets numbers that were true together at one moment, and none of them before the fdatasync that made them
//! true. A value that survives a crash is therefore a true (perhaps old) statement of what was durable. There are two slots,
//! written in turn, so a writer that is stopped or dies halfway through one leaves the other to be read: readers never wait.
//!
//! ```text
//! word 0      magic                    slot +0  durable seq
//!      1      version | kind << 32          +1  generation of the last segment with durable records
//!      2, 3   log id                        +2  its base seq
//!      4      turn: slot (turn % 2)         +3  end offset of durable bytes in it
//!             is the newest; 0: none        +4  generation of the oldest live segment
//!      5..11  slot 0                        +5  check over the five
//!      11..17 slot 1
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::error::{Error, Kind, Result};
use crate::map::{PAGE_BYTES, SharedPage};

const MAGIC: u64 = u64::from_le_bytes(*b"TWWALCTL");
const VERSION: u32 = 1;
const TURN: usize = 4;
const SLOT_WORDS: usize = 6;

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
        let turn = words[TURN].load(Ordering::Relaxed).wrapping_add(1);
        // Whoever sees a store below has to see the turn before this one, too: then it knows its slot is being reused.
        fence(Ordering::Release);
        for (word, value) in slot(words, turn)
            .iter()
            .zip(what.words().into_iter().chain([what.check()]))
        {
            word.store(value, Ordering::Relaxed);
        }
        words[TURN].store(turn, Ordering::Release);
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

    /// One consistent reading; `None` if nothing was ever published.
    pub(crate) fn read(&self) -> Result<Option<Published>> {
        match read(&self.page) {
            None if self.page.words()[TURN].load(Ordering::Relaxed) != 0 => {
                Err(Error::new(Kind::Io, "the control page does not verify"))
            }
            read => Ok(read),
        }
    }
}

fn slot(words: &[AtomicU64], turn: u64) -> &[AtomicU64] {
    let start = TURN + 1 + (turn % 2) as usize * SLOT_WORDS;
    &words[start..start + SLOT_WORDS]
}

fn read(page: &SharedPage) -> Option<Published> {
    let words = page.words();
    loop {
        let turn = words[TURN].load(Ordering::Acquire);
        let [newest, older] = [turn, turn.wrapping_add(1)].map(|turn| {
            let at = |i: usize| slot(words, turn)[i].load(Ordering::Relaxed);
            let what = Published {
                durable: at(0),
                generation: at(1),
                base: at(2),
                end: at(3),
                first_generation: at(4),
            };
            (at(5) == what.check()).then_some(what)
        });
        fence(Ordering::Acquire);
        // Once more only if the writer published meanwhile.
        if words[TURN].load(Ordering::Relaxed) == turn {
            // A page that a power cut tore may still hold the older statement, which is as true.
            return if turn == 0 { None } else { newest.or(older) };
        }
        std::hint::spin_loop();
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn nth(n: u64) -> Published {
        Published {
            durable: n,
            generation: n / 7,
            base: n ^ 0xff,
            end: n * 64,
            first_generation: n / 9,
        }
    }

    #[test]
    fn readings_are_never_mixed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let (writer, last) = ControlWriter::open(&path, &[7; 16], 3).unwrap();
        assert_eq!(last, None);
        let reader = ControlReader::open(&path).unwrap();
        assert_eq!((reader.log_id, reader.kind, reader.read().unwrap()), ([7; 16], 3, None));
        writer.publish(&nth(1));
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=200_000).for_each(|n| writer.publish(&nth(n))));
            let mut last = 0;
            while last < 200_000 {
                let now = reader.read().unwrap().unwrap();
                assert!(now.durable >= last);
                assert_eq!(now, nth(now.durable));
                last = now.durable;
            }
        });
    }

    #[test]
    fn a_writer_that_dies_halfway_leaves_the_statement_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let (writer, _) = ControlWriter::open(&path, &[7; 16], 3).unwrap();
        writer.publish(&nth(5));
        writer.publish(&nth(6));
        // Publishing 7 would write the slot of 5.
        slot(writer.page.words(), 3)[0].store(7, Ordering::SeqCst);
        drop(writer);
        assert_eq!(ControlReader::open(&path).unwrap().read().unwrap(), Some(nth(6)));
        let (writer, last) = ControlWriter::open(&path, &[7; 16], 3).unwrap();
        assert_eq!(last, Some(nth(6)));
        writer.publish(&nth(7));
        assert_eq!(ControlReader::open(&path).unwrap().read().unwrap(), Some(nth(7)));
    }

    #[test]
    fn flipped_bits_and_other_logs_are_no_claim() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let (writer, _) = ControlWriter::open(&path, &[7; 16], 3).unwrap();
        writer.publish(&nth(5));
        slot(writer.page.words(), 1)[0].fetch_xor(1 << 40, Ordering::SeqCst);
        assert_eq!(ControlWriter::open(&path, &[7; 16], 3).unwrap().1, None);
        assert_eq!(
            ControlReader::open(&path).unwrap().read().map_err(|e| e.kind()),
            Err(Kind::Io)
        );
        // Another log's page is replaced, not believed.
        writer.publish(&nth(6));
        assert_eq!(ControlWriter::open(&path, &[8; 16], 3).unwrap().1, None);
    }
}
