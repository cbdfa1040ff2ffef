//! A policy from YAML.
//!
//! Guarantees: everything wrong is found in one go, with line, column and the nearest key; what is answered can be run. Sizes and durations
//! carry their units. Leaves out: files and versions, which are the caller's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tailwater_config::yaml::{At, Bounds, Entry, Node, Value, parse_all};
use tailwater_config::{Origin, Problem, Problems, Size, nearest, parse_duration};

use super::expr::Expr;
use super::program::Program;
use super::{ALPHA, Budget, By, Limits, Part, Policy, STRATA_MAX, Share, Stratum, Target, parse};
use crate::tracestate::Missing;

const BOUNDS: Bounds = Bounds {
    text_bytes: 1 << 20,
    nodes: 10_000,
    documents: 1,
};
const TENANTS_MAX: usize = 4096;
const SECOND_NS: f64 = 1e9;

/// Reads the policy in `text`; `path` is for messages.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(path: &Path, text: &str) -> Result<Policy, Problems> {
    let mut reader = Reader {
        path: Arc::new(path.to_owned()),
        problems: Vec::new(),
    };
    let (documents, faults) = parse_all(text, BOUNDS);
    for fault in faults {
        reader.wrong(fault.at, "", fault.message);
    }
    let policy = reader.policy(documents.first());
    Problems::or(reader.problems, policy)
}

struct Reader {
    path: Arc<PathBuf>,
    problems: Vec<Problem>,
}

/// The entries of a mapping, and what its key is called.
struct Map<'n> {
    key: String,
    entries: &'n [Entry],
}

impl<'n> Map<'n> {
    fn get(&self, name: &str) -> Option<(&'n Node, String)> {
        let entry = self
            .entries
            .iter()
            .find(|entry| entry.key == name && !entry.node.is_null())?;
        Some((&entry.node, join(&self.key, name)))
    }
}

fn join(key: &str, name: &str) -> String {
    if key.is_empty() {
        name.into()
    } else {
        format!("{key}.{name}")
    }
}

impl Reader {
    fn wrong(&mut self, at: At, key: &str, message: impl Into<String>) {
        self.problem(at, key, message, None);
    }

    fn problem(&mut self, at: At, key: &str, message: impl Into<String>, nearest: Option<String>) {
        let origin = Origin::File {
            path: self.path.clone(),
            line: at.line,
            column: at.column,
        };
        let (key, message) = (key.into(), message.into());
        self.problems.push(Problem {
            origin,
            key,
            message,
            nearest,
        });
    }

    fn map<'n>(&mut self, found: Option<(&'n Node, String)>, known: &[&str]) -> Map<'n> {
        let Some((node, key)) = found else {
            return Map {
                key: String::new(),
                entries: &[],
            };
        };
        let Value::Map(entries) = &node.value else {
            if !node.is_null() {
                self.wrong(node.at, &key, "expected keys below it");
            }
            return Map { key, entries: &[] };
        };
        for entry in entries
            .iter()
            .filter(|entry| !known.is_empty() && !known.contains(&entry.key.as_str()))
        {
            let near = nearest(&entry.key, known.iter().copied()).map(|near| join(&key, near));
            self.problem(entry.at, &join(&key, &entry.key), "unknown key", near);
        }
        Map { key, entries }
    }

    /// One value, read by `parse`; `default` if it is not there or wrong.
    fn value<T>(&mut self, map: &Map<'_>, name: &str, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some((node, key)) = map.get(name) else {
            return default;
        };
        let Value::Scalar { text, .. } = &node.value else {
            self.wrong(node.at, &key, "expected one value");
            return default;
        };
        parse(text).unwrap_or_else(|message| {
            self.wrong(node.at, &key, format!("`{text}` is wrong: {message}"));
            default
        })
    }

    fn policy(&mut self, document: Option<&Node>) -> Policy {
        let standard = Policy::default();
        let Some(document) = document else {
            let at = At { line: 1, column: 1 };
            if self.problems.is_empty() {
                self.wrong(at, "", "no policy in it");
            }
            return standard;
        };
        let top = self.map(
            Some((document, String::new())),
            &[
                "dry_run",
                "budget",
                "upstream",
                "trace",
                "tenants",
                "services",
                "strata",
                "fingerprint",
            ],
        );
        let budget = self.map(
            top.get("budget"),
            &[
                "stored_bytes_per_sec",
                "stored_bytes_per_day",
                "spans_per_sec",
                "burst_sec",
                "hard_cap",
                "scope",
            ],
        );
        let upstream = self.map(top.get("upstream"), &["missing_th"]);
        let trace = self.map(
            top.get("trace"),
            &["root_settle", "idle", "timeout", "span_limit", "buffer_bytes"],
        );
        let limits = Limits::default();
        self.value(&budget, "scope", (), |text| match text {
            "collector" => Ok(()),
            "fleet" => Err("collectors do not share a budget yet; give each its part, with scope: collector".into()),
            _ => Err("expected collector".into()),
        });
        let policy = Policy {
            epoch: 0,
            dry_run: self.value(&top, "dry_run", false, boolean),
            budget: Budget {
                bytes_per_sec: self.value(&budget, "stored_bytes_per_sec", f64::INFINITY, size),
                spans_per_sec: self.value(&budget, "spans_per_sec", f64::INFINITY, positive),
                bytes_per_day: self.value(&budget, "stored_bytes_per_day", f64::INFINITY, size),
                burst_ns: self.value(&budget, "burst_sec", standard.budget.burst_ns, |text| {
                    let seconds = positive(text)?;
                    if seconds <= 3600.0 {
                        Ok((seconds * SECOND_NS) as u64)
                    } else {
                        Err("at most 3600".into())
                    }
                }),
                hard: self.value(&budget, "hard_cap", false, boolean),
            },
            missing: self.value(&upstream, "missing_th", Missing::AssumeUnsampled, |text| match text {
                "assume_unsampled" => Ok(Missing::AssumeUnsampled),
                "unknown" => Ok(Missing::Unknown),
                _ => Err("expected assume_unsampled or unknown".into()),
            }),
            trace: Limits {
                root_settle_ns: self.value(&trace, "root_settle", limits.root_settle_ns, duration),
                idle_ns: self.value(&trace, "idle", limits.idle_ns, duration),
                timeout_ns: self.value(&trace, "timeout", limits.timeout_ns, duration),
                span_limit: self.value(&trace, "span_limit", limits.span_limit, |text| {
                    let number = text.replace('_', "").parse::<u32>().ok().filter(|number| *number > 0);
                    number.ok_or_else(|| "expected a whole number from 1".into())
                }),
                buffer_bytes: self.value(&trace, "buffer_bytes", limits.buffer_bytes, |text| {
                    let bytes = Size::parse(text)?.bytes();
                    if bytes >= 1 << 20 {
                        Ok(bytes)
                    } else {
                        Err("at least 1MiB".into())
                    }
                }),
            },
            tenant: Share::default(),
            tenants: BTreeMap::new(),
            services: BTreeMap::new(),
            strata: Vec::new(),
            fingerprint: self.fingerprint(top.get("fingerprint")).unwrap_or(standard.fingerprint),
        };
        let (mut tenants, mut services) = (self.shares(top.get("tenants")), self.shares(top.get("services")));
        if let Some(share) = services.remove("default") {
            // It would say nothing: weights of services count against each other.
            let at = top.get("services").map_or(document.at, |(node, _)| node.at);
            if share != Share::default() {
                self.wrong(at, "services.default", "services that are not named have weight 1");
            }
        }
        let policy = Policy {
            tenant: tenants.remove("default").unwrap_or_default(),
            tenants,
            services,
            strata: self.strata(top.get("strata"), document.at),
            ..policy
        };
        if policy.trace.root_settle_ns > policy.trace.timeout_ns || policy.trace.idle_ns > policy.trace.timeout_ns {
            self.wrong(
                document.at,
                "trace.timeout",
                "must be at least trace.root_settle and trace.idle",
            );
        }
        if self.problems.is_empty()
            && let Err(message) = Program::new(&policy)
        {
            self.wrong(document.at, "strata", message);
        }
        policy
    }

    fn shares(&mut self, found: Option<(&Node, String)>) -> BTreeMap<Box<str>, Share> {
        let at = found.as_ref().map(|(node, _)| node.at);
        let map = self.map(found, &[]);
        let mut shares: BTreeMap<Box<str>, Share> = BTreeMap::new();
        for entry in map.entries.iter().take(TENANTS_MAX + 1) {
            let inner = self.map(
                Some((&entry.node, join(&map.key, &entry.key))),
                &["weight", "min_share"],
            );
            let share = Share {
                weight: self.value(&inner, "weight", 1.0, positive),
                min: self.value(&inner, "min_share", 0.0, share),
            };
            shares.insert(entry.key.as_str().into(), share);
        }
        if let Some(at) = at {
            if map.entries.len() > TENANTS_MAX {
                self.wrong(at, &map.key, format!("more than {TENANTS_MAX}"));
            }
            let named = shares
                .iter()
                .filter(|(name, _)| &***name != "default")
                .map(|(_, share)| share.min);
            if named.sum::<f64>() > 1.0 {
                self.wrong(at, &map.key, "the minimum shares are more than the whole");
            }
        }
        shares
    }

    fn fingerprint(&mut self, found: Option<(&Node, String)>) -> Option<Vec<Part>> {
        let (node, key) = found?;
        let Value::List(items) = &node.value else {
            self.wrong(node.at, &key, "expected a list");
            return None;
        };
        let mut parts = Vec::new();
        for item in items {
            let text = match &item.value {
                Value::Scalar { text, .. } => text.as_str(),
                _ => "",
            };
            parts.push(match text {
                "tenant" => continue,
                "root.service" => Part::Service,
                "root.op" | "root.name" => Part::Name,
                "root.kind" => Part::Kind,
                "status_class" => Part::StatusClass,
                _ => match text.strip_prefix("root.attr.") {
                    Some(name) if !name.is_empty() => Part::Attr(name.into()),
                    _ => {
                        let known = "expected tenant, root.service, root.op, root.kind, status_class or root.attr.NAME";
                        self.wrong(item.at, &key, known);
                        continue;
                    }
                },
            });
        }
        Some(parts)
    }

    fn strata(&mut self, found: Option<(&Node, String)>, at: At) -> Vec<Stratum> {
        let Some((node, key)) = found else {
            return vec![Stratum::rest()];
        };
        let Value::List(items) = &node.value else {
            self.wrong(node.at, &key, "expected a list");
            return vec![Stratum::rest()];
        };
        if items.is_empty() || items.len() > STRATA_MAX {
            self.wrong(node.at, &key, format!("expected 1 to {STRATA_MAX} strata"));
            return vec![Stratum::rest()];
        }
        let mut strata: Vec<Stratum> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let stratum = self.stratum(item, &format!("{key}[{index}]"));
            if strata.iter().any(|before| before.name == stratum.name) {
                self.wrong(item.at, &format!("{key}[{index}].name"), "the name is taken");
            }
            let takes_all = stratum.when.is_none() && !matches!(stratum.target, Target::First { .. });
            if takes_all && index + 1 < items.len() {
                self.wrong(
                    item.at,
                    &format!("{key}[{index}]"),
                    "without `when` it takes everything, and strata follow",
                );
            }
            if !takes_all && index + 1 == items.len() {
                self.wrong(
                    at,
                    &key,
                    "the last stratum has to take what is left: no `when` and no `first`",
                );
            }
            strata.push(stratum);
        }
        strata
    }

    fn stratum(&mut self, node: &Node, key: &str) -> Stratum {
        let known = [
            "name",
            "when",
            "target",
            "first",
            "per",
            "window",
            "share",
            "alpha",
            "floor",
            "cap",
            "spans_per_sec",
            "bytes_per_sec",
            "sent_bytes_per_sec",
        ];
        let map = self.map(Some((node, key.to_owned())), &known);
        let name: Box<str> = self.value(&map, "name", Box::default(), |text| {
            let ok = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if !text.is_empty() && text.len() <= 64 && text.chars().all(ok) {
                Ok(Box::from(text))
            } else {
                Err("expected 1 to 64 letters, digits, `_`, `-` or `.`".into())
            }
        });
        if name.is_empty() && map.get("name").is_none() {
            self.wrong(node.at, key, "has no name");
        }
        let when = match map.get("when") {
            Some((node, key)) => self.condition(node, &key),
            None => None,
        };
        let kinds = ["target", "first", "share"]
            .iter()
            .filter(|name| map.get(name).is_some())
            .count();
        if kinds != 1 {
            self.wrong(node.at, key, "expected one of `target`, `first` and `share`");
        }
        let target = if map.get("first").is_some() {
            let window_ns = self.value(&map, "window", 60_000_000_000, duration);
            self.value(&map, "per", (), |text| match text {
                "fingerprint" => Ok(()),
                _ => Err("expected fingerprint".into()),
            });
            let count = self.value(&map, "first", 1, |text| {
                let number = text.parse::<u32>().ok().filter(|number| *number > 0);
                number.ok_or_else(|| "expected a whole number from 1".into())
            });
            Target::First { count, window_ns }
        } else if map.get("share").is_some() {
            Target::Share {
                by: self.value(&map, "share", By::All, |text| match text {
                    "by(fingerprint)" => Ok(By::Fingerprint),
                    "by(service)" => Ok(By::Service),
                    "all" => Ok(By::All),
                    _ => Err("expected by(fingerprint), by(service) or all".into()),
                }),
                alpha: self.value(&map, "alpha", ALPHA, |text| {
                    let alpha = text.parse::<f64>().ok().filter(|alpha| (0.0..=1.0).contains(alpha));
                    alpha.ok_or_else(|| "expected a number from 0 to 1".into())
                }),
                floor_per_sec: self.value(&map, "floor", 0.0, rate),
            }
        } else {
            self.value(&map, "target", Target::All, |text| match text {
                "all" => Ok(Target::All),
                "drop" => Ok(Target::Drop),
                text => match share(text).map_err(|_| target_wanted(text))? {
                    part if part <= 0.0 => Err("expected more than nothing; `drop` keeps none".into()),
                    part if part >= 1.0 => Ok(Target::All),
                    part => Ok(Target::Probability(part)),
                },
            })
        };
        let only = [
            ("window", matches!(target, Target::First { .. })),
            ("per", matches!(target, Target::First { .. })),
            ("alpha", matches!(target, Target::Share { .. })),
            ("floor", matches!(target, Target::Share { .. })),
        ];
        for (name, fits) in only {
            if let (Some((node, key)), false) = (map.get(name), fits) {
                self.wrong(node.at, &key, "means nothing here");
            }
        }
        Stratum {
            name,
            when,
            target,
            cap: self.value(&map, "cap", None, |text| share(text).map(Some)),
            spans_per_sec: self.value(&map, "spans_per_sec", f64::INFINITY, positive),
            bytes_per_sec: self.value(&map, "bytes_per_sec", f64::INFINITY, size),
            sent_bytes_per_sec: self.value(&map, "sent_bytes_per_sec", f64::INFINITY, size),
        }
    }

    fn condition(&mut self, node: &Node, key: &str) -> Option<Expr> {
        let Value::Scalar { text, .. } = &node.value else {
            self.wrong(node.at, key, "expected a condition; quote one that has brackets");
            return Some(Expr::Const(false));
        };
        match parse::condition(text) {
            Ok(expr) => Some(expr),
            Err(wrong) => {
                self.wrong(
                    node.at,
                    key,
                    format!("character {} of `{text}`: {}", wrong.column, wrong.message),
                );
                Some(Expr::Const(false))
            }
        }
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

fn size(text: &str) -> Result<f64, String> {
    match Size::parse(text)?.bytes() {
        0 => Err("expected more than nothing".into()),
        bytes => Ok(bytes as f64),
    }
}

fn duration(text: &str) -> Result<u64, String> {
    let ns = parse_duration(text)?.as_nanos();
    let within = (1..=86_400_000_000_000).contains(&ns);
    if within {
        Ok(ns as u64)
    } else {
        Err("expected 1ms to 1d".into())
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text
        .replace('_', "")
        .parse::<f64>()
        .ok()
        .filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "expected a number above 0".into())
}

/// `12.5%`
fn share(text: &str) -> Result<f64, String> {
    let number = text
        .strip_suffix('%')
        .and_then(|number| number.trim_end().parse::<f64>().ok());
    let part = number
        .map(|percent| percent / 100.0)
        .filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "expected a share from 0% to 100%".into())
}

/// What `target` wants in place of `text`.
fn target_wanted(text: &str) -> String {
    let near = nearest(text, ["all", "drop"]).map(|near| format!("; did you mean {near}?"));
    format!(
        "expected all, drop, or a share from 0% to 100%{}",
        near.unwrap_or_default()
    )
}

/// `2/min`
fn rate(text: &str) -> Result<f64, String> {
    let wrong = || "expected a rate such as 2/min".to_owned();
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit.trim() {
        "s" | "sec" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Ok(positive(count.trim())? / seconds)
}

#[cfg(test)]
mod tests;
