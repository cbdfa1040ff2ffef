//! The file of tokens: who may do what, as which tenant, and what a tenant may use.
//!
//! ```text
//! # comments and empty lines are kept by whoever edits the file
//! token  shop-agent  tenant=shop roles=ingest sha256=<64 hex digits>
//! token  grafana     tenant=shop roles=read expires=2027-12-31 sha256=<64 hex digits>
//! tenant shop        bytes_per_sec=30MB burst=60MB points_per_sec=10000 series=150000 live_traces=10000 queries=4
//! ```
//!
//! One fact a line, so that a token is added by appending a line and revoked by taking one away. Guarantees: a token itself is never in the file,
//! only its SHA-256; names and digests are there once; unknown words are problems with their line. Leaves out: hashing and I/O (`tailwater_runtime::access`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::problem::{Origin, Problem, Problems, nearest};
use crate::settings::{Query, Rate};
use crate::units::Size;
use crate::value::{Limit, Value};

/// The tenant of those who need no token.
pub const DEFAULT_TENANT: &str = "default";

/// Most tokens of a file: each request is compared with all of them.
pub const TOKENS_MAX: usize = 1000;

/// Longest name of a tenant or token, bytes.
const NAME_MAX: usize = 64;

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sending OTLP.
    Ingest,
    /// Asking, in whatever language.
    Read,
    /// `/metrics`, `/status` and the reasons of `/readyz`, which show all tenants; `EXPLAIN`.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Ingest, Role::Read, Role::Admin];

    /// The word it is written as.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Read => "read",
            Role::Admin => "admin",
        }
    }

    /// The role of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.word() == word)
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// All of them.
    pub const ALL: Roles = Roles(0b111);

    /// This one too.
    #[must_use]
    pub const fn with(self, role: Role) -> Roles {
        Roles(self.0 | 1 << role as u8)
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn has(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Roles {
        roles.into_iter().fold(Roles::default(), Roles::with)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = Role::ALL
            .into_iter()
            .filter(|role| self.has(*role))
            .map(Role::word)
            .collect();
        f.write_str(&words.join(","))
    }
}

/// What is known of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What people call it. In logs and metrics, never in answers.
    pub name: Arc<str>,
    /// Whose rows it writes and reads.
    pub tenant: Arc<str>,
    /// What it may be used for.
    pub roles: Roles,
    /// The first second (since 1970) in which it is not good any more.
    pub ends: Option<i64>,
    /// The date that `ends` was written as.
    pub expires: Option<String>,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// Its line in the file, from 1.
    pub line: usize,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("tenant", &self.tenant)
            .field("roles", &self.roles.to_string())
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What one tenant may use, where the file says something else than the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    bytes_per_sec: Option<Limit<Size>>,
    burst: Option<Size>,
    points_per_sec: Option<Limit<u32>>,
    points_burst: Option<u32>,
    series: Option<Limit<u32>>,
    live_traces: Option<Limit<u32>>,
    queries: Option<Limit<u32>>,
}

/// What one tenant may use. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Decompressed bytes a second, and at once.
    pub bytes: Option<(u64, u64)>,
    /// Metric points a second, and at once.
    pub points: Option<(u32, u32)>,
    /// Different metric series in an hour.
    pub series: Option<u32>,
    /// Traces that wait for their decision at once.
    pub live_traces: Option<u32>,
    /// Queries at once.
    pub queries: Option<u32>,
}

impl Quotas {
    /// The settings, and above them what the file says of the tenant.
    #[must_use]
    pub fn of(rate: &Rate, query: &Query, file: Option<&Overrides>) -> Quotas {
        let nothing = Overrides::default();
        let file = file.unwrap_or(&nothing);
        let bytes = file.bytes_per_sec.unwrap_or(rate.bytes_per_sec).get();
        let points = file.points_per_sec.unwrap_or(rate.points_per_sec).get();
        Quotas {
            bytes: bytes.map(|each| (each.bytes(), file.burst.unwrap_or(rate.burst).bytes())),
            points: points.map(|each| (each, file.points_burst.unwrap_or(rate.points_burst))),
            series: file.series.unwrap_or(rate.series).get(),
            live_traces: file.live_traces.unwrap_or(rate.live_traces).get(),
            queries: queries(query, Some(file)),
        }
    }
}

/// Queries of one tenant at once: the settings', unless the file says otherwise.
#[must_use]
pub fn queries(query: &Query, file: Option<&Overrides>) -> Option<u32> {
    file.and_then(|file| file.queries)
        .unwrap_or(query.tenant_concurrency)
        .get()
}

/// The file, read and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessFile {
    /// The tokens, in their order.
    pub tokens: Vec<Token>,
    /// Limits by tenant.
    pub tenants: BTreeMap<String, Overrides>,
}

/// Whether this may name a tenant or a token: 1 to 64 of `A-Z a-z 0-9 _ -`, so that no name is ever a path or a pattern.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

impl AccessFile {
    /// Reads the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// Everything that is wrong, with its line.
    pub fn parse(path: &Path, text: &str) -> Result<AccessFile, Problems> {
        let mut reader = Reader {
            path: Arc::new(path.into()),
            line: 0,
            problems: Vec::new(),
        };
        let mut file = AccessFile::default();
        for (at, line) in text.lines().enumerate() {
            reader.line = at + 1;
            let mut words = line.split_whitespace();
            match words.next() {
                None => {}
                Some(word) if word.starts_with('#') => {}
                Some("token") => reader.token(words, &mut file),
                Some("tenant") => reader.tenant(words, &mut file),
                Some(other) => reader.complain(format!("expected `token` or `tenant`, not {}", quoted(other))),
            }
        }
        if file.tokens.len() > TOKENS_MAX {
            reader.complain(format!("more than {TOKENS_MAX} tokens"));
        }
        Problems::or(reader.problems, file)
    }
}

struct Reader {
    path: Arc<PathBuf>,
    line: usize,
    problems: Vec<Problem>,
}

/// Enough of a word to find it. A word in the wrong place may be a token: most of it stays unsaid.
fn quoted(word: &str) -> String {
    let start: String = word.chars().take(16).filter(|c| !c.is_control()).collect();
    format!("`{start}{}`", if word.chars().nth(16).is_some() { "..." } else { "" })
}

impl Reader {
    fn complain(&mut self, message: impl Into<String>) {
        self.problems.push(Problem {
            origin: Origin::File {
                path: self.path.clone(),
                line: self.line,
                column: 1,
            },
            key: String::new(),
            message: message.into(),
            nearest: None,
        });
    }

    fn name<'l>(&mut self, what: &str, word: Option<&'l str>) -> Option<&'l str> {
        let name = word.filter(|word| is_name(word));
        if name.is_none() {
            self.complain(format!(
                "expected the name of the {what}: 1 to {NAME_MAX} of A-Z, a-z, 0-9, _ and -"
            ));
        }
        name
    }

    /// `key=value` pairs of the rest of a line, each key known and there once.
    fn pairs<'l>(&mut self, words: impl Iterator<Item = &'l str>, known: &[&str]) -> BTreeMap<&'l str, &'l str> {
        let mut pairs = BTreeMap::new();
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if known.contains(&key) => {
                    if pairs.insert(key, value).is_some() {
                        self.complain(format!("{key} is there twice"));
                    }
                }
                Some((key, _)) => {
                    let near = nearest(key, known.iter().copied())
                        .map_or(String::new(), |near| format!("; did you mean {near}?"));
                    self.complain(format!("no such word here: {}{near}", quoted(key)));
                }
                None => self.complain(format!("expected key=value, not {}", quoted(word))),
            }
        }
        pairs
    }

    fn token<'l>(&mut self, mut words: impl Iterator<Item = &'l str>, file: &mut AccessFile) {
        let Some(name) = self.name("token", words.next()) else {
            return;
        };
        let before = self.problems.len();
        let pairs = self.pairs(words, &["tenant", "roles", "sha256", "expires"]);
        let tenant = pairs.get("tenant").copied().unwrap_or(DEFAULT_TENANT);
        if !is_name(tenant) {
            self.complain(format!("tenant: expected 1 to {NAME_MAX} of A-Z, a-z, 0-9, _ and -"));
        }
        let mut roles = Roles::default();
        for word in pairs.get("roles").unwrap_or(&"").split(',') {
            match Role::of(word) {
                Some(role) => roles = roles.with(role),
                None => self.complain("roles: expected one or more of ingest, read, admin, with commas between"),
            }
        }
        let sha256 = pairs.get("sha256").and_then(|hex| digest(hex));
        if sha256.is_none() {
            self.complain("sha256: expected 64 hex digits, as `tailwater token hash` writes them");
        }
        let ends = pairs.get("expires").map(|date| end_of(date));
        if ends == Some(None) {
            self.complain("expires: expected a date, as 2027-12-31, whose day is the last");
        }
        if file.tokens.iter().any(|token| &*token.name == name) {
            self.complain(format!("token {name} is there twice"));
        }
        if file.tokens.iter().any(|token| Some(token.sha256) == sha256) {
            self.complain("another line has the same sha256: whose would the token be?");
        }
        if self.problems.len() == before {
            file.tokens.push(Token {
                name: name.into(),
                tenant: tenant.into(),
                roles,
                ends: ends.flatten(),
                expires: pairs.get("expires").map(|date| (*date).to_owned()),
                sha256: sha256.unwrap_or_default(),
                line: self.line,
            });
        }
    }

    fn tenant<'l>(&mut self, mut words: impl Iterator<Item = &'l str>, file: &mut AccessFile) {
        let Some(name) = self.name("tenant", words.next()) else {
            return;
        };
        const KNOWN: [&str; 7] = [
            "bytes_per_sec",
            "burst",
            "points_per_sec",
            "points_burst",
            "series",
            "live_traces",
            "queries",
        ];
        let pairs = self.pairs(words, &KNOWN);
        let overrides = Overrides {
            bytes_per_sec: self.value(&pairs, "bytes_per_sec"),
            burst: self.value(&pairs, "burst"),
            points_per_sec: self.value(&pairs, "points_per_sec"),
            points_burst: self.value(&pairs, "points_burst"),
            series: self.value(&pairs, "series"),
            live_traces: self.value(&pairs, "live_traces"),
            queries: self.value(&pairs, "queries"),
        };
        if file.tenants.insert(name.to_owned(), overrides).is_some() {
            self.complain(format!("tenant {name} is there twice"));
        }
    }

    fn value<V: Value>(&mut self, pairs: &BTreeMap<&str, &str>, key: &str) -> Option<V> {
        match V::parse(pairs.get(key)?) {
            Ok(value) if value.magnitude() != Some(0) => Some(value),
            Ok(_) => {
                self.complain(format!("{key}: must be at least 1"));
                None
            }
            Err(error) => {
                self.complain(format!("{key}: {error}"));
                None
            }
        }
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// The second after the last of a `YYYY-MM-DD`, UTC, since 1970.
#[must_use]
pub fn end_of(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let mut part = |digits: usize| {
        let text = parts.next()?;
        (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<i64>().ok())?
    };
    let (year, month, day) = (part(4)?, part(2)?, part(2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let of_month = days.get(usize::try_from(month - 1).ok()?)?;
    if parts.next().is_some() || !(1..=*of_month).contains(&day) || year < 1970 {
        return None;
    }
    // Days of whole years since 1970, leap days by the Gregorian rule.
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    let months: i64 = days.iter().take(usize::try_from(month - 1).ok()?).sum();
    Some((years + months + day) * 86_400)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Config;

    const SHA: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn parse(text: &str) -> Result<AccessFile, Problems> {
        AccessFile::parse(Path::new("tokens"), text)
    }

    #[test]
    fn lines_are_tokens_and_tenants() {
        let text = format!(
            "# agents\n\ntoken agent tenant=shop roles=ingest sha256={SHA}\n\
             \ttoken grafana roles=read,admin expires=2027-12-31 sha256={}\n\
             tenant shop bytes_per_sec=30MB points_per_sec=10_000 series=off live_traces=10_000 queries=2\n",
            SHA.replace('2', "A")
        );
        let file = parse(&text).unwrap();
        let [agent, grafana] = &file.tokens[..] else {
            panic!("{file:?}")
        };
        assert_eq!(
            (&*agent.name, &*agent.tenant, agent.roles.to_string().as_str()),
            ("agent", "shop", "ingest")
        );
        assert_eq!(
            (agent.sha256[..2].to_vec(), agent.ends, agent.line),
            (vec![0x2c, 0xf2], None, 3)
        );
        assert_eq!(
            (&*grafana.tenant, grafana.roles.to_string().as_str()),
            ("default", "read,admin")
        );
        assert_eq!(grafana.ends, Some(1_830_297_600));
        assert!(!format!("{file:?}").contains("44, 242") && !format!("{file:?}").contains(SHA));

        let config = Config::of(&[("intake.rate.series", "7"), ("query.tenant_concurrency", "3")]).unwrap();
        let quotas = |tenant: &str| Quotas::of(&config.intake.rate, &config.query, file.tenants.get(tenant));
        let shop = quotas("shop");
        assert_eq!(shop.bytes, Some((30_000_000, 1 << 30)));
        assert_eq!(
            (shop.points, shop.series, shop.queries),
            (Some((10_000, 200_000)), None, Some(2))
        );
        assert_eq!(shop.live_traces, Some(10_000));
        let other = quotas("other");
        assert_eq!(other.live_traces, None);
        assert_eq!((other.points, other.series, other.queries), (None, Some(7), Some(3)));
    }

    #[test]
    fn problems_name_their_line_and_never_what_may_be_a_token() {
        let check = |line: &str, words: &str| {
            let error = parse(&format!("# one\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("tokens:2:1") && error.contains(words), "{line}: {error}");
            assert!(!error.contains("tw_0123456789abcdef"), "{error}");
        };
        check("tokens x", "expected `token` or `tenant`");
        check(
            "tw_0123456789abcdef0123456789abcdef",
            "expected `token` or `tenant`, not `tw_0123456789abc...`",
        );
        check("token", "name of the token");
        check("token ../x roles=read", "name of the token");
        check(&format!("token x role=read sha256={SHA}"), "did you mean roles?");
        check(&format!("token x roles=write sha256={SHA}"), "ingest, read, admin");
        check(&format!("token x sha256={SHA}"), "ingest, read, admin");
        check("token x roles=read", "64 hex digits");
        check("token x roles=read sha256=tw_0123456789abcdef", "64 hex digits");
        check("token x roles=read tw_0123456789abcdef", "expected key=value");
        check(
            &format!("token x roles=read tenant=a/b sha256={SHA}"),
            "tenant: expected",
        );
        check(
            &format!("token x roles=read expires=2027-02-29 sha256={SHA}"),
            "expected a date",
        );
        check("tenant a queries=0", "must be at least 1");
        check("tenant a bytes_per_sec=fast", "bytes_per_sec:");
        check("tenant a queries=1 queries=2", "queries is there twice");
        let twice = format!("token a roles=read sha256={SHA}\ntoken b roles=read sha256={SHA}\n");
        assert!(parse(&twice).unwrap_err().to_string().contains("the same sha256"));
        let named = format!(
            "token a roles=read sha256={SHA}\ntoken a roles=read sha256={}\n",
            SHA.replace('2', "3")
        );
        assert!(
            parse(&named)
                .unwrap_err()
                .to_string()
                .contains("token a is there twice")
        );
    }

    #[test]
    fn dates() {
        for (date, end) in [
            ("1970-01-01", Some(86_400)),
            ("2000-02-29", Some(951_868_800)),
            ("2026-11-23", Some(1_795_478_400)),
            ("2100-02-29", None),
            ("2026-13-01", None),
            ("2026-00-01", None),
            ("2026-1-1", None),
            ("2026-01-01-01", None),
            ("+026-01-01", None),
            ("", None),
        ] {
            assert_eq!(end_of(date), end, "{date}");
        }
    }
}
