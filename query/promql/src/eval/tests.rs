#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use crate::number::{is_stale, stale};
use crate::{Answer, Error, Histogram, Labels, Limits, Need, Params, Point, Query, Series, Value};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn named(name: &str, more: &[(&str, &str)], samples: &[(i64, f64)]) -> Series {
    let mut pairs = vec![("__name__", name)];
    pairs.extend_from_slice(more);
    Series::of_floats(labels(&pairs), samples.iter().copied())
}

/// All series that the matchers select, cut to the window asked for: what a caller must deliver and nothing else.
fn fetch(all: &[Series], need: &Need) -> Vec<Series> {
    let wanted = |time: &i64| (need.from_ms..=need.to_ms).contains(time);
    all.iter()
        .filter(|series| crate::Matcher::all(&need.matchers, &series.labels))
        .map(|series| {
            let floats = series
                .floats
                .times
                .iter()
                .zip(&series.floats.values)
                .filter(|(time, _)| wanted(time));
            Series::of_floats(series.labels.clone(), floats.map(|(time, value)| (*time, *value)))
        })
        .collect()
}

fn ask_with(text: &str, all: &[Series], params: Params) -> Result<Answer, Error> {
    let query = Query::parse(text)?;
    let plan = query.plan(params)?;
    let data: Vec<_> = plan.needs().iter().map(|need| fetch(all, need)).collect();
    plan.evaluate(&data, &|| false)
}

/// The answer in one line per series.
fn ask(text: &str, all: &[Series], params: Params) -> String {
    let answer = match ask_with(text, all, params) {
        Ok(answer) => answer,
        Err(error) => return error.to_string(),
    };
    match answer.value {
        Value::Scalar { value, .. } => value.to_string(),
        Value::Text { text, .. } => text,
        Value::Vector { samples, .. } => {
            let lines = samples.iter().map(|sample| match &sample.point {
                Point::Float(value) => format!("{} {value}", sample.labels),
                Point::Histogram(histogram) => format!("{} {histogram}", sample.labels),
            });
            lines.collect::<Vec<_>>().join("\n")
        }
        Value::Matrix(series) => {
            let lines = series.iter().map(|series| {
                let points = series.floats.times.iter().zip(&series.floats.values);
                let points: Vec<_> = points.map(|(time, value)| format!("{value}@{}", time / 1000)).collect();
                format!("{} {}", series.labels, points.join(" "))
            });
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

fn example() -> Vec<Series> {
    let minute = |number: i64| number * 60_000;
    vec![
        named(
            "hits_total",
            &[("job", "a")],
            &[(minute(0), 0.0), (minute(1), 60.0), (minute(2), 120.0)],
        ),
        named(
            "hits_total",
            &[("job", "b")],
            &[(minute(0), 10.0), (minute(1), 40.0), (minute(2), 10.0)],
        ),
        named(
            "size",
            &[("job", "a")],
            &[(minute(0), 1.0), (minute(1), stale()), (minute(3), 4.0)],
        ),
    ]
}

#[test]
fn instant_queries() {
    let check = |text: &str, at_s: i64, expected: &str| {
        assert_eq!(
            ask(text, &example(), Params::instant(at_s * 1000)),
            expected,
            "{text} at {at_s}"
        );
    };
    check("size", 30, r#"{__name__="size", job="a"} 1"#);
    check("size", 60, "");
    check("size", 180 + 299, r#"{__name__="size", job="a"} 4"#);
    check("size", 180 + 300, "");
    check("rate(hits_total{job=\"a\"}[2m])", 120, r#"{job="a"} 1"#);
    check(
        "increase(hits_total{job=\"b\"}[2m1s])",
        120,
        r#"{job="b"} 40.33333333333333"#,
    );
    check("sum(hits_total)", 60, "{} 100");
    check("topk(1, hits_total)", 60, r#"{__name__="hits_total", job="a"} 60"#);
    check("hits_total / on(job) size", 0, r#"{job="a"} 0"#);
    check(
        "hits_total unless on(job) size",
        0,
        r#"{__name__="hits_total", job="b"} 10"#,
    );
    check("absent(nothing{a=\"1\"})", 0, r#"{a="1"} 1"#);
    check("1 + 2 * 3 ^ 2", 0, "19");
    check("\"text\"", 0, "text");
    check("time()", 90, "90");
    check("size[5m]", 200, r#"{__name__="size", job="a"} 1@0 4@180"#);
    check("max_over_time(sum(hits_total)[2m:1m])", 120, "{} 130");
    check("max_over_time(vector(1)[10s:1m])", 30, "");
    check("max_over_time(histogram_quantiles(size, \"q\", 0.5)[10s:1m])", 30, "");
    check("max_over_time(topk(1, size)[10s:1m])", 30, "");
    check(
        "hits_total @ 60 offset 1m",
        1000,
        "{__name__=\"hits_total\", job=\"a\"} 0\n{__name__=\"hits_total\", job=\"b\"} 10",
    );
    check(
        "sort_desc(hits_total)",
        120,
        "{__name__=\"hits_total\", job=\"a\"} 120\n{__name__=\"hits_total\", job=\"b\"} 10",
    );
    check(
        "{__name__=~\"hits.+\", job!=\"b\"}",
        0,
        r#"{__name__="hits_total", job="a"} 0"#,
    );
}

#[test]
fn range_queries() {
    let check = |text: &str, expected: &str| {
        assert_eq!(
            ask(text, &example(), Params::range(0, 240_000, 60_000)),
            expected,
            "{text}"
        );
    };
    check("size", r#"{__name__="size", job="a"} 1@0 4@180 4@240"#);
    check("sum(hits_total)", "{} 10@0 100@60 130@120 130@180 130@240");
    check("vector(1)", "{} 1@0 1@60 1@120 1@180 1@240");
    check(
        "time() > 100",
        "1:13: parse error: comparisons between scalars must use BOOL modifier",
    );
    check("size > bool 2", r#"{job="a"} 0@0 1@180 1@240"#);
    check(
        "size @ end()",
        r#"{__name__="size", job="a"} 4@0 4@60 4@120 4@180 4@240"#,
    );
    check("absent(size)", "{} 1@60 1@120");
    check(
        "size[5m]",
        "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
    );
}

#[test]
fn what_the_data_do_not_allow() {
    let check = |text: &str, expected: &str| {
        let error = ask_with(text, &example(), Params::instant(60_000)).unwrap_err();
        assert!(matches!(error, Error::Execution(_)), "{text}: {error:?}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
    };
    check(
        "size @ 0 * on() hits_total",
        "found duplicate series for the match group {} on the right hand-side",
    );
    check(
        "hits_total * on() group_left() hits_total",
        "many-to-many matching not allowed",
    );
    check("hits_total * on() size @ 0", "many-to-one matching must be explicit");
    check(
        "label_replace(hits_total, \"job\", \"x\", \"job\", \".*\")",
        "same labelset",
    );
    check(
        "label_replace(hits_total, \"a\", \"x\", \"job\", \"(\")",
        "invalid regular expression",
    );
    check("topk(NaN, hits_total)", "Parameter value is NaN");
    check("topk(1e30, hits_total)", "overflows int64");
    check("exp(Inf)", "expected type instant vector, got scalar");
    check(
        "double_exponential_smoothing(hits_total[5m], 2, 0.5)",
        "invalid smoothing factor",
    );
}

#[test]
fn limits_are_kept_and_named() {
    let limits = |limits: Limits| Params {
        limits,
        ..Params::range(0, 600_000, 1000)
    };
    let samples = limits(Limits {
        samples_max: 1000,
        ..Limits::default()
    });
    let error = ask_with("hits_total", &example(), samples).unwrap_err();
    assert_eq!(
        error,
        Error::TooMuch {
            what: "samples",
            max: 1000
        }
    );
    // What a finished part of a query needed does not count against the rest: ten sums fit where two hundred tracks do not.
    let room = limits(Limits {
        samples_max: 3500,
        ..Limits::default()
    });
    let sums = ["sum(hits_total)"; 3].join(" + ");
    assert!(ask_with(&sums, &example(), room).is_ok());
    let series = limits(Limits {
        series_max: 1,
        ..Limits::default()
    });
    let error = ask_with("hits_total", &example(), series).unwrap_err();
    assert_eq!(error, Error::TooMuch { what: "series", max: 1 });
    assert!(ask_with("size", &example(), series).is_ok());
    let small = limits(Limits {
        samples_max: 1_000_000,
        ..Limits::default()
    });
    for subquery in ["hits_total", "vector(1)", "vector(time())"] {
        let text = format!("max_over_time({subquery}[1y:1ms])");
        let error = ask_with(&text, &example(), small).unwrap_err();
        assert_eq!(
            error,
            Error::TooMuch {
                what: "samples",
                max: 1_000_000
            }
        );
    }
    // The longest ranges, nested: times stay within what 64 bits hold.
    let mut nested = "hits_total".to_owned();
    for _ in 0..60 {
        nested = format!("max_over_time({nested}[292y:100y] offset 292y)");
    }
    assert!(ask_with(&nested, &example(), small).is_ok());
    let far = ask_with("x[5000y]", &example(), Params::instant(0)).unwrap_err();
    assert!(matches!(far, Error::BadParameter(_)), "{far:?}");
}

#[test]
fn a_query_stops_when_it_is_told_to() {
    let query = Query::parse("sum(hits_total)").unwrap();
    let plan = query.plan(Params::instant(0)).unwrap();
    let data = vec![example()];
    let asked = std::cell::Cell::new(0);
    let stop_at = |limit: usize| {
        asked.set(0);
        let result = plan.evaluate(&data, &|| {
            asked.set(asked.get() + 1);
            asked.get() > limit
        });
        (result.is_err(), asked.get())
    };
    let (failed, questions) = stop_at(usize::MAX);
    assert!(
        !failed && questions > data[0].len(),
        "asked once per series: {questions}"
    );
    for limit in 0..questions {
        assert_eq!(plan.evaluate(&data, &|| true).unwrap_err(), Error::Cancelled);
        assert!(stop_at(limit).0);
    }
}

#[test]
fn depth_is_refused_before_it_exhausts_a_stack() {
    let nested = |depth: usize| format!("{}1{}", "-(".repeat(depth), ")".repeat(depth));
    assert_eq!(ask(&nested(90), &[], Params::instant(0)), "1");
    assert!(ask(&nested(5000), &[], Params::instant(0)).contains("nested"));
    let sum = |terms: usize| vec!["1"; terms].join("+");
    assert_eq!(ask(&sum(190), &[], Params::instant(0)), "190");
    assert!(ask(&sum(7_900), &[], Params::instant(0)).contains("nested"));
    assert!(ask(&sum(9_000), &[], Params::instant(0)).contains("words and signs"));
}

#[test]
fn a_source_may_deliver_more_than_was_asked_for() {
    let query = Query::parse("rate(hits_total[2m]) + on(job) hits_total").unwrap();
    let plan = query.plan(Params::instant(120_000)).unwrap();
    let exact: Vec<_> = plan.needs().iter().map(|need| fetch(&example(), need)).collect();
    let more: Vec<Vec<Series>> = plan
        .needs()
        .iter()
        .map(|_| example().into_iter().take(2).collect())
        .collect();
    assert_eq!(plan.evaluate(&exact, &|| false), plan.evaluate(&more, &|| false));
    // Too little is no reason to panic either.
    assert!(plan.evaluate(&[], &|| false).is_ok());
}

#[test]
fn histograms_pass_through_a_query() {
    let histogram = |count: f64| {
        let one = Histogram {
            count,
            sum: count,
            positive: vec![(0, count)],
            ..Histogram::default()
        };
        std::sync::Arc::new(one)
    };
    let mut series = Series {
        labels: labels(&[("__name__", "h")]),
        ..Series::default()
    };
    for minute in 0..5 {
        series
            .histograms
            .push(minute * 60_000, histogram(60.0 * (minute as f64 + 1.0)));
    }
    let data = vec![vec![series]];
    let check = |text: &str, expected: &str| {
        let query = Query::parse(text).unwrap();
        let plan = query.plan(Params::instant(240_000)).unwrap();
        let Value::Vector { samples, .. } = plan.evaluate(&data, &|| false).unwrap().value else {
            panic!("{text}")
        };
        let shown = match &samples[0].point {
            Point::Float(value) => value.to_string(),
            Point::Histogram(histogram) => histogram.to_string(),
        };
        assert_eq!(shown, expected, "{text}");
    };
    check("histogram_count(rate(h[2m1s]))", "1");
    check("rate(h[2m1s])", "{count:1, sum:1, (0.5,1]:1}");
    check("histogram_quantile(1, h)", "1");
    check("h / 300", "{count:1, sum:1, (0.5,1]:1}");
    check("histogram_sum(sum(h))", "300");
    check("resets(h[5m])", "0");
}

/// What `rate` and `increase` are defined as: a look at the window, step by step, without anything clever.
fn naive(samples: &[(i64, f64)], at: i64, range: i64, counter: bool, per_second: bool) -> Option<f64> {
    let window: Vec<_> = samples
        .iter()
        .filter(|(time, value)| *time > at - range && *time <= at && !is_stale(*value))
        .collect();
    let [first, .., last] = &window[..] else { return None };
    let mut gained = last.1 - first.1;
    if counter {
        gained += window
            .windows(2)
            .filter(|pair| pair[1].1 < pair[0].1)
            .map(|pair| pair[0].1)
            .sum::<f64>();
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let sampled = seconds(last.0 - first.0);
    let mean = sampled / (window.len() - 1) as f64;
    let mut before = seconds(first.0 - (at - range));
    let mut after = seconds(at - last.0);
    if before >= mean * 1.1 {
        before = mean / 2.0;
    }
    if counter && gained > 0.0 && first.1 >= 0.0 {
        before = before.min(sampled * (first.1 / gained));
    }
    if after >= mean * 1.1 {
        after = mean / 2.0;
    }
    let gained = gained * (sampled + before + after) / sampled;
    Some(if per_second { gained / seconds(range) } else { gained })
}

fn any_samples() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let value = prop_oneof![8 => (0..1000u32).prop_map(f64::from), 1 => Just(stale()), 1 => Just(0.0)];
    proptest::collection::vec((1..40_000i64, value), 0..80).prop_map(|steps| {
        let mut time = 0;
        steps
            .into_iter()
            .map(|(step, value)| {
                time += step;
                (time, value)
            })
            .collect()
    })
}

proptest! {
    // Each case asks hundreds of queries.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rates_are_what_their_definition_says(
        samples in any_samples(),
        start in 0..400_000i64,
        step in 1..60_000i64,
        steps in 1..40i64,
        range in 1..300_000i64,
        offset in -60_000..60_000i64,
    ) {
        let all = [named("x_total", &[], &samples)];
        for (function, counter, per_second) in [("rate", true, true), ("increase", true, false), ("delta", false, false)] {
            let (sign, length) = if offset < 0 { ("-", -offset) } else { ("", offset) };
            let text = format!("{function}(x_total[{range}ms] offset {sign}{length}ms)");
            let answer = ask_with(&text, &all, Params::range(start, start + step * (steps - 1), step)).unwrap();
            let Value::Matrix(matrix) = answer.value else { panic!("not a matrix") };
            let mut points = matrix.iter().flat_map(|series| series.floats.times.iter().zip(&series.floats.values));
            for number in 0..steps {
                let at = start + number * step;
                if let Some(expected) = naive(&samples, at - offset, range, counter, per_second) {
                    let (time, value) = points.next().expect("a point for every window of two samples");
                    prop_assert_eq!(*time, at);
                    prop_assert!((value - expected).abs() <= expected.abs() * 1e-9, "{} {} {}", text, value, expected);
                }
            }
            prop_assert!(points.next().is_none());
        }
    }

    /// A range query is nothing but its instant queries.
    #[test]
    fn a_range_is_a_row_of_instants(samples in any_samples(), start in 0..300_000i64, step in 1..50_000i64) {
        let all = [named("x_total", &[("a", "1")], &samples), named("y", &[("a", "1")], &samples[samples.len() / 2..])];
        let queries = [
            "x_total", "x_total + on(a) y", "x_total or y", "y unless x_total > 500", "sum(x_total)", "avg by (a) ({a=\"1\"})",
            "max_over_time(x_total[1m])", "quantile_over_time(0.5, x_total[2m])", "sum_over_time(rate(x_total[1m])[2m:7s])",
            "x_total @ end() - x_total", "topk(1, {a=\"1\"})", "timestamp(x_total)", "changes(y[3m])", "deriv(y[2m])",
            "count_values(\"v\", x_total)", "stddev_over_time(x_total[1m] offset -20s)", "absent_over_time(x_total[30s])",
        ];
        for text in queries {
            let end = start + step * 9;
            let range = ask_with(text, &all, Params::range(start, end, step)).unwrap();
            let Value::Matrix(matrix) = range.value else { panic!("not a matrix") };
            for number in 0..10 {
                let at = start + step * number;
                let text = text.replace("end()", &format!("{}", end as f64 / 1000.0));
                let instant = ask_with(&text, &all, Params::instant(at)).unwrap();
                let Value::Vector { samples, .. } = instant.value else { panic!("not a vector") };
                let mut instants: Vec<_> = samples
                    .into_iter()
                    .filter_map(|sample| match sample.point {
                        Point::Float(value) => Some((sample.labels, value.to_bits())),
                        Point::Histogram(_) => None,
                    })
                    .collect();
                instants.sort();
                let of_range: Vec<_> = matrix
                    .iter()
                    .filter_map(|series| {
                        let found = series.floats.times.binary_search(&at).ok()?;
                        Some((series.labels.clone(), series.floats.values[found].to_bits()))
                    })
                    .collect();
                prop_assert_eq!(&instants, &of_range, "{} at {}", text, at);
            }
        }
    }

    /// Nothing that a user may type panics: it is answered or refused.
    #[test]
    fn no_text_panics(text in "[a-z0-9_(){}\\[\\]<>=!~+*/%^@,:.\"'\\\\ -]{0,40}") {
        let _ = ask(&text, &example(), Params::range(0, 60_000, 30_000));
    }

    /// Neither does anything made of the words of the language.
    #[test]
    fn no_words_panic(words in proptest::collection::vec(prop::sample::select(vec![
        "hits_total", "size", "(", ")", "[5m]", "[5m:1m]", "+", "-", "*", "/", "==", "</", ">/", "bool", "on", "ignoring", "(job)",
        "group_left", "rate", "sum", "by", "topk", "1", "NaN", "offset", "5m", "@", "start()", ",", "and", "or", "unless", "abs",
        "histogram_quantile", "{job=\"a\"}", "\"x\"", "label_replace", "atan2", "scalar", "vector", "time()", "without",
    ]), 0..12)) {
        let _ = ask(&words.join(" "), &example(), Params::range(0, 60_000, 30_000));
    }
}

#[test]
fn labels_do_not_grow_without_end() {
    let nested =
        |open: &str, close: &str, depth: usize| format!("{}hits_total{}", open.repeat(depth), close.repeat(depth));
    let check = |query: String, fits: bool| {
        let answer = ask_with(&query, &example(), Params::instant(120_000));
        match answer {
            Ok(_) => assert!(fits, "{query}"),
            Err(error) => assert!(!fits && error.to_string().contains("bytes"), "{query}: {error}"),
        }
    };
    check(nested("label_join(", ", \"job\", \"\", \"job\", \"job\")", 10), true);
    check(nested("label_join(", ", \"job\", \"\", \"job\", \"job\")", 40), false);
    let many = format!(", \"job\", \"{}\", \"job\", \"(.*)\")", "$1".repeat(1000));
    check(nested("label_replace(", &many, 1), true);
    check(nested("label_replace(", &many, 3), false);
}

/// One series can have more windows than anybody waits for.
#[test]
fn a_long_series_is_not_gone_through_for_nobody() {
    let samples: Vec<(i64, f64)> = (0..3000).map(|second| (second * 1000, 1.0)).collect();
    let all = [named("hits", &[], &samples)];
    let query = Query::parse("sum_over_time(hits[3000s])").unwrap();
    let plan = query.plan(Params::range(0, 3_000_000, 1000)).unwrap();
    let data: Vec<_> = plan.needs().iter().map(|need| fetch(&all, need)).collect();
    // Once for the series, and not many times more.
    let asked = std::cell::Cell::new(0);
    let answer = plan.evaluate(&data, &|| {
        asked.set(asked.get() + 1);
        asked.get() > 3
    });
    assert!(matches!(answer, Err(Error::Cancelled)), "asked {} times", asked.get());
}
