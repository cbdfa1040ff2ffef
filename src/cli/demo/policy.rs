//! By what the demo samples: a policy for a share of the shop's spans, or the user's own.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tailwater_config::Config;
use tailwater_runtime::run_dir;
use tailwater_sampling::policy;

/// A share of the spans: above 0 and at most all. Written `2%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

/// What the demo keeps unless it is told otherwise.
const STANDARD: Share = Share(0.02);

impl Share {
    /// Reads `2%`, `0.5%`, `100%`.
    ///
    /// # Errors
    /// A sentence, when it is nothing like it.
    pub fn parse(text: &str) -> Result<Share, String> {
        let number = text
            .trim()
            .strip_suffix('%')
            .map(|number| number.trim_end().parse::<f64>());
        match number {
            Some(Ok(percent)) if percent > 0.0 && percent <= 100.0 => Ok(Share(percent / 100.0)),
            _ => Err("expected a share of the spans such as 2%, at most 100%".into()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Past what a product of two decimals gets wrong.
        write!(f, "{} %", (self.0 * 1e8).round() / 1e6)
    }
}

/// Name of the demo's policy in its data directory.
const FILE: &str = "demo-policy.yaml";

/// How long after its decision a row may take to be seen, beside RED: the next tick, its batch, the answer of the query.
const SHOWN: Duration = Duration::from_secs(3);

/// A policy in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Its file.
    pub path: PathBuf,
    /// The share that the demo aims at; `None` where the user said by what to sample.
    pub share: Option<Share>,
    /// Its budget of spans; infinite if it has none.
    pub spans_per_sec: f64,
    /// How long after its end a request can be compared: by then its trace is decided and stored.
    pub settling: Duration,
}

impl Rules {
    /// What this demo samples by; `None` if it keeps everything. Writes the demo's policy where the settings name none.
    ///
    /// # Errors
    /// A policy of the user's that is wrong, or that comes with a `budget` for the demo's own; a file that cannot be written.
    pub fn settle(budget: Option<Share>, spans_per_sec: u32, config: &Config) -> anyhow::Result<Option<Rules>> {
        if let Some(path) = &config.sampling.policy {
            if budget.is_some() {
                bail!(
                    "--budget is for the demo's own policy, and sampling.policy names {}",
                    path.display()
                );
            }
            return Rules::read(path, None).map(Some);
        }
        let share = budget.unwrap_or(STANDARD);
        if share.0 >= 1.0 {
            return Ok(None);
        }
        let path = config.data.join(FILE);
        run_dir::make_private(&config.data).with_context(|| config.data.display().to_string())?;
        std::fs::write(&path, text(share, spans_per_sec)).with_context(|| path.display().to_string())?;
        Rules::read(&path, Some(share)).map(Some)
    }

    fn read(path: &Path, share: Option<Share>) -> anyhow::Result<Rules> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let policy = policy::read(path, &text)?;
        Ok(Rules {
            path: path.to_owned(),
            share,
            spans_per_sec: policy.budget.spans_per_sec,
            settling: Duration::from_nanos(policy.trace.timeout_ns) + SHOWN,
        })
    }
}

/// The demo's policy. Failed and slow traces come first, but leave the better part to the rest: without it nothing could be said of what is well.
fn text(share: Share, spans_per_sec: u32) -> String {
    format!(
        "# Written by `tailwater demo` at its start: {share} of the shop's {spans_per_sec} spans a second.\n\
         # Edit it while the demo runs: it is read again. docs/sampling-policy.md has the language.\n\
         budget: {{spans_per_sec: {}}}\n\
         # The shop's traces arrive whole.\n\
         trace: {{root_settle: 1s, idle: 2s, timeout: 5s}}\n\
         strata:\n  \
         - {{name: error, when: any(span.status == error), target: all, cap: 30%}}\n  \
         - {{name: slow, when: root.duration >= red.p99(5m), target: all, cap: 15%}}\n  \
         - {{name: rest, share: by(fingerprint), alpha: 0.7}}\n",
        f64::from(spans_per_sec) * share.0
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shares() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                Share::parse(text).ok().map(|share| share.to_string()).as_deref(),
                expected,
                "{text}"
            );
        };
        check("2%", Some("2 %"));
        check(" 0.7 %", Some("0.7 %"));
        check("100%", Some("100 %"));
        for wrong in ["2", "0%", "101%", "-1%", "%", "NaN%"] {
            check(wrong, None);
        }
    }

    #[test]
    fn the_policy_is_good_and_says_its_budget() {
        let data = tempfile::tempdir().unwrap();
        let data = data.path().join("new");
        let config = |more: &[(&str, &str)]| {
            let pairs = [&[("data", data.to_str().unwrap())], more].concat();
            Config::of(&pairs).unwrap()
        };
        let plain = config(&[]);
        assert_eq!(Rules::settle(Some(Share(1.0)), 500, &plain).unwrap(), None);
        let half = Rules::settle(Some(Share(0.005)), 500, &plain).unwrap().unwrap();
        assert_eq!((half.spans_per_sec, half.share), (2.5, Some(Share(0.005))));
        let rules = Rules::settle(None, 5000, &plain).unwrap().unwrap();
        assert_eq!((rules.spans_per_sec, rules.share), (100.0, Some(STANDARD)));
        assert_eq!(rules.settling, Duration::from_secs(8));

        let own = rules.path.to_str().unwrap();
        let own = config(&[("sampling.policy", own)]);
        let theirs = Rules::settle(None, 7, &own).unwrap().unwrap();
        assert_eq!(
            (theirs.share, theirs.spans_per_sec),
            (None, 100.0),
            "the file is as it was"
        );
        assert!(Rules::settle(Some(STANDARD), 7, &own).is_err());
    }
}
