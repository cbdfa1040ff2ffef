//! Answers of Prometheus' HTTP API as the judge of scripts takes them.

use std::sync::Arc;

use serde_json::Value as Json;
use tailwater_promql::number::almost_equal;
use tailwater_promql::script::{Eval, ScriptPoint};
use tailwater_promql::{Answer, Bucket, CUSTOM_BUCKETS, Histogram, Labels, Point, Sample, Series, Value};

/// The answer in a successful reply.
pub fn answer(reply: &Json, eval: &Eval) -> Answer {
    let texts = |name: &str| -> Vec<String> {
        let texts = reply[name].as_array().expect("notes are a list").iter();
        texts.map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    Answer {
        value: value(&reply["data"], eval),
        warnings: texts("warnings"),
        infos: texts("infos"),
    }
}

fn value(data: &Json, eval: &Eval) -> Value {
    let result = &data["result"];
    let list = || result.as_array().expect("a list").iter();
    match data["resultType"].as_str() {
        Some("matrix") => Value::Matrix(list().map(|series| of_matrix(series, eval)).collect()),
        Some("vector") => {
            let samples: Vec<(i64, Sample)> = list().map(|sample| of_vector(sample, eval)).collect();
            Value::Vector {
                time_ms: samples.first().map_or(0, |(time, _)| *time),
                samples: samples.into_iter().map(|(_, sample)| sample).collect(),
            }
        }
        Some("scalar") => Value::Scalar {
            time_ms: time(&result[0]),
            value: number(&result[1]),
        },
        Some("string") => Value::Text {
            time_ms: time(&result[0]),
            text: result[1].as_str().expect("a text").to_owned(),
        },
        other => panic!("no result type: {other:?}"),
    }
}

fn labels(metric: &Json) -> Labels {
    let pairs = metric.as_object().expect("labels").iter();
    pairs
        .map(|(name, value)| (name.as_str(), value.as_str().expect("a text")))
        .collect()
}

fn of_vector(sample: &Json, eval: &Eval) -> (i64, Sample) {
    let labels = labels(&sample["metric"]);
    let (pair, point) = match sample.get("value") {
        Some(pair) => (pair, Point::Float(number(&pair[1]))),
        None => {
            let pair = &sample["histogram"];
            (pair, Point::Histogram(histogram(&pair[1], &labels, eval)))
        }
    };
    (time(&pair[0]), Sample { labels, point })
}

fn of_matrix(series: &Json, eval: &Eval) -> Series {
    let mut read = Series {
        labels: labels(&series["metric"]),
        ..Series::default()
    };
    for pair in series["values"].as_array().into_iter().flatten() {
        read.floats.push(time(&pair[0]), number(&pair[1]));
    }
    for pair in series["histograms"].as_array().into_iter().flatten() {
        let told = histogram(&pair[1], &read.labels, eval);
        read.histograms.push(time(&pair[0]), told);
    }
    read
}

#[allow(clippy::cast_possible_truncation)] // Milliseconds of this century.
fn time(seconds: &Json) -> i64 {
    (seconds.as_f64().expect("seconds") * 1000.0).round() as i64
}

fn number(text: &Json) -> f64 {
    text.as_str()
        .and_then(|text| text.parse().ok())
        .expect("a number as a text")
}

/// The API tells no schema, no bounds of empty buckets and no hints: an expected histogram of this series that looks the same stands for
/// what was told, else one with the buckets that were told.
fn histogram(told: &Json, labels: &Labels, eval: &Eval) -> Arc<Histogram> {
    let buckets: Vec<Bucket> = told["buckets"].as_array().into_iter().flatten().map(bucket).collect();
    let (count, sum) = (number(&told["count"]), number(&told["sum"]));
    let expected = eval.series.iter().filter(|(of, _)| of == labels);
    let mut expected = expected.flat_map(|(_, points)| points).filter_map(|point| match point {
        ScriptPoint::Histogram(histogram, _) => Some(histogram),
        _ => None,
    });
    let looks_like = |one: &&Arc<Histogram>| {
        let own: Vec<Bucket> = one.buckets().collect();
        close(one.count, count)
            && close(one.sum, sum)
            && own.len() == buckets.len()
            && own.iter().zip(&buckets).all(|(a, b)| same(a, b))
    };
    expected.find(looks_like).cloned().unwrap_or_else(|| {
        Arc::new(Histogram {
            schema: CUSTOM_BUCKETS,
            count,
            sum,
            positive: (0..).zip(buckets.iter().map(|bucket| bucket.count)).collect(),
            bounds: buckets.iter().map(|bucket| bucket.upper).collect(),
            ..Histogram::default()
        })
    })
}

fn bucket(told: &Json) -> Bucket {
    let rule = told[0].as_i64().expect("a rule");
    Bucket {
        lower: number(&told[1]),
        upper: number(&told[2]),
        lower_inclusive: matches!(rule, 1 | 3),
        upper_inclusive: matches!(rule, 0 | 3),
        count: number(&told[3]),
    }
}

fn close(a: f64, b: f64) -> bool {
    almost_equal(a, b, 1e-6)
}

fn same(a: &Bucket, b: &Bucket) -> bool {
    // Where OTLP says no width of the zero bucket it is 1e-128.
    let bound = |a: f64, b: f64| close(a, b) || a.abs().max(b.abs()) <= 1e-128;
    bound(a.lower, b.lower)
        && bound(a.upper, b.upper)
        && (a.lower_inclusive, a.upper_inclusive) == (b.lower_inclusive, b.upper_inclusive)
        && close(a.count, b.count)
}
