//! Who is asking, and whether they may: bearer tokens against the file of `access.tokens`.
//!
//! ```text
//!  Authorization: Bearer <token> -> SHA-256 -> compared with every digest of the file -> Principal {tenant, roles} or Denied
//! ```
//!
//! Guarantees: the tenant comes from the token and from nowhere else; the comparison takes the same time whichever digest matches, or none;
//! neither tokens nor digests are written anywhere. Tokens are random ([`mint`]), so one round of SHA-256 is enough: there is nothing to
//! guess. A request is judged by the file as it was last read, also on a connection that is older. Without a file everybody is the tenant
//! `default` with all roles. Leaves out: passwords, OIDC.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, StatusCode, header};
use parking_lot::RwLock;
use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tailwater_config::access::{AccessFile, DEFAULT_TENANT, Overrides, Roles, Token};
use tailwater_config::{Config, Secret};

pub use tailwater_config::access::Role;

use crate::Metrics;
use crate::metrics::{Counter, Labelled};

/// Names the tenant in Grafana's and Prometheus' world. Here it decides nothing; one that contradicts the token is refused.
const ORG_ID: &str = "x-scope-orgid";

/// Largest file of tokens that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest token that is hashed: a header is bounded, but not this tightly.
const TOKEN_BYTES_MAX: usize = 1024;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Whose rows they write and read.
    pub tenant: Arc<str>,
    /// What the token is called; `None` where nobody needs one.
    pub token: Option<Arc<str>>,
    roles: Roles,
}

impl Principal {
    /// Whoever reaches a listener of a server without tokens.
    #[must_use]
    pub fn anybody() -> Principal {
        Principal {
            tenant: DEFAULT_TENANT.into(),
            token: None,
            roles: Roles::ALL,
        }
    }

    /// Whether they have this role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.has(role)
    }
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No token.
    Missing,
    /// An `Authorization` that is no bearer token, or more than one.
    Malformed,
    /// Not a token of the file.
    Unknown,
    /// One whose last day is over.
    Expired,
    /// A good token without this role.
    Lacks(Role),
    /// A good token of another tenant than the request names.
    OtherTenant,
}

impl Denied {
    /// Label of the counter it moves.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Denied::Missing => "no_token",
            Denied::Malformed => "malformed_token",
            Denied::Unknown => "unknown_token",
            Denied::Expired => "expired_token",
            Denied::Lacks(_) => "missing_role",
            Denied::OtherTenant => "other_tenant",
        }
    }

    /// Known, and not allowed: 403. Else 401.
    #[must_use]
    pub fn is_forbidden(self) -> bool {
        matches!(self, Denied::Lacks(_) | Denied::OtherTenant)
    }

    /// 401 or 403.
    #[must_use]
    pub fn http_status(self) -> StatusCode {
        if self.is_forbidden() {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::UNAUTHORIZED
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Missing => f.write_str("a token is needed: send it as `Authorization: Bearer ...`"),
            Denied::Malformed => f.write_str("the request needs exactly one `Authorization: Bearer ...`"),
            Denied::Unknown => f.write_str("the token is not known here"),
            Denied::Expired => f.write_str("the token has expired"),
            Denied::Lacks(role) => write!(f, "the token has not the role {}", role.word()),
            Denied::OtherTenant => f.write_str("the token belongs to another tenant than X-Scope-OrgID names"),
        }
    }
}

impl std::error::Error for Denied {}

/// What was last read.
#[derive(Debug, Default)]
struct Known {
    tokens: Vec<Token>,
    tenants: BTreeMap<String, Overrides>,
    text: Vec<u8>,
}

/// The doorkeeper of a process. Shared by its listeners.
pub struct Access {
    /// `None`: everybody may.
    file: Option<PathBuf>,
    known: RwLock<Arc<Known>>,
    generation: AtomicU64,
    denied: Labelled<2, Counter>,
    /// The second in which a denial was last logged.
    logged: AtomicI64,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the file that the settings name, if they do.
    ///
    /// # Errors
    /// When it cannot be read, is not well formed, or others could write to it.
    pub fn open(config: &Config, metrics: &Metrics) -> io::Result<Arc<Access>> {
        Access::of(config.access.tokens.clone(), metrics)
    }

    /// Without a file: everybody may. For tests.
    #[must_use]
    pub fn anybody() -> Arc<Access> {
        Access::of(None, &Metrics::new()).expect("nothing is read")
    }

    /// With this file.
    ///
    /// # Errors
    /// As [`Access::open`].
    pub fn of(file: Option<PathBuf>, metrics: &Metrics) -> io::Result<Arc<Access>> {
        let known = file.as_deref().map_or_else(|| Ok(Known::default()), read)?;
        Ok(Arc::new(Access {
            file,
            known: RwLock::new(Arc::new(known)),
            generation: AtomicU64::new(0),
            denied: metrics.counters(
                "tailwater_access_denied",
                "requests without a good token, by listener and reason",
                ["listener", "reason"],
            ),
            logged: AtomicI64::new(0),
        }))
    }

    /// Whether tokens are asked for.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.file.is_some()
    }

    /// Who sent this head, if they have the role. A refusal is counted, and logged at most once a second.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn ask(&self, headers: &HeaderMap, role: Role, listener: &'static str) -> Result<Principal, Denied> {
        let now = unix_seconds();
        self.judge(headers, role, now).inspect_err(|denied| {
            self.denied.with([listener, denied.reason()]).inc();
            if self.logged.swap(now, Ordering::Relaxed) != now {
                tracing::warn!(
                    listener,
                    reason = denied.reason(),
                    "a request was not let in (at most one such line a second)"
                );
            }
        })
    }

    /// Whether this head would be let in. Counts nothing.
    #[must_use]
    pub fn may(&self, headers: &HeaderMap, role: Role) -> bool {
        self.judge(headers, role, unix_seconds()).is_ok()
    }

    fn judge(&self, headers: &HeaderMap, role: Role, now: i64) -> Result<Principal, Denied> {
        if self.file.is_none() {
            return Ok(Principal::anybody());
        }
        let presented = bearer(headers)?;
        let known = self.known.read().clone();
        let token = find(&known.tokens, &hash(presented)).ok_or(Denied::Unknown)?;
        if token.ends.is_some_and(|end| now >= end) {
            return Err(Denied::Expired);
        }
        if headers
            .get_all(ORG_ID)
            .iter()
            .any(|named| named.as_bytes() != token.tenant.as_bytes())
        {
            return Err(Denied::OtherTenant);
        }
        if !token.roles.has(role) {
            return Err(Denied::Lacks(role));
        }
        Ok(Principal {
            tenant: token.tenant.clone(),
            token: Some(token.name.clone()),
            roles: token.roles,
        })
    }

    /// What the file says of a tenant's limits.
    #[must_use]
    pub fn overrides(&self, tenant: &str) -> Option<Overrides> {
        self.known.read().tenants.get(tenant).cloned()
    }

    /// Rises with every change of the file.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads the file again; says whether it changed. What is wrong with it leaves everything as it was.
    ///
    /// # Errors
    /// As [`Access::open`].
    pub fn reload(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let new = read(file)?;
        if new.text == self.known.read().text {
            return Ok(false);
        }
        *self.known.write() = Arc::new(new);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(true)
    }
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn read(path: &Path) -> io::Result<Known> {
    use std::io::Read as _;
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("access.tokens: {what}"));
    let file = std::fs::File::open(path).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    let about = file
        .metadata()
        .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    if about.permissions().mode() & 0o002 != 0 {
        return Err(wrong(format!(
            "{}: everybody may write to it (chmod o-w)",
            path.display()
        )));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(format!("{}: larger than {FILE_BYTES_MAX} bytes", path.display())));
    }
    let words = std::str::from_utf8(&text).map_err(|_| wrong(format!("{}: is not UTF-8", path.display())))?;
    let AccessFile { tokens, tenants } =
        AccessFile::parse(path, words).map_err(|problems| wrong(problems.to_string()))?;
    Ok(Known { tokens, tenants, text })
}

/// The one bearer token of a request.
fn bearer(headers: &HeaderMap) -> Result<&[u8], Denied> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let one = all.next().ok_or(Denied::Missing)?;
    if all.next().is_some() {
        return Err(Denied::Malformed);
    }
    let (scheme, token) = one.as_bytes().split_at_checked(7).ok_or(Denied::Malformed)?;
    let token = token.trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"bearer ") || token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err(Denied::Malformed);
    }
    Ok(token)
}

/// The token with this digest. Looks at all of them, and at all bytes of each, whatever it finds on the way.
fn find<'t>(tokens: &'t [Token], digest: &[u8; 32]) -> Option<&'t Token> {
    // 0 is nobody; a file holds far fewer than 2^32 tokens.
    let mut found = 0u32;
    for (at, token) in (1u32..).zip(tokens) {
        let same: Choice = token.sha256.ct_eq(digest);
        found = u32::conditional_select(&found, &at, same);
    }
    tokens.get((found as usize).checked_sub(1)?)
}

/// SHA-256.
#[must_use]
pub fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The digest as the file holds it: 64 hex digits.
#[must_use]
pub fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A new token: 256 random bits of the operating system behind `tw_`, which secret scanners can look for.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn mint() -> io::Result<Secret> {
    let mut bytes = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(Secret::new(format!("tw_{}", hex(&bytes))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::HeaderValue;

    fn file(lines: &str) -> tempfile::NamedTempFile {
        use std::io::Write as _;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        file
    }

    fn line(name: &str, words: &str, token: &str) -> String {
        format!("token {name} {words} sha256={}\n", hex(&hash(token.as_bytes())))
    }

    fn head(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_known_digest() {
        let digest = hex(&hash(b"hello"));
        assert_eq!(
            digest,
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
    }

    #[test]
    fn minted_tokens_are_long_and_never_the_same() {
        let (one, other) = (mint().unwrap(), mint().unwrap());
        assert_eq!(one.reveal().len(), 67);
        assert_ne!(one.reveal(), other.reveal());
        assert_eq!(format!("{one:?}"), "<redacted>");
    }

    #[test]
    fn who_may_what() {
        let text = [
            line("agent", "tenant=a roles=ingest", "tw_agent"),
            line("reader", "tenant=b roles=read,admin", "tw_reader"),
            line("old", "tenant=b roles=read expires=2026-11-22", "tw_old"),
        ];
        let file = file(&text.concat());
        let metrics = Metrics::new();
        let access = Access::of(Some(file.path().into()), &metrics).unwrap();
        let day = 1_795_392_000; // 2026-11-23T00:00:00Z
        let check = |pairs: &[(&'static str, &str)], role: Role, now: i64, expect: Result<&str, Denied>| {
            let got = access.judge(&head(pairs), role, now);
            assert_eq!(
                got.as_ref().map(|who| &*who.tenant),
                expect.as_ref().map(|tenant| *tenant),
                "{pairs:?} {role:?}"
            );
        };
        let bearer = |token: &'static str| [("authorization", token)];
        check(&bearer("Bearer tw_agent"), Role::Ingest, day, Ok("a"));
        check(&bearer("bearer  tw_agent "), Role::Ingest, day, Ok("a"));
        check(
            &bearer("Bearer tw_agent"),
            Role::Read,
            day,
            Err(Denied::Lacks(Role::Read)),
        );
        check(&bearer("Bearer tw_reader"), Role::Read, day, Ok("b"));
        check(&bearer("Bearer tw_reader"), Role::Admin, day, Ok("b"));
        check(
            &bearer("Bearer tw_reader"),
            Role::Ingest,
            day,
            Err(Denied::Lacks(Role::Ingest)),
        );
        check(&bearer("Bearer tw_old"), Role::Read, day - 1, Ok("b"));
        check(&bearer("Bearer tw_old"), Role::Read, day, Err(Denied::Expired));
        check(&[], Role::Read, day, Err(Denied::Missing));
        check(&bearer("Bearer tw_agen"), Role::Ingest, day, Err(Denied::Unknown));
        check(&bearer("Bearer "), Role::Ingest, day, Err(Denied::Malformed));
        check(&bearer("Basic dHdfYWdlbnQ="), Role::Ingest, day, Err(Denied::Malformed));
        check(&bearer("tw_agent"), Role::Ingest, day, Err(Denied::Malformed));
        let two = [
            ("authorization", "Bearer tw_agent"),
            ("authorization", "Bearer tw_reader"),
        ];
        check(&two, Role::Ingest, day, Err(Denied::Malformed));
        // The tenant is the token's; a request that names another is refused, one that names the same is not.
        let named = |org: &'static str| [("authorization", "Bearer tw_agent"), (ORG_ID, org)];
        check(&named("a"), Role::Ingest, day, Ok("a"));
        check(&named("b"), Role::Ingest, day, Err(Denied::OtherTenant));
        let doubled = [("authorization", "Bearer tw_agent"), (ORG_ID, "a"), (ORG_ID, "b")];
        check(&doubled, Role::Ingest, day, Err(Denied::OtherTenant));
        // The digest itself is no token.
        let digest = format!("Bearer {}", hex(&hash(b"tw_agent")));
        check(&[("authorization", &digest)], Role::Ingest, day, Err(Denied::Unknown));

        assert_eq!(access.ask(&HeaderMap::new(), Role::Read, "query"), Err(Denied::Missing));
        let counted = metrics.encode();
        assert!(
            counted.contains(r#"tailwater_access_denied_total{listener="query",reason="no_token"} 1"#),
            "{counted}"
        );
        assert!(!format!("{access:?} {:?}", access.known).contains("tw_agent"));
    }

    #[test]
    fn a_revoked_token_is_one_no_more_and_a_broken_file_changes_nothing() {
        let kept = line("kept", "roles=read", "tw_kept");
        let file = file(&format!("{kept}{}", line("gone", "roles=read", "tw_gone")));
        let access = Access::of(Some(file.path().into()), &Metrics::new()).unwrap();
        let ask = |token: &str| {
            access
                .judge(&head(&[("authorization", &format!("Bearer {token}"))]), Role::Read, 0)
                .is_ok()
        };
        assert!(ask("tw_kept") && ask("tw_gone"));
        assert!(!access.reload().unwrap(), "nothing changed");
        std::fs::write(file.path(), &kept).unwrap();
        assert!(access.reload().unwrap());
        assert!(ask("tw_kept") && !ask("tw_gone"));
        assert_eq!(access.generation(), 1);
        std::fs::write(file.path(), "pony\n").unwrap();
        assert!(
            access
                .reload()
                .unwrap_err()
                .to_string()
                .contains("expected `token` or `tenant`")
        );
        assert!(ask("tw_kept"));
        std::fs::remove_file(file.path()).unwrap();
        assert!(access.reload().is_err() && ask("tw_kept"));
    }

    #[test]
    fn a_file_that_everybody_may_write_is_refused() {
        let file = file("");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o666)).unwrap();
        let error = Access::of(Some(file.path().into()), &Metrics::new()).unwrap_err();
        assert!(error.to_string().contains("everybody may write"), "{error}");
    }

    #[test]
    fn without_a_file_everybody_is_the_default_tenant() {
        let who = Access::anybody()
            .judge(&head(&[("authorization", "Bearer x"), (ORG_ID, "b")]), Role::Admin, 0)
            .unwrap();
        assert_eq!((&*who.tenant, who.token), ("default", None));
    }
}
