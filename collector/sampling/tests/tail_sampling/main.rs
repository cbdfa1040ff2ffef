//! The same OTLP recording through the OpenTelemetry Collector's `tail_sampling` processor and through ours, under one configuration that
//! [`tailwater_sampling::import`] carries over: for every type of policy the traces kept there and here, and why they differ.
//!
//! The other side is `tests/oracle`, the processor itself behind a pipe; `tests/tools` of the repository builds it. What policies say of a
//! trace alone has to be equal, but for the reasons of [`cases`], each of which names the traces it holds for. Shares and limits are compared
//! with their rules, trace by trace, on both sides. What came of it is `docs/conformance/tail-sampling.md`.

mod cases;
mod ours;
mod recording;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};
use tailwater_model::ids::TraceId;
use tailwater_sampling::import;

use cases::{CASES, Case, Limit, Reason, Rule, Side};
use ours::Decided;
use recording::{Made, Recording};

/// The page's; the others are compared as well.
const SEED: u64 = 1;
const MORE_SEEDS: [u64; 3] = [2, 3, 4];
const TRACES: usize = 600;

/// The Collector's processor; says loudly if there is none.
fn oracle() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TAIL_SAMPLING_ORACLE") {
        return Some(named.into());
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/tail-sampling-oracle");
    if built.exists() {
        return Some(built);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there (run tests/tools, which needs Go, or set TAIL_SAMPLING_ORACLE)",
        built.display()
    );
    None
}

/// How many spans of which traces the Collector keeps, by case.
fn theirs(oracle: &Path, recording: &Recording, configs: &[(String, bool)]) -> Vec<BTreeMap<TraceId, u64>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let requests = recording.requests.iter();
    let requests: Vec<Json> = requests
        .map(|(at_ms, body)| json!({"At": at_ms, "Body": hex(body)}))
        .collect();
    let mut input = format!("{}\n", Json::from(requests));
    for (config, tracestate) in configs {
        let _ = writeln!(input, "{}", json!({"Config": config, "Tracestate": tracestate}));
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
    assert!(output.status.success(), "{answers}");
    let answers: Vec<Json> = answers
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), configs.len());
    let kept = answers.iter().zip(configs).map(|(answer, (config, _))| {
        assert_eq!(answer["error"], Json::Null, "{config}");
        let kept = answer["kept"].as_object().expect("what is kept");
        let kept = kept.iter().map(|(id, spans)| {
            let id = u128::from_str_radix(id, 16).expect("a trace id");
            (TraceId(id.to_be_bytes()), spans.as_u64().expect("a number"))
        });
        kept.collect()
    });
    kept.collect()
}

fn config(case: &Case) -> String {
    format!(
        "processors:\n  tail_sampling:\n    decision_wait: 10s\n    policies: [{}]\n",
        case.policies
    )
}

/// A case, as the page shows it.
struct Row {
    both: usize,
    there: usize,
    here: usize,
    why: Vec<String>,
    /// Reasons that no trace had.
    unmet: Vec<&'static str>,
    notes: Vec<String>,
}

fn compare(
    case: &Case,
    traces: &[Made],
    theirs: &BTreeMap<TraceId, u64>,
    ours: &BTreeMap<TraceId, Decided>,
    notes: Vec<String>,
) -> Row {
    let kept_there = |made: &Made| theirs.contains_key(&made.id);
    let kept_here = |made: &Made| ours[&made.id].kept;
    let mut row = Row {
        both: 0,
        there: 0,
        here: 0,
        why: Vec::new(),
        unmet: Vec::new(),
        notes,
    };
    for made in traces {
        match (kept_there(made), kept_here(made)) {
            (true, true) => row.both += 1,
            (true, false) => row.there += 1,
            (false, true) => row.here += 1,
            (false, false) => {}
        }
    }
    let different = row.there + row.here;
    match &case.rule {
        Rule::Same(reasons) => {
            let mut found = vec![0; reasons.len()];
            for made in traces.iter().filter(|made| kept_there(made) != kept_here(made)) {
                let side = if kept_there(made) { Side::There } else { Side::Here };
                let holds = |reason: &Reason| reason.side == side && (reason.holds)(made);
                let place = reasons.iter().position(holds).unwrap_or_else(|| {
                    panic!("{}: kept {side:?} alone, nobody knows why: {made:#?}", case.policies);
                });
                found[place] += 1;
            }
            for (reason, count) in reasons.iter().zip(found) {
                let is_said = !row.notes.is_empty();
                assert!(is_said, "{}: the importer is silent on {}", case.policies, reason.text);
                match count {
                    0 => row.unmet.push(reason.text),
                    _ => row.why.push(format!("{count}: {}", reason.text)),
                }
            }
        }
        Rule::Share(share) => {
            for made in traces {
                let there = !(share.drops)(made)
                    && ((share.all)(made) || (share.some)(made) && share.keeps_there(made, case.tracestate));
                let threshold = ours[&made.id].threshold;
                let here = !(share.drops)(made)
                    && ((share.all)(made) || (share.some)(made) && threshold.keeps(made.randomness()));
                assert_eq!(
                    (kept_there(made), kept_here(made)),
                    (there, here),
                    "{}: {made:#?}",
                    case.policies
                );
                let is_shared = (share.some)(made) && !(share.all)(made) && !(share.drops)(made);
                assert!(
                    !is_shared || threshold == share.threshold(),
                    "{}: {threshold}",
                    case.policies
                );
            }
            if different > 0 {
                assert!(!row.notes.is_empty(), "{}: the importer is silent", case.policies);
                row.why.push(format!("{different}: {}", cases::OF_A_HASH));
            }
        }
        Rule::Limit(limits) => {
            for limit in *limits {
                there_is_limited(case, limit, traces, theirs);
                here_is_limited(case, limit, traces, ours);
            }
            for made in traces {
                let is_limited = limits.iter().any(|limit| (limit.of)(made));
                assert!(
                    is_limited || !kept_there(made) && !kept_here(made),
                    "{}: {made:#?}",
                    case.policies
                );
            }
            if different > 0 {
                assert!(!row.notes.is_empty(), "{}: the importer is silent", case.policies);
                row.why.push(if case.tracestate {
                    format!("{different}: {}", cases::OF_A_CUT)
                } else {
                    cases::OF_AN_ORDER.to_owned()
                });
            }
        }
    }
    row
}

/// The Collector's rule for a limit: what is kept in a second fits what is left, and what is not kept would not have.
fn there_is_limited(case: &Case, limit: &Limit, traces: &[Made], theirs: &BTreeMap<TraceId, u64>) {
    let mut seconds: BTreeMap<u64, Vec<&Made>> = BTreeMap::new();
    for made in traces.iter().filter(|made| (limit.of)(made)) {
        seconds.entry(made.second()).or_default().push(made);
    }
    let rate = limit.per_second as f64;
    let burst = rate * if limit.saves { 2.0 } else { 1.0 };
    let (mut tokens, mut last) = (burst, 0);
    for (second, mut due) in seconds {
        tokens = burst.min(tokens + rate * (second - last) as f64);
        last = second;
        let kept = |made: &&Made| theirs.contains_key(&made.id);
        if case.tracestate {
            // From the largest R down, until one does not fit.
            due.retain(|made| (limit.cost)(made) as f64 <= burst || kept(made));
            due.sort_by_key(|made| std::cmp::Reverse(made.randomness()));
            let (mut spent, mut is_full) = (0, false);
            for made in &due {
                is_full |= spent + (limit.cost)(made) > tokens as u64;
                assert_eq!(kept(made), !is_full, "{}: second {second}: {made:#?}", case.policies);
                spent += if is_full { 0 } else { (limit.cost)(made) };
            }
            tokens -= spent as f64;
            continue;
        }
        let spent: u64 = due
            .iter()
            .filter(|made| kept(made))
            .map(|made| (limit.cost)(made))
            .sum();
        tokens -= spent as f64;
        assert!(tokens >= 0.0, "{}: second {second}", case.policies);
        for made in due.into_iter().filter(|made| !kept(made)) {
            let would = (limit.cost)(made) as f64;
            assert!(
                would > tokens,
                "{}: second {second}: {tokens} left for {made:#?}",
                case.policies
            );
        }
    }
}

/// Ours: R >= T, and over the recording no more than the limit, but for what may be saved up and the noise of single ticks.
fn here_is_limited(case: &Case, limit: &Limit, traces: &[Made], ours: &BTreeMap<TraceId, Decided>) {
    let mut spent = 0.0;
    let (mut demand, mut last) = (0.0, 0);
    for made in traces.iter().filter(|made| (limit.of)(made)) {
        let decided = ours[&made.id];
        assert_eq!(
            decided.kept,
            decided.threshold.keeps(made.randomness()),
            "{}: {made:#?}",
            case.policies
        );
        let cost = (limit.cost_here)(made);
        demand += cost;
        spent += if decided.kept { cost } else { 0.0 };
        last = last.max(made.second());
    }
    let may = (limit.per_second * (last + 2)) as f64;
    assert!(spent <= may * 1.1, "{}: {spent} of {may}", case.policies);
    assert!(
        spent >= demand.min(may) * 0.6,
        "{}: {spent} of {may}, {demand} came",
        case.policies
    );
}

fn page(rows: &[(&Case, Row)]) -> String {
    let mut page = format!(
        "\
# Tail sampling: the OpenTelemetry Collector and Tailwater

The same OTLP recording ({TRACES} generated traces, seed {SEED}; some come in parts, out of order, with a span twice, with spans after the decision) through the
`tail_sampling` processor of the OpenTelemetry Collector (contrib, {}) and, with the policy that `tailwater sampling import` makes of the
same configuration, through Tailwater's sampler; both decide 10 s after a trace's first span by a clock of their own. Generated:
`UPDATE=1 cargo test --test tail_sampling` writes this page, and the test fails when it is stale. Every trace that one side alone keeps is told by a rule of
the test, which names the traces it holds for. Besides, all spans of a kept trace are kept on both sides, late ones too; one that comes again while its
trace waits is stored twice there and once here.

| type | policies | offered | both keep | only there | only here | why |
|---|---|---:|---:|---:|---:|---|
",
        version()
    );
    for (case, row) in rows {
        let policies = case.policies.replace('|', "\\|");
        let gate = if case.tracestate { ", with `usetracestate`" } else { "" };
        let counts = if case.varies() && row.there + row.here > 0 {
            "varies | varies | varies".to_owned()
        } else {
            format!("{} | {} | {}", row.both, row.there, row.here)
        };
        let _ = writeln!(
            page,
            "| {} | `{policies}`{gate} | {TRACES} | {counts} | {} |",
            case.kind,
            row.why.join("; ")
        );
    }
    page.push_str("\n## What the importer says\n\n| policies | not carried over, or otherwise |\n|---|---|\n");
    for (case, row) in rows
        .iter()
        .filter(|(case, row)| !case.tracestate && !row.notes.is_empty())
    {
        let _ = writeln!(
            page,
            "| `{}` | {} |",
            case.policies.replace('|', "\\|"),
            row.notes.join("; ")
        );
    }
    page
}

/// The processor's, from the module that it is built of.
fn version() -> String {
    let module = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/go.mod"));
    let module = module.expect("the oracle's module");
    let line = module.lines().find(|line| line.contains("/tailsamplingprocessor "));
    line.and_then(|line| line.split_whitespace().last())
        .expect("a version")
        .to_owned()
}

/// Compares all cases on one recording.
fn rows(oracle: &Path, seed: u64) -> Vec<(&'static Case, Row)> {
    let recording = recording::record(seed, TRACES);
    let traces = &recording.traces;
    assert_eq!(traces.len(), TRACES);
    let configs: Vec<(String, bool)> = CASES.iter().map(|case| (config(case), case.tracestate)).collect();
    let theirs = theirs(oracle, &recording, &configs);
    let mut rows = Vec::new();
    for ((case, (config, _)), theirs) in CASES.iter().zip(&configs).zip(&theirs) {
        let imported = import::otelcol(config).expect("it can be imported");
        let ours = ours::decide(&imported.policy, &recording);
        assert_eq!(ours.len(), TRACES, "every trace is decided");
        let notes = imported.notes.iter();
        let notes = notes.map(|note| format!("{}: {}: {}", note.severity, note.what, note.message));
        rows.push((case, compare(case, traces, theirs, &ours, notes.collect())));
        for made in traces {
            let (there, here) = (theirs.get(&made.id), ours[&made.id]);
            let sent = made.spans.len() as u64;
            assert!(there.is_none_or(|there| *there == sent), "{}: {made:#?}", case.policies);
            assert!(!here.kept || here.stored == made.once(), "{}: {made:#?}", case.policies);
        }
    }
    rows
}

#[test]
fn every_type_of_policy_is_compared() {
    let kinds: BTreeSet<&str> = CASES.iter().map(|case| case.kind).collect();
    for kind in cases::KINDS {
        assert!(kinds.contains(kind), "no case of type {kind}");
    }
}

#[test]
fn the_collector_and_we_keep_the_same_traces_or_it_is_known_why_not() {
    let Some(oracle) = oracle() else { return };
    for seed in MORE_SEEDS {
        println!("seed {seed}");
        rows(&oracle, seed);
    }
    println!("seed {SEED}");
    let rows = rows(&oracle, SEED);
    for (case, row) in &rows {
        assert!(
            row.unmet.is_empty(),
            "{}: no trace differs since {:?}",
            case.policies,
            row.unmet
        );
    }
    let fresh = page(&rows);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance/tail-sampling.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &fresh).expect("the page can be written");
    }
    let page = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        page == fresh,
        "docs/conformance/tail-sampling.md is stale: run UPDATE=1 cargo test --test tail_sampling"
    );
}
