//! Columns of the two tables that are counted before sampling, `red` and `edges`.
//!
//! Both are additive: whoever reads sums rows of equal key. Key are the columns before `n`, and the thresholds in `registers`.

use super::Kind::*;
use super::{Column, opt, req};

pub(super) const SLICE: &[Column] = &[
    req(
        "ts",
        Ts,
        "us since 1970",
        "Start of the slice: the span's end (its arrival if that time is not to be trusted) cut to slice_s.",
    ),
    req(
        "slice_s",
        I32,
        "s",
        "Width of the slice: 10, or 60 once folded; 900 or 3600 in the derived tables.",
    ),
];

pub(super) const RED_KEY: &[Column] = &[
    opt(
        "service_name",
        Word,
        "",
        "Resource attribute `service.name`; `__other__` beyond the limit of services.",
    ),
    opt("service_namespace", Word, "", "Resource attribute `service.namespace`."),
    opt(
        "deployment_env",
        Word,
        "",
        "Resource attribute `deployment.environment.name` or, before 2024, `deployment.environment`.",
    ),
    opt("cloud_region", Word, "", "Resource attribute `cloud.region`."),
    opt("service_version", Word, "", "Resource attribute `service.version`."),
    req(
        "operation",
        Word,
        "",
        "Span name; `__other__` for what lies beyond the service's limit of keys.",
    ),
    opt("http_route", Word, "", "Attribute `http.route`."),
    req(
        "kind",
        I8,
        "",
        "0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.",
    ),
    req(
        "is_entry",
        Bool,
        "",
        "Where a service is entered: what the SLIs of a service count.",
    ),
    req(
        "is_error",
        Bool,
        "",
        "Counted as errors, by the rules in docs/red.md; so durations of good requests stand apart.",
    ),
    opt(
        "status_class",
        Word,
        "",
        "`1xx` to `5xx`, but `429` and `499` by themselves; of RPCs the gRPC code's name; null if neither was sent.",
    ),
    opt(
        "error_type",
        Word,
        "",
        "Of errors: attribute `error.type`, or else the HTTP status or gRPC code.",
    ),
    req("dims", MapWord, "", "The dimensions configured, at most 4."),
];

pub(super) const RED_VALUES: &[Column] = &[
    req("n", I64, "spans", "How many spans were received; summed by readers."),
    req("errors", I64, "spans", "Those counted as errors: n or 0."),
    req("sum_ns", I64, "ns", "Sum of their durations."),
    req("max_ns", I64, "ns", "The longest duration."),
    opt(
        "exphist",
        Bytes,
        "ns",
        "Their durations as an exponential histogram of scale 5; null if n is 0.",
    ),
    req(
        "registers",
        Registers,
        "",
        "For thresholds declared by SLOs, how many durations are at or below them, exactly.",
    ),
    req(
        "n_weighted",
        I64,
        "2^-20 spans",
        "As n, each span counted as many times as upstream sampling (`ot=th`) says it stands for.",
    ),
    req("errors_weighted", I64, "2^-20 spans", "As errors, likewise."),
];

pub(super) const EDGE_KEY: &[Column] = &[
    req(
        "kind",
        Word,
        "",
        "`request` between client and server spans, `message` between producer and consumer spans.",
    ),
    opt(
        "client_service",
        Word,
        "",
        "`service.name` of the caller or producer; null if its span was not seen.",
    ),
    opt("client_namespace", Word, "", "Its `service.namespace`."),
    opt(
        "server_service",
        Word,
        "",
        "`service.name` of the callee or consumer; null if its span was not seen.",
    ),
    opt("server_namespace", Word, "", "Its `service.namespace`."),
    opt(
        "peer",
        Word,
        "",
        "Whom a caller alone says it calls: `peer.service`, else the database or messaging system, else `server.address`.",
    ),
    opt(
        "unpaired",
        Word,
        "",
        "Null for a pair; else why one side is missing: `expired`, `full` (too many were waiting), `root` (nobody is named as the caller), `database`.",
    ),
];

pub(super) const EDGE_VALUES: &[Column] = &[
    req("n", I64, "calls", "How many calls; summed by readers."),
    req("errors", I64, "calls", "Those that either side counts as an error."),
    req("client_sum_ns", I64, "ns", "Sum of durations as the client saw them."),
    req("client_max_ns", I64, "ns", "The longest of them."),
    opt(
        "client_exphist",
        Bytes,
        "ns",
        "Them as an exponential histogram of scale 5.",
    ),
    req("server_sum_ns", I64, "ns", "Sum of durations as the server saw them."),
    req("server_max_ns", I64, "ns", "The longest of them."),
    opt(
        "server_exphist",
        Bytes,
        "ns",
        "Them as an exponential histogram of scale 5.",
    ),
    req("n_weighted", I64, "2^-20 calls", "As n, weighted by upstream sampling."),
    req("errors_weighted", I64, "2^-20 calls", "As errors, likewise."),
];

pub(super) const EXEMPLAR: &[Column] = &[
    opt(
        "exemplar_r",
        I64,
        "2^-56",
        "Randomness R of the exemplar: of all spans counted here the one with the largest, which any sampler keeps if it keeps one.",
    ),
    opt("exemplar_trace_id", Bytes, "16 bytes", "Its trace."),
    opt("exemplar_span_id", Bytes, "8 bytes", "Its span."),
    opt("exemplar_ts", Ts, "us since 1970", "Its end."),
    opt("exemplar_ns", I64, "ns", "Its duration."),
];
