//! Recorded data of others (`../shared/data`): what is in the files is in SQL, and in the Parquet files for readers that know nothing of
//! Tailwater. The files are read a second time here, with code of this test's own.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::clients::{Row, differences, parse_json, rows, rows_when_there, set_attributes, set_sampling, set_time};
use crate::harness::{Server, http, number, run, run_ok, test_data, tool, wait_for};
use crate::sample;

/// Nothing is too old, and answers may be large.
pub const OLD: [(&str, &str); 10] = [
    ("intake.caps.past", "36500d"),
    ("storage.retention.spans", "36500d"),
    ("storage.retention.traces", "36500d"),
    ("storage.retention.logs", "36500d"),
    ("storage.retention.metric_points", "36500d"),
    ("storage.retention.metric_dists", "36500d"),
    ("storage.retention.metric_series", "36500d"),
    ("storage.retention.red", "36500d"),
    ("storage.retention.edges", "36500d"),
    ("query.rows", "100000"),
];

// ---- the OTLP project's example requests

/// A value as the client programs print it, from OTLP/JSON.
fn plain(value: &Value) -> Value {
    let (kind, value) = value
        .as_object()
        .and_then(|value| value.iter().next())
        .expect("one value");
    match kind.as_str() {
        "intValue" => json!(value.as_str().unwrap().parse::<i64>().unwrap()),
        "doubleValue" => json!(value.as_f64().unwrap()),
        "arrayValue" => value["values"].as_array().unwrap().iter().map(plain).collect(),
        "kvlistValue" => pairs(&value["values"]),
        _ => value.clone(),
    }
}

fn pairs(list: &Value) -> Value {
    let pair = |pair: &Value| (pair["key"].as_str().unwrap().to_owned(), plain(&pair["value"]));
    Value::Object(
        list.as_array()
            .map(|list| list.iter().map(pair).collect())
            .unwrap_or_default(),
    )
}

/// Items of a request, each with the columns that its resource and scope give it.
fn items(request: &Value, resources: &str, scopes: &str, list: &str) -> Vec<(Row, Value)> {
    let mut found = Vec::new();
    for resource in request[resources].as_array().unwrap() {
        let service = &pairs(&resource["resource"]["attributes"])["service.name"];
        for scope in resource[scopes].as_array().unwrap() {
            let columns = json!({ "tenant": "default", "service_name": service, "scope_name": scope["scope"]["name"],
                "scope_version": scope["scope"]["version"], "scope_attrs": pairs(&scope["scope"]["attributes"]) });
            for item in scope[list].as_array().unwrap() {
                found.push((columns.as_object().unwrap().clone(), item.clone()));
            }
        }
    }
    found
}

fn set_own(row: &mut Row, item: &Value, time: &str) {
    set_time(row, "ts", &item[time]);
    row.insert("date".into(), json!(row["ts"].as_str().unwrap()[..10]));
    set_attributes(row, &pairs(&item["attributes"]));
}

fn lower(id: &Value) -> Value {
    id.as_str().map_or(Value::Null, |id| json!(id.to_lowercase()))
}

fn set(row: &mut Row, values: Value) {
    row.extend(values.as_object().unwrap().clone());
}

fn span_rows(request: &Value) -> Vec<Row> {
    let row = |(mut row, span): (Row, Value)| {
        set_own(&mut row, &span, "startTimeUnixNano");
        set_sampling(&mut row);
        let ns = |name: &str| span[name].as_str().unwrap().parse::<i64>().unwrap();
        set(
            &mut row,
            json!({ "trace_id": lower(&span["traceId"]), "span_id": lower(&span["spanId"]),
            "parent_span_id": lower(&span["parentSpanId"]), "name": span["name"], "kind": span["kind"], "status_code": 0,
            "duration_ns": ns("endTimeUnixNano") - ns("startTimeUnixNano"), "is_root": false, "is_entry": true,
            "dropped_attrs": 0, "dropped_events": 0, "dropped_links": 0 }),
        );
        row
    };
    items(request, "resourceSpans", "scopeSpans", "spans")
        .into_iter()
        .map(row)
        .collect()
}

fn log_rows(request: &Value) -> Vec<Row> {
    let row = |(mut row, record): (Row, Value)| {
        set_own(&mut row, &record, "timeUnixNano");
        set_sampling(&mut row);
        set_time(&mut row, "observed_ts", &record["observedTimeUnixNano"]);
        set(
            &mut row,
            json!({ "severity_number": record["severityNumber"], "severity_text": record["severityText"],
            "event_name": record["eventName"], "trace_id": lower(&record["traceId"]), "span_id": lower(&record["spanId"]),
            "dropped_attrs": 0 }),
        );
        match record["body"].get("stringValue") {
            Some(text) => row.insert("body".into(), text.clone()),
            None => row.insert("body_json".into(), record["body"].clone()),
        };
        row
    };
    items(request, "resourceLogs", "scopeLogs", "logRecords")
        .into_iter()
        .map(row)
        .collect()
}

/// Rows of a metrics request, with their table.
fn metric_rows(request: &Value) -> Vec<(&'static str, Row)> {
    let kinds = [
        ("gauge", 1),
        ("sum", 2),
        ("histogram", 3),
        ("exponentialHistogram", 4),
        ("summary", 5),
    ];
    let mut found = Vec::new();
    for (columns, metric) in items(request, "resourceMetrics", "scopeMetrics", "metrics") {
        let (data, kind) = kinds
            .iter()
            .find_map(|(name, kind)| Some((metric.get(*name)?, *kind)))
            .unwrap();
        for point in data["dataPoints"].as_array().unwrap() {
            let mut row = columns.clone();
            set_own(&mut row, point, "timeUnixNano");
            set_time(
                &mut row,
                "start_ts",
                point.get("startTimeUnixNano").unwrap_or(&json!("0")),
            );
            let temporality = data.get("aggregationTemporality").cloned().unwrap_or(json!(0));
            set(
                &mut row,
                json!({ "metric_name": metric["name"], "unit": metric["unit"], "type": kind, "temporality": temporality,
                "monotonic": data["isMonotonic"], "flags": point.get("flags").cloned().unwrap_or(json!(0)) }),
            );
            let long = |value: &Value| {
                value
                    .as_str()
                    .map_or(Value::Null, |value| json!(value.parse::<i64>().unwrap()))
            };
            let longs = |value: &Value| {
                value
                    .as_array()
                    .map(|list| list.iter().map(long).collect())
                    .unwrap_or(json!([]))
            };
            let or = |value: &Value, other: Value| if value.is_null() { other } else { value.clone() };
            if kind <= 2 {
                let int = long(&point["asInt"]).as_i64();
                let value = int.map_or(point["asDouble"].clone(), |int| json!(int as f64));
                // What a double cannot hold has a column of its own.
                let exact = int.filter(|int| (*int as f64) as i128 != i128::from(*int));
                set(
                    &mut row,
                    json!({ "value": value, "value_int": exact, "is_int": int.is_some() }),
                );
            } else {
                set(
                    &mut row,
                    json!({ "count": long(&point["count"]), "sum": point["sum"], "min": point["min"], "max": point["max"] }),
                );
            }
            if kind == 3 {
                set(
                    &mut row,
                    json!({ "bounds": or(&point["explicitBounds"], json!([])), "counts": longs(&point["bucketCounts"]) }),
                );
            }
            if kind == 4 {
                let buckets = |name: &str| {
                    (
                        or(&point[name]["offset"], json!(0)),
                        longs(&point[name]["bucketCounts"]),
                    )
                };
                let ((pos_offset, pos_counts), (neg_offset, neg_counts)) = (buckets("positive"), buckets("negative"));
                set(
                    &mut row,
                    json!({ "scale": point["scale"], "zero_count": long(&point["zeroCount"]),
                    "zero_threshold": point["zeroThreshold"], "pos_offset": pos_offset, "pos_counts": pos_counts,
                    "neg_offset": neg_offset, "neg_counts": neg_counts }),
                );
            }
            if kind == 5 {
                let quantile = |pair: &Value| json!({ "q": pair["quantile"], "v": pair["value"] });
                let quantiles: Value = point["quantileValues"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(quantile)
                    .collect();
                set(&mut row, json!({ "quantiles": quantiles }));
            }
            found.push((if kind <= 2 { "metric_points" } else { "metric_dists" }, row));
        }
    }
    found
}

/// The rows of a table, in the order of `by`, are the wanted ones, column by column.
fn check_rows(server: &Server, table: &str, by: &str, mut wanted: Vec<Row>) {
    let mut got = rows_when_there(server, &format!("select * from {table}"), wanted.len());
    let key = |row: &Row| row[by].to_string();
    got.sort_by_key(key);
    wanted.sort_by_key(key);
    assert_eq!(
        got.iter().map(key).collect::<Vec<_>>(),
        wanted.iter().map(key).collect::<Vec<_>>(),
        "{table}: other rows than were sent"
    );
    for (wanted, got) in wanted.iter_mut().zip(&mut got) {
        if let Some(body) = wanted.get_mut("body_json") {
            // Parsed like the answer.
            *body = json!(body.to_string());
        }
        let mut body = Row::from_iter(wanted.remove_entry("body_json"));
        parse_json(&mut body);
        wanted.extend(body);
        parse_json(got);
        let wrong = differences(wanted, got);
        assert!(wrong.is_empty(), "{table}, {}:\n{}", key(got), wrong.join("\n"));
    }
}

/// Posts a request that is taken whole: there is no partial success.
fn post_json(server: &Server, path: &str, body: &[u8]) {
    let reply = http(
        server.http(),
        "POST",
        path,
        &[("content-type", "application/json")],
        body,
    );
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({})),
        "{}",
        String::from_utf8_lossy(body)
    );
}

#[test]
fn the_example_requests_of_the_otlp_project_are_in_sql_field_by_field() {
    let Some(folder) = test_data("otlp-json") else { return };
    let data = tempfile::tempdir().unwrap();
    let server = Server::start("run", data.path(), &OLD);
    let post = |file: &str, path: &str| -> Value {
        let text = std::fs::read(folder.join(file)).unwrap();
        post_json(&server, path, &text);
        serde_json::from_slice(&text).unwrap()
    };
    let spans = span_rows(&post("trace.json", "/v1/traces"));
    let logs = [
        log_rows(&post("logs.json", "/v1/logs")),
        log_rows(&post("events.json", "/v1/logs")),
    ]
    .concat();
    let request = post("metrics.json", "/v1/metrics");
    let of = |table: &str| {
        metric_rows(&request)
            .into_iter()
            .filter(|row| row.0 == table)
            .map(|row| row.1)
            .collect::<Vec<_>>()
    };
    let (points, dists) = (of("metric_points"), of("metric_dists"));
    assert_eq!((spans.len(), logs.len(), points.len(), dists.len()), (1, 2, 2, 2));
    let check = |server: &Server| {
        check_rows(server, "spans", "span_id", spans.clone());
        check_rows(server, "logs", "severity_text", logs.clone());
        check_rows(server, "metric_points", "metric_name", points.clone());
        check_rows(server, "metric_dists", "metric_name", dists.clone());
        let described = rows(
            server,
            "select metric_name, description, unit from metric_series order by metric_name",
        );
        let told = items(&request, "resourceMetrics", "scopeMetrics", "metrics");
        let mut told: Vec<Value> = told
            .iter()
            .map(|(_, metric)| json!({ "metric_name": metric["name"], "description": metric["description"], "unit": metric["unit"] }))
            .collect();
        told.sort_by_key(|metric| metric["metric_name"].to_string());
        assert_eq!(json!(described), json!(told), "the catalogue");
    };
    check(&server);
    assert!(server.stop().success());
    check(&Server::start("query", data.path(), &OLD));
    run_ok(&["lake", "verify", "--data", &data.path().display().to_string()]);
}

#[test]
fn what_the_example_requests_leave_out_is_stored_too() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start("run", data.path(), &[]);
    let now = sample::now_ns();
    let (now, before) = (now.to_string(), (now - 1_234_567_891).to_string());
    let (trace, span) = ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174");
    let exemplars = json!([
        { "timeUnixNano": before, "asDouble": 1.5, "traceId": trace, "spanId": span,
            "filteredAttributes": [{ "key": "user", "value": { "stringValue": "ä" } }, { "key": "n", "value": { "intValue": "7" } }] },
        { "timeUnixNano": now, "asInt": "3" },
    ]);
    let request = json!({ "resourceMetrics": [{
        "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "my.service" } }] },
        "scopeMetrics": [{ "scope": { "name": "my.library", "version": "1" }, "metrics": [
            { "name": "a.gauge", "unit": "s", "gauge": { "dataPoints": [{ "timeUnixNano": now, "asDouble": 0.1, "exemplars": exemplars }] } },
            { "name": "b.stale", "unit": "s", "gauge": { "dataPoints": [{ "timeUnixNano": now, "flags": 1 }] } },
            { "name": "e.large", "unit": "By", "sum": { "aggregationTemporality": 2, "isMonotonic": true,
                "dataPoints": [{ "timeUnixNano": now, "asInt": "9007199254740993" }] } },
            { "name": "c.summary", "unit": "s", "summary": { "dataPoints": [{ "timeUnixNano": now, "startTimeUnixNano": before, "count": "9",
                "sum": 4.5, "quantileValues": [{ "quantile": 0, "value": 0.25 }, { "quantile": 0.99, "value": 1.75 }] }] } },
            { "name": "d.exponential", "unit": "s", "exponentialHistogram": { "aggregationTemporality": 2, "dataPoints": [{ "timeUnixNano": now,
                "count": "10", "sum": -1.5, "scale": 3, "zeroCount": "1", "zeroThreshold": 0.001, "positive": { "offset": -3, "bucketCounts": ["1", "0", "2"] },
                "negative": { "offset": 5, "bucketCounts": ["6"] } }] } },
        ] }],
    }] });
    post_json(&server, "/v1/metrics", request.to_string().as_bytes());
    let wanted = metric_rows(&request).into_iter().map(|(table, mut row)| {
        if row["metric_name"] == "a.gauge" {
            let exemplar = |ns: &str, rest: Value| {
                let mut row = rest.as_object().unwrap().clone();
                set_time(&mut row, "ts", &json!(ns));
                Value::Object(row)
            };
            let exemplars = [
                exemplar(
                    &before,
                    json!({ "value": 1.5, "trace_id": trace, "span_id": span, "attrs": { "user": "ä", "n": "7" } }),
                ),
                exemplar(
                    &now,
                    json!({ "value": 3.0, "trace_id": null, "span_id": null, "attrs": {} }),
                ),
            ];
            row.insert("exemplars".into(), json!(exemplars));
        }
        (table, row)
    });
    let (points, dists): (Vec<_>, Vec<_>) = wanted.partition(|row| row.0 == "metric_points");
    let check = |server: &Server| {
        check_rows(
            server,
            "metric_points",
            "metric_name",
            points.iter().map(|row| row.1.clone()).collect(),
        );
        check_rows(
            server,
            "metric_dists",
            "metric_name",
            dists.iter().map(|row| row.1.clone()).collect(),
        );
    };
    check(&server);
    assert!(server.stop().success());
    check(&Server::start("query", data.path(), &[]));
}

// ---- the Nezha minutes

/// Records of a gzipped CSV file, without its head: quotes around a field, doubled inside.
fn records(path: &Path) -> Vec<Vec<String>> {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    let (mut records, mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => field.extend(letters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            '\r' if !quoted => {}
            letter => field.push(letter),
        }
    }
    assert!(
        field.is_empty() && record.is_empty(),
        "{}: ends in the middle of a record",
        path.display()
    );
    records.split_off(1)
}

fn service(pod: &str) -> String {
    let parts: Vec<&str> = pod.split('-').collect();
    parts[..parts.len() - 2].join("-")
}

/// What a program wrote: the container runtime wraps it, and some programs wrap their message once more.
fn message(log: &str) -> String {
    let outer: Value = serde_json::from_str(log).unwrap();
    let line = outer["log"].as_str().unwrap().trim_end();
    let inner = serde_json::from_str::<Value>(line).ok();
    inner
        .and_then(|inner| Some(inner.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| line.to_owned())
}

/// Everything that the files say, in the form of the answers below.
struct Told {
    files: Vec<String>,
    /// trace, span, parent, start ns, duration ns, service, name, pod.
    spans: Vec<Vec<String>>,
    /// trace, span, time ns, service, pod, container, body.
    logs: Vec<Vec<String>>,
    /// trace, spans, earliest start and latest end in us.
    traces: Vec<Vec<String>>,
    /// By service.
    durations: BTreeMap<String, Vec<u64>>,
}

impl Told {
    fn read(folder: &Path) -> Told {
        let files = |kind: &str| {
            let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join(kind))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            files.sort();
            files
        };
        let (trace_files, log_files) = (files("trace"), files("log"));
        assert_eq!(
            (trace_files.len(), log_files.len()),
            (6, 2),
            "files of {}",
            folder.display()
        );
        let mut spans = Vec::new();
        let mut traces: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
        let mut durations: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for record in trace_files.iter().flat_map(|file| records(file)) {
            let [trace, span, parent, pod, name, start, end, _] = record.try_into().expect("eight columns");
            let (start_ns, end_ns): (u64, u64) = (start.parse().unwrap(), end.parse().unwrap());
            let parent = if parent == "root" { "null".to_owned() } else { parent };
            durations.entry(service(&pod)).or_default().push(end_ns - start_ns);
            let seen = traces.entry(trace.clone()).or_insert((0, u64::MAX, 0));
            *seen = (seen.0 + 1, seen.1.min(start_ns / 1000), seen.2.max(end_ns / 1000));
            spans.push(vec![
                trace,
                span,
                parent,
                start,
                (end_ns - start_ns).to_string(),
                service(&pod),
                name,
                pod,
            ]);
        }
        let log = |record: Vec<String>| {
            let [_, time, _, pod, container, trace, span, log] = record.try_into().expect("eight columns");
            vec![trace, span, time, service(&pod), pod, container, message(&log)]
        };
        let logs = log_files.iter().flat_map(|file| records(file)).map(log).collect();
        let trace = |(trace, (spans, start, end)): (String, (u64, u64, u64))| {
            vec![trace, spans.to_string(), start.to_string(), end.to_string()]
        };
        durations.values_mut().for_each(|durations| durations.sort_unstable());
        let files = trace_files
            .iter()
            .chain(&log_files)
            .map(|file| file.display().to_string())
            .collect();
        Told {
            files,
            spans,
            logs,
            traces: traces.into_iter().map(trace).collect(),
            durations,
        }
    }

    /// The answers to [`queries`] are what the files say.
    fn check(&self, who: &str, answers: &[Vec<Vec<Value>>], sketches: bool) {
        let [counts, services, spans, logs, traces] = answers else {
            panic!("{who}: five answers")
        };
        let distinct = self.traces.len() as f64;
        let total: u64 = self.durations.values().flatten().sum();
        let roots = self.spans.iter().filter(|span| span[2] == "null").count();
        let wanted = [
            self.spans.len() as f64,
            distinct,
            total as f64,
            roots as f64,
            self.logs.len() as f64,
            distinct,
            distinct,
        ];
        assert_eq!(
            counts[0].iter().map(number).collect::<Vec<_>>(),
            wanted,
            "{who}: counts"
        );
        let names: Vec<_> = services.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
        assert_eq!(
            names,
            self.durations.keys().cloned().collect::<Vec<_>>(),
            "{who}: services"
        );
        for (row, (name, durations)) in services.iter().zip(&self.durations) {
            assert_eq!(number(&row[1]), durations.len() as f64, "{who}: spans of {name}");
            assert_eq!(
                number(&row[2]),
                durations.iter().sum::<u64>() as f64,
                "{who}: time of {name}"
            );
            for (at, q) in [(3, 0.5), (4, 0.99)] {
                let exact = quantile(durations, q);
                let close = |got: f64, share: f64| (got - exact).abs() <= exact * share;
                assert!(
                    close(number(&row[at]), 1e-6),
                    "{who}: quantile {q} of {name} is {} and not {exact}",
                    row[at]
                );
                if sketches {
                    let sketch = number(&row[at + 2]);
                    assert!(
                        close(sketch, 0.011),
                        "{who}: quantile {q} of {name} from a sketch is {sketch}, exactly {exact}"
                    );
                }
            }
        }
        same_rows(&format!("{who}: spans"), &self.spans, spans);
        same_rows(&format!("{who}: logs"), &self.logs, logs);
        same_rows(&format!("{who}: traces"), &self.traces, traces);
    }
}

/// Between the two neighbours of its rank, as SQL has it.
fn quantile(sorted: &[u64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let (low, high) = (
        sorted[rank.floor() as usize] as f64,
        sorted[rank.ceil() as usize] as f64,
    );
    low + (high - low) * rank.fract()
}

/// The same rows as often, in any order; as text, because answers show large integers as either.
fn same_rows(what: &str, wanted: &[Vec<String>], got: &[Vec<Value>]) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut got: Vec<Vec<String>> = got.iter().map(|row| row.iter().map(text).collect()).collect();
    let mut wanted = wanted.to_vec();
    got.sort_unstable();
    wanted.sort_unstable();
    let differ = wanted.iter().zip(&got).find(|(wanted, got)| wanted != got);
    assert!(differ.is_none(), "{what}: wanted and got\n{differ:?}");
    assert_eq!(got.len(), wanted.len(), "{what}: rows");
}

/// One question to all. `quantile`: the exact one of the dialect; `us`: microseconds of a time; `more`: further columns by service.
fn queries(quantile: fn(&str) -> String, us: fn(&str) -> String, more: &str) -> Vec<String> {
    let (p50, p99, ts, ts_min, ts_max) = (quantile("0.5"), quantile("0.99"), us("ts"), us("ts_min"), us("ts_max"));
    vec![
        "select (select count(*) from spans) as spans, (select count(distinct trace_id) from spans) as in_spans,
            (select sum(duration_ns) from spans) as time, (select count(*) from spans where is_root) as roots,
            (select count(*) from logs) as logs, (select count(*) from traces where part = 0) as begun,
            (select count(distinct trace_id) from traces) as traces"
            .to_owned(),
        format!(
            "select service_name, count(*), sum(duration_ns), {p50}, {p99}{more} from spans group by service_name order by service_name"
        ),
        format!(
            "select trace_id, span_id, parent_span_id, {ts} * 1000 + ts_ns, duration_ns, service_name, name, k8s_pod from spans"
        ),
        format!(
            "select trace_id, span_id, {ts} * 1000 + ts_ns, service_name, k8s_pod, attrs_str['k8s.container.name'], body from logs"
        ),
        format!("select trace_id, sum(span_count), min({ts_min}), max({ts_max}) from traces group by trace_id"),
    ]
}

/// Asks a server.
fn ask(server: &Server) -> Vec<Vec<Vec<Value>>> {
    let exact = |q: &str| format!("percentile_cont(duration_ns, {q})");
    let sketches = ", exphist_quantile(exphist(duration_ns), 0.5), exphist_quantile(exphist(duration_ns), 0.99)";
    queries(exact, |time| format!("cast({time} as bigint)"), sketches)
        .iter()
        .map(|query| server.sql(query))
        .collect()
}

/// Asks DuckDB about the files that the Delta log names; the answers, and how many files of spans there are. None where it is not installed.
fn ask_duckdb(data: &Path) -> Option<(Vec<Vec<Vec<Value>>>, i64)> {
    let python = tool("venv/bin/python")?;
    let imports = Command::new(&python).args(["-c", "import duckdb"]).output().unwrap();
    if !imports.status.success() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: DuckDB is not in target/tools/venv (run tests/tools)"
        );
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers/duck.py");
    let mut child = Command::new(python)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script)
        .arg(data.join("lake"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let questions = json!(queries(
        |q| format!("quantile_cont(duration_ns, {q})"),
        |time| format!("epoch_us({time})"),
        ""
    ));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(questions.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "duck.py says why on standard error");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (table, about) in answer["tables"].as_object().unwrap() {
        let collectors: HashSet<&str> = about["txns"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .filter(|id| id.starts_with("collector/"))
            .collect();
        assert!(
            collectors.len() <= 1 && collectors.iter().all(|id| id.ends_with(table.as_str())),
            "{table}: one collector wrote it"
        );
    }
    let files = answer["tables"]["spans"]["files"].as_i64().unwrap();
    Some((serde_json::from_value(answer["answers"].clone()).unwrap(), files))
}

#[test]
fn the_nezha_minutes_give_the_same_answers_as_the_files_before_and_after_compaction_and_to_duckdb() {
    let Some(folder) = test_data("nezha") else { return };
    let told = Told::read(&folder);
    assert_eq!(
        (told.spans.len(), told.traces.len(), told.logs.len()),
        (85_540, 1850, 13_134),
        "the files are the known ones"
    );
    let data = tempfile::tempdir().unwrap();
    let path = data.path().display().to_string();
    // Several commits, so that there is something to compact, rows on both sides of the line while queries run, and checkpoints to read.
    let hurried = [
        // A minute of the recording, which is a date's, takes several batches and no commit takes it whole, however slow the machine.
        ("storage.batch.rows", "2000"),
        ("storage.commit.bytes", "256KiB"),
        ("storage.compact.interval", "24h"),
        ("storage.compact.min_files", "2"),
        ("storage.checkpoint_every", "1"),
    ];
    let settings: Vec<_> = OLD.into_iter().chain(hurried).collect();
    let server = Server::start("run", data.path(), &settings);
    let endpoint = format!("http://{}", server.grpc());
    let mut load = vec![
        "load",
        "--keep-times",
        "--endpoint",
        &endpoint,
        "--format",
        "json",
        "--timeout",
        "120s",
        "--replay",
    ];
    load.extend(told.files.iter().map(String::as_str));
    let sent: Value = serde_json::from_str(&run_ok(&load)).unwrap();
    for (signal, items) in [("traces", told.spans.len()), ("logs", told.logs.len())] {
        assert_eq!(sent["signals"][signal]["acked"], json!(items), "{signal}: {sent}");
    }
    wait_for("everything to be visible", || {
        let row = &server.sql("select (select count(*) from spans) as spans, (select count(*) from logs) as logs")[0];
        (number(&row[0]) >= told.spans.len() as f64 && number(&row[1]) >= told.logs.len() as f64).then_some(())
    });
    told.check("the running server", &ask(&server), true);
    assert!(server.stop().success());

    let before = ask_duckdb(data.path());
    if let Some((answers, _)) = &before {
        told.check("DuckDB", answers, false);
    }
    // Without the settings that keep the past: retention is for the role to apply, merging by hand forgets nothing.
    let hurried: Vec<String> = hurried.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut compact = vec!["lake", "compact", "--data", &path];
    compact.extend(hurried.iter().flat_map(|set| ["--set", set.as_str()]));
    let no_room = [compact.as_slice(), &["--set", "storage.disk_reserve=1PiB"]].concat();
    let (code, _, told_why) = run(&no_room);
    assert_eq!(code, 2, "no disk is that large");
    assert!(told_why.contains("merges wait for room"), "{told_why}");
    run_ok(&compact);
    run_ok(&["lake", "verify", "--data", &path]);
    if let (Some((_, before)), Some((answers, after))) = (before, ask_duckdb(data.path())) {
        told.check("DuckDB after compaction", &answers, false);
        assert!(after < before, "{before} files of spans became {after}");
    }
    let server = Server::start("query", data.path(), &settings);
    told.check("the tables after compaction", &ask(&server), true);
}
