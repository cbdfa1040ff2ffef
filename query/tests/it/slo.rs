//! SLO reports over rows of `red`, committed as the collector commits them.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tailwater_model::exphist::ExpHist;
use tailwater_model::red::{RedKey, RedRow, WEIGHT_ONE, red_batch};
use tailwater_model::table::Table;
use tailwater_openslo::{Period, ResolvedSlo, read, resolve};
use tailwater_query::slo::{Reported, report};
use tailwater_query::{ErrorKind, http};
use tailwater_slo::report::{Report, SloReport};
use tailwater_slo::{Settings, Time, Verdict};
use tower::ServiceExt;

use crate::fixtures::{Fixture, MIDNIGHT, with_batch_id};

/// 2026-11-22T00:00:00Z.
const DAY: i64 = MIDNIGHT / 1_000_000;
const MS: u64 = 1_000_000;

/// Requests of one slice that took as long as it says.
struct Requests<'a> {
    at: i64,
    service: &'a str,
    operation: &'a str,
    region: &'a str,
    error: bool,
    entry: bool,
    kind: u8,
    dims: Vec<(Arc<str>, Arc<str>)>,
    ns: Vec<u64>,
    registers: &'a [u64],
}

impl Default for Requests<'_> {
    fn default() -> Self {
        Requests {
            at: DAY,
            service: "checkout",
            operation: "POST /pay",
            region: "",
            error: false,
            entry: true,
            kind: 2,
            dims: Vec::new(),
            ns: vec![MS],
            registers: &[],
        }
    }
}

fn row(of: &Requests<'_>) -> RedRow {
    let mut sketch = ExpHist::new();
    of.ns.iter().for_each(|ns| sketch.record(*ns as f64));
    RedRow {
        key: Arc::new(RedKey {
            tenant: "default".into(),
            service_name: of.service.into(),
            operation: of.operation.into(),
            service_namespace: "".into(),
            deployment_env: "".into(),
            cloud_region: of.region.into(),
            service_version: "".into(),
            http_route: "".into(),
            kind: of.kind,
            is_entry: of.entry,
            is_error: of.error,
            status_class: if of.error { "5xx" } else { "2xx" }.into(),
            error_type: if of.error { "500" } else { "" }.into(),
            dims: of.dims.clone(),
        }),
        slice_ns: of.at as u64 * 1_000_000_000,
        slice_s: 10,
        n: of.ns.len() as u64,
        sum_ns: of.ns.iter().sum(),
        max_ns: of.ns.iter().copied().max().unwrap_or(0),
        exphist: sketch.encode(),
        registers: of
            .registers
            .iter()
            .map(|threshold| (*threshold, of.ns.iter().filter(|ns| *ns <= threshold).count() as u64))
            .collect(),
        n_weighted: of.ns.len() as u64 * WEIGHT_ONE,
        exemplar: None,
    }
}

async fn lake(of: &[Requests<'_>]) -> Fixture {
    let fixture = Fixture::new().await;
    let rows: Vec<RedRow> = of.iter().map(row).collect();
    fixture
        .lake
        .committer(Table::Red, "collector/test/red")
        .commit(0, 1, vec![with_batch_id(&red_batch(&rows), 1)])
        .await
        .unwrap();
    fixture
}

/// An SLO over the last hour, unless `more` says otherwise.
fn slo(source: &str, target: &str) -> Vec<ResolvedSlo> {
    document(
        &format!("ratioMetric: {{rawType: success, raw: {{metricSource: {{type: tailwater, spec: {{{source}}}}}}}}}"),
        "Occurrences",
        &format!("target: {target}"),
    )
}

fn yaml(metric: &str, method: &str, objective: &str) -> String {
    format!(
        "apiVersion: openslo/v1\nkind: SLO\nmetadata: {{name: pay}}\nspec:\n  service: checkout\n  indicator:\n    metadata: {{name: pay}}\n    \
         spec:\n      {metric}\n  timeWindow: [{{duration: 1h, isRolling: true}}]\n  budgetingMethod: {method}\n  objectives: [{{{objective}}}]\n"
    )
}

fn document(metric: &str, method: &str, objective: &str) -> Vec<ResolvedSlo> {
    let text = yaml(metric, method, objective);
    let reading = read(Path::new("pay.yaml"), &text);
    assert_eq!(reading.problems, [], "{text}");
    let resolved = resolve(&reading.documents);
    assert_eq!(resolved.problems, [], "{text}");
    resolved.slos
}

async fn try_report(fixture: &Fixture, slos: &[ResolvedSlo], at: i64) -> Result<Reported, tailwater_query::Error> {
    report(&fixture.engine, slos, &Settings::default(), Time(at)).await
}

async fn one(fixture: &Fixture, slos: &[ResolvedSlo], at: i64) -> SloReport {
    let Report { mut objectives, .. } = try_report(fixture, slos, at).await.unwrap().report;
    assert_eq!(objectives.len(), 1);
    objectives.remove(0)
}

/// Fewest good, most good, and all of the main window.
fn counted(report: &SloReport) -> (u64, u64, u64) {
    let counts = report.windows[0].counts;
    (counts.good, counts.good_most, counts.total)
}

/// `n` requests a minute for an hour from midnight, of which every `bad`th minute's fail.
fn hour(n: usize, bad: i64) -> Vec<Requests<'static>> {
    let minute = |minute: i64| Requests {
        at: DAY + minute * 60,
        error: minute % bad == 0,
        ns: vec![MS; n],
        ..Requests::default()
    };
    (0..60).map(minute).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ratio_is_counted_over_its_window() {
    let mut rows = hour(1000, 30);
    // Neither belongs to the hour asked about, to the service, nor to its requests.
    rows.push(Requests {
        at: DAY - 60,
        error: true,
        ..Requests::default()
    });
    rows.push(Requests {
        service: "cart",
        error: true,
        ..Requests::default()
    });
    rows.push(Requests {
        entry: false,
        kind: 3,
        error: true,
        ..Requests::default()
    });
    let fixture = lake(&rows).await;
    let slos = slo("red: {service: checkout, good: {errors: exclude}}", "0.9");
    let report = one(&fixture, &slos, DAY + 3600).await;
    assert_eq!(counted(&report), (58_000, 58_000, 60_000));
    assert_eq!(report.verdict, Verdict::Met);
    // The newest slice begins at 00:59:00 and ends ten seconds later; windows end at whole minutes.
    assert_eq!(report.watermark, Some(Time(DAY + 3550)));
    let hour = one(&fixture, &slos, DAY + 3540).await;
    assert_eq!(
        counted(&hour).2,
        59_001,
        "an hour from 22:59 and one request before midnight"
    );
    // 2,000 of 60,000 are bad; 99 % allow 600.
    let strict = self::slo("red: {service: checkout, good: {errors: exclude}}", "0.99");
    let report = one(&fixture, &strict, DAY + 3600).await;
    assert_eq!(report.verdict, Verdict::Missed);
    let budget = report.windows[0].budget.unwrap();
    assert!((budget.consumed - 2000.0 / 590.0).abs() < 1.0, "{budget:?}");
    let reported = try_report(&fixture, &strict, DAY + 3600).await.unwrap();
    assert_eq!((reported.worst(), reported.skipped.len()), (Verdict::Missed, 0));
}
