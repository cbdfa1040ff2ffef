//! The columns of every table: name, type, unit, sentence. Schemas, `FORMAT.md` and the reference are made from this list.
//!
//! Order is the order of the schema. New columns are appended to a group and must not be `required`: older files lack them.
//! Delta has no unsigned types, so every count is signed; `INT` flags carry the bits of a `u32`.

use super::Table;

mod red;

/// The type of a column, in the lake and in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `DATE`.
    Date,
    /// `TIMESTAMP` in microseconds, UTC.
    Ts,
    /// `STRING` with many different values.
    Text,
    /// `STRING` with few different values: `Dictionary(Int32, Utf8)` in a frame.
    Word,
    /// `BINARY`.
    Bytes,
    /// `BOOLEAN`.
    Bool,
    /// `BYTE`.
    I8,
    /// `SHORT`.
    I16,
    /// `INTEGER`.
    I32,
    /// `LONG`.
    I64,
    /// `DOUBLE`.
    F64,
    /// `MAP<STRING, STRING>`; keys and values are dictionaries in a frame.
    MapWord,
    /// `MAP<STRING, LONG>`.
    MapI64,
    /// `MAP<STRING, DOUBLE>`.
    MapF64,
    /// `MAP<STRING, BOOLEAN>`.
    MapBool,
    /// `ARRAY<STRING>`; elements are a dictionary in a frame.
    ListWord,
    /// `ARRAY<LONG>`.
    ListI64,
    /// `ARRAY<DOUBLE>`.
    ListF64,
    /// `ARRAY<STRUCT<ts, ts_ns, name, attrs MAP<STRING, STRING>, dropped>>`.
    Events,
    /// `ARRAY<STRUCT<trace_id, span_id, trace_state, flags, attrs MAP<STRING, STRING>, dropped>>`.
    Links,
    /// `ARRAY<STRUCT<ts, ts_ns, value DOUBLE, trace_id, span_id, attrs MAP<STRING, STRING>>>`.
    Exemplars,
    /// `ARRAY<STRUCT<q DOUBLE, v DOUBLE>>`.
    Quantiles,
    /// `ARRAY<STRUCT<threshold_ns LONG, le_count LONG>>`.
    Registers,
}

/// One column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Name in SQL and in the files.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Never null. Only columns that exist since the first commit can be.
    pub required: bool,
    /// Unit, empty where the value has none.
    pub unit: &'static str,
    /// One sentence for the reference.
    pub doc: &'static str,
}

const fn req(name: &'static str, kind: Kind, unit: &'static str, doc: &'static str) -> Column {
    Column {
        name,
        kind,
        required: true,
        unit,
        doc,
    }
}

const fn opt(name: &'static str, kind: Kind, unit: &'static str, doc: &'static str) -> Column {
    Column {
        name,
        kind,
        required: false,
        unit,
        doc,
    }
}

use Kind::*;

const HEAD: &[Column] = &[
    req(
        "date",
        Date,
        "day, UTC",
        "Partition: the day of the item's time if that lies within retention and 10 minutes ahead of arrival, else the day of arrival.",
    ),
    req(
        "tenant",
        Word,
        "",
        "Whose data; `default` unless tenants are configured.",
    ),
];

const TIME: &[Column] = &[
    req(
        "ts",
        Ts,
        "us since 1970",
        "The item's time, cut to microseconds, as sent.",
    ),
    req(
        "ts_ns",
        I16,
        "ns, 0-999",
        "What `ts` leaves out: time in ns = ts * 1000 + ts_ns.",
    ),
];

const TIME_FLAG: &[Column] = &[opt(
    "ts_flag",
    Word,
    "",
    "Why the time is not to be trusted: `zero`, `future`, `past` (these three are stored under the day of arrival), `end_before_start`, or `observed` for a log record that shows its observed time; null if nothing is wrong.",
)];

const RESOURCE: &[Column] = &[
    opt("service_name", Word, "", "Resource attribute `service.name`."),
    opt("service_namespace", Word, "", "Resource attribute `service.namespace`."),
    opt("service_version", Word, "", "Resource attribute `service.version`."),
    opt(
        "service_instance_id",
        Word,
        "",
        "Resource attribute `service.instance.id`.",
    ),
    opt(
        "deployment_env",
        Word,
        "",
        "Resource attribute `deployment.environment.name` or, before 2024, `deployment.environment`.",
    ),
];

const RESOURCE_PLACE: &[Column] = &[
    opt("host_name", Word, "", "Resource attribute `host.name`."),
    opt("k8s_cluster", Word, "", "Resource attribute `k8s.cluster.name`."),
    opt("k8s_namespace", Word, "", "Resource attribute `k8s.namespace.name`."),
    opt("k8s_pod", Word, "", "Resource attribute `k8s.pod.name`."),
    opt("k8s_container", Word, "", "Resource attribute `k8s.container.name`."),
    opt("cloud_region", Word, "", "Resource attribute `cloud.region`."),
];

const SAMPLING: &[Column] = &[
    opt(
        "sample_weight",
        F64,
        "items",
        "How many items this one stands for; 1.0 if everything was kept, null if nobody knows.",
    ),
    opt(
        "sample_threshold",
        I64,
        "2^-56",
        "Rejection threshold T of the decision: kept when R >= T; 0 keeps all.",
    ),
    opt(
        "sample_reason",
        Word,
        "",
        "Which rule kept it; `all` if nothing was sampled.",
    ),
    opt(
        "weight_quality",
        Word,
        "",
        "How far the weight can be relied on: exact, assumed_upstream (nobody before us said anything), at_most (a log record that came after its trace's decision: less if the spans were sampled before us), unknown; null where everything is kept and nobody before us said otherwise.",
    ),
    opt(
        "trigger",
        Word,
        "",
        "What made the trace due: arrival, root, idle, timeout, span_limit, admission, shutdown; arrival where everything is kept.",
    ),
    opt(
        "partial",
        Bool,
        "",
        "The decision was made before the trace was complete, or part of the trace may have been decided before and forgotten.",
    ),
    opt("late", Bool, "", "Arrived after the decision of its trace."),
    opt("policy_epoch", I64, "", "Version of the sampling policy that decided."),
];

const ATTRS: &[Column] = &[
    req(
        "attrs_str",
        MapWord,
        "",
        "String attributes that have no column of their own.",
    ),
    req(
        "attrs_int",
        MapI64,
        "",
        "Integer attributes that have no column of their own.",
    ),
    req(
        "attrs_dbl",
        MapF64,
        "",
        "Floating-point attributes that have no column of their own.",
    ),
    req(
        "attrs_bool",
        MapBool,
        "",
        "Boolean attributes that have no column of their own.",
    ),
    req(
        "attrs_json",
        MapWord,
        "",
        "Arrays, key-value lists, bytes and empty values, each as the OTLP-JSON text of its AnyValue.",
    ),
];

const ORIGIN: &[Column] = &[
    req(
        "resource_attrs",
        MapWord,
        "",
        "Resource attributes that have no column; numbers and booleans as text, the rest as OTLP-JSON.",
    ),
    opt("resource_schema_url", Word, "", "Schema URL of the resource."),
    opt("scope_name", Word, "", "Instrumentation scope."),
    opt("scope_version", Word, "", "Version of the instrumentation scope."),
    opt("scope_schema_url", Word, "", "Schema URL of the scope."),
    req(
        "scope_attrs",
        MapWord,
        "",
        "Scope attributes, as text like resource_attrs.",
    ),
];

const TAIL: &[Column] = &[
    req("ingest_ts", Ts, "us since 1970", "When the request arrived."),
    req(
        "batch_id",
        I64,
        "",
        "Outbox batch that carried the row, ascending per collector.",
    ),
];

const BATCH: &[Column] = &[req(
    "batch_id",
    I64,
    "",
    "Outbox batch that carried the row, ascending per collector.",
)];

const SPAN: &[Column] = &[
    req(
        "duration_ns",
        I64,
        "ns",
        "End minus start; 0 if the end lies before the start.",
    ),
    opt(
        "end_ns",
        I64,
        "ns since 1970",
        "The end as sent, only where start + duration_ns is not it.",
    ),
];

const SPAN_NAME: &[Column] = &[
    req("name", Word, "", "Span name."),
    req(
        "kind",
        I8,
        "",
        "0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.",
    ),
    req("status_code", I8, "", "0 unset, 1 ok, 2 error."),
    opt("status_message", Word, "", "Message of the status; null if empty."),
    req("trace_id", Bytes, "16 bytes", "Trace id."),
    req("span_id", Bytes, "8 bytes", "Span id."),
    opt(
        "parent_span_id",
        Bytes,
        "8 bytes",
        "Span id of the parent; null for a root.",
    ),
    opt("trace_state", Word, "", "W3C tracestate as sent; null if empty."),
    opt(
        "flags",
        I32,
        "",
        "W3C trace flags and the has-remote/is-remote bits; null if 0.",
    ),
    req("is_root", Bool, "", "Has no parent."),
    req(
        "is_entry",
        Bool,
        "",
        "Where a service is entered: a root, a server or consumer span, or one whose parent is flagged remote.",
    ),
];

const SPAN_PROMOTED: &[Column] = &[
    opt(
        "http_method",
        Word,
        "",
        "Attribute `http.request.method`, or `http.method`.",
    ),
    opt("http_route", Word, "", "Attribute `http.route`."),
    opt(
        "http_status",
        I32,
        "",
        "Attribute `http.response.status_code`, or `http.status_code`.",
    ),
    opt("rpc_system", Word, "", "Attribute `rpc.system`, or `rpc.system.name`."),
    opt("rpc_service", Word, "", "Attribute `rpc.service`."),
    opt("rpc_method", Word, "", "Attribute `rpc.method`."),
    opt("rpc_status", I32, "", "Attribute `rpc.grpc.status_code`."),
    opt("db_system", Word, "", "Attribute `db.system.name`, or `db.system`."),
    opt(
        "db_operation",
        Word,
        "",
        "Attribute `db.operation.name`, or `db.operation`.",
    ),
    opt(
        "db_collection",
        Word,
        "",
        "Attribute `db.collection.name`, or `db.sql.table`, `db.mongodb.collection`, `db.cassandra.table`.",
    ),
    opt("messaging_system", Word, "", "Attribute `messaging.system`."),
    opt(
        "messaging_destination",
        Word,
        "",
        "Attribute `messaging.destination.name`, or `messaging.destination`.",
    ),
    opt(
        "messaging_operation",
        Word,
        "",
        "Attribute `messaging.operation.type`, or `messaging.operation`.",
    ),
    opt("error_type", Word, "", "Attribute `error.type`."),
    opt(
        "peer_service",
        Word,
        "",
        "Attribute `peer.service`, or `service.peer.name`.",
    ),
    opt("server_address", Word, "", "Attribute `server.address`."),
    opt("user_id", Word, "", "Attribute `user.id`, or `enduser.id`."),
    opt("session_id", Word, "", "Attribute `session.id`."),
    opt(
        "network_peer_address",
        Word,
        "",
        "Attribute `network.peer.address`, or `net.sock.peer.addr`.",
    ),
    opt(
        "network_peer_port",
        I32,
        "",
        "Attribute `network.peer.port`, or `net.sock.peer.port`.",
    ),
];

const SPAN_TAIL: &[Column] = &[
    req(
        "dropped_attrs",
        I32,
        "attributes",
        "Attributes dropped by the SDK, plus those cut here.",
    ),
    req(
        "dropped_events",
        I32,
        "events",
        "Events dropped by the SDK, plus those cut here.",
    ),
    req(
        "dropped_links",
        I32,
        "links",
        "Links dropped by the SDK, plus those cut here.",
    ),
    req("events", Events, "", "Span events."),
    req("links", Links, "", "Span links."),
];

const TRACE: &[Column] = &[
    req("trace_id", Bytes, "16 bytes", "Trace id."),
    req(
        "ts_min",
        Ts,
        "us since 1970",
        "Earliest start among the spans of this part.",
    ),
    req(
        "ts_max",
        Ts,
        "us since 1970",
        "Latest end among the spans of this part.",
    ),
    opt("ts_flag", Word, "", "As in spans, for ts_min."),
    req(
        "part",
        I32,
        "",
        "0 for the first part of a trace, which carries the count of one; late spans add parts.",
    ),
    req(
        "duration_ns",
        I64,
        "ns",
        "Latest end minus earliest start of this part.",
    ),
    opt(
        "root_service",
        Word,
        "",
        "service_name of the root span; null if the root is not in this part.",
    ),
    opt("root_name", Word, "", "Name of the root span."),
    opt("root_kind", I8, "", "Kind of the root span."),
    opt("root_status", I8, "", "Status code of the root span."),
    opt("http_route", Word, "", "http_route of the root span."),
    req("span_count", I32, "spans", "Spans in this part."),
    req("error_count", I32, "spans", "Spans with status 2 in this part."),
    req(
        "services",
        ListWord,
        "",
        "Service names in this part, each once, in order of first sight; at most 64.",
    ),
];

const INGEST: &[Column] = &[req("ingest_ts", Ts, "us since 1970", "When the request arrived.")];

const LOG: &[Column] = &[
    opt(
        "observed_ts",
        Ts,
        "us since 1970",
        "When the record was observed; null if not sent.",
    ),
    opt("observed_ts_ns", I16, "ns, 0-999", "What observed_ts leaves out."),
];

const LOG_BODY: &[Column] = &[
    req(
        "severity_number",
        I8,
        "",
        "1-4 trace, 5-8 debug, 9-12 info, 13-16 warn, 17-20 error, 21-24 fatal, 0 not set.",
    ),
    opt("severity_text", Word, "", "Severity as the source calls it."),
    opt(
        "event_name",
        Word,
        "",
        "Name of the event class; null if this is no event.",
    ),
    opt("body", Text, "", "Body if it is a string."),
    opt(
        "body_json",
        Text,
        "",
        "Body of any other type, as the OTLP-JSON text of its AnyValue.",
    ),
    opt(
        "trace_id",
        Bytes,
        "16 bytes",
        "Trace id; null if not linked to a trace, or if the id sent is not valid.",
    ),
    opt(
        "span_id",
        Bytes,
        "8 bytes",
        "Span id; null if not linked to a span, or if an id sent is not valid.",
    ),
    opt("flags", I32, "", "W3C trace flags; null if 0."),
];

const LOG_PROMOTED: &[Column] = &[
    opt("exception_type", Word, "", "Attribute `exception.type`."),
    opt(
        "http_method",
        Word,
        "",
        "Attribute `http.request.method`, or `http.method`.",
    ),
    opt("http_route", Word, "", "Attribute `http.route`."),
    opt(
        "http_status",
        I32,
        "",
        "Attribute `http.response.status_code`, or `http.status_code`.",
    ),
];

const LOG_TAIL: &[Column] = &[req(
    "dropped_attrs",
    I32,
    "attributes",
    "Attributes dropped by the SDK, plus those cut here.",
)];

const METRIC: &[Column] = &[
    opt(
        "start_ts",
        Ts,
        "us since 1970",
        "Start of the interval that the point covers; null if not sent.",
    ),
    opt("start_ts_ns", I16, "ns, 0-999", "What start_ts leaves out."),
    req("metric_name", Word, "", "Metric name."),
    req(
        "series_id",
        I64,
        "",
        "64-bit hash of name, type, unit, temporality, resource, scope and attributes; compare labels before merging series.",
    ),
    req(
        "type",
        I8,
        "",
        "1 gauge, 2 sum, 3 histogram, 4 exponential histogram, 5 summary.",
    ),
    req("temporality", I8, "", "0 unspecified, 1 delta, 2 cumulative."),
    opt("monotonic", Bool, "", "Only of sums."),
    opt("unit", Word, "", "UCUM unit; null if empty."),
    req("flags", I32, "", "Bit 0: no recorded value (stale)."),
];

const METRIC_PROMOTED: &[Column] = &[
    opt(
        "http_method",
        Word,
        "",
        "Attribute `http.request.method`, or `http.method`.",
    ),
    opt("http_route", Word, "", "Attribute `http.route`."),
    opt(
        "http_status",
        I32,
        "",
        "Attribute `http.response.status_code`, or `http.status_code`.",
    ),
    opt("rpc_service", Word, "", "Attribute `rpc.service`."),
    opt("rpc_method", Word, "", "Attribute `rpc.method`."),
    opt("db_system", Word, "", "Attribute `db.system.name`, or `db.system`."),
    opt("error_type", Word, "", "Attribute `error.type`."),
];

const POINT_VALUE: &[Column] = &[
    opt(
        "value",
        F64,
        "of the metric",
        "The value, bit-exact if it was sent as a double; null if none was sent.",
    ),
    opt(
        "value_int",
        I64,
        "of the metric",
        "The value if it was sent as an integer that a double cannot hold.",
    ),
    req("is_int", Bool, "", "The value was sent as an integer."),
];

const DIST_VALUE: &[Column] = &[
    req("count", I64, "", "How many values."),
    opt("sum", F64, "of the metric", "Their sum."),
    opt("min", F64, "of the metric", "The least."),
    opt("max", F64, "of the metric", "The greatest."),
    req(
        "bounds",
        ListF64,
        "of the metric",
        "Upper bounds of a histogram's buckets; the last bucket has none.",
    ),
    req("counts", ListI64, "", "Counts per bucket of a histogram."),
    opt("scale", I32, "", "Exponential histogram: base = 2^(2^-scale)."),
    opt(
        "zero_count",
        I64,
        "",
        "Exponential histogram: values within zero_threshold of 0.",
    ),
    opt(
        "zero_threshold",
        F64,
        "of the metric",
        "Exponential histogram: half width of the zero bucket.",
    ),
    opt(
        "pos_offset",
        I32,
        "",
        "Exponential histogram: index of the first positive bucket.",
    ),
    req(
        "pos_counts",
        ListI64,
        "",
        "Exponential histogram: counts of the positive buckets.",
    ),
    opt(
        "neg_offset",
        I32,
        "",
        "Exponential histogram: index of the first negative bucket.",
    ),
    req(
        "neg_counts",
        ListI64,
        "",
        "Exponential histogram: counts of the negative buckets.",
    ),
    req("quantiles", Quantiles, "", "Summary: quantile and its value."),
];

const EXEMPLARS: &[Column] = &[req(
    "exemplars",
    Exemplars,
    "",
    "Examples of measured values, with their traces.",
)];

const SERIES: &[Column] = &[
    req("series_id", I64, "", "As in metric_points and metric_dists."),
    req("metric_name", Word, "", "Metric name."),
    req(
        "type",
        I8,
        "",
        "1 gauge, 2 sum, 3 histogram, 4 exponential histogram, 5 summary.",
    ),
    req("temporality", I8, "", "0 unspecified, 1 delta, 2 cumulative."),
    opt("monotonic", Bool, "", "Only of sums."),
    opt("unit", Word, "", "UCUM unit; null if empty."),
    opt("description", Word, "", "Description; null if empty."),
    opt("service_name", Word, "", "Resource attribute `service.name`."),
    req(
        "labels",
        MapWord,
        "",
        "Every attribute of the series under its own key, as text; resource attributes are prefixed `resource.`, scope name, version and attributes `scope.`.",
    ),
    req(
        "first_ts",
        Ts,
        "us since 1970",
        "Time of the first point seen on this day by this collector.",
    ),
];

const LEDGER: &[Column] = &[
    req("ts", Ts, "us since 1970", "Start of the 10 s slice of arrival."),
    req("signal", Word, "", "`traces`, `metrics` or `logs`."),
    req("account", Word, "", "`received`, or where the items ended."),
    opt("reason", Word, "", "Why; null where the account needs no reason."),
    req(
        "items",
        I64,
        "items",
        "Spans, data points or log records; summed by readers.",
    ),
    req("bytes", I64, "bytes", "Their protobuf bytes."),
];

const TICK: &[Column] = &[
    req("ts", Ts, "us since 1970", "When, by the clock of arrivals."),
    req(
        "stratum",
        Word,
        "",
        "Stratum of the policy; `admission` for what was decided because memory was short.",
    ),
    req(
        "policy_epoch",
        I64,
        "s since 1970",
        "When the policy's file was last changed.",
    ),
    req("tick", I64, "", "Number of the tick."),
    req("seen_traces", I64, "traces", "Fell due."),
    req("seen_spans", I64, "spans", "Their spans."),
    req("seen_bytes", I64, "bytes", "Their protobuf bytes."),
    req("kept_traces", I64, "traces", "Of those, stored."),
    req("kept_spans", I64, "spans", "Their spans."),
    req("kept_bytes", I64, "bytes", "Their protobuf bytes."),
    req("kept_cost", F64, "bytes", "What they are expected to take when stored."),
    req(
        "adjusted_traces",
        F64,
        "traces",
        "Weights of the kept ones, added up: an estimate of `seen_traces`.",
    ),
    req("late_spans", I64, "spans", "Came after their trace's decision."),
    req("late_kept_spans", I64, "spans", "Of those, stored."),
    req("threshold_min", I64, "2^-56", "Smallest T applied."),
    req("threshold_max", I64, "2^-56", "Largest T applied."),
    req(
        "tokens",
        F64,
        "bytes",
        "Budget at hand when the tick began; negative is debt.",
    ),
    opt(
        "rate",
        F64,
        "bytes/s",
        "What the governor allowed; null without a limit.",
    ),
];

/// The groups of columns that make up a table, in order.
pub(super) const fn groups(table: Table) -> &'static [&'static [Column]] {
    match table {
        Table::Spans => &[
            HEAD,
            TIME,
            TIME_FLAG,
            SPAN,
            RESOURCE,
            SPAN_NAME,
            SAMPLING,
            SPAN_PROMOTED,
            RESOURCE_PLACE,
            ATTRS,
            ORIGIN,
            SPAN_TAIL,
            TAIL,
        ],
        Table::Traces => &[HEAD, TRACE, SAMPLING, INGEST, BATCH],
        Table::Logs => &[
            HEAD,
            TIME,
            TIME_FLAG,
            LOG,
            RESOURCE,
            LOG_BODY,
            SAMPLING,
            LOG_PROMOTED,
            RESOURCE_PLACE,
            ATTRS,
            ORIGIN,
            LOG_TAIL,
            TAIL,
        ],
        Table::MetricPoints => &[
            HEAD,
            TIME,
            METRIC,
            POINT_VALUE,
            RESOURCE,
            METRIC_PROMOTED,
            RESOURCE_PLACE,
            ATTRS,
            ORIGIN,
            EXEMPLARS,
            TAIL,
        ],
        Table::MetricDists => &[
            HEAD,
            TIME,
            METRIC,
            DIST_VALUE,
            RESOURCE,
            METRIC_PROMOTED,
            RESOURCE_PLACE,
            ATTRS,
            ORIGIN,
            EXEMPLARS,
            TAIL,
        ],
        Table::MetricSeries => &[HEAD, SERIES, BATCH],
        Table::Ledger => &[HEAD, LEDGER, BATCH],
        Table::SamplingTicks => &[HEAD, TICK, BATCH],
        Table::Red | Table::Red15m | Table::Red1h => {
            &[HEAD, red::SLICE, red::RED_KEY, red::RED_VALUES, red::EXEMPLAR, BATCH]
        }
        Table::Edges => &[HEAD, red::SLICE, red::EDGE_KEY, red::EDGE_VALUES, red::EXEMPLAR, BATCH],
    }
}
