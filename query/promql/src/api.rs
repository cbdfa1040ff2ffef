//! Answers as Prometheus' HTTP API writes them: the `data` of a reply (docs/querying/api.md of prometheus/prometheus).
//!
//! ```text
//! {"resultType":"matrix","result":[{"metric":{..},"values":[[t,"v"],..],"histograms":[[t,{..}],..]}]}
//! {"resultType":"vector","result":[{"metric":{..},"value":[t,"v"]}]}      or "histogram":[t,{..}]
//! {"resultType":"scalar","result":[t,"v"]}                                 and "string" alike
//! histogram: {"count":"..","sum":"..","buckets":[[rule,"lower","upper","count"],..]}
//!            rule: 0 open on the left, 1 open on the right, 2 open on both, 3 closed on both sides
//! ```
//!
//! `t` is seconds with up to three decimals; numbers are texts. `resultType` stands before `result`, which Grafana
//! wants in order not to buffer.

use std::fmt::Write;

use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::number::plain;
use crate::value::{Point, Value};

/// The JSON text of `data`. Texts are escaped by `serde_json`; nothing is copied into a tree first, because a matrix may
/// have a million points.
#[must_use]
pub fn data(value: &Value) -> String {
    let mut json = String::new();
    match value {
        Value::Matrix(series) => {
            json.push_str(r#"{"resultType":"matrix","result":["#);
            for (number, series) in series.iter().enumerate() {
                comma(&mut json, number);
                json.push_str(r#"{"metric":"#);
                labels(&mut json, &series.labels);
                if !series.floats.times.is_empty() {
                    json.push_str(r#","values":["#);
                    for (number, (time, value)) in series.floats.times.iter().zip(&series.floats.values).enumerate() {
                        comma(&mut json, number);
                        float(&mut json, *time, *value);
                    }
                    json.push(']');
                }
                if !series.histograms.times.is_empty() {
                    json.push_str(r#","histograms":["#);
                    let points = series.histograms.times.iter().zip(&series.histograms.values);
                    for (number, (time, value)) in points.enumerate() {
                        comma(&mut json, number);
                        histogram(&mut json, *time, value);
                    }
                    json.push(']');
                }
                json.push('}');
            }
            json.push_str("]}");
        }
        Value::Vector { time_ms, samples } => {
            json.push_str(r#"{"resultType":"vector","result":["#);
            for (number, sample) in samples.iter().enumerate() {
                comma(&mut json, number);
                json.push_str(r#"{"metric":"#);
                labels(&mut json, &sample.labels);
                match &sample.point {
                    Point::Float(value) => {
                        json.push_str(r#","value":"#);
                        float(&mut json, *time_ms, *value);
                    }
                    Point::Histogram(value) => {
                        json.push_str(r#","histogram":"#);
                        histogram(&mut json, *time_ms, value);
                    }
                }
                json.push('}');
            }
            json.push_str("]}");
        }
        Value::Scalar { time_ms, value } => {
            json.push_str(r#"{"resultType":"scalar","result":"#);
            float(&mut json, *time_ms, *value);
            json.push('}');
        }
        Value::Text { time_ms, text: of } => {
            json.push_str(r#"{"resultType":"string","result":["#);
            time(&mut json, *time_ms);
            json.push(',');
            text(&mut json, of);
            json.push_str("]}");
        }
    }
    json
}

/// The JSON object of a label set.
pub fn labels(json: &mut String, labels: &Labels) {
    json.push('{');
    for (number, label) in labels.iter().enumerate() {
        comma(json, number);
        text(json, &label.name);
        json.push(':');
        text(json, &label.value);
    }
    json.push('}');
}

fn comma(json: &mut String, number: usize) {
    if number > 0 {
        json.push(',');
    }
}

fn text(json: &mut String, text: &str) {
    // Writing a text as JSON cannot fail; were it to, an empty text keeps the reply readable.
    json.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".into()));
}

fn time(json: &mut String, time_ms: i64) {
    let (sign, ms) = if time_ms < 0 {
        ("-", time_ms.unsigned_abs())
    } else {
        ("", time_ms.unsigned_abs())
    };
    let _ = write!(json, "{sign}{}", ms / 1000);
    if ms % 1000 > 0 {
        let _ = write!(json, ".{:03}", ms % 1000);
        while json.ends_with('0') {
            json.pop();
        }
    }
}

fn float(json: &mut String, time_ms: i64, value: f64) {
    json.push('[');
    time(json, time_ms);
    let _ = write!(json, ",\"{}\"]", plain(value));
}

fn histogram(json: &mut String, time_ms: i64, histogram: &Histogram) {
    json.push('[');
    time(json, time_ms);
    let _ = write!(
        json,
        r#",{{"count":"{}","sum":"{}""#,
        plain(histogram.count),
        plain(histogram.sum)
    );
    for (number, bucket) in histogram.buckets().enumerate() {
        json.push_str(if number == 0 { r#","buckets":["# } else { "," });
        let rule = match (bucket.lower_inclusive, bucket.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        };
        let (lower, upper) = (plain(bucket.lower), plain(bucket.upper));
        let _ = write!(json, r#"[{rule},"{lower}","{upper}","{}"]"#, plain(bucket.count));
    }
    if histogram.buckets().next().is_some() {
        json.push(']');
    }
    json.push_str("}]");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::sample::Series;
    use crate::value::Sample;

    #[test]
    fn values_as_prometheus_writes_them() {
        let check = |value: Value, expected: &str| {
            let json = data(&value);
            assert_eq!(json, expected);
            serde_json::from_str::<serde_json::Value>(&json).unwrap();
        };
        let set: Labels = [("__name__", "m"), ("a", "\"x\\\n")].into_iter().collect();
        let floats = [(0, 1.0), (1500, f64::NAN), (-10, f64::INFINITY)];
        check(
            Value::Matrix(vec![Series::of_floats(set.clone(), floats)]),
            r#"{"resultType":"matrix","result":[{"metric":{"__name__":"m","a":"\"x\\\n"},"values":[[0,"1"],[1.5,"NaN"],[-0.01,"+Inf"]]}]}"#,
        );
        let histogram = Histogram {
            count: 6.0,
            sum: 2.5,
            zero_count: 1.0,
            zero_threshold: 0.5,
            negative: vec![(1, 2.0)],
            positive: vec![(1, 3.0), (2, 0.0)],
            ..Histogram::default()
        };
        check(
            Value::Vector {
                time_ms: 1_795_388_400_250,
                samples: vec![
                    Sample {
                        labels: Labels::default(),
                        point: Point::Float(-0.5),
                    },
                    Sample {
                        labels: set,
                        point: Point::Histogram(Arc::new(histogram)),
                    },
                ],
            },
            r#"{"resultType":"vector","result":[{"metric":{},"value":[1795388400.25,"-0.5"]},{"metric":{"__name__":"m","a":"\"x\\\n"},"histogram":[1795388400.25,{"count":"6","sum":"2.5","buckets":[[1,"-2","-1","2"],[3,"-0.5","0.5","1"],[0,"1","2","3"]]}]}]}"#,
        );
        check(
            Value::Scalar {
                time_ms: 4000,
                value: 2.0,
            },
            r#"{"resultType":"scalar","result":[4,"2"]}"#,
        );
        check(
            Value::Text {
                time_ms: 0,
                text: "é".into(),
            },
            r#"{"resultType":"string","result":[0,"é"]}"#,
        );
        check(Value::Matrix(vec![]), r#"{"resultType":"matrix","result":[]}"#);
    }
}
