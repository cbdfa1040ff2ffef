//! What a builder of metrics keeps between batches changes nothing of what it says.

use opentelemetry_proto::tonic::metrics::v1::NumberDataPoint;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, proptest};
use prost::Message as _;

use super::agree;
use super::metrics::{gauge, number, request};
use super::*;
use crate::otlp::caps::Caps;
use crate::otlp::columns::{MetricColumns, SeriesSeen};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against new builders, one a batch, over requests that come again, bad ones too.
    #[test]
    fn a_builder_used_again_says_what_a_new_one_says(
        requests in proptest::collection::vec(agree::metrics(), 1..4),
        damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        steps in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<bool>()), 1..24),
    ) {
        let mut requests = requests;
        if let Some((at, byte)) = damage
            && !requests[0].is_empty()
        {
            let at = at.index(requests[0].len());
            requests[0][at] = byte;
        }
        let (mut kept, mut kept_seen) = (MetricColumns::new(agree::caps()), SeriesSeen::new(1000));
        let (mut new, mut new_seen) = (MetricColumns::new(agree::caps()), SeriesSeen::new(1000));
        for (which, other_tenant, ends) in steps {
            let payload = &requests[which.index(requests.len())];
            let info = info(if other_tenant { "other" } else { "t" });
            let pushed = kept.push_request(payload, &info, &mut kept_seen);
            prop_assert_eq!(pushed, new.push_request(payload, &info, &mut new_seen));
            prop_assert_eq!(kept.len(), new.len());
            if ends {
                let (one, other) = (kept.finish_sorted(), new.finish_sorted());
                prop_assert_eq!(one.points, other.points);
                prop_assert_eq!(one.dists, other.dists);
                prop_assert_eq!(one.series, other.series);
                prop_assert_eq!(kept.len(), 0);
                new = MetricColumns::new(agree::caps());
            }
        }
    }
}

/// A data point of these fields in this order: an attribute, or a value.
fn point(fields: &[Result<(&str, &str), i64>]) -> Vec<u8> {
    let mut message = NumberDataPoint {
        time_unix_nano: NOW,
        ..NumberDataPoint::default()
    }
    .encode_to_vec();
    for field in fields {
        let part = match field {
            Ok((key, value)) => NumberDataPoint {
                attributes: attrs(vec![(*key, text(value))]),
                ..NumberDataPoint::default()
            },
            Err(value) => NumberDataPoint {
                value: Some(Number::AsInt(*value)),
                ..NumberDataPoint::default()
            },
        };
        message.extend(part.encode_to_vec());
    }
    message
}

#[test]
fn attributes_may_stand_apart() {
    // Both have the same bytes from their first attribute on, but for where the first one ends.
    let apart = point(&[Ok(("k", "1")), Err(7), Ok(("l", "2")), Err(8)]);
    let together = point(&[Ok(("k", "1")), Ok(("l", "2")), Err(9)]);
    let one = point(&[Ok(("k", "1")), Err(10)]);
    let none = point(&[Err(11)]);
    let field = |number: u8, body: &[u8]| {
        let len = [0x80 | (body.len() & 0x7f) as u8, (body.len() >> 7) as u8];
        [&[number << 3 | 2], &len[..], body].concat()
    };
    let points: Vec<u8> = [&apart, &together, &one, &none]
        .iter()
        .flat_map(|point| field(1, point))
        .collect();
    let metric = [field(1, b"m"), field(5, &points)].concat();
    let payload = field(1, &field(2, &field(2, &metric)));
    let mut columns = MetricColumns::new(Caps::default());
    let mut seen = SeriesSeen::new(10);
    for _ in 0..3 {
        for _ in 0..2 {
            let pushed = columns.push_request(&payload, &info("t"), &mut seen).unwrap();
            assert_eq!(pushed.rows, 4);
        }
        let batches = columns.finish_sorted();
        check_sound(&batches.points, Table::MetricPoints);
        let points = &batches.points;
        let of = |value: &str, name: &str| {
            let values = column(points, "value");
            let found: Vec<String> = (values.iter().zip(column(points, name)))
                .filter(|(this, _)| this.as_str() == value)
                .map(|(_, text)| text)
                .collect();
            assert_eq!((found.len(), &found[0]), (2, &found[1]), "{value}");
            found[0].clone()
        };
        let values = ["8.0", "9.0", "10.0", "11.0"];
        let maps = values.map(|value| of(value, "attrs_str"));
        let ids = values.map(|value| of(value, "series_id"));
        assert_eq!(
            (&maps[0], &ids[0]),
            (&maps[1], &ids[1]),
            "apart or together, it is one series"
        );
        assert!(maps[1] != maps[2] && maps[2] != maps[3], "{maps:?}");
        assert!(ids[1] != ids[2] && ids[2] != ids[3], "{ids:?}");
    }
}

#[test]
fn rarely_used_series_are_forgotten() {
    let requests: Vec<Vec<u8>> = (0..64)
        .map(|index| {
            let point = NumberDataPoint {
                attributes: attrs(vec![("k", text(&format!("{index:040}")))]),
                ..number(Number::AsInt(index))
            };
            request(vec![gauge(vec![point])])
        })
        .collect();
    let mut columns = MetricColumns::new(Caps::default());
    let mut seen = SeriesSeen::new(1000);
    let mut bytes = 0;
    for request in &requests {
        columns.push_request(request, &info("t"), &mut seen).unwrap();
        let batches = columns.finish_sorted();
        assert_eq!(batches.points.num_rows(), 1);
        bytes = bytes.max(columns.bytes());
    }
    assert!(bytes < 1000, "{bytes} bytes are kept of batches of one row");
}
