//! What the OpenTelemetry SDKs export is in SQL, field by field, and nothing else is: programs of `tests/clients` say what they sent,
//! whole rows are made of that, and whole rows are compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::harness::{Server, http, tool, wait_for};

/// A row by column name.
pub type Row = Map<String, Value>;

/// Columns that depend on when and where a row was stored, or on a hash.
const UNTOLD: [&str; 3] = ["ingest_ts", "batch_id", "series_id"];

/// Attributes with columns of their own, of those that the programs use.
const PROMOTED: [(&str, &str); 3] = [
    ("http.request.method", "http_method"),
    ("http.route", "http_route"),
    ("http.response.status_code", "http_status"),
];

/// Asks the query role; rows by column name.
pub fn rows(server: &Server, query: &str) -> Vec<Row> {
    let reply = http(
        server.address("query", "query.listen"),
        "POST",
        "/api/v1/sql?format=json",
        &[],
        query.as_bytes(),
    );
    let answer = reply.json();
    assert_eq!(reply.status, 200, "{query}: {answer}");
    let names: Vec<&str> = answer["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    let row = |row: &Value| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .zip(row.as_array().unwrap().iter().cloned())
            .collect()
    };
    answer["rows"].as_array().unwrap().iter().map(row).collect()
}

/// As [`rows`], once there are as many as were acknowledged: a row is visible soon after its request is answered, not at once.
pub fn rows_when_there(server: &Server, query: &str, count: usize) -> Vec<Row> {
    wait_for(&format!("{count} rows of {query}"), || {
        Some(rows(server, query)).filter(|rows| rows.len() >= count)
    })
}

/// What is different between a row and what it should be. A column that `wanted` does not name must be empty: null or no entries.
pub fn differences(wanted: &Row, got: &Row) -> Vec<String> {
    let missing = wanted
        .keys()
        .filter(|name| !got.contains_key(*name))
        .map(|name| format!("there is no column {name}"));
    let other = got
        .iter()
        .filter(|(name, _)| !UNTOLD.contains(&name.as_str()))
        .filter_map(|(name, got)| match wanted.get(name) {
            Some(wanted) => (!same(wanted, got)).then(|| format!("{name} is {got} and not {wanted}")),
            None => (!is_empty(got)).then(|| format!("{name} is {got} and should be empty")),
        });
    missing.chain(other).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

/// Equal, with numbers by value: an integer that JavaScript could not hold is text in an answer.
fn same(wanted: &Value, got: &Value) -> bool {
    match (wanted, got) {
        (Value::Number(wanted), Value::Number(got)) => wanted == got || wanted.as_f64() == got.as_f64(),
        (Value::Number(wanted), Value::String(got)) => wanted.is_i64() && wanted.to_string() == *got,
        (Value::Array(wanted), Value::Array(got)) => {
            wanted.len() == got.len() && wanted.iter().zip(got).all(|(a, b)| same(a, b))
        }
        (Value::Object(wanted), Value::Object(got)) => {
            wanted.len() == got.len()
                && wanted
                    .iter()
                    .all(|(key, value)| got.get(key).is_some_and(|got| same(value, got)))
        }
        _ => wanted == got,
    }
}

/// The time columns `name` and `name_ns` of Unix ns in decimal; `"0"` was not sent.
pub fn set_time(row: &mut Row, name: &str, ns: &Value) {
    let ns: i64 = ns.as_str().expect("times are text").parse().unwrap();
    let (ts, rest) = if ns == 0 {
        (Value::Null, Value::Null)
    } else {
        (micros(ns), json!(ns % 1000))
    };
    row.insert(name.into(), ts);
    row.insert(format!("{name}_ns"), rest);
}

/// How an answer shows the microseconds of Unix ns.
fn micros(ns: i64) -> Value {
    let time = chrono::DateTime::from_timestamp_micros(ns / 1000).unwrap();
    json!(time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

/// The columns of attributes: promoted ones, and a map for each type.
pub fn set_attributes(row: &mut Row, attributes: &Value) {
    let mut maps: BTreeMap<&str, Row> = ["str", "int", "dbl", "bool", "json"]
        .into_iter()
        .map(|kind| (kind, Row::new()))
        .collect();
    for (key, value) in attributes.as_object().expect("attributes are an object") {
        if let Some((_, column)) = PROMOTED.iter().find(|(name, _)| name == key) {
            row.insert((*column).into(), value.clone());
            continue;
        }
        let kind = match value {
            Value::String(_) => "str",
            Value::Bool(_) => "bool",
            Value::Number(number) if number.is_f64() => "dbl",
            Value::Number(_) => "int",
            _ => "json",
        };
        let value = if kind == "json" {
            any_value(value)
        } else {
            value.clone()
        };
        maps.entry(kind).or_default().insert(key.clone(), value);
    }
    for (kind, map) in maps {
        row.insert(format!("attrs_{kind}"), Value::Object(map));
    }
}

/// Parses the OTLP-JSON texts of a row, so that they are compared by meaning.
pub fn parse_json(row: &mut Row) {
    let parse = |value: &mut Value| {
        if let Some(text) = value.as_str() {
            *value = sorted(serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")));
        }
    };
    if let Some(body) = row.get_mut("body_json") {
        parse(body);
    }
    if let Some(map) = row.get_mut("attrs_json").and_then(Value::as_object_mut) {
        map.values_mut().for_each(parse);
    }
}

/// A key-value list is unordered.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().map(|(key, value)| (key, sorted(value))).collect()),
        Value::Array(elements) => {
            let mut elements: Vec<Value> = elements.into_iter().map(sorted).collect();
            if elements.iter().all(|element| element.get("key").is_some()) {
                elements.sort_by_key(|element| element["key"].to_string());
            }
            Value::Array(elements)
        }
        other => other,
    }
}

/// OTLP-JSON of a value as the programs print it.
fn any_value(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(value) => json!({ "boolValue": value }),
        Value::Number(number) if number.is_f64() => json!({ "doubleValue": number }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::String(text) => json!({ "stringValue": text }),
        Value::Array(elements) => {
            json!({ "arrayValue": { "values": elements.iter().map(any_value).collect::<Vec<_>>() } })
        }
        Value::Object(map) => {
            if let (1, Some(bytes)) = (map.len(), map.get("bytes")) {
                return json!({ "bytesValue": base64(&hex::decode(bytes.as_str().unwrap()).unwrap()) });
            }
            let pairs: Vec<_> = map
                .iter()
                .map(|(key, value)| json!({ "key": key, "value": any_value(value) }))
                .collect();
            sorted(json!({ "kvlistValue": { "values": pairs } }))
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| -> String {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(*group.get(at).unwrap_or(&0)));
        (0..4)
            .map(|at| {
                if at > group.len() {
                    '='
                } else {
                    DIGITS[(bits >> (18 - 6 * at)) as usize & 63] as char
                }
            })
            .collect()
    };
    bytes.chunks(3).map(group).collect()
}

/// Attributes of an event or a link: all as text.
fn texts(attributes: &Value) -> Value {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Value::Object(
        attributes
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.clone(), json!(text(value))))
            .collect(),
    )
}

/// The columns that all tables have, from a printed line.
fn common(line: &Value, instance: &str, time: &str) -> Row {
    let mut row = Row::new();
    let own = [
        ("tenant", json!("default")),
        ("service_namespace", json!("tests")),
        ("service_version", json!("0.1")),
    ];
    row.extend(own.map(|(name, value)| (name.to_owned(), value)));
    row.insert("service_name".into(), line["service_name"].clone());
    row.insert("service_instance_id".into(), json!(instance));
    row.insert("resource_attrs".into(), json!({ "resource.number": "7" }));
    row.insert(
        "resource_schema_url".into(),
        json!("https://opentelemetry.io/schemas/1.30.0"),
    );
    row.insert("scope_name".into(), json!("tailwater.tests.clients"));
    row.insert("scope_version".into(), json!("1.2.3"));
    set_time(&mut row, "ts", &line[time]);
    row.insert("date".into(), json!(row["ts"].as_str().unwrap()[..10]));
    set_attributes(&mut row, &line["attributes"]);
    row
}

/// What everything is stamped with while nothing is sampled.
pub fn set_sampling(row: &mut Row) {
    let stamp = json!({ "sample_weight": 1.0, "sample_threshold": 0, "sample_reason": "all", "trigger": "arrival", "partial": false,
        "late": false, "policy_epoch": 0 });
    row.extend(stamp.as_object().unwrap().clone());
}

fn copy(row: &mut Row, line: &Value, names: &[&str]) {
    for name in names {
        let value = line.get(*name).unwrap_or_else(|| panic!("no {name} in {line}"));
        row.insert((*name).to_owned(), value.clone());
    }
}

fn span_row(line: &Value, instance: &str) -> Row {
    let mut row = common(line, instance, "start_ns");
    set_sampling(&mut row);
    copy(
        &mut row,
        line,
        &[
            "trace_id",
            "span_id",
            "parent_span_id",
            "trace_state",
            "name",
            "kind",
            "status_code",
            "status_message",
        ],
    );
    copy(&mut row, line, &["scope_name", "scope_version"]);
    let number = |name: &str| line[name].as_str().unwrap().parse::<i64>().unwrap();
    row.insert("duration_ns".into(), json!(number("end_ns") - number("start_ns")));
    let is_root = line["parent_span_id"].is_null();
    row.insert("is_root".into(), json!(is_root));
    row.insert(
        "is_entry".into(),
        json!(is_root || line["kind"] == 2 || line["kind"] == 5),
    );
    // The programs' roots with a parent were continued from elsewhere, and the SDKs say so in the flags.
    let remote = !is_root && line["name"].as_str().unwrap().starts_with("root-");
    // The bit "sampled" is sent by one SDK and not by the other.
    let sampled = i32::from(line["service_name"] == "client-javascript");
    row.insert("flags".into(), json!(0x100 + if remote { 0x200 } else { 0 } + sampled));
    for dropped in ["dropped_attrs", "dropped_events", "dropped_links"] {
        row.insert(dropped.into(), json!(0));
    }
    let event = |event: &Value| {
        let mut row = json!({ "name": event["name"], "attrs": texts(&event["attributes"]), "dropped": 0 });
        set_time(row.as_object_mut().unwrap(), "ts", &event["time_ns"]);
        row
    };
    let link = |link: &Value| {
        // Links lead to where a span was continued from. Flags are not printed, but known: remote, and sampled in one SDK. The
        // other one prints a link's tracestate and does not send it.
        let trace_state = if sampled == 1 {
            link["trace_state"].clone()
        } else {
            Value::Null
        };
        json!({ "trace_id": link["trace_id"], "span_id": link["span_id"], "trace_state": trace_state,
            "flags": 0x300 + sampled, "attrs": texts(&link["attributes"]), "dropped": 0 })
    };
    row.insert(
        "events".into(),
        line["events"].as_array().unwrap().iter().map(event).collect(),
    );
    row.insert(
        "links".into(),
        line["links"].as_array().unwrap().iter().map(link).collect(),
    );
    row
}

fn log_row(line: &Value, instance: &str) -> Row {
    let mut row = common(line, instance, "time_ns");
    set_sampling(&mut row);
    set_time(&mut row, "observed_ts", &line["observed_ns"]);
    copy(
        &mut row,
        line,
        &[
            "severity_number",
            "severity_text",
            "event_name",
            "trace_id",
            "span_id",
            "scope_name",
            "scope_version",
        ],
    );
    match &line["body"] {
        Value::Null => {}
        Value::String(text) => _ = row.insert("body".into(), json!(text)),
        body => _ = row.insert("body_json".into(), any_value(body)),
    }
    if !line["span_id"].is_null() {
        row.insert("flags".into(), json!(1));
    }
    row.insert("dropped_attrs".into(), json!(0));
    row
}

fn metric_row(line: &Value, instance: &str) -> Row {
    let mut row = common(line, instance, "time_ns");
    set_time(&mut row, "start_ts", &line["start_ns"]);
    copy(
        &mut row,
        line,
        &["metric_name", "type", "temporality", "monotonic", "unit"],
    );
    row.insert("flags".into(), json!(0));
    match line["type"].as_i64().unwrap() {
        1 | 2 => copy(&mut row, line, &["value", "is_int"]),
        kind => {
            copy(&mut row, line, &["count", "sum", "min", "max"]);
            if kind == 3 {
                copy(&mut row, line, &["bounds", "counts"]);
            } else {
                copy(
                    &mut row,
                    line,
                    &[
                        "scale",
                        "zero_count",
                        "pos_offset",
                        "pos_counts",
                        "neg_offset",
                        "neg_counts",
                    ],
                );
                row.insert("zero_threshold".into(), json!(0.0));
            }
        }
    }
    row
}

/// The catalogue's row of a point's series.
fn series_row(line: &Value, instance: &str) -> Row {
    let mut row = Row::new();
    copy(
        &mut row,
        line,
        &[
            "metric_name",
            "type",
            "temporality",
            "monotonic",
            "unit",
            "service_name",
        ],
    );
    row.insert("tenant".into(), json!("default"));
    if line["metric_name"] == "requests" {
        row.insert("description".into(), json!("Requests served."));
    }
    let mut labels = texts(&line["attributes"]);
    let own = json!({ "resource.service.name": line["service_name"], "resource.service.namespace": "tests", "resource.service.version": "0.1",
        "resource.service.instance.id": instance, "resource.resource.number": "7", "scope.name": "tailwater.tests.clients",
        "scope.version": "1.2.3" });
    labels.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    row.insert("labels".into(), labels);
    let ns = line["time_ns"].as_str().unwrap().parse().unwrap();
    row.insert("first_ts".into(), micros(ns));
    row.insert("date".into(), json!(row["first_ts"].as_str().unwrap()[..10]));
    row
}

/// What tells a row from its neighbours.
fn key(table: &str, row: &Row) -> String {
    let parts: &[&str] = match table {
        "spans" => &["span_id"],
        "logs" => return row["attrs_int"]["index"].to_string(),
        "metric_series" => &["metric_name", "labels"],
        _ => &[
            "metric_name",
            "http_route",
            "http_status",
            "attrs_str",
            "attrs_int",
            "attrs_dbl",
            "attrs_bool",
        ],
    };
    // `Value` prints the keys of an object in order, so the text is canonical.
    parts
        .iter()
        .map(|part| row.get(*part).unwrap_or(&Value::Null).to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Compares all rows of an instance in a table with those made of its lines.
fn compare(server: &Server, table: &str, condition: &str, wanted: Vec<Row>) {
    let by_key = |rows: Vec<Row>| {
        let count = rows.len();
        let map: BTreeMap<String, Row> = rows.into_iter().map(|row| (key(table, &row), row)).collect();
        assert_eq!(map.len(), count, "{table} where {condition}: two rows for one item");
        map
    };
    let wanted = by_key(wanted);
    let got = by_key(
        rows_when_there(
            server,
            &format!("select * from {table} where {condition}"),
            wanted.len(),
        )
        .into_iter()
        .map(|mut row| {
            parse_json(&mut row);
            row
        })
        .collect(),
    );
    let keys = |map: &BTreeMap<String, Row>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&got),
        keys(&wanted),
        "{table} where {condition}: other items than were sent"
    );
    let wrong: Vec<String> = wanted
        .iter()
        .flat_map(|(key, wanted)| {
            differences(wanted, &got[key])
                .into_iter()
                .map(move |difference| format!("{key}: {difference}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{table} where {condition}:\n{}", wrong.join("\n"));
}

/// One program's run: what it printed, and the instance it called itself.
struct Sent {
    instance: String,
    lines: Vec<Value>,
}

impl Sent {
    fn run(mut command: Command, protocol: &str, address: std::net::SocketAddr, seed: u32, temporality: &str) -> Sent {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .env("PYTHONIOENCODING", "utf-8");
        command.args([
            "--endpoint",
            &format!("http://{address}"),
            "--seed",
            &seed.to_string(),
            "--temporality",
            temporality,
        ]);
        let output = command.output().expect("the program starts");
        let (out, err) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "{command:?}: {}\n{err}", output.status);
        let lines = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Sent {
            instance: format!("seed-{seed}-{protocol}"),
            lines,
        }
    }

    fn of<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a Value> {
        self.lines.iter().filter(move |line| line["table"] == table)
    }

    /// Every line against its row, and every row against its line.
    fn check(&self, server: &Server) {
        type Make = fn(&Value, &str) -> Row;
        let tables: [(&str, usize, Make); 4] = [
            ("spans", 30, span_row),
            ("logs", 9, log_row),
            ("metric_points", 22, metric_row),
            ("metric_dists", 6, metric_row),
        ];
        let own = format!("service_instance_id = '{}'", self.instance);
        for (table, count, make) in tables {
            let wanted: Vec<Row> = self.of(table).map(|line| make(line, &self.instance)).collect();
            assert_eq!(
                wanted.len(),
                count,
                "{}: what the program sends to {table}",
                self.instance
            );
            compare(server, table, &own, wanted);
        }
        let series = self
            .of("metric_points")
            .chain(self.of("metric_dists"))
            .map(|line| series_row(line, &self.instance))
            .collect();
        compare(
            server,
            "metric_series",
            &format!("labels['resource.service.instance.id'] = '{}'", self.instance),
            series,
        );
        self.check_traces(server);
    }

    /// The parts of each trace add up.
    fn check_traces(&self, server: &Server) {
        let mut wanted: BTreeMap<String, (i64, i64, Value)> = BTreeMap::new();
        for line in self.of("spans") {
            let trace = wanted.entry(line["trace_id"].as_str().unwrap().to_owned()).or_default();
            trace.0 += 1;
            trace.1 += i64::from(line["status_code"] == 2);
            if line["parent_span_id"].is_null() {
                trace.2 = line["name"].clone();
            }
        }
        let ids: Vec<String> = wanted.keys().map(|id| format!("x'{id}'")).collect();
        let got = rows(
            server,
            &format!(
            "select trace_id, sum(span_count) as spans, sum(error_count) as errors, max(root_name) as root from traces
             where trace_id in ({}) group by trace_id", ids.join(", ")),
        );
        let got = got.into_iter().map(|row| {
            let number = |name: &str| row[name].as_i64().unwrap();
            (
                row["trace_id"].as_str().unwrap().to_owned(),
                (number("spans"), number("errors"), row["root"].clone()),
            )
        });
        assert_eq!(got.collect::<BTreeMap<_, _>>(), wanted, "{}: traces", self.instance);
    }
}

#[test]
fn what_the_sdks_export_is_in_sql_field_by_field_and_nothing_else_is() {
    let python = tool("venv/bin/python").map(|python| {
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/client.py"));
        command
    });
    let node = tool("node/client.mjs");
    if python.is_none() && node.is_none() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let server = Server::start("run", data.path(), &[]);
    let (grpc, http) = (server.grpc(), server.http());
    let mut runs: Vec<Box<dyn FnOnce() -> Sent + Send>> = Vec::new();
    if let Some(python) = python {
        let program = python.get_program().to_owned();
        let script = python.get_args().next().unwrap().to_owned();
        for (protocol, address, seed, temporality) in [("grpc", grpc, 7, "cumulative"), ("http", http, 8, "delta")] {
            let mut command = Command::new(&program);
            command.arg(&script).args(["--protocol", protocol]);
            runs.push(Box::new(move || {
                Sent::run(command, protocol, address, seed, temporality)
            }));
        }
    }
    if let Some(script) = node {
        for (seed, temporality) in [(9, "cumulative"), (10, "delta")] {
            let mut command = Command::new("node");
            command.arg(&script);
            runs.push(Box::new(move || Sent::run(command, "json", http, seed, temporality)));
        }
    }
    let running: Vec<_> = runs.into_iter().map(std::thread::spawn).collect();
    let sent: Vec<Sent> = running
        .into_iter()
        .map(|run| run.join().expect("the program exports everything"))
        .collect();
    let check = |server: &Server| {
        sent.iter().for_each(|sent| sent.check(server));
        for table in ["spans", "logs", "metric_points", "metric_dists"] {
            let all: usize = sent.iter().map(|sent| sent.of(table).count()).sum();
            assert_eq!(
                server.sql_number(&format!("select count(*) from {table}")),
                all as f64,
                "nothing else is in {table}"
            );
        }
    };
    check(&server);
    assert!(server.stop().success());
    // Once more from the tables, where everything is now.
    check(&Server::start("query", data.path(), &[]));
}
