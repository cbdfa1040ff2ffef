//! Prometheus' own PromQL scripts through the whole product: each state that a script loads is sent as OTLP by a tenant of its own, and
//! every evaluation asked over Prometheus' HTTP API. Writes its part of `docs/conformance/promql.md`.

mod sent;
mod told;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::Value as Json;
use tailwater_promql::script::{Command, End, Eval, Store, Tally, When, parse, tables, with_part};
use tailwater_promql::{Matcher, Params, Query, Value};
use tailwater_runtime::access::{hash, hex};

use crate::harness::{Reply, Server, http, test_data, wait_for};
use crate::recordings::OLD;

/// Questions at once: as many as the server answers at once.
const CLIENTS: usize = 4;

/// Functions for which a sample's start timestamp matters.
const OF_START_TIMESTAMPS: [&str; 3] = ["rate(", "increase(", "resets("];

/// What a script has loaded by some line of it.
struct State {
    tenant: String,
    sent: sent::Sent,
    start_timestamps: bool,
}

/// A question to a state.
struct Asked {
    script: usize,
    state: Arc<State>,
    eval: Box<Eval>,
}

/// All states and questions of a script.
fn read(script: usize, text: &str) -> (Vec<Arc<State>>, Vec<Asked>) {
    let (mut store, mut states, mut asked) = (Store::default(), Vec::new(), Vec::new());
    let mut changed = true;
    for command in parse(text).expect("a script of Prometheus can be read") {
        match command {
            Command::Clear => (store, changed) = (Store::default(), true),
            Command::Load(load) => {
                store.load(&load);
                changed = true;
            }
            Command::Eval(eval) => {
                if std::mem::take(&mut changed) {
                    states.push(Arc::new(State {
                        tenant: format!("s{script}-{}", states.len()),
                        sent: sent::sent(&store.all()),
                        start_timestamps: store.start_timestamps,
                    }));
                }
                let state = states.last().expect("just made").clone();
                asked.push(Asked { script, state, eval });
            }
        }
    }
    (states, asked)
}

struct Client<'s> {
    server: &'s Server,
}

impl Client<'_> {
    fn token(tenant: &str) -> String {
        format!("tw_{tenant}")
    }

    fn send(&self, state: &State) {
        let token = format!("Bearer {}", Client::token(&state.tenant));
        let headers = [("content-type", "application/x-protobuf"), ("authorization", &token)];
        let reply = http(self.server.http(), "POST", "/v1/metrics", &headers, &state.sent.request);
        let body = String::from_utf8_lossy(&reply.body);
        assert!(
            reply.status == 200 && reply.body.is_empty(),
            "{}: {} {body}",
            state.tenant,
            reply.status
        );
    }

    fn ask(&self, state: &State, path: &str, params: &[(&str, String)], by_get: bool) -> Result<Json, String> {
        let token = format!("Bearer {}", Client::token(&state.tenant));
        let mut form = String::new();
        for (name, value) in params {
            let _ = write!(form, "{}{name}=", if form.is_empty() { "" } else { "&" });
            for byte in value.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => form.push(char::from(byte)),
                    other => form.push_str(&format!("%{other:02X}")),
                }
            }
        }
        let address = self.server.address("query", "query.listen");
        let path = format!("/prometheus/api/v1/{path}");
        let reply: Reply = if by_get {
            let headers = [("authorization", token.as_str())];
            http(address, "GET", &format!("{path}?{form}"), &headers, b"")
        } else {
            let headers = [
                ("authorization", token.as_str()),
                ("content-type", "application/x-www-form-urlencoded"),
            ];
            http(address, "POST", &path, &headers, form.as_bytes())
        };
        let answer = reply.json();
        if reply.status == 200 {
            assert_eq!(answer["status"], "success");
            return Ok(answer);
        }
        let error = answer["error"].as_str().expect("an error has a text");
        assert!(matches!(reply.status, 400 | 422), "{} {error}", reply.status);
        Err(error
            .strip_prefix("invalid parameter \"query\": ")
            .unwrap_or(error)
            .to_owned())
    }

    fn instant(&self, state: &State, eval: &Eval, at: i64) -> Result<Json, String> {
        let params = [("query", eval.query.clone()), ("time", seconds(at))];
        self.ask(state, "query", &params, true)
    }

    fn range(&self, state: &State, eval: &Eval, (start, end, step): (i64, i64, i64)) -> Result<Json, String> {
        let params = [
            ("query", eval.query.clone()),
            ("start", seconds(start)),
            ("end", seconds(end)),
            ("step", seconds(step)),
        ];
        self.ask(state, "query_range", &params, false)
    }

    fn evaluate(&self, state: &State, eval: &Eval) -> End {
        if let Some(why) = unsaid(state, eval) {
            return End::Left(why.to_owned());
        }
        if state.start_timestamps && OF_START_TIMESTAMPS.iter().any(|function| eval.query.contains(function)) {
            return End::Refused("start timestamps of samples".into());
        }
        let judge = |reply: Result<Json, String>, what: &str| -> Result<bool, End> {
            // With its place before it, and what to write instead behind it.
            if let Some((_, name)) = reply.as_ref().err().and_then(|error| error.split_once("unsupported: ")) {
                let name = name.split("; ").next().unwrap_or(name);
                return Err(End::Refused(name.to_owned()));
            }
            let answer = reply.map(|reply| told::answer(&reply, eval));
            eval.check(answer.as_ref().map_err(String::as_str))
                .map_err(|error| End::Failed(format!("{what}: {error}")))?;
            Ok(answer.is_ok())
        };
        let all = || {
            let at = match eval.when {
                When::Range(start, end, step) => {
                    return judge(self.range(state, eval, (start, end, step)), "range").map(|_| ());
                }
                When::Instant(at) => at,
            };
            let answered = judge(self.instant(state, eval, at), "instant")?;
            let of_query = ["start()", "end()", "range()", "step()"];
            if !answered
                || eval.ordered
                || eval.range_vector.is_some()
                || eval.text.is_some()
                || of_query.iter().any(|function| eval.query.contains(function))
            {
                return Ok(());
            }
            let failed = |error: String| End::Failed(format!("as a range: {error}"));
            let reply = self
                .range(state, eval, (at - 60_000, at + 60_000, 60_000))
                .map_err(failed)?;
            let Value::Matrix(matrix) = told::answer(&reply, eval).value else {
                return Err(failed("not a matrix".into()));
            };
            eval.check_value(&eval.at_moment(&matrix, at)).map_err(failed)
        };
        all().err().unwrap_or(End::Passed)
    }
}

/// Why the evaluation would not find the series that it selects.
fn unsaid(state: &State, eval: &Eval) -> Option<&'static str> {
    let params = match eval.when {
        When::Instant(at) => Params::instant(at),
        When::Range(start, end, step) => Params::range(start, end, step),
    };
    let query = Query::parse(&eval.query).ok()?;
    let plan = query.plan(params).ok()?;
    let selected = |labels| plan.needs().iter().any(|need| Matcher::all(&need.matchers, labels));
    let mut unsaid = state.sent.unsaid.iter();
    unsaid.find(|(labels, _)| selected(labels)).map(|(_, why)| *why)
}

fn seconds(ms: i64) -> String {
    #[allow(clippy::cast_precision_loss)] // Exact at these times.
    let seconds = ms as f64 / 1000.0;
    seconds.to_string()
}

fn scripts(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("the scripts can be listed");
    let mut files: Vec<PathBuf> = files
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    files.sort();
    assert!(files.len() >= 21, "only {} scripts", files.len());
    let only = std::env::var("PROMQLTEST_ONLY").unwrap_or_default();
    files.retain(|path| path.to_string_lossy().contains(&only));
    files
}

#[test]
fn scripts_of_prometheus_through_ingest_and_http() {
    let Some(folder) = test_data("promqltest") else { return };
    let files = scripts(&folder);
    let (mut states, mut asked) = (Vec::new(), Vec::new());
    for (script, file) in files.iter().enumerate() {
        let text = std::fs::read_to_string(file).expect("a script can be read");
        let (of_script, questions) = read(script, &text);
        states.extend(of_script);
        asked.extend(questions);
    }

    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    let mut text = format!(
        "token operator tenant=default roles=admin sha256={}\n",
        hex(&hash(b"tw_operator"))
    );
    for state in &states {
        let (tenant, sha256) = (&state.tenant, hex(&hash(Client::token(&state.tenant).as_bytes())));
        let _ = writeln!(text, "token {tenant} tenant={tenant} roles=ingest,read sha256={sha256}");
    }
    std::fs::write(&tokens, text).unwrap();
    let path = tokens.display().to_string();
    let mut settings = OLD.to_vec();
    settings.extend([("access.tokens", path.as_str()), ("storage.commit.interval", "1s")]);
    let server = Server::start("run", &dir.path().join("data"), &settings);
    let client = Client { server: &server };
    let started = Instant::now();
    let mut points = 0;
    for state in states.iter().filter(|state| state.sent.points > 0) {
        client.send(state);
        points += state.sent.points;
    }
    wait_for("points in flight to settle", || {
        let admin = server.address("collector", "admin.collector");
        let reply = http(
            admin,
            "GET",
            "/metrics",
            &[("authorization", "Bearer tw_operator")],
            b"",
        );
        let text = String::from_utf8(reply.body).expect("UTF-8 metrics");
        let in_flight = text
            .lines()
            .filter(|line| line.starts_with("tailwater_items_in_flight"));
        in_flight.clone().next()?;
        in_flight.clone().all(|line| line.ends_with(" 0")).then_some(())
    });
    println!("{points} points of {} states in {:?}", states.len(), started.elapsed());

    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut ends = Vec::new();
        while let Some((at, one)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, asked.get(at)?)))
        {
            ends.push((at, client.evaluate(&one.state, &one.eval)));
        }
        ends
    };
    let mut ends: Vec<(usize, End)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        let ends = clients.into_iter().map(|client| client.join().expect("no panic"));
        ends.flatten().collect()
    });
    ends.sort_by_key(|(at, _)| *at);
    println!("{} evaluations in {:?}", asked.len(), started.elapsed());
    assert!(server.stop().success());

    let names = files
        .iter()
        .map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let mut tallies: Vec<(String, Tally)> = names.map(|name| (name, Tally::default())).collect();
    for ((_, end), one) in ends.into_iter().zip(&asked) {
        tallies[one.script].1.add(one.eval.line, &one.eval.query, end);
    }
    let mut failed = Vec::new();
    for (name, tally) in &tallies {
        println!("{name}: {}", tally.shown());
        failed.extend(tally.failed.iter().map(|error| format!("{name}:{error}")));
    }
    assert!(
        failed.is_empty(),
        "{} evaluations failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    if std::env::var_os("PROMQLTEST_ONLY").is_some() {
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance/promql.md");
    let page = std::fs::read_to_string(&file).expect("the page");
    let fresh = with_part(&page, "http", &tables(&tallies)).expect("its part of the page");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &fresh).expect("the page can be written");
    } else {
        assert!(
            page == fresh,
            "docs/conformance/promql.md is stale: run UPDATE=1 cargo test --test e2e promqltest"
        );
    }
}
