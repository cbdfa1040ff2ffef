//! Sloth's examples: what we import burns, alerts and counts as the rules that Sloth itself generates from them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tailwater_config::yaml::{Node, Value, parse_all};
use tailwater_openslo::document::{Free, Part};
use tailwater_openslo::{
    BOUNDS, Indicator, Period, Reading, ResolvedSlo, Source, fmt, import_sloth, lint, read, resolve, write,
};

use crate::{data, expect_file, files, name};

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
        _ => None,
    }
}

fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

fn text(node: Option<&Node>) -> &str {
    match node.map(|node| &node.value) {
        Some(Value::Scalar { text, .. }) => text,
        _ => "",
    }
}

/// Of one SLO of Sloth: the target as it prints it, the expression of the 5 m recording rule, and of each alert its pairs of burn rate,
/// long and short window.
#[derive(Default)]
struct Expected {
    objective: f64,
    expr_5m: String,
    alerts: Vec<Vec<(String, Duration, Duration)>>,
}

fn expected(rules: &str) -> BTreeMap<String, Expected> {
    let (roots, faults) = parse_all(rules, BOUNDS);
    assert_eq!(faults, []);
    let mut slos: BTreeMap<String, Expected> = BTreeMap::new();
    for rule in items(get(&roots[0], "groups").expect("groups"))
        .iter()
        .flat_map(|group| items(get(group, "rules").expect("rules")))
    {
        let expr = text(get(rule, "expr"));
        let id = get(rule, "labels")
            .map(|labels| text(get(labels, "sloth_id")))
            .unwrap_or_default();
        match text(get(rule, "record")) {
            "slo:sli_error:ratio_rate5m" => slos.entry(id.into()).or_default().expr_5m = expr.to_owned(),
            "slo:objective:ratio" => {
                let number = expr.trim_start_matches("vector(").trim_end_matches(')');
                slos.entry(id.into()).or_default().objective = number.parse().expect("a number");
            }
            _ => {}
        }
        if !text(get(rule, "alert")).is_empty() {
            let id = expr
                .split("sloth_id=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next())
                .expect("an id");
            slos.entry(id.into()).or_default().alerts.push(pairs(expr));
        }
    }
    slos
}

fn pairs(expr: &str) -> Vec<(String, Duration, Duration)> {
    let mut found = Vec::new();
    for term in expr.split("ratio_rate").skip(1) {
        let window = term.split('{').next().expect("a window");
        let rate = term
            .split("> (")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .expect("a rate");
        found.push((rate.to_owned(), Period::parse(window).expect("a window").nominal()));
    }
    // Sloth writes the short window first.
    found
        .chunks(2)
        .map(|pair| (pair[0].0.clone(), pair[1].1, pair[0].1))
        .collect()
}

fn query(source: &Source) -> String {
    let Source::Foreign { source_type, spec } = source else {
        panic!("not Prometheus: {source:?}");
    };
    assert_eq!(source_type, "Prometheus");
    match &spec["query"] {
        Free::Scalar { text, .. } => text.replace("{{.window}}", "5m"),
        other => panic!("{other:?}"),
    }
}

fn check(slo: &ResolvedSlo, expected: &Expected) {
    let objective = &slo.objectives[0];
    // Sloth computes the target in doubles: 0.9990000000000001.
    assert!(
        (objective.target.fraction().to_f64() - expected.objective).abs() < 1e-12,
        "{}",
        slo.name
    );
    let Indicator::Ratio {
        part_is: Part::Bad,
        part,
        total,
        ..
    } = &objective.indicator
    else {
        panic!("{:?}", objective.indicator);
    };
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    let expr = format!("({})/({})", query(part), query(total));
    assert_eq!(squeeze(&expr), squeeze(&expected.expr_5m), "{}", slo.name);
    let alerts: Vec<Vec<_>> = slo
        .alerts
        .iter()
        .map(|rule| {
            let tiers = rule.tiers.iter();
            tiers
                .map(|tier| {
                    (
                        tier.threshold.to_string(),
                        tier.long,
                        tier.short.expect("a short window"),
                    )
                })
                .collect()
        })
        .collect();
    assert_eq!(alerts, expected.alerts, "{}", slo.name);
    let severities: Vec<_> = slo.alerts.iter().map(|rule| rule.severity.as_str()).collect();
    assert!(severities.is_empty() || severities == ["page", "ticket"]);
}

#[test]
fn as_sloth_itself() {
    let Some(folder) = data("sloth") else { return };
    let mut slos = 0;
    for file in files(&folder.join("in")) {
        let file_name = name(&file);
        let Reading {
            documents, problems, ..
        } = import_sloth(
            Path::new(&file_name),
            &std::fs::read_to_string(&file).expect("a specification"),
        );
        assert_eq!(problems, [], "{file_name}");
        let resolved = resolve(&documents);
        assert_eq!(resolved.problems, [], "{file_name}");
        let expected = expected(&std::fs::read_to_string(folder.join("expected").join(&file_name)).expect("rules"));
        assert_eq!(resolved.slos.len(), expected.len(), "{file_name}");
        for slo in &resolved.slos {
            check(
                slo,
                expected
                    .get(&slo.name)
                    .unwrap_or_else(|| panic!("{} is in {file_name}", slo.name)),
            );
            slos += 1;
        }
        // What is written is the same SLOs, and needs no other comment than that Prometheus is not ours.
        let written = write(&documents);
        let again = read(Path::new(&file_name), &written);
        assert_eq!(again.problems, [], "{written}");
        assert_eq!(again.documents, documents);
        assert_eq!(fmt(Path::new(&file_name), &written).as_deref(), Ok(written.as_str()));
        let hashes = |slos: &[ResolvedSlo]| slos.iter().map(|slo| slo.hash).collect::<Vec<_>>();
        assert_eq!(hashes(&resolve(&again.documents).slos), hashes(&resolved.slos));
        let mut lints: Vec<_> = lint(&documents).iter().map(|lint| lint.name).collect();
        lints.dedup();
        assert!(
            lints
                .iter()
                .all(|lint| ["foreign-source", "page-without-runbook"].contains(lint)),
            "{lints:?}"
        );
    }
    assert_eq!(slos, 6, "all SLOs of the examples");
}

const CASES: &[(&str, &str)] = &[
    (
        "everything",
        "version: prometheus/v1
service: My Service
labels: {owner: me, tier: '2'}
slos:
  - name: Requests_Availability
    objective: 99.95
    labels: {tier: '1'}
    sli: {events: {error_query: 'e[{{.window}}]', total_query: 't[{{.window}}]'}}
    alerting:
      name: MyServiceHighErrorRate
      annotations: {summary: high, runbook: 'https://example.com/a', dashboard: d}
      page_alert: {labels: {severity: critical}}
      ticket_alert: {disable: true}
  - name: raw
    objective: 99
    sli: {raw: {error_ratio_query: 'r[{{.window}}]'}}
    alerting: {page_alert: {disable: true}, ticket_alert: {disable: true}}
",
    ),
    (
        "mistakes",
        "version: prometheus/v1
service: a
slo_plugins: {}
slos:
  - name: '%'
    objective: 100
    sli: {plugin: {id: x}}
    alerting: {page_alert: {disabled: true}}
  - objektive: 99.9
    sli: {events: {error_query: e}, raw: {error_ratio_query: r}}
  - name: c
    objective: 99.9
    sli: {events: {error_query: e}}
    alerting: {annotations: {runbook: nowhere}}
",
    ),
    ("another version", "version: prometheus/v2\nservice: a\nslos: []\n"),
    ("nothing in it", "version: prometheus/v1\nservice: a\nslos: []\n"),
];

#[test]
fn imports() {
    let mut found =
        String::from("# Written by the test `imports` with UPDATE_EXPECT=1. Lines: the input, then what it became.\n");
    for (case, text) in CASES {
        let reading = import_sloth(Path::new("sloth.yaml"), text);
        found += &format!("\n==== {case}\n{text}---- reads as\n{}", write(&reading.documents));
        for note in &reading.reinterpreted {
            found += &format!("note {note}\n");
        }
        for problem in &reading.problems {
            found += &format!("wrong {problem}\n");
        }
    }
    expect_file("imports.txt", &found);
}
