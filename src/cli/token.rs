//! `tailwater token add|list|revoke|hash`: the file of tokens, one line at a time.
//!
//! Guarantees: a token is shown once, when it is made, and is stored nowhere; the file changes in one step, one command after the other, and every
//! other line of it, comments too, stays as it is. Running servers see the change by themselves. An editor takes no lock: it may still undo a change.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use tailwater_config::access::{AccessFile, DEFAULT_TENANT, Role, Roles, end_of, is_name};
use tailwater_runtime::Exit;
use tailwater_runtime::access::{hash, hex, mint};

use super::{Common, print, tell};

/// Make, list and revoke tokens: who may send and ask, as which tenant.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tailwater token add shop-agent --tenant shop --role ingest --file /etc/tailwater/tokens"
)]
pub struct TokenArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a token and add its line to the file; the token is shown this once.
    #[command(after_help = "Examples:\n  \
        tailwater token add shop-agent --tenant shop --role ingest --file /etc/tailwater/tokens\n  \
        tailwater token add grafana --tenant shop --role read --expires 2027-12-31")]
    Add {
        /// What it is called: in logs, and for `revoke`.
        name: String,
        /// Whose rows it writes and reads.
        #[arg(long, default_value = DEFAULT_TENANT)]
        tenant: String,
        /// What it may be used for; several with commas between.
        #[arg(long, value_enum, value_delimiter = ',', required = true)]
        role: Vec<Word>,
        /// Its last day (UTC), as 2027-12-31.
        #[arg(long, value_name = "DATE")]
        expires: Option<String>,
        #[command(flatten)]
        file: File,
    },
    /// Show names, tenants, roles and last days.
    #[command(after_help = "Example:\n  tailwater token list --file /etc/tailwater/tokens")]
    List {
        #[command(flatten)]
        file: File,
    },
    /// Take a token's line out of the file. Exit 1 when there is none.
    #[command(after_help = "Example:\n  tailwater token revoke shop-agent --file /etc/tailwater/tokens")]
    Revoke {
        /// What it is called.
        name: String,
        #[command(flatten)]
        file: File,
    },
    /// Read a token from standard input and write its SHA-256, for a line of your own. Only for long random tokens.
    #[command(after_help = "Example:\n  openssl rand -hex 32 | tee agent.token | tailwater token hash")]
    Hash,
}

#[derive(Debug, Clone, Args)]
struct File {
    /// The file of tokens; without it, that of setting `access.tokens`.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    /// Send OTLP.
    Ingest,
    /// Ask.
    Read,
    /// Metrics and status of the processes, EXPLAIN.
    Admin,
}

impl Word {
    fn role(self) -> Role {
        match self {
            Word::Ingest => Role::Ingest,
            Word::Read => Role::Read,
            Word::Admin => Role::Admin,
        }
    }
}

/// Shortest token that `hash` takes, bytes: one round of SHA-256 does not protect what can be guessed.
const TOKEN_BYTES_MIN: usize = 32;

/// Runs the command.
///
/// # Errors
/// A file that cannot be read or written, or is not well formed; a name that is taken.
pub fn run(args: &TokenArgs, common: &Common) -> anyhow::Result<Exit> {
    match &args.what {
        What::Add {
            name,
            tenant,
            role,
            expires,
            file,
        } => {
            let path = place(file, common)?;
            let roles: Roles = role.iter().map(|word| word.role()).collect();
            let token = mint().context("random bytes")?;
            let today = chrono::Utc::now().timestamp();
            let line = line(
                name,
                tenant,
                roles,
                expires.as_deref().map(|date| (date, today)),
                &hash(token.reveal().as_bytes()),
            )?;
            change(&path, |text| added(&path, text, &line))?;
            print(&format!("{}\n", token.reveal()))?;
            tell(format_args!(
                "token {name} of tenant {tenant} is in {}; it is shown this once",
                path.display()
            ));
            Ok(Exit::Ok)
        }
        What::List { file } => {
            let path = place(file, common)?;
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            print(&table(&AccessFile::parse(&path, &text)?))?;
            Ok(Exit::Ok)
        }
        What::Revoke { name, file } => {
            let path = place(file, common)?;
            let mut found = false;
            change(&path, |text| {
                let (rest, was_there) = without(&path, text, name)?;
                found = was_there;
                Ok(rest)
            })?;
            if !found {
                tell(format_args!("tailwater: {} has no token {name}", path.display()));
                return Ok(Exit::No);
            }
            Ok(Exit::Ok)
        }
        What::Hash => {
            let mut token = Vec::new();
            std::io::stdin()
                .lock()
                .take(4096)
                .read_to_end(&mut token)
                .context("read the token from stdin")?;
            let token = token.trim_ascii();
            if token.len() < TOKEN_BYTES_MIN || token.iter().any(|byte| !byte.is_ascii_graphic()) {
                bail!(
                    "a token has at least {TOKEN_BYTES_MIN} visible ASCII characters, and they are random: `tailwater token add` makes one"
                );
            }
            print(&format!("{}\n", hex(&hash(token))))?;
            Ok(Exit::Ok)
        }
    }
}

fn place(file: &File, common: &Common) -> anyhow::Result<PathBuf> {
    match &file.file {
        Some(file) => Ok(file.clone()),
        None => common
            .load()?
            .access
            .tokens
            .clone()
            .context("which file? name it with --file, or set access.tokens"),
    }
}

/// The line of a token; `expires` is its last day, and the second it is now.
fn line(
    name: &str,
    tenant: &str,
    roles: Roles,
    expires: Option<(&str, i64)>,
    sha256: &[u8; 32],
) -> anyhow::Result<String> {
    for (what, word) in [("name", name), ("tenant", tenant)] {
        if !is_name(word) {
            bail!("{what}: expected 1 to 64 of A-Z, a-z, 0-9, _ and -");
        }
    }
    if let Some((date, now)) = expires {
        match end_of(date) {
            None => bail!("--expires: expected a date, as 2027-12-31"),
            Some(end) if end <= now => bail!("--expires: {date} is over: nobody could use the token"),
            Some(_) => {}
        }
    }
    let expires = expires.map_or(String::new(), |(date, _)| format!(" expires={date}"));
    Ok(format!(
        "token {name} tenant={tenant} roles={roles}{expires} sha256={}\n",
        hex(sha256)
    ))
}

/// The text with this line at its end, if it is a good file then.
fn added(path: &Path, text: &str, line: &str) -> anyhow::Result<String> {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    AccessFile::parse(path, &text)?;
    Ok(text)
}

/// The text without this token's line, and whether there was one.
fn without(path: &Path, text: &str, name: &str) -> anyhow::Result<(String, bool)> {
    let file = AccessFile::parse(path, text)?;
    let Some(token) = file.tokens.iter().find(|token| &*token.name == name) else {
        return Ok((text.to_owned(), false));
    };
    let rest = text
        .split_inclusive('\n')
        .enumerate()
        .filter(|(at, _)| at + 1 != token.line);
    Ok((rest.map(|(_, line)| line).collect(), true))
}

/// Replaces the file in one step, durably, readable by its owner (and whoever could read it before): root's changes leave it to the server's group.
fn change(path: &Path, new: impl FnOnce(&str) -> anyhow::Result<String>) -> anyhow::Result<()> {
    // A link stays one: what it names is replaced.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let _lock = lock(path)?;
    let (text, mode, owner) = match std::fs::read_to_string(path) {
        Ok(text) => {
            let about = std::fs::metadata(path)?;
            (
                text,
                about.permissions().mode() & 0o774,
                Some((about.uid(), about.gid())),
            )
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (String::new(), 0o600, None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let new = new(&text)?;
    if new == text {
        return Ok(());
    }
    let aside = beside(path, &format!(".{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(new.as_bytes())?;
        let made = file.metadata()?;
        if let Some((uid, gid)) = owner.filter(|owner| *owner != (made.uid(), made.gid())) {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&aside, path)
    })();
    written.map_err(|error| {
        let _ = std::fs::remove_file(&aside);
        anyhow::Error::new(error).context(path.display().to_string())
    })
}

/// From the look at the file until it is replaced nobody else changes it: who read it before a token was revoked would bring that token back. The
/// lock is a file of its own, which stays: the file of tokens is another one after each change.
fn lock(path: &Path) -> anyhow::Result<std::fs::File> {
    let beside = beside(path, ".lock");
    let locked = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&beside)
        .and_then(|file| Ok(rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).map(|()| file)?));
    locked.with_context(|| beside.display().to_string())
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut beside = path.to_owned().into_os_string();
    beside.push(end);
    beside.into()
}

fn table(file: &AccessFile) -> String {
    let mut rows = vec![["name", "tenant", "roles", "expires"].map(str::to_owned)];
    rows.extend(file.tokens.iter().map(|token| {
        let expires = token.expires.as_deref().unwrap_or("never");
        [
            token.name.to_string(),
            token.tenant.to_string(),
            token.roles.to_string(),
            expires.to_owned(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2].map(width);
    let line = |[name, tenant, roles, expires]: &[String; 4]| {
        let [a, b, c] = widths;
        format!("{name:a$}  {tenant:b$}  {roles:c$}  {expires}\n")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_come_and_go_and_the_others_stay() {
        let path = Path::new("tokens");
        let roles: Roles = [Role::Ingest].into_iter().collect();
        let agent = line("agent", "shop", roles, None, &[1; 32]).unwrap();
        let grafana = line("grafana", "shop", Roles::ALL, Some(("2027-12-31", 0)), &[2; 32]).unwrap();
        assert!(
            agent.starts_with("token agent tenant=shop roles=ingest sha256=0101"),
            "{agent}"
        );
        let start = "# ours\ntenant shop queries=2";
        let one = added(path, start, &agent).unwrap();
        let two = added(path, &one, &grafana).unwrap();
        assert!(
            added(path, &two, &agent)
                .unwrap_err()
                .to_string()
                .contains("there twice")
        );
        let shown = table(&AccessFile::parse(path, &two).unwrap());
        let expect = "name     tenant  roles              expires\n\
            agent    shop    ingest             never\n\
            grafana  shop    ingest,read,admin  2027-12-31\n";
        assert_eq!(shown, expect);
        let (rest, found) = without(path, &two, "agent").unwrap();
        assert!(found);
        assert_eq!(rest, format!("{start}\n{grafana}"));
        assert_eq!(without(path, &rest, "agent").unwrap(), (rest.clone(), false));
        assert!(line("a b", "shop", roles, None, &[0; 32]).is_err());
        assert!(line("a", "../x", roles, None, &[0; 32]).is_err());
        assert!(line("a", "x", roles, Some(("soon", 0)), &[0; 32]).is_err());
        // Good to the last second of its day.
        let new_year = 1_577_923_200;
        assert!(line("a", "x", roles, Some(("2020-01-01", new_year - 1)), &[0; 32]).is_ok());
        assert!(line("a", "x", roles, Some(("2020-01-01", new_year)), &[0; 32]).is_err());
    }

    #[test]
    fn the_file_is_its_owners() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let line = line("agent", "shop", Roles::ALL, None, &[1; 32]).unwrap();
        change(&path, |text| added(&path, text, &line)).unwrap();
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        change(&path, |text| Ok(without(&path, text, "agent")?.0)).unwrap();
        assert_eq!(
            (mode(), std::fs::read_to_string(&path).unwrap()),
            (0o640, String::new())
        );
        // Root can give it to any group, others to theirs.
        let of = std::fs::metadata(&path).unwrap();
        let groups = rustix::process::getgroups().unwrap();
        let other = match rustix::process::geteuid().is_root() {
            true => Some(of.gid() + 1),
            false => groups.iter().map(|group| group.as_raw()).find(|gid| *gid != of.gid()),
        };
        if let Some(gid) = other {
            std::os::unix::fs::chown(&path, None, Some(gid)).unwrap();
            change(&path, |text| added(&path, text, &line)).unwrap();
            assert_eq!(
                std::fs::metadata(&path).unwrap().gid(),
                gid,
                "the server can read it still"
            );
        }
        assert!(change(&path, |_| bail!("no")).is_err());
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            2,
            "nothing is left beside it but its lock"
        );
    }

    #[test]
    fn commands_at_the_same_time_undo_nothing_of_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let line = |name: &str| line(name, "shop", Roles::ALL, None, &hash(name.as_bytes())).unwrap();
        let add = |name: &str| change(&path, |text| added(&path, text, &line(name))).unwrap();
        let revoke = |name: &str| change(&path, |text| Ok(without(&path, text, name)?.0)).unwrap();
        let both = 0..8;
        both.clone().for_each(|at| add(&format!("old-{at}")));
        let start = std::sync::Barrier::new(2 * both.len());
        let (add, revoke, start) = (&add, &revoke, &start);
        std::thread::scope(|scope| {
            for at in both.clone() {
                scope.spawn(move || {
                    start.wait();
                    add(&format!("new-{at}"));
                });
                scope.spawn(move || {
                    start.wait();
                    revoke(&format!("old-{at}"));
                });
            }
        });
        let file = AccessFile::parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
        let mut names: Vec<String> = file.tokens.iter().map(|token| token.name.to_string()).collect();
        names.sort();
        assert_eq!(names, both.map(|at| format!("new-{at}")).collect::<Vec<_>>());
    }
}
