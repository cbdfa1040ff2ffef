//! Generated queries over generated series, asked here and of Prometheus itself.
//!
//! The other side is `tests/oracle`, Prometheus' own engine behind a pipe. `tests/tools` of the repository builds it from
//! Prometheus' Go module; without Go the test says that it is skipped. `PROMETHEUS_ORACLE` names another one.
//!
//! `DIFFERENTIAL_SEED` and `DIFFERENTIAL_QUERIES` choose what is asked. Values may differ by the rounding of other
//! mathematical functions; series, times, warnings and infos may not differ at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};
use tailwater_promql::number::{almost_equal, is_stale, stale};
use tailwater_promql::{Error, Matcher, NOTES_MAX, Params, Query, Series, Value};

/// A small generator with a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let at = usize::try_from(self.below(from.len() as u64)).expect("small");
        from[at]
    }
}

fn series(random: &mut Random) -> Vec<Series> {
    let mut all = Vec::new();
    let mut add = |random: &mut Random, pairs: Vec<(&str, String)>, counter: bool| {
        let (mut time, mut value) = (0_i64, 0.0_f64);
        let mut samples = Vec::new();
        while time < 3_600_000 {
            time += 5_000 + i64::try_from(random.below(20_000)).expect("small");
            #[allow(clippy::cast_precision_loss)]
            let step = random.below(1_000_000) as f64 / 1000.0;
            value = if !counter {
                step - 300.0
            } else if random.below(40) == 0 {
                step
            } else {
                value + step
            };
            match random.below(60) {
                0 => samples.push((time, stale())),
                1 => time += 400_000,
                2 if !counter => samples.push((time, f64::NAN)),
                3 if !counter => samples.push((time, f64::INFINITY)),
                _ => samples.push((time, value)),
            }
        }
        all.push(Series::of_floats(pairs.into_iter().collect(), samples));
    };
    for job in ["x", "y"] {
        for inst in ["0", "1", "2"] {
            for (name, counter) in [("a_total", true), ("b_total", true), ("g", false)] {
                let pairs = vec![("__name__", name.into()), ("job", job.into()), ("inst", inst.into())];
                add(random, pairs, counter);
            }
        }
        for le in ["0.1", "1", "5", "+Inf", "junk"] {
            let pairs = vec![("__name__", "h_bucket".into()), ("job", job.into()), ("le", le.into())];
            add(random, pairs, true);
        }
    }
    all
}

const NUMBERS: &[&str] = &["0", "1", "2.5", "-3", "100", "NaN", "Inf", "1e3", "0.5", "5m"];

fn selector(random: &mut Random) -> String {
    let name = random.pick(&["a_total", "b_total", "g", "h_bucket", "nothing"]);
    let matchers = random.pick(&[
        "",
        "",
        "{job=\"x\"}",
        "{inst=~\"[01]\"}",
        "{job!=\"x\",inst!~\"2|3\"}",
        "{le=\"1\"}",
    ]);
    format!("{name}{matchers}")
}

fn shift(random: &mut Random) -> String {
    let offset = random.pick(&["", "", "", " offset 3m", " offset -2m"]);
    let at = random.pick(&["", "", "", "", " @ 1800", " @ start()", " @ end()"]);
    format!("{offset}{at}")
}

fn range(random: &mut Random, depth: u32) -> String {
    let length = random.pick(&["30s", "1m", "5m", "17m", "1h"]);
    if depth > 0 && random.below(4) == 0 {
        let step = random.pick(&["", "30s", "1m", "7m"]);
        return format!("({})[{length}:{step}]{}", vector(random, depth - 1), shift(random));
    }
    format!("{}[{length}]{}", selector(random), shift(random))
}

fn scalar(random: &mut Random, depth: u32) -> String {
    match random.below(8) {
        0 if depth > 0 => format!("scalar({})", vector(random, depth - 1)),
        1 => "time()".into(),
        2 => format!("({} + {})", scalar(random, 0), scalar(random, 0)),
        _ => random.pick(NUMBERS).into(),
    }
}

fn vector(random: &mut Random, depth: u32) -> String {
    if depth == 0 {
        return format!("{}{}", selector(random), shift(random));
    }
    let deeper = depth - 1;
    match random.below(17) {
        0 => {
            let function = random.pick(&[
                "abs", "ceil", "floor", "exp", "sqrt", "ln", "log2", "log10", "sgn", "-", "round", "absent", "sin",
                "atan", "deg", "sort",
            ]);
            if random.below(16) == 0 {
                // It forgets the offset of a selector that is pinned.
                return format!("timestamp({})", selector(random));
            }
            format!("{function}({})", vector(random, deeper))
        }
        1 => format!(
            "clamp({}, {}, {})",
            vector(random, deeper),
            scalar(random, deeper),
            scalar(random, deeper)
        ),
        2 => format!("round({}, {})", vector(random, deeper), scalar(random, deeper)),
        3..=6 => {
            let function = random.pick(&[
                "rate",
                "increase",
                "delta",
                "irate",
                "idelta",
                "sum_over_time",
                "avg_over_time",
                "min_over_time",
                "max_over_time",
                "count_over_time",
                "stddev_over_time",
                "stdvar_over_time",
                "last_over_time",
                "first_over_time",
                "present_over_time",
                "absent_over_time",
                "changes",
                "resets",
                "deriv",
            ]);
            format!("{function}({})", range(random, depth))
        }
        // Prometheus 3.14 answers a pinned subquery with nothing where the function around it is not constant, and takes
        // an aggregation for constant whatever its parameter: neither is asked for.
        7 => format!("quantile_over_time({}, {}[5m])", random.pick(NUMBERS), selector(random)),
        8 => format!(
            "predict_linear({}[17m]{}, {})",
            selector(random),
            shift(random),
            random.pick(NUMBERS)
        ),
        9 | 10 => {
            let op = random.pick(&[
                "sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "sum", "avg",
            ]);
            let by = random.pick(&["", "by (job) ", "without (inst) ", "by (job, le) ", "without () "]);
            format!("{op} {by}({})", vector(random, deeper))
        }
        11 => {
            let by = random.pick(&["", "by (job) ", "without (inst) "]);
            match random.below(3) {
                0 => format!("quantile {by}({}, {})", random.pick(NUMBERS), vector(random, deeper)),
                1 => format!("topk {by}({}, {})", random.pick(&["1", "2", "5"]), selector(random)),
                _ => format!("count_values {by}(\"v\", {})", selector(random)),
            }
        }
        12 => {
            let op = random.pick(&[
                "+", "-", "*", "/", "%", "^", "atan2", ">", "<=", "== bool", "!= bool", ">= bool",
            ]);
            // The last digit of another machine's logarithm becomes the first one of a remainder (and a label of its own
            // in count_values).
            let deeper = if op == "%" { 0 } else { deeper };
            if random.below(2) == 0 {
                format!("({}) {op} {}", vector(random, deeper), scalar(random, deeper))
            } else {
                format!("{} {op} ({})", scalar(random, deeper), vector(random, deeper))
            }
        }
        13 => {
            let op = random.pick(&["+", "-", "*", "/", ">", "<", "== bool", "and", "or", "unless"]);
            // A comparison gives back names that functions below it wanted dropped: there of plain selectors only.
            let deeper = if matches!(op, ">" | "<") { 0 } else { deeper };
            let matching = random.pick(&["", "", "on (job, inst)", "ignoring (le)", "on (job)"]);
            let group = if matches!(op, "and" | "or" | "unless") || matching.is_empty() {
                ""
            } else {
                random.pick(&["", "group_left", "group_right (le)"])
            };
            format!(
                "({}) {op} {matching} {group} ({})",
                vector(random, deeper),
                vector(random, deeper)
            )
        }
        14 => {
            let inner = random.pick(&[
                "h_bucket",
                "rate(h_bucket[5m])",
                "sum by (le, job) (rate(h_bucket[10m]))",
            ]);
            match random.below(2) {
                0 => format!("histogram_quantile({}, {inner})", scalar(random, deeper)),
                _ => format!(
                    "histogram_fraction({}, {}, {inner})",
                    scalar(random, deeper),
                    scalar(random, deeper)
                ),
            }
        }
        15 => {
            // Of counters only: what date NaN has depends on the machine that Prometheus runs on.
            let function = random.pick(&[
                "hour",
                "minute",
                "day_of_month",
                "day_of_week",
                "day_of_year",
                "month",
                "year",
            ]);
            format!("{function}({}_total * 1e5)", random.pick(&["a", "b"]))
        }
        _ => match random.below(2) {
            0 => format!(
                "label_replace({}, \"new\", \"$1-x\", \"inst\", \"(.).*\")",
                vector(random, deeper)
            ),
            _ => format!(
                "label_join({}, \"inst\", \"/\", \"job\", \"inst\")",
                vector(random, deeper)
            ),
        },
    }
}

type Points = BTreeMap<i64, f64>;
type Shown = BTreeMap<BTreeMap<String, String>, Points>;

fn ours(text: &str, all: &[Series], params: Params) -> Result<(Shown, BTreeSet<String>), Error> {
    let query = Query::parse(text)?;
    let plan = query.plan(params)?;
    let fetch = |matchers: &[Matcher]| -> Vec<Series> {
        all.iter()
            .filter(|series| Matcher::all(matchers, &series.labels))
            .cloned()
            .collect()
    };
    let data: Vec<Vec<Series>> = plan.needs().iter().map(|need| fetch(&need.matchers)).collect();
    let answer = plan.evaluate(&data, &|| false)?;
    let Value::Matrix(matrix) = answer.value else {
        panic!("a range query gives a matrix")
    };
    let shown = matrix.into_iter().map(|series| {
        let labels = series
            .labels
            .iter()
            .map(|label| (label.name.to_string(), label.value.to_string()))
            .collect();
        (
            labels,
            series.floats.times.into_iter().zip(series.floats.values).collect(),
        )
    });
    Ok((
        shown.collect(),
        answer.warnings.into_iter().chain(answer.infos).collect(),
    ))
}

fn theirs(line: &Json) -> Result<(Shown, BTreeSet<String>), String> {
    if let Some(error) = line["e"].as_str() {
        return Err(error.to_owned());
    }
    let mut shown = Shown::new();
    for series in line["r"].as_array().into_iter().flatten() {
        let labels = series["m"].as_object().into_iter().flatten();
        let labels = labels
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or("").to_owned()))
            .collect();
        let points = series["p"].as_array().into_iter().flatten().map(|point| {
            let value = point[1]
                .as_str()
                .unwrap_or("")
                .replace("+Inf", "inf")
                .replace("-Inf", "-inf");
            (point[0].as_i64().expect("a time"), value.parse().expect("a float"))
        });
        shown.insert(labels, points.collect());
    }
    let notes = ["w", "i"]
        .into_iter()
        .flat_map(|kind| line[kind].as_array().into_iter().flatten());
    Ok((shown, notes.filter_map(Json::as_str).map(str::to_owned).collect()))
}

fn difference(ours: &Shown, theirs: &Shown) -> Option<String> {
    if let Some(labels) = ours.keys().find(|labels| !theirs.contains_key(*labels)) {
        return Some(format!("only ours: {labels:?} {:?}", ours[labels]));
    }
    for (labels, points) in theirs {
        let Some(own) = ours.get(labels) else {
            return Some(format!("only theirs: {labels:?} {points:?}"));
        };
        if own.keys().ne(points.keys()) {
            return Some(format!(
                "{labels:?}: ours at {:?}, theirs at {:?}",
                own.keys(),
                points.keys()
            ));
        }
        for (time, value) in points {
            // Predictions far away multiply rounding; everything else is the same arithmetic.
            if !almost_equal(own[time], *value, 1e-7) {
                return Some(format!("{labels:?} at {time}: ours {}, theirs {value}", own[time]));
            }
        }
    }
    None
}

/// Notes without the number of samples that were straightened, which Prometheus 3.14 doubles with every merge; and without
/// places in queries with subqueries, whose place it forgets.
fn comparable<'n>(notes: &'n BTreeSet<String>, query: &str) -> BTreeSet<&'n str> {
    let short = |note: &'n String| {
        let note = note.split(", over ").next().unwrap_or(note);
        if query.contains(':') {
            note.rsplit_once(" (").map_or(note, |(note, _)| note)
        } else {
            note
        }
    };
    notes.iter().map(short).collect()
}

/// Prometheus' engine; says loudly if there is none.
fn oracle() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PROMETHEUS_ORACLE") {
        return Some(named.into());
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/prometheus-oracle");
    if built.exists() {
        return Some(built);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there (run tests/tools, which needs Go, or set PROMETHEUS_ORACLE)",
        built.display()
    );
    None
}

#[test]
fn generated_queries_are_answered_as_prometheus_answers_them() {
    let Some(oracle) = oracle() else { return };
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let seed = number("DIFFERENTIAL_SEED", 1);
    println!("seed {seed}");
    let mut random = Random(seed);
    let all = series(&mut random);
    let raw: Vec<Json> = all
        .iter()
        .map(|series| {
            let labels: BTreeMap<&str, &str> = series
                .labels
                .iter()
                .map(|label| (&*label.name, &*label.value))
                .collect();
            let values: Vec<String> = series
                .floats
                .values
                .iter()
                .map(|value| {
                    if is_stale(*value) {
                        "stale".into()
                    } else {
                        tailwater_promql::number::plain(*value)
                    }
                })
                .collect();
            json!({"labels": labels, "t": series.floats.times, "v": values})
        })
        .collect();
    let mut input = format!("{}\n", Json::from(raw));
    let mut cases = Vec::new();
    for _ in 0..number("DIFFERENTIAL_QUERIES", 2000) {
        let depth = 1 + u32::try_from(random.below(3)).expect("small");
        let text = vector(&mut random, depth);
        let start = i64::try_from(random.below(3_000_000)).expect("small");
        let step = 1000 + i64::try_from(random.below(300_000)).expect("small");
        let end = start + step * i64::try_from(random.below(20)).expect("small");
        input.push_str(&format!(
            "{}\n",
            json!({"Query": text, "Start": start, "End": end, "Step": step})
        ));
        cases.push((text, Params::range(start, end, step)));
    }
    let mut child = Command::new(oracle)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the oracle starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("the oracle answers");
    writer.join().expect("no panic").expect("the oracle reads");
    let answers = String::from_utf8(output.stdout).expect("UTF-8");
    let answers: Vec<Json> = answers
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), cases.len());
    let (mut same, mut both_refuse, mut wrong) = (0, 0, Vec::new());
    for ((text, params), line) in cases.iter().zip(&answers) {
        let what = match (ours(text, &all, *params), theirs(line)) {
            (Ok((own, own_notes)), Ok((other, other_notes))) => difference(&own, &other).or_else(|| {
                // Where there are many, ours end with a count of those left out.
                let (own, other) = (comparable(&own_notes, text), comparable(&other_notes, text));
                (own != other && own.len() <= NOTES_MAX).then(|| format!("notes: ours {own:?}, theirs {other:?}"))
            }),
            (Err(_), Err(_)) => {
                both_refuse += 1;
                continue;
            }
            (Err(error), Ok(_)) => Some(format!("only ours fails: {error}")),
            (Ok(_), Err(error)) => Some(format!("only theirs fails: {error}")),
        };
        match what {
            None => same += 1,
            Some(what) => wrong.push(format!("{text}\n    {params:?}\n    {what}")),
        }
    }
    println!(
        "{same} answered alike, {both_refuse} refused by both, {} differ",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
