//! A `tail_sampling` configuration of the OpenTelemetry Collector as a policy of ours.
//!
//! There every policy votes and one keep is enough; here the first stratum that a trace meets decides. So drops come first, then what keeps all,
//! then probabilities from the largest, then what is limited: a trace that several policies would keep gets the most certain of them. What
//! is left over is dropped, as there. What cannot be said is listed, never left out in silence.

use std::fmt;
use std::fmt::Write as _;

use tailwater_config::parse_duration;
use tailwater_config::yaml::{At, Bounds, Node, parse_all};

use crate::policy::expr::Expr;
use node::{entries, get, list, text};
use rules::Rule;

mod node;
mod rules;

const BOUNDS: Bounds = Bounds {
    text_bytes: 1 << 20,
    nodes: 100_000,
    documents: 1,
};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The policy, as [`crate::policy::read`] reads it.
    pub policy: String,
    /// What could not be carried over, or means something slightly different.
    pub notes: Vec<Note>,
}

/// What a note means for the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Not carried over, or not as a whole: more traces are kept than there, or fewer.
    Lost,
    /// Carried over with a slightly different meaning (as many traces of a share or limit, but others; contents that are rare), or not needed here.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Lost => "lost",
            Severity::Note => "note",
        })
    }
}

/// Something that could not be carried over, or means something slightly different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether something is lost.
    pub severity: Severity,
    /// Where it stands.
    pub at: At,
    /// Which policy or key.
    pub what: String,
    /// Why, and what to do.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {}: {}",
            self.at.line, self.at.column, self.severity, self.what, self.message
        )
    }
}

impl Imported {
    /// Whether something was not carried over.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.notes.iter().any(|note| note.severity == Severity::Lost)
    }
}

/// Converts the first `tail_sampling` processor in `text`.
///
/// # Errors
/// A sentence, when there is none or the text is no YAML.
pub fn otelcol(text: &str) -> Result<Imported, String> {
    let (documents, faults) = parse_all(text, BOUNDS);
    if let Some(fault) = faults.first() {
        return Err(format!("{}:{}: {}", fault.at.line, fault.at.column, fault.message));
    }
    let document = documents.first().ok_or("nothing in it")?;
    let processors = get(document, "processors").unwrap_or(document);
    let mut found = entries(processors).iter().filter(|entry| {
        let name = entry.key.as_str();
        name == "tail_sampling" || name.starts_with("tail_sampling/")
    });
    let first = found.next().ok_or("no tail_sampling processor in it")?;
    let processor = &first.node;
    let mut import = Import::default();
    for other in found {
        let message = format!("not carried over: the policy is that of {} alone", first.key);
        import.lost(other.at, &other.key, message);
    }
    let mut out = String::from("# Imported from a tail_sampling processor.\n");
    import.waits(processor, &mut out);
    let policies = get(processor, "policies").ok_or("the tail_sampling processor has no policies")?;
    for item in list(policies) {
        import.policy(item);
    }
    import.inversions();
    import.rules.sort_by_key(Rule::order);
    import.write(&mut out);
    Ok(Imported {
        policy: out,
        notes: import.notes,
    })
}

#[derive(Default)]
struct Import {
    rules: Vec<Rule>,
    composites: usize,
    /// Where and in which policy something is inverted.
    inverted: Vec<(At, String)>,
    notes: Vec<Note>,
}

impl Import {
    fn note(&mut self, at: At, what: &str, message: impl Into<String>) {
        self.say(Severity::Note, at, what, message.into());
    }

    fn lost(&mut self, at: At, what: &str, message: impl Into<String>) {
        self.say(Severity::Lost, at, what, message.into());
    }

    fn say(&mut self, severity: Severity, at: At, what: &str, message: String) {
        let what = what.to_owned();
        self.notes.push(Note {
            severity,
            at,
            what,
            message,
        });
    }

    /// When a trace is due.
    fn waits(&mut self, processor: &Node, out: &mut String) {
        let wait = text(processor, "decision_wait").unwrap_or("30s");
        let settle = text(processor, "decision_wait_after_root_received").unwrap_or(wait);
        let is_short = |text: &str| parse_duration(text).ok().filter(|wait| !wait.is_zero());
        match (is_short(wait), is_short(settle)) {
            (Some(wait), Some(settle)) => {
                let write = |wait| tailwater_config::format_duration(wait);
                let settle = settle.min(wait);
                let _ = writeln!(
                    out,
                    "trace: {{root_settle: {}, idle: {}, timeout: {}}}",
                    write(settle),
                    write(wait),
                    write(wait)
                );
            }
            _ => self.lost(
                processor.at,
                "decision_wait",
                "is written in a way that is not read here: set trace.timeout and trace.root_settle",
            ),
        }
        let known = [
            ("num_traces", "memory is limited in bytes: set trace.buffer_bytes"),
            ("expected_new_traces_per_sec", "not needed"),
            (
                "decision_cache",
                "decisions are remembered by time, and across restarts",
            ),
            ("sample_on_first_match", "the first stratum always decides"),
            (
                "block_on_overflow",
                "when memory is short, traces are let in by R, with a weight",
            ),
            ("drop_pending_traces_on_shutdown", "traces that wait survive a restart"),
            ("num_shards", "not needed"),
            ("sampling_strategy", "a trace is decided when it is whole"),
            ("tail_storage", "what waits is in the intake log"),
        ];
        for entry in entries(processor) {
            if entry.key == "maximum_trace_size_bytes" {
                let message = "not carried over: a trace's size is a condition, trace.bytes";
                self.lost(entry.at, &entry.key, message);
            } else if let Some((key, message)) = known.iter().find(|(key, _)| *key == entry.key) {
                self.note(entry.at, key, *message);
            } else if !["policies", "decision_wait", "decision_wait_after_root_received"].contains(&entry.key.as_str())
            {
                self.lost(entry.at, &entry.key, "is not known here");
            }
        }
    }

    fn write(&mut self, out: &mut String) {
        let mut used: Vec<String> = Vec::new();
        let mut is_closed = false;
        out.push_str("strata:\n");
        let rules = std::mem::take(&mut self.rules);
        for (place, rule) in rules.iter().enumerate() {
            if is_closed {
                self.lost(
                    rule.at,
                    &rule.name,
                    "not carried over: a policy before it takes every trace, and the first one decides",
                );
                continue;
            }
            let ok = |c: char| {
                if c.is_ascii_alphanumeric() || "_-.".contains(c) {
                    c
                } else {
                    '_'
                }
            };
            let base: String = rule.name.chars().map(ok).take(48).collect();
            let mut name = if base.is_empty() { "policy".to_owned() } else { base };
            while used.contains(&name) || name == "unmatched" {
                name.push_str("_2");
            }
            used.push(name.clone());
            let _ = writeln!(out, "  - name: {name}");
            is_closed = matches!(rule.when, Expr::Const(true));
            let is_sure = rule.is_drop || rule.p >= 1.0 && !rule.is_limited();
            let others = rules[place + 1..].iter();
            let has_other = others
                .filter(|other| other.is_limited())
                .any(|other| rule.composite.is_none() || other.composite != rule.composite);
            let is_said = |note: &Note| note.what == rule.name && note.message == LEFT_OUT;
            if !is_sure && !is_closed && has_other && !self.notes.iter().any(is_said) {
                self.lost(rule.at, &rule.name, LEFT_OUT);
            }
            if !is_closed {
                let _ = writeln!(out, "    when: '{}'", rule.when.to_string().replace('\'', "''"));
            }
            let _ = match (rule.is_drop, rule.p < 1.0) {
                (true, _) => writeln!(out, "    target: drop"),
                (false, true) => writeln!(out, "    target: {}%", rule.p * 100.0),
                (false, false) => writeln!(out, "    target: all"),
            };
            if rule.spans_per_sec.is_finite() {
                let _ = writeln!(out, "    spans_per_sec: {}", rule.spans_per_sec);
            }
            if rule.bytes_per_sec.is_finite() {
                let bytes = (rule.bytes_per_sec as u64).max(1);
                let _ = writeln!(out, "    sent_bytes_per_sec: {bytes}");
            }
        }
        if !is_closed {
            out.push_str("  - name: unmatched\n    target: drop\n");
        }
    }
}

/// What a stratum that does not keep all of its traces says of the others.
const LEFT_OUT: &str = "traces that it leaves out are not offered to those after it, as they are there, so fewer stay";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    fn check(policies: &str, strata: &str, notes: &[&str]) {
        let text = format!("processors:\n  tail_sampling:\n    decision_wait: 10s\n    policies:\n{policies}");
        let imported = otelcol(&text).unwrap();
        let found = imported.policy.split_once("strata:\n").unwrap().1;
        assert_eq!(found, strata);
        let read = crate::policy::read(Path::new("imported.yaml"), &imported.policy);
        assert!(read.is_ok(), "{}\n{}", imported.policy, read.unwrap_err());
        let said: Vec<String> = imported.notes.iter().map(Note::to_string).collect();
        assert_eq!(said.len(), notes.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(notes) {
            assert!(said.contains(expected), "{said} {expected}");
        }
    }

    #[test]
    fn every_type_of_policy() {
        check(
            r#"
      - {name: p, type: probabilistic, probabilistic: {sampling_percentage: 12.5, hash_salt: x}}
      - {name: slow, type: latency, latency: {threshold_ms: 500, upper_threshold_ms: 10000}}
      - {name: num, type: numeric_attribute, numeric_attribute: {key: n, min_value: 5, max_value: 0}}
      - {name: str, type: string_attribute, string_attribute: {key: s, values: [a, "it's"]}}
      - {name: re, type: string_attribute, string_attribute: {key: s, values: ['^a\d', b], enabled_regex_matching: true}}
      - {name: bool, type: boolean_attribute, boolean_attribute: {key: b, value: true, invert_match: true}}
      - {name: err, type: status_code, status_code: {status_codes: [ERROR, UNSET]}}
      - {name: many, type: span_count, span_count: {min_spans: 2, max_spans: 20}}
      - {name: ts, type: trace_state, trace_state: {key: k, values: [v]}}
      - {name: flags, type: trace_flags}
      - {name: ottl, type: ottl_condition, ottl_condition: {span: ['attributes["a"] == "b"', 'IsMatch(name, "x")']}}
      - {name: none, type: probabilistic, probabilistic: {sampling_percentage: 0}}
      - {name: no, type: not, not: {not_sub_policy: {type: span_count, span_count: {min_spans: 3}}}}
      - name: both
        type: and
        and:
          and_sub_policy:
            - {type: latency, latency: {threshold_ms: 100}}
            - {type: probabilistic, probabilistic: {sampling_percentage: 50}}
            - {type: rate_limiting, rate_limiting: {spans_per_second: 35}}
      - {name: bytes, type: and, and: {and_sub_policy: [{type: trace_flags}, {type: bytes_limiting, bytes_limiting: {bytes_per_second: 1000}}]}}
      - {name: bye, type: drop, drop: {drop_sub_policy: [{type: string_attribute, string_attribute: {key: p, values: [/healthz]}}]}}
"#,
            r#"  - name: bye
    when: 'any(span.own["p"] in ["/healthz"] or span.resource["p"] in ["/healthz"])'
    target: drop
  - name: slow
    when: 'trace.duration >= 501ms and trace.duration < 10001ms'
    target: all
  - name: num
    when: 'any(span.own["n"] >= 5 or span.resource["n"] >= 5)'
    target: all
  - name: str
    when: 'any(span.own["s"] in ["a", "it''s"] or span.resource["s"] in ["a", "it''s"])'
    target: all
  - name: re
    when: 'any((span.own["s"] matches "^a\\d" or span.own["s"] matches "b") or (span.resource["s"] matches "^a\\d" or span.resource["s"] matches "b"))'
    target: all
  - name: bool
    when: 'not any(span.own["b"] == true or span.resource["b"] == true)'
    target: all
  - name: err
    when: 'any(span.status in [error, unset])'
    target: all
  - name: many
    when: 'trace.spans >= 2 and trace.spans <= 20'
    target: all
  - name: ts
    when: 'any(span.trace_state["k"] in ["v"])'
    target: all
  - name: flags
    when: 'any(span.sampled)'
    target: all
  - name: ottl
    when: 'any(span.own["a"] == "b" or span.name matches "x")'
    target: all
  - name: no
    when: 'not (trace.spans >= 3)'
    target: all
  - name: p
    target: 12.5%
"#,
            &[
                "hash_salt",
                "upper bound",
                "fraction",
                "Unicode",
                "counts once",
                "W3C",
                "IsMatch",
                "counts once",
                "note: both: the share is of other traces",
                "note: both: each tenant has the limit",
                "note: bytes: each tenant has the limit",
                "lost: bool: invert_match",
                "both: not carried over",
                "bytes: not carried over",
            ],
        );
    }

    #[test]
    fn what_is_lost_is_told_from_what_is_worth_a_note_and_each_has_its_place() {
        let imported = |text: &str| {
            let imported = otelcol(text).unwrap();
            let said: Vec<String> = imported.notes.iter().map(Note::to_string).collect();
            (imported.is_lossy(), said)
        };
        let policies = "    policies:\n      - {name: all, type: always_sample}\n";
        let unneeded = format!(
            "processors:\n  tail_sampling:\n    num_traces: 100\n    expected_new_traces_per_sec: 10\n{policies}"
        );
        let (lossy, said) = imported(&unneeded);
        assert!(!lossy && said.len() == 2, "{said:?}");
        assert!(said[0].starts_with("3:5: note: num_traces: memory"), "{said:?}");
        let (lossy, said) = imported(&format!(
            "processors:\n  tail_sampling:\n{policies}      - {{name: more, type: rate_limiting, rate_limiting: {{spans_per_second: 5}}}}\n  tail_sampling/2:\n{policies}"
        ));
        assert!(lossy);
        assert_eq!(
            said,
            [
                "6:3: lost: tail_sampling/2: not carried over: the policy is that of tail_sampling alone",
                "5:9: note: more: each tenant has the limit to itself, and R decides who is within it; there it is one for all, and whoever fits is kept",
                "5:9: lost: more: not carried over: a policy before it takes every trace, and the first one decides",
            ]
        );
        for lost in ["maximum_trace_size_bytes: 5", "surprise: 1"] {
            assert!(
                imported(&format!("processors:\n  tail_sampling:\n    {lost}\n{policies}")).0,
                "{lost}"
            );
        }
    }

    #[test]
    fn limits_composites_and_what_cannot_be() {
        check(
            r#"
      - name: mix
        type: composite
        composite:
          max_total_spans_per_second: 1000
          policy_order: [b, a]
          composite_sub_policy:
            - {name: b, type: status_code, status_code: {status_codes: [ERROR]}}
            - {name: a, type: always_sample}
          rate_allocation: [{policy: b, percent: 60}, {policy: a, percent: 0}]
      - {name: ext, type: my_extension}
      - {name: ev, type: ottl_condition, ottl_condition: {spanevent: ['name == "x"']}}
      - {name: odd, type: not, not: {not_sub_policy: {type: probabilistic, probabilistic: {sampling_percentage: 5}}}}
      - {name: open, type: numeric_attribute, numeric_attribute: {key: n}}
"#,
            "  - name: mix.b\n    when: 'any(span.status in [error])'\n    target: all\n    spans_per_sec: 600\n  - name: mix.a\n    target: all\n    spans_per_sec: 500\n",
            &[
                "note: mix: each tenant",
                "my_extension",
                "span events",
                "the share is of",
                "turned round",
                "neither",
            ],
        );
        check(
            "      - {name: none, type: boolean_attribute, boolean_attribute: {key: b, value: true, invert_match: true}}\n",
            "  - name: none\n    when: 'not any(span.own[\"b\"] == true or span.resource[\"b\"] == true)'\n    target: all\n  - name: unmatched\n    target: drop\n",
            &["note: none: invert_match is carried over as `not`"],
        );
        check(
            "      - {name: bytes, type: and, and: {and_sub_policy: [{type: trace_flags}, {type: bytes_limiting, bytes_limiting: {bytes_per_second: 1000}}]}}\n",
            "  - name: bytes\n    when: 'any(span.sampled)'\n    target: all\n    sent_bytes_per_sec: 1000\n  - name: unmatched\n    target: drop\n",
            &["note: bytes: each tenant has the limit to itself"],
        );
        check(
            "      - {name: err, type: status_code, status_code: {status_codes: [ERROR]}}\n",
            "  - name: err\n    when: 'any(span.status in [error])'\n    target: all\n  - name: unmatched\n    target: drop\n",
            &[],
        );
        assert!(otelcol("processors: {batch: {}}").is_err());
        assert!(otelcol("a: [").is_err());
    }

    #[test]
    fn what_the_order_of_strata_changes_is_said() {
        check(
            r#"
      - name: mix
        type: composite
        composite:
          max_total_spans_per_second: 100
          policy_order: [some, errors]
          composite_sub_policy:
            - {name: errors, type: status_code, status_code: {status_codes: [ERROR]}}
            - name: some
              type: and
              and:
                and_sub_policy:
                  - {type: latency}
                  - {type: probabilistic, probabilistic: {sampling_percentage: 10}}
            - {name: many, type: span_count, span_count: {min_spans: 3}}
      - {name: flagged, type: and, and: {and_sub_policy: [{type: trace_flags}, {type: rate_limiting, rate_limiting: {spans_per_second: 9, burst_capacity: 9}}]}}
"#,
            "  - name: mix.errors\n    when: 'any(span.status in [error])'\n    target: all\n    spans_per_sec: 33\n  \
             - name: mix.some\n    when: 'trace.duration >= 1ms'\n    target: 10%\n    spans_per_sec: 33\n  \
             - name: mix.many\n    when: 'trace.spans >= 3'\n    target: all\n    spans_per_sec: 33\n  \
             - name: flagged\n    when: 'any(span.sampled)'\n    target: all\n    spans_per_sec: 9\n  \
             - name: unmatched\n    target: drop\n",
            &[
                "policy_order",
                "note: mix: each tenant",
                "mix.some: the share",
                "lost: mix.some: traces that it leaves out",
                "counts once",
                "burst_capacity",
                "note: flagged: each tenant",
                "lost: mix.errors: traces that it leaves out",
                "lost: mix.many: traces that it leaves out",
            ],
        );
    }
}
