//! Every query of every panel of `dashboards/`, asked as Grafana asks it, must answer with data.
//!
//! Grafana replaces variables in its front end (packages/grafana-prometheus/src/datasource.ts): `$__interval` is the time shown over the width of the
//! panel, `$__rate_interval` is the larger of that plus a scrape and four scrapes, variables with several values are `(a|b)`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tailwater_model::ledger::{Account, Amount, Key, ledger_batch};
use tailwater_model::red::{RedRow, WEIGHT_ONE, edge_batch, red_batch};
use tailwater_model::signal::Signal;
use tailwater_model::table::Table;
use tailwater_openslo::{ResolvedSlo, read, resolve};

use crate::fixtures::{Fixture, sorted};
use crate::prometheus::{T0, data, edge, get, key, red};

/// Time shown, s.
const SHOWN: i64 = 3600;

/// `timeInterval` of the provisioned data source, s.
const SCRAPE: i64 = 60;

/// Width of a panel, points.
const POINTS: i64 = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The dashboards, with their file names.
fn dashboards() -> Vec<(String, Value)> {
    let folder = root().join("dashboards");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.push((name, serde_json::from_str(&text).unwrap()));
        }
    }
    assert!(!found.is_empty());
    found
}

/// Panels, those inside of rows too.
fn panels(of: &Value) -> Vec<&Value> {
    let direct = of["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
    direct
        .iter()
        .flat_map(|panel| std::iter::once(panel).chain(panels(panel)))
        .collect()
}

fn pay() -> Vec<ResolvedSlo> {
    resolved("pay.yaml", PAY)
}

/// The SLOs of a document that has nothing wrong.
fn resolved(name: &str, text: &str) -> Vec<ResolvedSlo> {
    let reading = read(Path::new(name), text);
    let resolved = resolve(&reading.documents);
    assert!(reading.problems.is_empty() && resolved.problems.is_empty());
    resolved.slos
}

const PAY: &str = "apiVersion: openslo/v1\nkind: SLO\nmetadata: {name: pay}\nspec:\n  service: shop\n  indicator:\n    metadata: {name: pay}\n    spec:\n      \
                ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: cart, good: {errors: exclude}}}}}}\n  \
                timeWindow: [{duration: 30d, isRolling: true}]\n  budgetingMethod: Occurrences\n  objectives: [{target: 0.99}, {target: 0.999}]\n";

/// An hour of two services, some of whose requests fail, and of what the collector counted meanwhile; with these SLOs.
async fn loaded(slos: Vec<ResolvedSlo>) -> Fixture {
    let mut fixture = Fixture::new().await;
    let (cart, failed, mail) = (
        key("cart", "GET /", false),
        key("cart", "GET /", true),
        key("mail", "send", false),
    );
    let slices = 0..(SHOWN / 10) as u64;
    let rows: Vec<_> = slices
        .clone()
        .flat_map(|slice| {
            [
                red(&cart, slice, &[20; 9]),
                red(&failed, slice, &[300]),
                red(&mail, slice, &[5, 7]),
            ]
        })
        .collect();
    fixture.commit_rows(Table::Red, &red_batch(&rows)).await;
    let calls: Vec<_> = slices
        .clone()
        .map(|slice| edge("cart", "mail", "", None, slice, 4, 1))
        .collect();
    fixture.commit_rows(Table::Edges, &edge_batch(&calls)).await;
    let entry = |account, reason, items| {
        let key = Key {
            tenant: "default".into(),
            signal: Signal::Traces,
            account,
            reason,
        };
        (
            key,
            Amount {
                items,
                bytes: items * 100,
            },
        )
    };
    let entries = [
        entry(Account::Received, "", 12),
        entry(Account::Stored, "", 11),
        entry(Account::Rejected, "future", 1),
    ];
    let batches: Vec<_> = slices
        .map(|slice| ledger_batch(&entries, (T0 as u64 + slice * 10) * 1_000_000_000))
        .collect();
    let ledger = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    fixture.commit_rows(Table::Ledger, &sorted(Table::Ledger, ledger)).await;
    fixture.engine.declare(slos);
    fixture
}

/// Least time between the points of a panel, s: its own, else a scrape.
fn interval_min(panel: &Value) -> i64 {
    let own = panel["interval"].as_str();
    own.map_or(SCRAPE, |text| {
        60 * text.strip_suffix('m').unwrap().parse::<i64>().unwrap()
    })
}

/// A query with the variables of a panel and of the dashboard replaced.
fn replaced(text: &str, of_board: &[(String, String)], interval: i64) -> String {
    let rate = (interval + SCRAPE).max(4 * SCRAPE);
    let mut text = text.to_owned();
    // The longer names first: `$__range` begins `$__range_s`.
    let own = [
        ("__rate_interval", format!("{rate}s")),
        ("__interval_ms", (interval * 1000).to_string()),
        ("__interval", format!("{interval}s")),
        ("__range_ms", (SHOWN * 1000).to_string()),
        ("__range_s", SHOWN.to_string()),
        ("__range", format!("{SHOWN}s")),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    for (name, value) in own.iter().chain(of_board) {
        text = text
            .replace(&format!("${{{name}}}"), value)
            .replace(&format!("${name}"), value);
    }
    assert!(!text.contains('$'), "an unknown variable in {text}");
    text
}

/// What `label_values(metric, label)` asks, and finds.
async fn label_values(fixture: &Fixture, definition: &str) -> Vec<String> {
    let inside = definition
        .strip_prefix("label_values(")
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or_else(|| panic!("{definition} is no label_values()"));
    let (metric, label) = inside.rsplit_once(',').unwrap();
    let (start, end) = (T0.to_string(), (T0 + SHOWN).to_string());
    let params = [
        ("match[]", metric.trim()),
        ("start", &start),
        ("end", &end),
        ("limit", "40000"),
    ];
    let (status, answer) = get(fixture, &format!("label/{}/values", label.trim()), &params).await;
    assert_eq!(status, 200, "{definition}: {answer}");
    let values = answer["data"].as_array().unwrap().iter();
    values.map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// What the query variables of a dashboard may be: all values, one, several.
async fn choices(fixture: &Fixture, board: &Value) -> Vec<Vec<(String, String)>> {
    let mut all = vec![Vec::new(), Vec::new(), Vec::new()];
    for variable in board["templating"]["list"].as_array().unwrap() {
        if variable["type"] != "query" {
            assert_eq!(variable["type"], "datasource", "{variable}");
            continue;
        }
        let name = variable["name"].as_str().unwrap().to_owned();
        let values = label_values(fixture, variable["definition"].as_str().unwrap()).await;
        assert!(!values.is_empty(), "nothing to choose for {name}");
        assert_eq!(variable["query"]["query"], variable["definition"]);
        all[0].push((name.clone(), variable["allValue"].as_str().unwrap().to_owned()));
        all[1].push((name.clone(), values[0].clone()));
        all[2].push((name, format!("({})", values.join("|"))));
    }
    all
}

/// Asks a target as Grafana does; the result, which must have data.
async fn asked(fixture: &Fixture, target: &Value, expr: &str, interval: i64) -> Value {
    let (start, end, step) = (T0.to_string(), (T0 + SHOWN).to_string(), interval.to_string());
    let found = if target["instant"] == true {
        data(fixture, "query", &[("query", expr), ("time", &end)]).await
    } else {
        let params = [("query", expr), ("start", &start), ("end", &end), ("step", &step)];
        data(fixture, "query_range", &params).await
    };
    let result = found["result"].as_array().unwrap();
    assert!(!result.is_empty(), "no data: {expr}");
    for series in result {
        let numbers = series["values"]
            .as_array()
            .map(|values| values.iter().collect())
            .unwrap_or(vec![&series["value"]]);
        let is_number = |value: &&Value| value[1].as_str().is_some_and(|text| text != "NaN");
        assert!(
            numbers.iter().any(is_number),
            "only NaN in {} of {expr}",
            series["metric"]
        );
        if target["instant"] != true {
            assert!(
                numbers.len() > 1,
                "one point of {} is no graph: {expr}",
                series["metric"]
            );
        }
    }
    if target["exemplar"] == true {
        let params = [("query", expr), ("start", start.as_str()), ("end", &end)];
        let exemplars = data(fixture, "query_exemplars", &params).await;
        assert!(!exemplars.as_array().unwrap().is_empty(), "no exemplars: {expr}");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_every_panel_answers_with_data() {
    let fixture = loaded(pay()).await;
    for (file, board) in dashboards() {
        let mut queries = 0;
        for (number, chosen) in choices(&fixture, &board).await.iter().enumerate() {
            for panel in panels(&board).into_iter().filter(|panel| panel["type"] != "row") {
                let interval = (SHOWN / POINTS).max(interval_min(panel));
                let targets = panel["targets"].as_array().unwrap();
                assert!(!targets.is_empty(), "{file}: {} asks nothing", panel["title"]);
                for target in targets {
                    let expr = replaced(target["expr"].as_str().unwrap(), chosen, interval);
                    let found = asked(&fixture, target, &expr, interval).await;
                    queries += 1;
                    let legend = target["legendFormat"].as_str().unwrap();
                    for part in legend.split("{{").skip(1) {
                        let label = part.split("}}").next().unwrap();
                        let has = |series: &Value| series["metric"].get(label).is_some();
                        let result = found["result"].as_array().unwrap();
                        assert!(
                            result.iter().any(has),
                            "no label {label} for {legend}: {expr} ({number})"
                        );
                    }
                }
            }
        }
        assert!(queries > 30, "{file}: {queries}");
    }
}

/// Grafana's transformation `merge` makes one row of what has the same labels: of each objective, and of an SLO with several objectives one of each.
#[tokio::test(flavor = "multi_thread")]
async fn tables_have_a_row_per_objective() {
    let fixture = loaded(pay()).await;
    let objectives: usize = pay().iter().map(|slo| slo.objectives.len()).sum();
    assert!(objectives > 1);
    let mut tables = 0;
    for (file, board) in dashboards() {
        let tabular = panels(&board).into_iter().filter(|panel| panel["type"] == "table");
        for panel in tabular {
            let kinds: Vec<&str> = panel["transformations"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["id"].as_str().unwrap())
                .collect();
            assert_eq!(kinds[0], "merge", "{file}: {}", panel["title"]);
            let mut rows = std::collections::BTreeSet::new();
            for target in panel["targets"].as_array().unwrap() {
                let all = [("slo".to_owned(), ".+".to_owned())];
                let expr = replaced(target["expr"].as_str().unwrap(), &all, SCRAPE);
                let found = asked(&fixture, target, &expr, SCRAPE).await;
                let series = found["result"].as_array().unwrap();
                rows.extend(series.iter().map(|one| one["metric"].to_string()));
            }
            assert_eq!(rows.len(), objectives, "{file}: {}: {rows:?}", panel["title"]);
            tables += 1;
        }
    }
    assert!(tables > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_ranked_by_wilsons_lower_bound() {
    let mut fixture = Fixture::new().await;
    // One of two fails, and 120 of 600: the first share is the larger one, and means less.
    let rare = [
        red(&key("rare", "x", true), 3, &[1]),
        red(&key("rare", "x", false), 3, &[1]),
    ];
    let busy = (0..60).flat_map(|slice| {
        [
            red(&key("busy", "y", true), slice, &[1; 2]),
            red(&key("busy", "y", false), slice, &[1; 8]),
        ]
    });
    // One of ten, of a client that sends one of a hundred: weights are no evidence.
    let sampled = [(true, 1), (false, 9)].map(|(is_error, n)| RedRow {
        n_weighted: 100 * n as u64 * WEIGHT_ONE,
        ..red(&key("sampled", "z", is_error), 3, &vec![1; n])
    });
    let rows: Vec<_> = rare.into_iter().chain(sampled).chain(busy).collect();
    fixture.commit_rows(Table::Red, &red_batch(&rows)).await;
    let boards = dashboards();
    let (_, board) = boards.iter().find(|(file, _)| file == "on-call.json").unwrap();
    let panel = panels(board)
        .into_iter()
        .find(|panel| panel["title"] == "Top 5 failing endpoints")
        .unwrap();
    let all = [("service".to_owned(), ".+".to_owned())];
    let expr = replaced(panel["targets"][0]["expr"].as_str().unwrap(), &all, 10);
    let end = (T0 + 600).to_string();
    let found = data(&fixture, "query", &[("query", &expr), ("time", &end)]).await;
    let ranked: Vec<(&str, f64)> = found["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let value = one["value"][1].as_str().unwrap().parse().unwrap();
            (one["metric"]["service"].as_str().unwrap(), value)
        })
        .collect();
    let bound = |errors: f64, n: f64| {
        let z: f64 = 1.96;
        let share = errors / n;
        let middle = share + z * z / (2.0 * n);
        (middle - z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt()) / (1.0 + z * z / n)
    };
    // Counts in a window that begins before the first slice are extrapolated over a millisecond.
    let expected = [
        ("busy", bound(120.0, 600.0)),
        ("rare", bound(1.0, 2.0)),
        ("sampled", bound(1.0, 10.0)),
    ];
    assert_eq!(ranked.len(), expected.len());
    for ((service, value), (of, bound)) in ranked.into_iter().zip(expected) {
        assert_eq!(service, of);
        assert!((value - bound).abs() < 1e-4, "{service}: {value} {bound}");
    }
}

/// Windows that tile are read from hours and quarters when the time shown is long, those of `$__rate_interval` never: they overlap by a scrape. What is counted
/// exactly per slice needs no overlap.
#[test]
fn windows_of_panels_tile() {
    for (file, board) in dashboards() {
        for panel in panels(&board) {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expr = target["expr"].as_str().unwrap();
                assert!(!expr.contains("$__rate_interval"), "{file}: {expr}");
                if expr.contains("[$__interval]") {
                    // What is older than three days is kept per minute: shorter ones would hold none or one.
                    assert_eq!(interval_min(panel), 60, "{file}: {}", panel["title"]);
                }
            }
        }
    }
}

/// A rate needs two points of a metric: stock dashboards ask for `$__rate_interval`, and an SDK exports once a minute (OTEL_METRIC_EXPORT_INTERVAL).
#[test]
fn rates_of_exported_metrics_have_two_points() {
    const EXPORT: i64 = 60;
    let narrowest = replaced("$__rate_interval", &[], SHOWN / POINTS);
    let seconds: i64 = narrowest.strip_suffix('s').unwrap().parse().unwrap();
    assert!(seconds >= 2 * EXPORT, "{narrowest}");
}

#[test]
fn panels_have_their_own_place_and_source() {
    for (file, board) in dashboards() {
        let all = panels(&board);
        let mut ids: Vec<i64> = all.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all.len(), "{file}: two panels of one id");
        let place = |panel: &Value| {
            let at = |name: &str| panel["gridPos"][name].as_i64().unwrap();
            (at("x"), at("y"), at("x") + at("w"), at("y") + at("h"))
        };
        for (number, one) in all.iter().enumerate() {
            let a = place(one);
            assert!(a.2 <= 24, "{file}: {} is wider than the page", one["title"]);
            for other in &all[number + 1..] {
                let b = place(other);
                let overlap = a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3;
                assert!(!overlap, "{file}: {} lies over {}", one["title"], other["title"]);
            }
            if one["type"] != "row" {
                assert_eq!(one["datasource"]["uid"], "${datasource}", "{file}: {}", one["title"]);
                assert!(one["description"].as_str().is_some_and(|text| !text.is_empty()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn provisioning_leads_to_the_dashboards() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let source = read("dashboards/provisioning/datasources/tailwater.yaml");
    let interval = format!("timeInterval: {SCRAPE}s");
    for line in [
        "uid: tailwater",
        "type: prometheus",
        "url: $TAILWATER_URL/prometheus",
        &interval,
        "httpMethod: POST",
    ] {
        assert!(source.contains(line), "{line}");
    }
    let board = read("dashboards/provisioning/dashboards/tailwater.yaml");
    let compose = read("deploy/compose.yaml");
    assert!(board.contains("path: /var/lib/grafana/dashboards"));
    let document = "config/slo/telemetry-loss.yaml";
    for line in [
        "- ../dashboards/provisioning:/etc/grafana/provisioning:ro",
        "- ../dashboards:/var/lib/grafana/dashboards:ro",
        "TAILWATER_URL: http://tailwater:4319",
        "TAILWATER_SLO_FILES: /etc/tailwater/slo",
        &format!("- ../{document}:/etc/tailwater/slo/telemetry-loss.yaml:ro"),
    ] {
        assert!(compose.lines().any(|of| of.trim() == line), "{line}");
    }
    // The SLO that it brings fills the panels about SLOs.
    let fixture = loaded(resolved(document, &read(document))).await;
    let mut queries = 0;
    for (_, board) in dashboards() {
        let all = [("slo".to_owned(), ".+".to_owned())];
        let targets = panels(&board)
            .into_iter()
            .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
        for target in targets {
            let expr = target["expr"].as_str().unwrap();
            if expr.contains("slo:") {
                asked(&fixture, target, &replaced(expr, &all, SCRAPE), SCRAPE).await;
                queries += 1;
            }
        }
    }
    assert!(queries > 5, "{queries}");
}
