//! From a file, the environment and the caller's pairs to a [`Config`] whose values can be trusted, or to every problem at once.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::check;
use crate::problem::{Origin, Problem, Problems};
use crate::section::{Field, Meta, Reader, Setting};
use crate::settings::Settings;
use crate::yaml;

/// What the name of every environment variable of a setting begins with.
pub(crate) const PREFIX: &str = "TAILWATER_";

/// Variables with the prefix that are not settings: the file to read, what a supervisor hands to its children, and what a client shows a server.
pub const RESERVED_VARIABLES: [&str; 7] = [
    "TAILWATER_CONFIG",
    "TAILWATER_LISTEN_FDS",
    "TAILWATER_SUPERVISOR_FD",
    "TAILWATER_TOKEN",
    "TAILWATER_CA",
    "TAILWATER_CLIENT_CERT",
    "TAILWATER_CLIENT_KEY",
];

/// The exit code of a program that was given a bad configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// The top of the tree, which has no name.
pub(crate) const ROOT: Meta = Meta {
    name: "",
    doc: &[],
    default: None,
    range: None,
};

/// Checked settings. Reads like [`Settings`]: `config.intake.grpc.listen`.
///
/// Guarantees: every value is in its range and no two contradict each other. What depends on the machine is checked by
/// [`Config::limits`].
#[derive(Clone, Debug)]
pub struct Config {
    settings: Settings,
    origins: Arc<BTreeMap<String, Origin>>,
}

impl std::ops::Deref for Config {
    type Target = Settings;
    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Config {
    /// Reads the file (if there is one), then lays the environment over it, then the caller's `overrides` by full key (`("data", "/x")`).
    ///
    /// Of `env` only names that begin with `TAILWATER_` are looked at; an empty variable counts as not set. [`environment`] is the process's own.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file, then the rest.
    pub fn load<E, O, K, V>(file: Option<&Path>, env: E, overrides: O) -> Result<Self, Problems>
    where
        E: IntoIterator<Item = (String, String)>,
        O: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        let path = file.unwrap_or(Path::new(""));
        let text = match file.map(read_text).transpose() {
            Ok(text) => text.unwrap_or_default(),
            Err(message) => {
                let origin = Origin::File {
                    path: Arc::new(path.into()),
                    line: 1,
                    column: 1,
                };
                return Err(Problems::one(Problem {
                    origin,
                    key: String::new(),
                    message,
                    nearest: None,
                }));
            }
        };
        Self::from_text(path, &text, env, overrides)
    }

    /// [`Config::load`] with the file's text in hand; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text<E, O, K, V>(path: &Path, text: &str, env: E, overrides: O) -> Result<Self, Problems>
    where
        E: IntoIterator<Item = (String, String)>,
        O: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        let catalogue = catalogue();
        let (root, faults) = yaml::parse(text);
        let (env, unknown_env) = by_key(env, &catalogue);
        let (overrides, unknown_overrides): (BTreeMap<String, String>, BTreeMap<_, _>) = overrides
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .partition(|(k, _)| catalogue.iter().any(|s| s.key == *k && s.default.is_some()));
        let mut reader = Reader {
            file: Arc::new(PathBuf::from(path)),
            env: &env,
            overrides: &overrides,
            catalogue: &catalogue,
            problems: Vec::new(),
            origins: BTreeMap::new(),
            broken: Default::default(),
        };
        for fault in faults {
            let origin = reader.at(fault.at);
            reader.problems.push(Problem {
                origin,
                key: String::new(),
                message: fault.message,
                nearest: None,
            });
        }
        let settings = Settings::read(&ROOT, "", root.as_ref(), &mut reader);
        for name in unknown_env {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            let nearest = reader
                .nearest_key(&key)
                .and_then(|near| catalogue.iter().find(|s| s.key == near))
                .map(Setting::variable);
            reader.problems.push(Problem {
                origin: Origin::Env(name),
                key: String::new(),
                message: "no setting has this variable".into(),
                nearest,
            });
        }
        for key in unknown_overrides.into_keys() {
            let nearest = reader.nearest_key(&key);
            reader.problems.push(Problem {
                origin: Origin::Override(key.clone()),
                key,
                message: "unknown key".into(),
                nearest,
            });
        }
        let Reader {
            mut problems,
            origins,
            broken,
            ..
        } = reader;
        let config = Self {
            settings,
            origins: Arc::new(origins),
        };
        // A stand-in for a broken value says nothing about the others.
        problems.extend(
            check::contradictions(&config)
                .into_iter()
                .filter(|c| !c.keys.iter().any(|key| broken.contains(*key)))
                .map(|c| config.conflict(&c.keys, c.message)),
        );
        problems.sort_by_key(|p| match &p.origin {
            Origin::File { line, column, .. } => (0, *line, *column),
            Origin::Env(_) => (1, 0, 0),
            Origin::Override(_) => (2, 0, 0),
            Origin::Default => (3, 0, 0),
        });
        Problems::or(problems, config)
    }

    /// Defaults and these pairs, without file or environment. What tests want: `Config::of(&[("data", dir), ("intake.grpc.listen", "127.0.0.1:0")])`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of(pairs: &[(&str, &str)]) -> Result<Self, Problems> {
        Self::from_text(Path::new(""), "", [], pairs.iter().copied())
    }

    /// Where the value of a key came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Somebody set this key.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        *self.origin(key) != Origin::Default
    }

    /// The directory of the intake log and the outbox: `storage.wal_dir`, or the data directory.
    #[must_use]
    pub fn wal_dir(&self) -> &Path {
        self.storage.wal_dir.as_deref().unwrap_or(&self.data)
    }

    /// The effective values by key, in the order of the catalogue; secrets redacted.
    #[must_use]
    pub fn values(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        self.settings.show(&ROOT, "", &mut out);
        out
    }

    /// A problem between keys, placed at the first of them that somebody set.
    pub(crate) fn conflict(&self, keys: &[&str], message: String) -> Problem {
        let key = keys
            .iter()
            .find(|key| self.is_set(key))
            .or(keys.first())
            .copied()
            .unwrap_or_default();
        Problem {
            origin: self.origin(key).clone(),
            key: key.into(),
            message,
            nearest: None,
        }
    }
}

/// Every section and setting, in order.
#[must_use]
pub fn catalogue() -> Vec<Setting> {
    let mut out = Vec::new();
    Settings::describe(&ROOT, "", &mut out);
    out
}

/// The process's own variables with our prefix. A value that is not UTF-8 is read as far as it can be.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect()
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    // One byte more than allowed, so that the parser sees that it is too much.
    file.take(yaml::TEXT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be read: {e}"))?;
    String::from_utf8(bytes).map_err(|e| format!("is not UTF-8 text (byte {})", e.utf8_error().valid_up_to()))
}

type ByKey = BTreeMap<String, (String, String)>;

/// Variables by the key they set, and the names that set nothing.
fn by_key(env: impl IntoIterator<Item = (String, String)>, catalogue: &[Setting]) -> (ByKey, Vec<String>) {
    let variables: BTreeMap<String, &str> = catalogue
        .iter()
        .filter(|s| s.default.is_some())
        .map(|s| (s.variable(), s.key.as_str()))
        .collect();
    let (mut known, mut unknown) = (BTreeMap::new(), Vec::new());
    for (name, value) in env {
        if !name.starts_with(PREFIX) || RESERVED_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        match variables.get(&name) {
            Some(_) if value.is_empty() => {}
            Some(key) => {
                known.insert((*key).to_owned(), (name, value));
            }
            None if is_service_link(&name) => {}
            None => unknown.push(name),
        }
    }
    unknown.sort();
    (known, unknown)
}

/// Kubernetes and Docker describe a service called `tailwater...` to every container in variables of these shapes
/// (`TAILWATER_SERVICE_HOST`, `TAILWATER_PORT_4317_TCP_ADDR`). They are nobody's mistake.
fn is_service_link(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let after = |word: &str| words.iter().rposition(|w| *w == word).map(|i| &words[i + 1..]);
    let protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    let port = match after("PORT") {
        Some([]) => true,
        // `..._PORT_4317_TCP_PORT` ends in the word itself, so the number is looked for below.
        Some([number, proto]) => number.parse::<u16>().is_ok() && protocol(proto),
        Some([number, proto, _]) => number.parse::<u16>().is_ok() && protocol(proto),
        _ => false,
    };
    let service = words
        .windows(2)
        .any(|w| w[0] == "SERVICE" && matches!(w[1], "HOST" | "PORT"));
    port || service
}
