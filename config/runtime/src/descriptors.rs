//! How many files and connections the process may have open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors that a role needs beside those of its clients: segments, files of tables, listeners, the runtime's own.
const OWN: u64 = 512;

/// Raises the limit as far as this process may; children inherit it. Answers what it is then, `None` for no limit. Soft limits are low for the
/// sake of programs that call select(2), which nothing here does.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let highest = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, highest) {
        Ok(()) => highest.current,
        Err(error) => {
            warn!(%error, limit = limit.current, "the limit of open files cannot be raised");
            limit.current
        }
    }
}

/// What is missing of a limit if so many connections are open at once.
#[must_use]
pub fn missing(limit: Option<u64>, connections: u64) -> Option<u64> {
    let missing = connections.saturating_add(OWN).saturating_sub(limit?);
    (missing > 0).then_some(missing)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = getrlimit(Resource::Nofile);
        let lower = Rlimit {
            current: limit.maximum.map_or(Some(1 << 16), |most| Some(most - 1)),
            ..limit
        };
        setrlimit(Resource::Nofile, lower).unwrap();
        assert_eq!(raise(), limit.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }

    #[test]
    fn connections_and_the_rest_must_fit() {
        assert_eq!(missing(Some(1024), 8192), Some(8192 + 512 - 1024));
        assert_eq!(missing(Some(65_536), 8192), None);
        assert_eq!(missing(Some(8192 + 512), 8192), None);
        assert_eq!(missing(None, u64::MAX), None);
    }
}
