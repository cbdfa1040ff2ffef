//! Configurations of `tail_sampling`, at least one of every type of policy, and why the traces kept there and here may differ.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tailwater_sampling::Threshold;

use crate::recording::Made;

/// Every type of policy that the processor knows, less extensions.
pub const KINDS: [&str; 17] = [
    "always_sample",
    "latency",
    "numeric_attribute",
    "string_attribute",
    "boolean_attribute",
    "status_code",
    "span_count",
    "trace_state",
    "trace_flags",
    "probabilistic",
    "rate_limiting",
    "bytes_limiting",
    "and",
    "not",
    "drop",
    "composite",
    "ottl_condition",
];

/// A configuration.
pub struct Case {
    pub kind: &'static str,
    /// As they stand in it.
    pub policies: &'static str,
    /// Whether the Collector's limits and shares go by R: its feature gate `usetracestate`.
    pub tracestate: bool,
    pub rule: Rule,
}

/// By what rule both sides are compared.
pub enum Rule {
    /// Contents alone decide: equal, but for these reasons, each of which is met with.
    Same(&'static [Reason]),
    /// A share.
    Share(Share),
    /// Limits, each of the traces that no other one has.
    Limit(&'static [Limit]),
}

/// Who keeps it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    There,
    Here,
}

/// Why a trace is kept on one side alone.
pub struct Reason {
    pub side: Side,
    pub text: &'static str,
    pub holds: fn(&Made) -> bool,
}

/// Part of the traces of a kind are kept.
pub struct Share {
    pub percent: f64,
    pub salt: &'static str,
    pub some: fn(&Made) -> bool,
    /// These are kept in any case,
    pub all: fn(&Made) -> bool,
    /// and these in none.
    pub drops: fn(&Made) -> bool,
}

/// No more than so much a second of the traces of a kind.
pub struct Limit {
    pub per_second: u64,
    /// Whether what is not used of a second may be used in the next.
    pub saves: bool,
    pub of: fn(&Made) -> bool,
    pub cost: fn(&Made) -> u64,
    pub cost_here: fn(&Made) -> f64,
}

pub const OF_A_HASH: &str = "there a hash of the trace id decides, here R of the trace, and the weight is written down";
pub const OF_A_CUT: &str = "there each second's traces are taken by R until one does not fit, here T is set by what they need before any R is looked at";
pub const OF_AN_ORDER: &str =
    "there whichever fits what is left, in no order; here those with R >= T, and T is set by what all of them need";

impl Case {
    /// Whether other traces are kept there in every run.
    pub fn varies(&self) -> bool {
        matches!(self.rule, Rule::Limit(_)) && !self.tracestate
    }
}

impl Share {
    pub fn threshold(&self) -> Threshold {
        Threshold::of_probability(self.percent / 100.0)
    }

    /// The Collector's rule: a salted FNV-1a of the trace id; with the gate R, where a tracestate speaks of sampling at all.
    pub fn keeps_there(&self, made: &Made, tracestate: bool) -> bool {
        let said = made.upstream();
        if tracestate && (said.threshold.is_some() || said.randomness.is_some()) {
            let exact = ((1.0 - self.percent / 100.0) * (1u64 << 56) as f64) as u64;
            return made.randomness().bits() >= exact;
        }
        let bytes = self.salt.bytes().chain(made.id.0);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let limit = (u64::MAX as f64 * (self.percent / 100.0)) as u64;
        hash <= limit
    }
}

const SALT: &str = "default-hash-seed";

const fn same(kind: &'static str, policies: &'static str, reasons: &'static [Reason]) -> Case {
    Case {
        kind,
        policies,
        tracestate: false,
        rule: Rule::Same(reasons),
    }
}

const fn shared(kind: &'static str, policies: &'static str, tracestate: bool, share: Share) -> Case {
    Case {
        kind,
        policies,
        tracestate,
        rule: Rule::Share(share),
    }
}

const fn limited(kind: &'static str, policies: &'static str, tracestate: bool, limits: &'static [Limit]) -> Case {
    Case {
        kind,
        policies,
        tracestate,
        rule: Rule::Limit(limits),
    }
}

fn every(_: &Made) -> bool {
    true
}

fn none(_: &Made) -> bool {
    false
}

fn failed(made: &Made) -> bool {
    made.has_status(2)
}

fn slow(made: &Made) -> bool {
    made.lengths_ms().last().is_some_and(|ms| *ms > 500)
}

/// What comes again counts once.
fn spans(made: &Made) -> f64 {
    made.waited_once() as f64
}

fn bytes(made: &Made) -> f64 {
    let mut seen = BTreeSet::new();
    let once = made.waited().filter(|sent| seen.insert(&sent.span.span_id));
    once.map(|sent| sent.span.encoded_len() as f64).sum()
}

const fn spans_limit(per_second: u64, saves: bool, of: fn(&Made) -> bool) -> Limit {
    Limit {
        per_second,
        saves,
        of,
        cost: Made::count,
        cost_here: spans,
    }
}

fn is_double(value: &Value) -> bool {
    matches!(value, Value::DoubleValue(_))
}

const DOUBLE: &str = "a number with a fraction is 0 there";
const TYPE: &str = "a value of another type is false there";
const DIGIT: &str = "\\d, \\w and \\s are ASCII there";
const PREFIX: &str = "the upper bound is asked after every span there, so a part of a longer trace is enough";
const INVALID: &str = "a tracestate that W3C Trace Context calls invalid is not read there";
const AGAIN: &str = "a span that comes again is counted again there";
const AS_TEXT: &str = "IsMatch makes a text of a number there";

const SOME_LIMITED: &[Limit] = &[spans_limit(20, true, every)];
const BYTES_LIMITED: &[Limit] = &[Limit {
    per_second: 3000,
    saves: true,
    of: every,
    cost: Made::bytes,
    cost_here: bytes,
}];
const FAILED_LIMITED: &[Limit] = &[spans_limit(5, true, failed)];
const TWO_LIMITED: &[Limit] = &[
    spans_limit(6, false, failed),
    spans_limit(14, false, |made| !failed(made)),
];
const SHARE: Share = Share {
    percent: 25.0,
    salt: SALT,
    some: every,
    all: none,
    drops: none,
};

pub const CASES: &[Case] = &[
    same("always_sample", "{name: p, type: always_sample}", &[]),
    same("latency", "{name: p, type: latency, latency: {threshold_ms: 500}}", &[]),
    same("latency", "{name: p, type: latency}", &[]),
    same(
        "latency",
        "{name: p, type: latency, latency: {threshold_ms: 500, upper_threshold_ms: 2000}}",
        &[Reason {
            side: Side::There,
            text: PREFIX,
            holds: |made| {
                let lengths = made.lengths_ms();
                let is_within = |ms: &u64| (501..=2000).contains(ms);
                lengths.iter().any(is_within) && !lengths.last().is_some_and(is_within)
            },
        }],
    ),
    same(
        "numeric_attribute",
        "{name: p, type: numeric_attribute, numeric_attribute: {key: http.status_code, min_value: 400, max_value: 499}}",
        &[Reason {
            side: Side::Here,
            text: DOUBLE,
            holds: |made| made.has("http.status_code", is_double),
        }],
    ),
    same(
        "numeric_attribute",
        "{name: p, type: numeric_attribute, numeric_attribute: {key: http.status_code, min_value: 500, invert_match: true}}",
        &[],
    ),
    same(
        "string_attribute",
        "{name: p, type: string_attribute, string_attribute: {key: tier, values: [gold, silver, \"\"]}}",
        &[],
    ),
    same(
        "string_attribute",
        "{name: p, type: string_attribute, string_attribute: {key: tier, values: ['^\\d', 'ol'], enabled_regex_matching: true}}",
        &[Reason {
            side: Side::Here,
            text: DIGIT,
            holds: |made| {
                made.has(
                    "tier",
                    |value| matches!(value, Value::StringValue(text) if text == "\u{663}"),
                )
            },
        }],
    ),
    same(
        "string_attribute",
        "{name: p, type: string_attribute, string_attribute: {key: tier, values: [gold], invert_match: true}}",
        &[],
    ),
    same(
        "boolean_attribute",
        "{name: p, type: boolean_attribute, boolean_attribute: {key: cached, value: true}}",
        &[],
    ),
    same(
        "boolean_attribute",
        "{name: p, type: boolean_attribute, boolean_attribute: {key: cached, value: false}}",
        &[Reason {
            side: Side::There,
            text: TYPE,
            holds: |made| made.has("cached", |value| !matches!(value, Value::BoolValue(_))),
        }],
    ),
    same(
        "boolean_attribute",
        "{name: p, type: boolean_attribute, boolean_attribute: {key: cached, value: true, invert_match: true}}",
        &[],
    ),
    same(
        "status_code",
        "{name: p, type: status_code, status_code: {status_codes: [ERROR]}}",
        &[],
    ),
    same(
        "status_code",
        "{name: p, type: status_code, status_code: {status_codes: [OK, ERROR]}}",
        &[],
    ),
    same(
        "span_count",
        "{name: p, type: span_count, span_count: {min_spans: 4}}",
        &[Reason {
            side: Side::There,
            text: AGAIN,
            holds: |made| made.count() >= 4 && made.waited_once() < 4,
        }],
    ),
    same(
        "span_count",
        "{name: p, type: span_count, span_count: {min_spans: 2, max_spans: 5}}",
        &[
            Reason {
                side: Side::Here,
                text: AGAIN,
                holds: |made| made.count() > 5 && made.waited_once() <= 5,
            },
            Reason {
                side: Side::There,
                text: AGAIN,
                holds: |made| made.count() >= 2 && made.waited_once() < 2,
            },
        ],
    ),
    same(
        "trace_state",
        "{name: p, type: trace_state, trace_state: {key: vendor, values: [blue, green]}}",
        &[Reason {
            side: Side::Here,
            text: INVALID,
            holds: |made| {
                let invalid = ["vendor=blue,vendor=red", "=x,vendor=blue"];
                made.waited()
                    .any(|sent| invalid.contains(&sent.span.trace_state.as_str()))
            },
        }],
    ),
    same("trace_flags", "{name: p, type: trace_flags}", &[]),
    shared(
        "probabilistic",
        "{name: p, type: probabilistic, probabilistic: {sampling_percentage: 25}}",
        false,
        SHARE,
    ),
    shared(
        "probabilistic",
        "{name: p, type: probabilistic, probabilistic: {sampling_percentage: 25}}",
        true,
        SHARE,
    ),
    shared(
        "probabilistic",
        "{name: p, type: probabilistic, probabilistic: {sampling_percentage: 60, hash_salt: sea}}",
        false,
        Share {
            percent: 60.0,
            salt: "sea",
            ..SHARE
        },
    ),
    limited(
        "rate_limiting",
        "{name: p, type: rate_limiting, rate_limiting: {spans_per_second: 20}}",
        false,
        SOME_LIMITED,
    ),
    limited(
        "rate_limiting",
        "{name: p, type: rate_limiting, rate_limiting: {spans_per_second: 20}}",
        true,
        SOME_LIMITED,
    ),
    limited(
        "bytes_limiting",
        "{name: p, type: bytes_limiting, bytes_limiting: {bytes_per_second: 3000}}",
        false,
        BYTES_LIMITED,
    ),
    limited(
        "bytes_limiting",
        "{name: p, type: bytes_limiting, bytes_limiting: {bytes_per_second: 3000}}",
        true,
        BYTES_LIMITED,
    ),
    same(
        "and",
        "{name: p, type: and, and: {and_sub_policy: [{name: a, type: latency, latency: {threshold_ms: 100}}, {name: b, type: not, not: {not_sub_policy: {type: status_code, status_code: {status_codes: [ERROR]}}}}, {name: c, type: span_count, span_count: {min_spans: 4}}]}}",
        &[Reason {
            side: Side::There,
            text: AGAIN,
            holds: |made| made.count() >= 4 && made.waited_once() < 4,
        }],
    ),
    shared(
        "and",
        "{name: p, type: and, and: {and_sub_policy: [{name: a, type: latency, latency: {threshold_ms: 500}}, {name: b, type: probabilistic, probabilistic: {sampling_percentage: 40}}]}}",
        false,
        Share {
            percent: 40.0,
            some: slow,
            ..SHARE
        },
    ),
    limited(
        "and",
        "{name: p, type: and, and: {and_sub_policy: [{name: a, type: status_code, status_code: {status_codes: [ERROR]}}, {name: b, type: rate_limiting, rate_limiting: {spans_per_second: 5}}]}}",
        false,
        FAILED_LIMITED,
    ),
    limited(
        "and",
        "{name: p, type: and, and: {and_sub_policy: [{name: a, type: status_code, status_code: {status_codes: [ERROR]}}, {name: b, type: rate_limiting, rate_limiting: {spans_per_second: 5}}]}}",
        true,
        FAILED_LIMITED,
    ),
    same(
        "not",
        "{name: p, type: not, not: {not_sub_policy: {name: a, type: span_count, span_count: {min_spans: 4}}}}",
        &[Reason {
            side: Side::Here,
            text: AGAIN,
            holds: |made| made.count() >= 4 && made.waited_once() < 4,
        }],
    ),
    same(
        "not",
        "{name: p, type: not, not: {not_sub_policy: {name: a, type: string_attribute, string_attribute: {key: tier, values: [gold, bronze]}}}}",
        &[],
    ),
    same(
        "drop",
        "{name: d, type: drop, drop: {drop_sub_policy: [{name: a, type: status_code, status_code: {status_codes: [ERROR]}}, {name: b, type: latency, latency: {threshold_ms: 500}}]}}, {name: p, type: always_sample}",
        &[],
    ),
    same(
        "drop",
        "{name: s, type: status_code, status_code: {status_codes: [ERROR]}}, {name: d, type: drop, drop: {drop_sub_policy: [{name: a, type: trace_flags}]}}, {name: z, type: probabilistic, probabilistic: {sampling_percentage: 0}}",
        &[],
    ),
    same(
        "composite",
        "{name: p, type: composite, composite: {max_total_spans_per_second: 100000, policy_order: [b, a], composite_sub_policy: [{name: a, type: status_code, status_code: {status_codes: [ERROR]}}, {name: b, type: latency, latency: {threshold_ms: 500}}], rate_allocation: [{policy: a, percent: 30}, {policy: b, percent: 0}]}}",
        &[],
    ),
    limited(
        "composite",
        "{name: p, type: composite, composite: {max_total_spans_per_second: 20, composite_sub_policy: [{name: a, type: status_code, status_code: {status_codes: [ERROR]}}, {name: b, type: always_sample}], rate_allocation: [{policy: a, percent: 30}, {policy: b, percent: 70}]}}",
        false,
        TWO_LIMITED,
    ),
    same(
        "ottl_condition",
        "{name: p, type: ottl_condition, ottl_condition: {error_mode: ignore, span: ['attributes[\"http.status_code\"] >= 404', 'resource.attributes[\"tier\"] == \"gold\" and name == \"poll\"']}}",
        &[],
    ),
    same(
        "ottl_condition",
        "{name: p, type: ottl_condition, ottl_condition: {error_mode: ignore, span: ['attributes[\"tier\"] != nil and attributes[\"tier\"] != \"gold\"', 'not (kind != SPAN_KIND_CONSUMER) and status.code == STATUS_CODE_ERROR', 'trace_state[\"vendor\"] == \"red\"']}}",
        &[],
    ),
    same(
        "ottl_condition",
        "{name: p, type: ottl_condition, ottl_condition: {error_mode: ignore, span: ['IsMatch(attributes[\"tier\"], \"^[7g]\")', 'IsMatch(name, \"/7$\") and attributes[\"cached\"] == true']}}",
        &[Reason {
            side: Side::There,
            text: AS_TEXT,
            holds: |made| made.has_own("tier", |value| *value == Value::IntValue(7)),
        }],
    ),
    shared(
        "several",
        "{name: d, type: drop, drop: {drop_sub_policy: [{name: a, type: trace_flags}]}}, {name: p, type: probabilistic, probabilistic: {sampling_percentage: 10}}, {name: s, type: status_code, status_code: {status_codes: [ERROR]}}, {name: l, type: latency, latency: {threshold_ms: 500}}",
        false,
        Share {
            percent: 10.0,
            salt: SALT,
            some: every,
            all: |made| failed(made) || slow(made),
            drops: |made| made.waited().any(|sent| sent.span.flags & 1 != 0),
        },
    ),
];
