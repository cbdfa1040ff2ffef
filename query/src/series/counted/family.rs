//! Which metrics are made of which columns.
//!
//! Names and labels are those that Tempo's metrics generator gives them (grafana/tempo:docs/sources/tempo/metrics-from-traces), because Grafana's
//! Traces Drilldown, its service graph and many dashboards ask for them. Further columns of the key are further labels.

use std::borrow::Cow;

/// A table and the metrics made of it.
pub(crate) struct Family {
    pub table: &'static str,
    /// Tables with the same sums in wider slices, and how wide, ms; widest first.
    pub coarser: &'static [(&'static str, i64)],
    /// Label and the SQL that gives its value.
    pub keys: &'static [(&'static str, &'static str)],
    /// Has a column `dims`, whose entries are labels too.
    pub has_dims: bool,
    /// Has a span behind its numbers.
    pub has_exemplars: bool,
    /// Columns that count what was received, and for how many upstream sampling says it stands.
    pub weights: Option<Weights>,
    /// A further condition on rows.
    pub only: &'static str,
    pub metrics: &'static [Metric],
}

/// Columns that say how much upstream sampling has left out.
pub(crate) struct Weights {
    pub received: &'static str,
    /// In units of 1/[`WEIGHT_ONE`](tailwater_model::red::WEIGHT_ONE).
    pub weighted: &'static str,
}

const WEIGHTS: Option<Weights> = Some(Weights {
    received: "n",
    weighted: "n_weighted",
});

/// A metric.
pub(crate) struct Metric {
    pub name: &'static str,
    pub part: Part,
    /// As metadata shows it; empty for the parts of a classic histogram.
    pub kind: &'static str,
    pub help: &'static str,
}

/// What of a row the metric shows, by column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A number.
    Count(&'static str),
    /// A number, weighted by upstream sampling.
    Weighted(&'static str),
    /// ns, as seconds.
    Seconds(&'static str),
    /// How many values are in a sketch.
    Counted(&'static str),
    /// Buckets of a sketch.
    Buckets(&'static str),
    /// A sum in ns, and a sketch.
    Native(&'static str, &'static str),
}

impl Part {
    pub fn number(self) -> Option<&'static str> {
        match self {
            Part::Count(column) | Part::Weighted(column) | Part::Seconds(column) | Part::Native(column, _) => {
                Some(column)
            }
            Part::Counted(_) | Part::Buckets(_) => None,
        }
    }

    pub fn sketch(self) -> Option<&'static str> {
        match self {
            Part::Counted(column) | Part::Buckets(column) | Part::Native(_, column) => Some(column),
            Part::Count(_) | Part::Weighted(_) | Part::Seconds(_) => None,
        }
    }
}

const fn metric(name: &'static str, part: Part, kind: &'static str, help: &'static str) -> Metric {
    Metric { name, part, kind, help }
}

pub(crate) static FAMILIES: [Family; 3] = [
    Family {
        table: "red",
        coarser: &[("red_1h", 3_600_000), ("red_15m", 900_000)],
        keys: &[
            ("service", "service_name"),
            ("span_name", "operation"),
            (
                "span_kind",
                "case kind when 1 then 'SPAN_KIND_INTERNAL' when 2 then 'SPAN_KIND_SERVER' when 3 then 'SPAN_KIND_CLIENT' \
                 when 4 then 'SPAN_KIND_PRODUCER' when 5 then 'SPAN_KIND_CONSUMER' else 'SPAN_KIND_UNSPECIFIED' end",
            ),
            (
                "status_code",
                "case when is_error then 'STATUS_CODE_ERROR' else 'STATUS_CODE_UNSET' end",
            ),
            ("is_entry", "case when is_entry then 'true' else 'false' end"),
            ("service_namespace", "service_namespace"),
            ("service_version", "service_version"),
            ("deployment_environment_name", "deployment_env"),
            ("cloud_region", "cloud_region"),
            ("http_route", "http_route"),
            ("status_class", "status_class"),
            ("error_type", "error_type"),
        ],
        has_dims: true,
        has_exemplars: true,
        weights: WEIGHTS,
        only: "",
        metrics: &[
            metric(
                "traces_spanmetrics_calls_total",
                Part::Weighted("n_weighted"),
                "counter",
                "Spans received, counted before sampling; one that was sampled upstream counts for all that it stands for.",
            ),
            metric(
                "traces_spanmetrics_latency",
                Part::Native("sum_ns", "exphist"),
                "histogram",
                "Durations of all spans received, in seconds.",
            ),
            metric("traces_spanmetrics_latency_bucket", Part::Buckets("exphist"), "", ""),
            metric("traces_spanmetrics_latency_count", Part::Count("n"), "", ""),
            metric("traces_spanmetrics_latency_sum", Part::Seconds("sum_ns"), "", ""),
        ],
    },
    Family {
        table: "edges",
        coarser: &[],
        keys: &[
            (
                "client",
                "coalesce(client_service, case when unpaired = 'root' then 'user' end)",
            ),
            ("server", "coalesce(server_service, peer)"),
            (
                "connection_type",
                "case when kind = 'message' then 'messaging_system' when unpaired = 'database' then 'database' \
                 when unpaired is not null then 'virtual_node' end",
            ),
            ("client_service_namespace", "client_namespace"),
            ("server_service_namespace", "server_namespace"),
        ],
        has_dims: false,
        has_exemplars: true,
        weights: WEIGHTS,
        // A call of which nobody says who made or answered it is no edge of a graph.
        only: " and (client_service is not null or unpaired = 'root') and (server_service is not null or peer is not null)",
        metrics: &[
            metric(
                "traces_service_graph_request_total",
                Part::Weighted("n_weighted"),
                "counter",
                "Calls between two services, counted before sampling; one that was sampled upstream counts for all that it stands for.",
            ),
            metric(
                "traces_service_graph_request_failed_total",
                Part::Weighted("errors_weighted"),
                "counter",
                "Calls that either side counts as an error, likewise.",
            ),
            metric(
                "traces_service_graph_request_server_seconds",
                Part::Native("server_sum_ns", "server_exphist"),
                "histogram",
                "Durations of calls as the server saw them, in seconds.",
            ),
            metric(
                "traces_service_graph_request_server_seconds_bucket",
                Part::Buckets("server_exphist"),
                "",
                "",
            ),
            metric(
                "traces_service_graph_request_server_seconds_count",
                Part::Counted("server_exphist"),
                "",
                "",
            ),
            metric(
                "traces_service_graph_request_server_seconds_sum",
                Part::Seconds("server_sum_ns"),
                "",
                "",
            ),
            metric(
                "traces_service_graph_request_client_seconds",
                Part::Native("client_sum_ns", "client_exphist"),
                "histogram",
                "Durations of calls as the client saw them, in seconds.",
            ),
            metric(
                "traces_service_graph_request_client_seconds_bucket",
                Part::Buckets("client_exphist"),
                "",
                "",
            ),
            metric(
                "traces_service_graph_request_client_seconds_count",
                Part::Counted("client_exphist"),
                "",
                "",
            ),
            metric(
                "traces_service_graph_request_client_seconds_sum",
                Part::Seconds("client_sum_ns"),
                "",
                "",
            ),
        ],
    },
    // What the collector shows on its own `/metrics`, from the table, so that a dashboard needs nothing else to see the pipeline.
    Family {
        table: "(select *, 10 as slice_s from ledger) as ledger",
        coarser: &[],
        keys: &[
            ("tenant", "tenant"),
            ("signal", "signal"),
            ("account", "account"),
            ("reason", "reason"),
        ],
        has_dims: false,
        has_exemplars: false,
        weights: None,
        only: "",
        metrics: &[
            metric(
                "tailwater_items_total",
                Part::Count("items"),
                "counter",
                "Spans, points and log records by where they ended: received = all other accounts but expired, and what is in flight.",
            ),
            metric(
                "tailwater_item_bytes_total",
                Part::Count("bytes"),
                "counter",
                "Their protobuf bytes, likewise.",
            ),
        ],
    },
];

/// Exponents of the upper bounds, of 2 in ns.
const BUCKETS: std::ops::RangeInclusive<i32> = 17..=36;

/// Upper bounds of classic buckets in ns, with their `le` in seconds; the last is infinite.
pub(super) fn bucket_bounds() -> impl Iterator<Item = (f64, Cow<'static, str>)> {
    let finite = BUCKETS.map(|exponent| {
        let bound = f64::from(exponent).exp2();
        (bound, Cow::Owned((bound / 1e9).to_string()))
    });
    finite.chain([(f64::INFINITY, Cow::Borrowed("+Inf"))])
}
