//! Which metric series the points of a request belong to, told apart by a hash: for a limit on how many a tenant may have.
//!
//! Guarantees: the order of attributes does not matter; ordinals are those of [`super::peek::inspect`]. Leaves out: the ids that are stored
//! (`columns`), which see attributes after cuts and replacements. Two series that differ only beyond a cap count as two here.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::envelope::{self, Origin, Visit};
use super::item::Parts;
use super::point::{self, Point};
use super::value::KeyValue;
use super::wire::{Malformed, Wire};

/// The series of every data point, in wire order.
///
/// # Errors
/// [`Malformed`] when the bytes are no request of metrics.
pub fn series(payload: &[u8]) -> Result<Vec<u64>, Malformed> {
    let mut walk = Walk::default();
    envelope::walk(payload, &mut walk)?;
    Ok(walk.points)
}

#[derive(Default)]
struct Walk {
    resource: u64,
    scope: u64,
    points: Vec<u64>,
    /// Points before the scope.
    mark: usize,
    point: Point,
}

fn pair(message: &KeyValue<'_>) -> u64 {
    xxh3_64_with_seed(message.raw, xxh3_64(message.key))
}

fn join(seed: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, seed)
}

impl<'a> Visit<'a> for Walk {
    fn resource(&mut self, resource: Origin<'a>) -> Wire<()> {
        let mut sum = 0u64;
        resource.resource_attributes(|attribute| {
            sum = sum.wrapping_add(pair(&attribute));
            Ok(())
        })?;
        self.resource = sum;
        Ok(())
    }

    fn scope(&mut self, scope: Origin<'a>) -> Wire<()> {
        self.mark = self.points.len();
        let mut sum = 0u64;
        let (name, version) = scope.scope_attributes(|attribute| {
            sum = sum.wrapping_add(pair(&attribute));
            Ok(())
        })?;
        self.scope = join(join(sum, name), version);
        Ok(())
    }

    fn rescope(&mut self, _: Origin<'a>) -> Wire<()> {
        Ok(())
    }

    fn rewind(&mut self) {
        self.points.truncate(self.mark);
    }

    fn entry(&mut self, entry: &'a [u8]) -> Wire<()> {
        let head = point::metric(entry)?;
        let kind = [
            head.shape.map_or(0, |shape| shape as u8),
            u8::try_from(head.temporality).unwrap_or(u8::MAX),
            u8::from(head.monotonic),
        ];
        let seed = join(self.resource, &self.scope.to_le_bytes());
        let metric = join(join(join(seed, head.name), head.unit), &kind);
        let Walk { points, point, .. } = self;
        head.points(|shape, message| {
            let mut attributes = Attributes(0);
            point.read(shape, message, &mut attributes)?;
            points.push(join(metric, &attributes.0.to_le_bytes()));
            Ok(())
        })
    }
}

/// The sum of the hashes of a point's attributes.
struct Attributes(u64);

impl<'a> Parts<'a> for Attributes {
    fn attribute(&mut self, message: &'a [u8]) -> Wire<()> {
        self.0 = self.0.wrapping_add(pair(&KeyValue::read(message)?));
        Ok(())
    }

    fn event(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message as _;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
        pairs
            .iter()
            .map(|(key, value)| KeyValue {
                key: (*key).to_owned(),
                value: Some(AnyValue {
                    value: Some(Value::StringValue((*value).to_owned())),
                }),
                ..KeyValue::default()
            })
            .collect()
    }

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn series(resource: Pairs<'_>, scope: &str, name: &str, points: &[Pairs<'_>]) -> Vec<u64> {
        let data_points = points
            .iter()
            .enumerate()
            .map(|(at, attributes)| NumberDataPoint {
                attributes: pairs(attributes),
                time_unix_nano: at as u64 + 1,
                ..NumberDataPoint::default()
            })
            .collect();
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(Resource {
                    attributes: pairs(resource),
                    ..Resource::default()
                }),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(InstrumentationScope {
                        name: scope.to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    metrics: vec![Metric {
                        name: name.to_owned(),
                        data: Some(Data::Gauge(Gauge { data_points })),
                        ..Metric::default()
                    }],
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        super::series(&request.encode_to_vec()).unwrap()
    }

    #[test]
    fn series_differ_by_what_identifies_them() {
        let host: Pairs<'_> = &[("host", "a"), ("zone", "z")];
        let points: &[Pairs<'_>] = &[
            &[("a", "1"), ("b", "2")],
            &[("b", "2"), ("a", "1")],
            &[("a", "2"), ("b", "1")],
            &[],
        ];
        let all = series(host, "s", "m", points);
        assert_eq!(all.len(), 4);
        assert_eq!(all[0], all[1], "the order of attributes does not matter, nor do times");
        assert!(all[0] != all[2] && all[2] != all[3] && all[0] != all[3]);
        let first = |resource, scope, name| series(resource, scope, name, points)[0];
        assert_eq!(first(&[("zone", "z"), ("host", "a")], "s", "m"), all[0]);
        assert_ne!(first(&[("zone", "a"), ("host", "z")], "s", "m"), all[0]);
        assert_ne!(first(host, "t", "m"), all[0]);
        assert_ne!(first(host, "s", "n"), all[0]);
        assert!(super::series(b"\xff\xff").is_err());
    }
}
