//! Which attribute has a column of its own, per table. Promoted attributes are moved out of the maps, not copied.
//!
//! Semantic conventions renamed attributes; both names lead to the same column, so that one query answers for old and new
//! SDKs. The column does not say which name was used: that is the one thing normalised here. If an item carries both
//! names, the first on the wire takes the column and the other stays in its map under its own key. A value of another type
//! than the column's stays in its map as well, so nothing is converted and nothing is lost.
//!
//! Left out on purpose: `net.peer.name` (is `server.address` on a client and `client.address` on a server) and
//! `rpc.response.status_code` (a string).

use super::Table;

/// The type an attribute's value must have to be moved into its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// `string_value`.
    Str,
    /// `int_value` that fits 32 bits.
    Int,
}

/// An attribute key and the column it is moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promotion {
    /// Attribute key.
    pub key: &'static str,
    /// Column name.
    pub column: &'static str,
    /// Type needed.
    pub want: Want,
    /// Some programs send values of another type, which stay in their map: a reader of the key looks there too.
    pub is_mixed: bool,
}

const fn s(key: &'static str, column: &'static str) -> Promotion {
    Promotion {
        key,
        column,
        want: Want::Str,
        is_mixed: false,
    }
}

/// A text that some programs send as a number.
const fn id(key: &'static str, column: &'static str) -> Promotion {
    Promotion {
        is_mixed: true,
        ..s(key, column)
    }
}

/// A number that some programs send as a text.
const fn i(key: &'static str, column: &'static str) -> Promotion {
    Promotion {
        key,
        column,
        want: Want::Int,
        is_mixed: true,
    }
}

/// Resource attributes with a column, in every table that has items.
pub const RESOURCE: &[Promotion] = &[
    s("service.name", "service_name"),
    s("service.namespace", "service_namespace"),
    id("service.version", "service_version"),
    id("service.instance.id", "service_instance_id"),
    s("deployment.environment.name", "deployment_env"),
    s("deployment.environment", "deployment_env"),
    s("host.name", "host_name"),
    s("k8s.cluster.name", "k8s_cluster"),
    s("k8s.namespace.name", "k8s_namespace"),
    s("k8s.pod.name", "k8s_pod"),
    s("k8s.container.name", "k8s_container"),
    s("cloud.region", "cloud_region"),
];

const SPANS: &[Promotion] = &[
    s("http.request.method", "http_method"),
    s("http.method", "http_method"),
    s("http.route", "http_route"),
    i("http.response.status_code", "http_status"),
    i("http.status_code", "http_status"),
    s("rpc.system", "rpc_system"),
    s("rpc.system.name", "rpc_system"),
    s("rpc.service", "rpc_service"),
    s("rpc.method", "rpc_method"),
    i("rpc.grpc.status_code", "rpc_status"),
    s("db.system.name", "db_system"),
    s("db.system", "db_system"),
    s("db.operation.name", "db_operation"),
    s("db.operation", "db_operation"),
    s("db.collection.name", "db_collection"),
    s("db.sql.table", "db_collection"),
    s("db.mongodb.collection", "db_collection"),
    s("db.cassandra.table", "db_collection"),
    s("messaging.system", "messaging_system"),
    s("messaging.destination.name", "messaging_destination"),
    s("messaging.destination", "messaging_destination"),
    s("messaging.operation.type", "messaging_operation"),
    s("messaging.operation", "messaging_operation"),
    s("error.type", "error_type"),
    s("peer.service", "peer_service"),
    s("service.peer.name", "peer_service"),
    s("server.address", "server_address"),
    // Nearly every value is new. Among the others in a map they make the whole of it look like noise.
    id("user.id", "user_id"),
    id("enduser.id", "user_id"),
    id("session.id", "session_id"),
    s("network.peer.address", "network_peer_address"),
    s("net.sock.peer.addr", "network_peer_address"),
    i("network.peer.port", "network_peer_port"),
    i("net.sock.peer.port", "network_peer_port"),
];

const LOGS: &[Promotion] = &[
    s("exception.type", "exception_type"),
    s("http.request.method", "http_method"),
    s("http.method", "http_method"),
    s("http.route", "http_route"),
    i("http.response.status_code", "http_status"),
    i("http.status_code", "http_status"),
];

const METRICS: &[Promotion] = &[
    s("http.request.method", "http_method"),
    s("http.method", "http_method"),
    s("http.route", "http_route"),
    i("http.response.status_code", "http_status"),
    i("http.status_code", "http_status"),
    s("rpc.service", "rpc_service"),
    s("rpc.method", "rpc_method"),
    s("db.system.name", "db_system"),
    s("db.system", "db_system"),
    s("error.type", "error_type"),
];

/// Item attributes (of spans, log records, data points) with a column of their own in this table.
pub const fn item(table: Table) -> &'static [Promotion] {
    match table {
        Table::Spans => SPANS,
        Table::Logs => LOGS,
        Table::MetricPoints | Table::MetricDists => METRICS,
        Table::Traces
        | Table::MetricSeries
        | Table::Ledger
        | Table::Red
        | Table::SamplingTicks
        | Table::Red15m
        | Table::Red1h
        | Table::Edges => &[],
    }
}
