//! Under which keys the spans of a site are counted: those that the collector's own rules give them.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;
use tailwater_model::otlp::columns::RequestInfo;
use tailwater_model::red::RedKey;
use tailwater_red::{Aggregator, Mode, Settings};

use super::attributes::{self, Side};
use super::world::{Site, World};
use crate::load::shop::Work;

/// The keys of one kind of span, by version of its service, and the thresholds that SLOs declare for them.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
    pub versions: Vec<Arc<RedKey>>,
    pub thresholds: Box<[u64]>,
}

/// Of a site: those who do the work, good and failed, and those who ask, if it is asked for over the network.
#[derive(Debug, Clone)]
pub(super) struct SiteKeys {
    pub own: [Keyed; 2],
    pub caller: Option<[Keyed; 2]>,
}

/// The keys of all sites.
///
/// # Errors
/// When the counting code does not count its own test: that would be a fault of the program.
pub(super) fn keys(world: &World, settings: &Settings) -> anyhow::Result<Vec<SiteKeys>> {
    let mut aggregator = Aggregator::new(Settings {
        edges: None,
        ..settings.clone()
    });
    let mut of = |site: &Site, side: Side, service: usize| -> anyhow::Result<[Keyed; 2]> {
        let mut keyed = |failed: bool| keyed(world, &mut aggregator, site, side, service, failed);
        Ok([keyed(false)?, keyed(true)?])
    };
    let sites = world.sites.iter().map(|site| {
        let asked = site.caller.filter(|_| site.work == Work::Rpc);
        let caller = asked.map(|caller| of(site, Side::Caller, world.sites[caller].service));
        Ok(SiteKeys {
            own: of(site, Side::Own, site.service)?,
            caller: caller.transpose()?,
        })
    });
    sites.collect()
}

fn keyed(
    world: &World,
    aggregator: &mut Aggregator,
    site: &Site,
    side: Side,
    service: usize,
    failed: bool,
) -> anyhow::Result<Keyed> {
    let service = &world.services[service];
    let mut span = attributes::span(site, side, failed);
    (span.trace_id, span.span_id) = (vec![1; 16], vec![2; 8]);
    if side == Side::Caller || site.caller.is_some() {
        span.parent_span_id = vec![3; 8];
    }
    let end_ns = world.to_s * 1_000_000_000;
    (span.start_time_unix_nano, span.end_time_unix_nano) = (end_ns - 1, end_ns);
    let version = service.versions.last().map_or("", |(_, version)| version);
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(attributes::resource(&service.name, version)),
            scope_spans: vec![ScopeSpans {
                scope: Some(attributes::scope()),
                spans: vec![span],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    let info = RequestInfo {
        tenant: TENANT,
        arrival_ns: end_ns,
        rejected: &[],
    };
    aggregator.push_request(&request.encode_to_vec(), &info, Mode::Count)?;
    let counted = aggregator.drain().red.into_iter().next();
    let counted = counted.ok_or_else(|| anyhow::anyhow!("a span of {} was not counted", site.name))?;
    // A key beyond the limits has no version, whatever the span says.
    let versions = service
        .versions
        .iter()
        .map(|(_, version)| match counted.key.service_version.is_empty() {
            true => counted.key.clone(),
            false => Arc::new(RedKey {
                service_version: version.as_str().into(),
                ..RedKey::clone(&counted.key)
            }),
        });
    Ok(Keyed {
        versions: versions.collect(),
        thresholds: counted.registers.iter().map(|(threshold, _)| *threshold).collect(),
    })
}

/// Whose past it is.
pub(super) const TENANT: &str = "default";
