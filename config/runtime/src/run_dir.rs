//! `<data>/run/<role>.json`: where a running role listens, so that `status` and `sql` find it without being told.
//!
//! Guarantees: a reader sees a whole file or none; a file left behind by a process that is gone is recognised, also when its pid is used
//! again. Assumes one process per role and data directory (the locks see to that). Leaves out: any promise that the role is ready.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::process::start_ticks;

/// Makes a directory that only this user may enter, with its parents. One that is there stays as it is: somebody may share it on purpose, and it
/// may be one that is not ours to close; that is a warning.
///
/// # Errors
/// When it cannot be made.
pub fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    if let Ok(about) = fs::metadata(dir)
        && about.is_dir()
    {
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(dir = %dir.display(), mode = format_args!("{mode:o}"), "others may enter the data directory; 700 keeps telemetry to this user");
        }
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        // Another role was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        done => done,
    }
}

/// What a role says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// `collector`, `query`, `maintain`, `run`.
    pub role: String,
    /// Its process.
    pub pid: u32,
    /// Start of that process in clock ticks since boot, which tells it from a later one with its pid.
    pub start_ticks: u64,
    /// When the file was written, milliseconds since 1970.
    pub started_ms: u64,
    /// Where it listens, by key of the setting, with real ports.
    pub addresses: BTreeMap<String, SocketAddr>,
}

impl RunFile {
    /// This process, in this role, listening there.
    #[must_use]
    pub fn new<K: Into<String>>(role: &str, addresses: impl IntoIterator<Item = (K, SocketAddr)>) -> Self {
        let pid = std::process::id();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            role: role.into(),
            pid,
            start_ticks: start_ticks(pid).unwrap_or(0),
            started_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            addresses: addresses
                .into_iter()
                .map(|(key, address)| (key.into(), address))
                .collect(),
        }
    }

    /// The process that wrote it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Where a client on this machine reaches the listener of `key`: an address for all interfaces becomes loopback.
    #[must_use]
    pub fn reach(&self, key: &str) -> Option<SocketAddr> {
        let mut address = *self.addresses.get(key)?;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        Some(address)
    }

    /// As [`RunFile::write`], but a role that cannot say where it is (the disk is full) works all the same: that is a warning.
    #[must_use]
    pub fn announce(self, data: &Path) -> Option<Registered> {
        self.write(data)
            .inspect_err(|error| tracing::warn!(%error, data = %data.display(), "cannot write the run file; `status` and `sql` will not find this role"))
            .ok()
    }

    /// Writes the file under `data`, in one step. It is removed when the result is dropped.
    ///
    /// # Errors
    /// When the directory or file cannot be written.
    pub fn write(self, data: &Path) -> io::Result<Registered> {
        let path = path(data, &self.role);
        let dir = data.join("run");
        fs::create_dir_all(&dir)?;
        let mut text = serde_json::to_vec_pretty(&self)?;
        text.push(b'\n');
        // The pid keeps two processes that start at once from writing into one file.
        let aside = dir.join(format!(".{}.{}.tmp", self.role, self.pid));
        let mut file = fs::File::create(&aside)?;
        file.write_all(&text)?;
        drop(file);
        // No fsync: the file says nothing after a crash that its pid would not belie.
        fs::rename(&aside, &path).inspect_err(|_| drop(fs::remove_file(&aside)))?;
        Ok(Registered { path, file: self })
    }
}

/// The file of a role, while this process runs it.
#[derive(Debug)]
pub struct Registered {
    path: PathBuf,
    file: RunFile,
}

impl Registered {
    /// What it says.
    #[must_use]
    pub fn file(&self) -> &RunFile {
        &self.file
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // A successor may have written its own by now.
        if matches!(load(&self.path), Ok(Some(now)) if now == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The file of a role that still runs. `None` when there is none, or what is there is stale.
///
/// # Errors
/// When the file is there and cannot be read or understood.
pub fn read(data: &Path, role: &str) -> io::Result<Option<RunFile>> {
    Ok(load(&path(data, role))?.filter(RunFile::is_alive))
}

fn path(data: &Path, role: &str) -> PathBuf {
    data.join("run").join(format!("{role}.json"))
}

fn load(path: &Path) -> io::Result<Option<RunFile>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let wrong = |e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()));
    serde_json::from_slice(&text).map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file() -> RunFile {
        RunFile::new(
            "query",
            [
                ("query.listen", "0.0.0.0:4319".parse().unwrap()),
                ("admin.query", "[::]:4321".parse().unwrap()),
            ],
        )
    }

    #[test]
    fn found_while_it_runs() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(read(data.path(), "query").unwrap(), None);
        let registered = file().write(data.path()).unwrap();
        let found = read(data.path(), "query").unwrap().unwrap();
        assert_eq!(&found, registered.file());
        assert_eq!(found.pid, std::process::id());
        assert_eq!(found.reach("query.listen"), Some("127.0.0.1:4319".parse().unwrap()));
        assert_eq!(found.reach("admin.query"), Some("[::1]:4321".parse().unwrap()));
        assert_eq!(found.reach("intake.grpc.listen"), None);
        drop(registered);
        assert_eq!(read(data.path(), "query").unwrap(), None);
        assert_eq!(fs::read_dir(data.path().join("run")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_left_behind_is_stale() {
        let data = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let start_ticks = start_ticks(pid).unwrap_or(0);
        let gone = RunFile {
            pid,
            start_ticks,
            ..file()
        };
        child.wait().unwrap();
        assert!(!gone.is_alive());
        // Our own pid, but an earlier process that had it.
        let earlier = RunFile {
            start_ticks: 1,
            ..file()
        };
        assert!(!earlier.is_alive());
        let registered = earlier.write(data.path()).unwrap();
        assert_eq!(read(data.path(), "query").unwrap(), None);
        std::mem::forget(registered);
    }

    #[test]
    fn a_successor_keeps_its_file() {
        let data = tempfile::tempdir().unwrap();
        let old = RunFile {
            started_ms: 1,
            ..file()
        }
        .write(data.path())
        .unwrap();
        let new = RunFile {
            started_ms: 2,
            ..file()
        }
        .write(data.path())
        .unwrap();
        drop(old);
        assert_eq!(read(data.path(), "query").unwrap().as_ref(), Some(new.file()));
    }

    #[test]
    fn a_new_directory_is_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/data");
        let mode = |dir: &Path| fs::metadata(dir).unwrap().permissions().mode() & 0o777;
        make_private(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        make_private(&dir).unwrap();
        assert_eq!(mode(&dir), 0o750, "what somebody chose stays");
        fs::write(root.path().join("file"), "").unwrap();
        assert!(make_private(&root.path().join("file")).is_err());
    }

    #[test]
    fn nonsense_is_an_error() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir_all(data.path().join("run")).unwrap();
        fs::write(data.path().join("run/query.json"), "{").unwrap();
        assert!(
            read(data.path(), "query")
                .unwrap_err()
                .to_string()
                .contains("query.json")
        );
    }
}
