//! Whether a role can do its work: named conditions, each with a reason, behind `/readyz`.
//!
//! Guarantees: a role without conditions, or with one that nobody has set, is not ready. Liveness is not here: a process that answers is alive.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

/// How one condition, or the role as a whole, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ready,
    /// Works, but not as it should. Still counts as ready.
    Degraded,
    /// Cannot do its work now.
    NotReady,
}

/// One condition as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// How it is.
    pub state: State,
    /// Why it is not ready; empty when it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// The body of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of all conditions.
    pub state: State,
    /// Each of them.
    pub conditions: BTreeMap<&'static str, Condition>,
}

/// The conditions of a role. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<RwLock<BTreeMap<&'static str, Condition>>>);

impl Readiness {
    /// No conditions yet: not ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A condition by name, not ready ("starting") until it is set. The same name is the same condition.
    #[must_use]
    pub fn condition(&self, name: &'static str) -> Handle {
        let starting = || Condition {
            state: State::NotReady,
            reason: "starting".into(),
        };
        self.0.write().entry(name).or_insert_with(starting);
        Handle {
            set: self.clone(),
            name,
        }
    }

    /// All conditions and the worst of them.
    #[must_use]
    pub fn report(&self) -> Report {
        let conditions = self.0.read().clone();
        let state = conditions.values().map(|c| c.state).max().unwrap_or(State::NotReady);
        Report { state, conditions }
    }

    /// No condition is [`State::NotReady`], and there is one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().state != State::NotReady
    }
}

/// Sets one condition. Cheap enough to call on every change, not on every request.
#[derive(Clone, Debug)]
pub struct Handle {
    set: Readiness,
    name: &'static str,
}

impl Handle {
    /// As it should be.
    pub fn ready(&self) {
        self.set(State::Ready, "");
    }

    /// Works, but not as it should.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(State::Degraded, reason);
    }

    /// Cannot do its work now.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(State::NotReady, reason);
    }

    fn set(&self, state: State, reason: impl Into<String>) {
        let new = Condition {
            state,
            reason: reason.into(),
        };
        let old = self.set.0.write().insert(self.name, new.clone());
        if old.is_none_or(|old| old.state != new.state) {
            match new.state {
                State::Ready => tracing::info!(condition = self.name, "ready"),
                State::Degraded => tracing::warn!(condition = self.name, reason = new.reason, "degraded"),
                State::NotReady => tracing::warn!(condition = self.name, reason = new.reason, "not ready"),
            }
        }
    }
}

/// A condition with several parts, such as tables: degraded while any of them is in trouble.
#[derive(Debug)]
pub struct Parts {
    handle: Handle,
    troubled: Mutex<BTreeMap<&'static str, String>>,
}

impl Parts {
    /// No part is in trouble; the condition stays as it is until one is.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Parts {
            handle,
            troubled: Mutex::default(),
        }
    }

    /// The part is as it should be.
    pub fn works(&self, part: &'static str) {
        let mut troubled = self.troubled.lock();
        if troubled.remove(part).is_some() {
            self.tell(&troubled);
        }
    }

    /// The part is not as it should be.
    pub fn fails(&self, part: &'static str, reason: impl Into<String>) {
        let mut troubled = self.troubled.lock();
        troubled.insert(part, reason.into());
        self.tell(&troubled);
    }

    fn tell(&self, troubled: &BTreeMap<&'static str, String>) {
        match troubled.is_empty() {
            true => self.handle.ready(),
            false => {
                let reasons: Vec<String> = troubled.iter().map(|(part, why)| format!("{part}: {why}")).collect();
                self.handle.degraded(reasons.join("; "));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_works_does_not_speak_for_one_that_fails() {
        let readiness = Readiness::new();
        let tables = readiness.condition("tables");
        tables.ready();
        let parts = Parts::new(tables);
        let now = || {
            let condition = readiness.report().conditions["tables"].clone();
            (condition.state, condition.reason)
        };
        parts.fails("spans", "no room");
        parts.works("logs");
        assert_eq!(now(), (State::Degraded, "spans: no room".to_owned()));
        parts.fails("logs", "no room");
        parts.fails("spans", "not there");
        assert_eq!(now(), (State::Degraded, "logs: no room; spans: not there".to_owned()));
        parts.works("logs");
        assert_eq!(now(), (State::Degraded, "spans: not there".to_owned()));
        parts.works("spans");
        assert_eq!(now(), (State::Ready, String::new()));
    }

    #[test]
    fn the_worst_counts() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready(), "no conditions");
        let (log, disk) = (readiness.condition("intake_log"), readiness.condition("disk"));
        log.ready();
        assert_eq!(readiness.report().conditions["disk"].reason, "starting");
        assert!(!readiness.is_ready());
        disk.degraded("92 % full");
        assert!(readiness.is_ready());
        assert_eq!(readiness.report().state, State::Degraded);
        log.not_ready("fsync takes 5 s");
        assert!(!readiness.is_ready());
        readiness.condition("intake_log").ready();
        disk.ready();
        assert_eq!(readiness.report().state, State::Ready);
    }
}
