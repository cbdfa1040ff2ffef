//! What spans and resources say of themselves: as the shop of `tailwater demo` sends it.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::super::shop::Work;
use super::world::Site;

/// Namespace of all services.
pub(super) const NAMESPACE: &str = "shop";

/// Which end of a call a span shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Who does the work.
    Own,
    /// Who asked for it, over the network.
    Caller,
}

/// A span of a site, without ids and times.
pub(super) fn span(site: &Site, side: Side, failed: bool) -> Span {
    let kind = match (side, site.work) {
        (Side::Caller, _) | (Side::Own, Work::Database) => 3,
        (Side::Own, Work::Page | Work::Rpc) => 2,
        (Side::Own, Work::Internal) => 1,
    };
    let status = Status {
        message: "rpc error: deadline exceeded".to_owned(),
        code: 2,
    };
    Span {
        name: site.name.clone(),
        kind,
        attributes: attributes(site, failed),
        status: failed.then_some(status),
        // Sampled; whether the parent is remote is known, and it is not.
        flags: 0x101,
        ..Span::default()
    }
}

fn attributes(site: &Site, failed: bool) -> Vec<KeyValue> {
    let (target, method) = site.name.rsplit_once(['/', '.', ' ']).unwrap_or(("app", &site.name));
    match site.work {
        Work::Page => {
            let (verb, route) = site.name.split_once(' ').unwrap_or(("GET", "/"));
            vec![
                text("http.request.method", verb),
                text("http.route", route),
                integer("http.response.status_code", if failed { 500 } else { 200 }),
            ]
        }
        Work::Rpc => vec![
            text("rpc.system", "grpc"),
            text("rpc.service", target),
            text("rpc.method", method),
            integer("rpc.grpc.status_code", if failed { 4 } else { 0 }),
        ],
        Work::Internal => vec![text("code.function.name", method)],
        Work::Database => vec![
            text("db.system.name", "mysql"),
            text("db.operation.name", "SELECT"),
            text("db.collection.name", "products"),
        ],
    }
}

pub(super) fn resource(service: &str, version: &str) -> Resource {
    Resource {
        attributes: vec![
            text("service.name", service),
            text("service.namespace", NAMESPACE),
            text("service.version", version),
            text("deployment.environment.name", "demo"),
        ],
        ..Resource::default()
    }
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "tailwater.load".to_owned(),
        version: "1.0.0".to_owned(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn integer(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
