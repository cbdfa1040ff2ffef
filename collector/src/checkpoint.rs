//! The checkpoint file: written aside, synced, renamed, directory synced (P7).
//!
//! Assumes: one writer at a time, or an older checkpoint could replace a newer one. The name aside is new each time all the same, so that
//! no two ever write the same file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tailwater_journal::Reasons;
use tailwater_journal::checkpoint::Checkpoint;
use tailwater_model::ids::LogId;

/// Name in the data directory.
pub const FILE: &str = "checkpoint";
const LOG_ID_FILE: &str = "log_id";
/// End of the names of files written aside.
const ASIDE: &str = ".new";

/// Reads the checkpoint, at the start; `None` on a new directory. What a crash left of files written aside goes.
///
/// # Errors
/// When it cannot be read or does not verify. It is never skipped: without it, settled records would be settled again.
pub fn load(data: &Path, reasons: &Reasons) -> io::Result<Option<Checkpoint>> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if is_aside(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    let path = data.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Checkpoint::decode(&bytes, reasons)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

/// Replaces the checkpoint durably.
///
/// # Errors
/// Those of the file system; the old checkpoint is still whole then.
pub fn store(data: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(&data.join(FILE), bytes)
}

/// The identity of a data directory, drawn once and kept for its life (P1).
///
/// # Errors
/// Those of the file system; a file that holds no identity.
pub fn log_id(data: &Path) -> io::Result<LogId> {
    let path = data.join(LOG_ID_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mut id = [0; 16];
            hex::decode_to_slice(text.trim(), &mut id)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))?;
            Ok(LogId(id))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = LogId(rand::random());
            replace(&path, format!("{id}\n").as_bytes())?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

/// Replaces a file of the data directory durably.
///
/// # Errors
/// Those of the file system; the old file is still whole then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside: PathBuf = path.with_extension(format!("{:016x}{ASIDE}", rand::random::<u64>()));
    let written = (|| {
        let mut file = File::create_new(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    })();
    if let Err(error) = written {
        // On a full disk each attempt would leave one more; what cannot be removed now goes at the next start.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    let directory = path.parent().expect("the file lies in the data directory");
    File::open(directory)?.sync_all()
}

/// Whether [`replace`] wrote, or would have written, a file of this name. Without the digits it is one of an earlier program.
fn is_aside(name: &str) -> bool {
    let digits = [FILE, LOG_ID_FILE]
        .iter()
        .find_map(|file| name.strip_prefix(file)?.strip_suffix(ASIDE));
    digits.is_some_and(|digits| {
        let digits = digits.strip_prefix('.').unwrap_or(digits);
        digits.is_empty() || digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_aside_goes_at_the_start() {
        let data = tempfile::tempdir().unwrap();
        let names = [
            "checkpoint.0123456789abcdef.new",
            "checkpoint.new",
            "log_id.0123456789abcdef.new",
            "checkpoint.mine.new",
            "other.new",
        ];
        for name in names {
            fs::write(data.path().join(name), "half").unwrap();
        }
        assert!(load(data.path(), &Reasons::default()).unwrap().is_none());
        log_id(data.path()).unwrap();
        store(data.path(), b"rubbish").unwrap();
        let left = fs::read_dir(data.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["checkpoint", "checkpoint.mine.new", "log_id", "other.new"]);
    }

    #[test]
    fn an_identity_is_drawn_once() {
        let data = tempfile::tempdir().unwrap();
        let first = log_id(data.path()).unwrap();
        assert_eq!(log_id(data.path()).unwrap(), first);
        fs::write(data.path().join(LOG_ID_FILE), "not hex").unwrap();
        assert!(log_id(data.path()).unwrap_err().to_string().contains(LOG_ID_FILE));
    }

    #[test]
    fn a_damaged_checkpoint_is_an_error_that_names_it() {
        let data = tempfile::tempdir().unwrap();
        let reasons = Reasons::default();
        assert!(load(data.path(), &reasons).unwrap().is_none());
        store(data.path(), b"rubbish").unwrap();
        assert!(load(data.path(), &reasons).unwrap_err().to_string().contains(FILE));
    }
}
