//! SLO reports over rows of `red`, committed as the collector commits them.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tailwater_model::exphist::ExpHist;
use tailwater_model::ledger::{Account, Amount, Key, ledger_batch};
use tailwater_model::red::{RedKey, RedRow, WEIGHT_ONE, red_batch};
use tailwater_model::signal::Signal;
use tailwater_model::table::Table;
use tailwater_openslo::{Period, ResolvedSlo, read, resolve};
use tailwater_query::slo::{Reported, report};
use tailwater_query::{ErrorKind, http};
use tailwater_slo::report::{Report, SloReport};
use tailwater_slo::{Settings, Time, Verdict};
use tower::ServiceExt;

use crate::fixtures::{Fixture, MIDNIGHT, sorted, with_batch_id};

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
    /// How many each stands for, by what was sampled upstream.
    weight: u64,
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
            weight: 1,
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
            cloud_region: of.region.into(),
            kind: of.kind,
            is_entry: of.entry,
            is_error: of.error,
            status_class: if of.error { "5xx" } else { "2xx" }.into(),
            error_type: if of.error { "500" } else { "" }.into(),
            dims: of.dims.clone(),
            ..RedKey::default()
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
        n_weighted: of.ns.len() as u64 * of.weight * WEIGHT_ONE,
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

/// A document about the requests of a service, of which good ones are no errors.
pub fn document_text(service: &str) -> String {
    let metric = format!(
        "ratioMetric: {{rawType: success, raw: {{metricSource: {{type: tailwater, spec: {{red: {{service: '{service}', good: {{errors: exclude}}}}}}}}}}}}"
    );
    yaml(&metric, "Occurrences", "target: 0.99")
}

fn document(metric: &str, method: &str, objective: &str) -> Vec<ResolvedSlo> {
    resolved(&yaml(metric, method, objective))
}

fn resolved(text: &str) -> Vec<ResolvedSlo> {
    let reading = read(Path::new("pay.yaml"), text);
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
    (counts.good as u64, counts.good_most as u64, counts.total)
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
    // None of these belongs to the hour asked about, to the service, or to its requests.
    rows.push(Requests {
        at: DAY - 120,
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
    let report = one(&fixture, &slos, DAY + 7200).await;
    // The newest slice begins at 00:59:00 and ends ten seconds later; windows end at whole minutes.
    assert_eq!(report.watermark, Some(Time(DAY + 3550)));
    assert_eq!(report.windows[0].span.to, Time(DAY + 3540));
    assert_eq!(report.verdict, Verdict::NoData, "nothing came for an hour: {report:?}");
    let report = one(&fixture, &slos, DAY + 3600).await;
    assert_eq!(counted(&report), (57_000, 57_000, 59_000));
    assert_eq!(report.verdict, Verdict::Met, "{:?}", report.windows[0].because);
    // 2,000 of 59,000 are bad; 99 % allow 590.
    let strict = self::slo("red: {service: checkout, good: {errors: exclude}}", "0.99");
    let reported = try_report(&fixture, &strict, DAY + 3600).await.unwrap();
    assert_eq!((reported.worst(), reported.skipped.len()), (Verdict::Missed, 0));
    let budget = reported.report.objectives[0].windows[0].budget.unwrap();
    assert!((budget.consumed - 2000.0 / 590.0).abs() < 1e-9, "{budget:?}");
    // Other windows of the same source. Everything from before the first row is not judged.
    let settings = Settings {
        windows: ["5m", "2h"].map(|text| Period::parse(text).unwrap()).to_vec(),
        ..Settings::default()
    };
    let two = tailwater_query::slo::report(&fixture.engine, &strict, &settings, Time(DAY + 3600))
        .await
        .unwrap();
    let windows = &two.report.objectives[0].windows;
    assert_eq!([windows[0].counts.total, windows[1].counts.total], [5000, 59_001]);
    assert_eq!(windows[1].partial_seconds, Some(3660));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_is_exact_where_a_register_is_and_a_range_elsewhere() {
    let spread: Vec<u64> = (1..=200).map(|ms| ms * MS).collect();
    let minute = |minute: i64, error: bool, registers: &'static [u64]| Requests {
        at: DAY + minute * 60,
        error,
        ns: spread.clone(),
        registers,
        ..Requests::default()
    };
    let exact: Vec<_> = (0..60)
        .flat_map(|at| [minute(at, false, &[100 * MS, 150 * MS]), minute(at, true, &[100 * MS])])
        .collect();
    let fixture = lake(&exact).await;
    let of = |good: &str| slo(&format!("red: {{service: checkout, good: {{{good}}}}}"), "0.5");
    let at = DAY + 3600;
    let check = |good: &'static str, expected: (u64, u64, u64)| {
        let (fixture, of) = (&fixture, &of);
        async move { assert_eq!(counted(&one(fixture, &of(good), at).await), expected, "{good}") }
    };
    // 59 minutes of 200 good and 200 bad requests.
    check("maxDuration: 100ms, errors: include", (11_800, 11_800, 23_600)).await;
    check("maxDuration: 100ms, errors: exclude", (5900, 5900, 23_600)).await;
    check("maxDuration: 150ms, errors: exclude", (8850, 8850, 23_600)).await;
    // The errors have no register for 150 ms: of them only a range is known.
    let mixed = one(&fixture, &of("maxDuration: 150ms, errors: include"), at).await;
    let (least, most, total) = counted(&mixed);
    assert!(
        least < 17_700 && 17_700 < most && most - least < 59 * 10,
        "{least} {most}"
    );
    assert_eq!(total, 23_600);
    // P99 of 1 to 200 ms is 198 ms.
    let latency = mixed.latency.unwrap();
    assert_eq!(latency.threshold_ns, Some(150 * MS));
    let p99 = latency.percentiles.iter().find(|quantile| quantile.q > 0.98).unwrap();
    let error = p99.value_ns.unwrap() / 198.01e6 - 1.0;
    assert!(error.abs() < 0.011 && p99.n == 23_600, "{p99:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_choose_rows() {
    let dims = |shop: &'static str| vec![(Arc::from("shop"), Arc::from(shop))];
    let rows: Vec<_> = (0..60)
        .flat_map(|minute| {
            let at = DAY + minute * 60;
            [
                Requests {
                    at,
                    region: "eu",
                    dims: dims("de"),
                    ..Requests::default()
                },
                Requests {
                    at,
                    region: "us",
                    operation: "GET /healthz",
                    ..Requests::default()
                },
                Requests {
                    at,
                    operation: "GET /",
                    dims: dims("fr"),
                    ..Requests::default()
                },
                Requests {
                    at,
                    entry: false,
                    kind: 3,
                    operation: "call",
                    ..Requests::default()
                },
                Requests {
                    at,
                    error: true,
                    ..Requests::default()
                },
            ]
        })
        .collect();
    let fixture = lake(&rows).await;
    for (selector, per_minute) in [
        ("service: checkout", 4),
        ("service: [checkout, cart]", 4),
        ("region: eu", 1),
        ("service: checkout, region: \"\"", 2),
        ("region: [\"\", us]", 3),
        ("not: {region: \"\"}", 2),
        ("not: {region: eu}", 3),
        ("not: {operation: [GET /healthz, GET /]}", 2),
        ("dims: {shop: de}", 1),
        ("dims: {shop: [\"\", de]}", 3),
        ("not: {dims: {shop: de}}", 3),
        ("kind: client", 1),
        ("kind: [client, server]", 5),
        ("not: {kind: server}", 0),
        ("statusClass: 5xx", 1),
        ("service: \"checkout' or 1=1 --\"", 0),
    ] {
        let report = one(
            &fixture,
            &slo(&format!("red: {{{selector}, good: {{errors: exclude}}}}"), "0.5"),
            DAY + 3600,
        )
        .await;
        assert_eq!(counted(&report).2, per_minute * 59, "{selector}");
    }
    // A pair of selections: the part is narrower.
    let pair = document(
        "ratioMetric: {counter: false, bad: {metricSource: {type: tailwater, spec: {red: {service: checkout, statusClass: 5xx}}}}, \
         total: {metricSource: {type: tailwater, spec: {red: {service: checkout}}}}}",
        "Occurrences",
        "target: 0.5",
    );
    assert_eq!(
        counted(&one(&fixture, &pair, DAY + 3600).await),
        (3 * 59, 3 * 59, 4 * 59)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_one_service_is_no_gap_and_silence_of_all_is() {
    // `checkout` is asked once in the hour before the hour, and at its end; `cart` all the time, but not from 00:20 to 00:50.
    let mut rows: Vec<_> = (-60..60)
        .filter(|minute| !(20..50).contains(minute))
        .map(|minute| Requests {
            at: DAY + minute * 60,
            service: "cart",
            ..Requests::default()
        })
        .collect();
    for at in [DAY - 1800, DAY + 3000] {
        rows.push(Requests {
            at,
            ns: vec![MS; 5000],
            ..Requests::default()
        });
    }
    let fixture = lake(&rows).await;
    let slos = slo("red: {service: checkout, good: {errors: exclude}}", "0.9");
    let quiet = one(&fixture, &slos, DAY + 900).await;
    assert_eq!(
        (quiet.windows[0].coverage, quiet.verdict),
        (1.0, Verdict::Met),
        "{quiet:?}"
    );
    let blind = one(&fixture, &slos, DAY + 3600).await;
    let coverage = blind.windows[0].coverage;
    assert!((0.4..0.6).contains(&coverage), "half of it was seen: {coverage}");
    assert_eq!(blind.verdict, Verdict::NoData);
    // A service that nobody has heard of, and a lake before its first row.
    let unknown = slo("red: {service: nobody, good: {errors: exclude}}", "0.9");
    assert_eq!(one(&fixture, &unknown, DAY + 900).await.verdict, Verdict::NoData);
    let before = one(&fixture, &slos, DAY - 90_000).await;
    assert_eq!((before.watermark, before.verdict), (None, Verdict::NoData));
}

/// Objectives that are asked for together are what each is alone.
#[tokio::test(flavor = "multi_thread")]
async fn many_objectives_are_as_each_alone() {
    let operations = ["POST /pay", "GET /cart", "it's; --", "idle"];
    let mut of = Vec::new();
    for second in (0..7200).step_by(10) {
        for (number, operation) in operations.iter().take(3).enumerate() {
            let slow = second / 10 % (number as i64 + 2) == 0;
            of.push(Requests {
                at: DAY - 7200 + second,
                operation,
                error: second % 70 == 0,
                entry: second % 90 != 0,
                ns: vec![if slow { 80 * MS } else { 3 * MS }; number + 1],
                // One threshold has registers, some of the time.
                registers: if second < 5000 { &[5 * MS] } else { &[] },
                ..Requests::default()
            });
        }
    }
    let fixture = lake(&of).await;
    let red = |service: &str, operation: &str, good: &str| {
        let source = format!("red: {{service: \"{service}\", operation: \"{operation}\", good: {{{good}}}}}");
        slo(&source, "0.9")
    };
    let goods = [
        "errors: exclude",
        "errors: exclude, maxDuration: 5ms",
        "errors: include, maxDuration: 7ms",
    ];
    let mut slos = Vec::new();
    for good in goods {
        slos.extend(operations.iter().flat_map(|operation| red("checkout", operation, good)));
        // The same question twice, of nobody, and in a form that is asked alone.
        slos.extend([red("checkout", operations[0], good), red("nobody", operations[0], good)].concat());
        slos.extend(slo(&format!("red: {{service: checkout, good: {{{good}}}}}"), "0.9"));
    }
    let together = try_report(&fixture, &slos, DAY).await.unwrap().report.objectives;
    assert_eq!(together.len(), slos.len());
    assert!(together.iter().any(|objective| counted(objective).0 > 0));
    // A report has an order of its own.
    for slo in slos.chunks(1) {
        let alone = one(&fixture, slo, DAY).await;
        assert!(together.contains(&alone), "{} {}", alone.measures, alone.definition);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_are_judged_one_by_one() {
    let fixture = lake(&hour(10, 20)).await;
    let source = "ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: checkout, good: {errors: exclude}}}}}}";
    let slices = document(
        source,
        "Timeslices",
        "target: 0.9, timeSliceTarget: 0.95, timeSliceWindow: 5m",
    );
    let report = one(&fixture, &slices, DAY + 3600).await;
    // The slice from 00:55 is not complete: the watermark lies in it. Minutes 0, 20 and 40 fail.
    let main = &report.windows[0];
    assert_eq!(main.slices.unwrap().bad, 3.0, "{main:?}");
    assert_eq!(main.slices.unwrap().measured, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_of_a_document_is_a_source() {
    let fixture = lake(&hour(100, 30)).await;
    let sql = |what: &str, more: &str| {
        format!(
            "sql: \"select date_trunc('minute', ts) as slice, {what} as value from red where service_name = 'checkout' {more} group by 1 -- by minute\""
        )
    };
    let metric = |good: &str, counter: bool| {
        format!(
            "ratioMetric: {{counter: {counter}, good: {{metricSource: {{type: tailwater, spec: {{{good}}}}}}}, \
             total: {{metricSource: {{type: tailwater, spec: {{{}}}}}}}}}",
            sql("sum(n)", "")
        )
    };
    let ratio = document(
        &metric(&sql("sum(n - errors)", ""), false),
        "Occurrences",
        "target: 0.9",
    );
    assert_eq!(counted(&one(&fixture, &ratio, DAY + 3600).await), (5700, 5700, 5900));
    // Every minute shows the same number: a counter that does not grow.
    let counter = document(&metric(&sql("sum(n)", ""), true), "Occurrences", "target: 0.9");
    assert_eq!(counted(&one(&fixture, &counter, DAY + 3600).await).2, 0);
    let threshold = |sql: &str| {
        document(
            &format!("thresholdMetric: {{metricSource: {{type: tailwater, spec: {{{sql}}}}}}}"),
            "Occurrences",
            "target: 0.9, op: lt, value: 50",
        )
    };
    let slow = one(&fixture, &threshold(&sql("sum(errors)", "")), DAY + 3600).await;
    assert_eq!(counted(&slow), (57, 57, 59), "a value for each minute");
    for (text, kind, says) in [
        (sql("sum(nothing)", ""), ErrorKind::BadQuery, "nothing"),
        (
            "sql: \"select ts as slice, n as value from nowhere\"".to_owned(),
            ErrorKind::BadQuery,
            "SLO `pay`, objective `objective-1`",
        ),
        (
            "sql: \"select '2026' as slice, 1\\n as value from red where nothing = 1\"".to_owned(),
            ErrorKind::BadQuery,
            "line 2 of its SQL",
        ),
        (
            "sql: \"select ts as slice, 'x' as value from red\"".to_owned(),
            ErrorKind::BadQuery,
            "value",
        ),
    ] {
        let error = try_report(&fixture, &threshold(&text), DAY + 3600).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
}

/// An exporter that is dead for an hour of a day: with `no-data: bad` that hour is bad, without it is a gap.
#[tokio::test(flavor = "multi_thread")]
async fn silence_of_values_is_what_the_document_says() {
    const NOON: i64 = DAY + 12 * 3600;
    let dead = NOON - 6 * 3600..NOON - 5 * 3600;
    let mut rows = Vec::new();
    // `cart` shows that the lake was watched all the time, `checkout` stands for what the exporter measured.
    for minute in -30 * 60..0 {
        let at = NOON + minute * 60;
        let services = [("cart", true), ("checkout", !dead.contains(&at))];
        rows.extend(services.into_iter().filter(|(_, is)| *is).map(|(service, _)| Requests {
            at,
            service,
            ..Requests::default()
        }));
    }
    rows.push(Requests {
        at: NOON - 10,
        service: "cart",
        ..Requests::default()
    });
    let fixture = lake(&rows).await;
    let judged = async |no_data: &str, metric: &str, slices: &str| {
        let sql = "select date_trunc('minute', ts) as slice, sum(n) * 1.0 as value from red where service_name = 'checkout' group by 1";
        let metric = metric.replace("SOURCE", &format!("{{type: tailwater, spec: {{sql: \"{sql}\"}}}}"));
        let (method, objective) = slices.split_once(": ").unwrap();
        let text = yaml(&metric, method, objective)
            .replace(
                "{name: pay}\nspec",
                &format!("{{name: pay, annotations: {{tailwater.io/no-data: {no_data}}}}}\nspec"),
            )
            .replace("duration: 1h", "duration: 1d");
        let report = one(&fixture, &resolved(&text), NOON).await;
        let main = &report.windows[0];
        let slices = main.slices.unwrap();
        (
            slices.measured,
            slices.bad.round() as u64,
            main.coverage,
            report.verdict,
        )
    };
    let threshold = "thresholdMetric: {metricSource: SOURCE}";
    let raw = "ratioMetric: {rawType: success, raw: {metricSource: SOURCE}}";
    let by_slices = "Timeslices: target: 0.99, op: lt, value: 50, timeSliceTarget: 1, timeSliceWindow: 5m";
    for (metric, method) in [
        (threshold, by_slices),
        (raw, "Timeslices: target: 0.99, timeSliceTarget: 1, timeSliceWindow: 5m"),
        (raw, "RatioTimeslices: target: 0.99, timeSliceWindow: 5m"),
    ] {
        let missed = judged("bad", metric, method).await;
        assert_eq!(missed, (288, 12, 1.0, Verdict::Missed), "{metric} {method}");
        let (measured, bad, coverage, _) = judged("gap", metric, method).await;
        assert_eq!((measured, bad), (276, 0), "{metric} {method}");
        assert!((coverage - 23.0 / 24.0).abs() < 1e-9, "{coverage}");
        assert_eq!(judged("good", metric, method).await.1, 0, "{metric} {method}");
    }
}

/// The template about losses, where what was lost is booked after what was received, as the collector does.
#[tokio::test(flavor = "multi_thread")]
async fn losses_count_whenever_they_are_booked() {
    let template =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/slo/telemetry-loss.yaml"));
    let slos = resolved(&template.unwrap());
    let check = async |lost: &[(i64, u64)], expected: (u64, u64), verdict: Verdict| {
        let entry = |account, reason, items| {
            let key = Key {
                tenant: "default".into(),
                signal: Signal::Traces,
                account,
                reason,
            };
            (key, Amount { items, bytes: items })
        };
        // 100 a minute for two hours, then nothing but the end of it.
        let mut booked: Vec<(i64, Account, &'static str, u64)> = (0..120)
            .map(|minute| (DAY + minute * 60, Account::Received, "", 100))
            .collect();
        booked.push((DAY + 7190 + 120, Account::Stored, "", 1));
        booked.extend(lost.iter().map(|(at, items)| (*at, Account::Lost, "damaged", *items)));
        let batches: Vec<_> = booked
            .into_iter()
            .map(|(at, account, reason, items)| {
                ledger_batch(&[entry(account, reason, items)], at as u64 * 1_000_000_000)
            })
            .collect();
        let rows = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        let mut fixture = Fixture::new().await;
        fixture.commit_rows(Table::Ledger, &sorted(Table::Ledger, rows)).await;
        let report = one(&fixture, &slos, DAY + 7320).await;
        let counts = report.windows[0].counts;
        assert_eq!((counts.bad, counts.total), (expected.0 as f64, expected.1), "{lost:?}");
        assert_eq!(report.verdict, verdict, "{lost:?}: {}", report.windows[0].because);
    };
    check(&[], (0, 12_000), Verdict::Met).await;
    // Beyond what its minute received, and where nothing was received any more.
    check(&[(DAY + 3600, 300)], (300, 12_000), Verdict::Missed).await;
    check(&[(DAY + 7260, 300)], (300, 12_000), Verdict::Missed).await;
    check(&[(DAY + 3600, 20), (DAY + 7260, 20)], (40, 12_000), Verdict::Met).await;
    check(&[(DAY + 7260, 12_001)], (12_000, 12_000), Verdict::Undetermined).await;
}

/// What is covered by a value every five minutes does not depend on the minute of asking, nor on the window.
#[tokio::test(flavor = "multi_thread")]
async fn values_cover_time_whatever_the_plan_reads() {
    const NOON: i64 = DAY + 12 * 3600;
    let mut rows = Vec::new();
    // `cart` tells up to when the lake goes; a day before that and one more hour.
    for minute in -26 * 60..60 {
        let at = NOON + minute * 60;
        let services = [("cart", true), ("checkout", minute % 5 == 0)];
        rows.extend(services.into_iter().filter(|(_, is)| *is).map(|(service, _)| Requests {
            at,
            service,
            ..Requests::default()
        }));
    }
    let fixture = lake(&rows).await;
    let coverage = async |more: &str, at: i64, windows: &[&str]| {
        let sql =
            format!("select ts as slice, sum(n) as value from red where service_name = 'checkout' {more} group by 1");
        let slos = document(
            &format!("thresholdMetric: {{metricSource: {{type: tailwater, spec: {{sql: \"{sql}\"}}}}}}"),
            "Occurrences",
            "target: 0.9, op: lt, value: 50",
        );
        let settings = Settings {
            windows: windows.iter().map(|window| Period::parse(window).unwrap()).collect(),
            ..Settings::default()
        };
        let reported = report(&fixture.engine, &slos, &settings, Time(at)).await.unwrap();
        let windows = reported.report.objectives[0].windows.iter();
        windows
            .map(|window| (window.coverage, window.verdict))
            .collect::<Vec<_>>()
    };
    for at in [NOON, NOON + 17 * 60, NOON + 34 * 60] {
        let found = coverage("", at, &["1h", "1d"]).await;
        assert_eq!(
            found.iter().map(|(share, _)| *share).collect::<Vec<_>>(),
            [1.0, 1.0],
            "{at}"
        );
        assert_ne!(found[0].1, Verdict::NoData);
    }
    // Half an hour without a value is a gap, and no more than that.
    let late = "and ts < timestamp '2026-11-22T11:30:00Z'";
    assert_eq!(coverage(late, NOON, &["1h"]).await, [(0.5, Verdict::NoData)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_of_others_are_skipped_and_count_as_no_data() {
    let fixture = lake(&hour(10_000, 1000)).await;
    let mut slos = slo("red: {service: checkout, good: {errors: exclude}}", "0.5");
    assert_eq!(
        try_report(&fixture, &slos, DAY + 3600).await.unwrap().worst(),
        Verdict::Met
    );
    slos.extend(document(
        "ratioMetric: {rawType: success, raw: {metricSource: {type: Prometheus, spec: {query: up}}}}",
        "Occurrences",
        "target: 0.9",
    ));
    let reported = try_report(&fixture, &slos, DAY + 3600).await.unwrap();
    assert_eq!(
        (reported.report.objectives.len(), reported.worst()),
        (1, Verdict::NoData)
    );
    assert!(reported.skipped[0].contains("Prometheus"), "{:?}", reported.skipped);
    // Whatever its name is, the header says it.
    let text = yaml(
        "ratioMetric: {rawType: success, raw: {metricSource: {type: Prometheus, spec: {query: up}}}}",
        "Occurrences",
        "displayName: Prüfung, target: 0.9",
    );
    let request = Request::post("/api/v1/slo/report").body(Body::from(text)).unwrap();
    let router = http::router(http::Desk::open(fixture.engine.clone()));
    let response = router.oneshot(request).await.unwrap();
    let notes = http::notes::read(&response.headers()["tailwater-notes"]);
    assert!(notes.contains("objective `Prüfung` of SLO `pay`"), "{notes}");
}

/// Status, verdict and body of a request to the route.
async fn post(fixture: &Fixture, query: &str, body: String) -> (u16, Option<String>, String) {
    let request = Request::post(format!("/api/v1/slo/report{query}"))
        .body(Body::from(body))
        .unwrap();
    let response = http::router(http::Desk::open(fixture.engine.clone()))
        .oneshot(request)
        .await
        .unwrap();
    let verdict = response
        .headers()
        .get("tailwater-verdict")
        .map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, verdict, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_reports_and_refuses() {
    let fixture = lake(&hour(1000, 30)).await;
    let text = |target: &str| {
        yaml(
            "ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: checkout, good: {errors: exclude}}}}}}",
            "Occurrences",
            &format!("target: {target}"),
        )
    };
    let at = "at=2026-11-22T01:00:00Z";
    let (status, verdict, body) = post(&fixture, &format!("?{at}"), text("0.99")).await;
    assert_eq!((status, verdict.as_deref()), (200, Some("missed")), "{body}");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["format"], "tailwater.slo.report/3");
    assert_eq!(json["objectives"][0]["windows"][0]["counts"]["total"], 59_000);
    let (_, verdict, body) = post(&fixture, &format!("?{at}&format=text&window=30m,1h"), text("0.9")).await;
    assert_eq!(verdict.as_deref(), Some("met"));
    assert!(body.contains("30m") && !body.contains('\u{1b}'), "{body}");
    // The same window ten thousand times is one.
    let windows = ["30m"; 10_000].join(",");
    let (_, _, body) = post(&fixture, &format!("?{at}&window={windows}"), text("0.9")).await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["objectives"][0]["windows"].as_array().unwrap().len(), 1);
    // 100 of 5,900 fail, where 1.7 % may.
    let few = lake(
        &(0..60)
            .map(|minute| Requests {
                at: DAY + minute * 60,
                ns: vec![MS; 100],
                error: minute == 58,
                ..Requests::default()
            })
            .collect::<Vec<_>>(),
    )
    .await;
    for (more, verdict, interval) in [
        ("", "undetermined", "wilson"),
        ("&interval=clopper-pearson", "undetermined", "clopper-pearson"),
        ("&evidence=counts", "met", "wilson"),
    ] {
        let (_, found, body) = post(&few, &format!("?{at}{more}"), text("0.983")).await;
        assert_eq!(found.as_deref(), Some(verdict), "{more}: {body}");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        let window = &json["objectives"][0]["windows"][0];
        assert_eq!(window["interval_method"], interval);
        assert_eq!(
            window["evidence"],
            if more.contains("counts") { "counts" } else { "interval" }
        );
    }
    for (format, begins) in [("md", "#"), ("html", "<!doctype html>")] {
        let (_, _, body) = post(&fixture, &format!("?{at}&format={format}"), text("0.9")).await;
        assert!(body.to_lowercase().starts_with(begins), "{format}: {}", &body[..80]);
    }
    for (query, body, says) in [
        ("?format=pdf", text("0.9"), "pdf"),
        ("?at=noon", text("0.9"), "noon"),
        ("?window=1s", text("0.9"), "window"),
        ("?window=0d", text("0.9"), "length"),
        ("?window=1m,2m,3m,4m,5m,6m,7m,8m,9m", text("0.9"), "more than 8 windows"),
        (
            "",
            text(&["0.9"; 2001].join("}, {target: ")),
            "2001 objectives, more than the 2000",
        ),
        (
            "",
            text(&["0.9"; 2000].join("}, {target: ")).replacen(
                "metadata: {name: pay}",
                &format!(
                    "metadata: {{name: pay, annotations: {{tailwater.io/maintenance: '{}'}}}}",
                    ["exclude 2026-11-22T00:00:00Z/2026-11-22T00:01:00Z"; 100].join("; ")
                ),
                1,
            ),
            "windows of objectives, their alerts and their maintenance, more than the 200000",
        ),
        ("?pony=1", text("0.9"), "pony"),
        ("?interval=wald", text("0.9"), "clopper-pearson"),
        ("?evidence=hearsay", text("0.9"), "counts"),
        ("", text("1.5"), "spec.objectives[0].target"),
        ("", "kind: [".to_owned(), "body"),
        ("", String::new(), "no SLO"),
    ] {
        let (status, verdict, answer) = post(&fixture, query, body).await;
        assert_eq!((status, verdict), (400, None), "{query}: {answer}");
        assert!(answer.contains(says), "{query}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sampled_upstream_is_said() {
    let minute = |minute: i64, weight: u64| Requests {
        at: DAY + minute * 60,
        ns: vec![MS; 10],
        weight,
        ..Requests::default()
    };
    // The last half hour at one in five; the hour before would count with any window that holds it.
    let rows: Vec<_> = (-60..60)
        .map(|at| {
            minute(
                at,
                if at < 0 {
                    100
                } else if at < 30 {
                    1
                } else {
                    5
                },
            )
        })
        .collect();
    let fixture = lake(&rows).await;
    let pair = document(
        "ratioMetric: {counter: false, bad: {metricSource: {type: tailwater, spec: {red: {service: checkout, statusClass: 5xx}}}}, \
         total: {metricSource: {type: tailwater, spec: {red: {service: checkout}}}}}",
        "Occurrences",
        "target: 0.5",
    );
    let raw = slo("red: {service: checkout, good: {errors: exclude}}", "0.5");
    for slos in [&raw, &pair] {
        let report = one(&fixture, slos, DAY + 3600).await;
        assert_eq!(counted(&report), (600, 600, 600), "figures are of what was received");
        // From 23:59 to 00:59.
        let expected = 10 * (100 + 30 + 29 * 5);
        let said = format!("600 events received in the main window, which stand for {expected}");
        assert!(
            report.notes.iter().any(|note| note.contains(&said)),
            "{said}: {:?}",
            report.notes
        );
    }
    let plain = one(&lake(&hour(10, 30)).await, &raw, DAY + 3600).await;
    assert!(
        !plain.notes.iter().any(|note| note.contains("upstream")),
        "{:?}",
        plain.notes
    );
}

/// Values of a query over time, as Grafana's graph gets them.
async fn graph(fixture: &Fixture, query: &str, from: i64, to: i64, step: i64) -> serde_json::Value {
    let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let path = format!("query_range?query={query}&start={from}&end={to}&step={step}");
    ask(fixture, &path).await["data"]["result"].clone()
}

async fn ask(fixture: &Fixture, path: &str) -> serde_json::Value {
    let uri = format!("/prometheus/api/v1/{path}");
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = http::router(http::Desk::open(fixture.engine.clone()))
        .oneshot(request)
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["status"], "success", "{path}: {answer}");
    answer
}

/// The number that the one series shows at a moment.
fn shown(result: &serde_json::Value, at: i64) -> Option<f64> {
    let series = result.as_array().unwrap();
    assert!(series.len() <= 1, "{result}");
    let values = series.first()?["values"].as_array().unwrap();
    let value = values.iter().find(|value| value[0].as_f64() == Some(at as f64))?;
    value[1].as_str().unwrap().parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_an_slo_are_its_reports_over_time() {
    let fixture = lake(&hour(1000, 7)).await;
    let slos = slo("red: {service: checkout, good: {errors: exclude}}", "0.9");
    fixture.engine.declare(slos.clone());
    let (from, to, step) = (DAY - 600, DAY + 5400, 300);
    let series = |name: &'static str| graph(&fixture, name, from, to, step);
    let current = series("slo:current_burn_rate:ratio").await;
    let own = series("slo:period_burn_rate:ratio").await;
    let left = series("slo:period_error_budget_remaining:ratio").await;
    let half = series("slo:sli_error:ratio_rate30m{slo=\"pay\"}").await;
    let hour = series("slo:sli_error:ratio_rate1h{service=\"checkout\"}").await;
    let burn = |report: &SloReport, window: &str| {
        let burn = report.burn.iter().find(|burn| burn.window == window).unwrap();
        burn.burn
    };
    let same = |ours: Option<f64>, theirs: Option<f64>, what: &str, at: i64| match (ours, theirs) {
        (Some(a), Some(b)) => assert!((a - b).abs() < 1e-12, "{what} at {at}: {a} {b}"),
        (a, b) => assert_eq!(a, b, "{what} at {at}"),
    };
    let mut said = 0;
    for at in (from..=to).step_by(step as usize) {
        let report = one(&fixture, &slos, at).await;
        let stale = report.windows[0].because.contains("data ends at");
        let known = |value: Option<f64>| value.filter(|_| !stale);
        let budget = report.windows[0].budget;
        same(shown(&current, at), known(burn(&report, "5m")), "current", at);
        same(shown(&own, at), known(budget.map(|budget| budget.consumed)), "own", at);
        same(
            shown(&left, at),
            known(budget.map(|budget| budget.remaining)),
            "left",
            at,
        );
        same(
            shown(&half, at),
            known(burn(&report, "30m").map(|burn| burn * 0.1)),
            "30m",
            at,
        );
        same(
            shown(&hour, at),
            known(report.windows[0].sli.map(|sli| 1.0 - sli)),
            "1h",
            at,
        );
        said += usize::from(shown(&left, at).is_some());
    }
    // From the first minutes to ten minutes after the last row, at 00:59:10.
    assert_eq!(said, 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_slos_are_named_and_listed() {
    let fixture = lake(&hour(1000, 7)).await;
    let mut slos = slo("red: {service: checkout, good: {errors: exclude}}", "0.9");
    let mut foreign = document(
        "ratioMetric: {rawType: success, raw: {metricSource: {type: Prometheus, spec: {query: up}}}}",
        "Occurrences",
        "target: 0.99",
    );
    foreign[0].name = "theirs".into();
    let mut broken = document(
        "thresholdMetric: {metricSource: {type: tailwater, spec: {sql: \"select ts as slice, n as value from nowhere\"}}}",
        "Occurrences",
        "target: 0.9, op: lt, value: 50",
    );
    broken[0].name = "broken".into();
    slos.extend(foreign);
    slos.extend(broken);
    fixture.engine.declare(slos);
    let listed = format!(
        "label/__name__/values?match[]=%7Bslo=%22pay%22%7D&start={DAY}&end={}",
        DAY + 60
    );
    let names = ask(&fixture, &listed).await;
    let expected = [
        "slo:current_burn_rate:ratio",
        "slo:error_budget:ratio",
        "slo:objective:ratio",
        "slo:period_burn_rate:ratio",
        "slo:period_error_budget_remaining:ratio",
        "slo:sli_error:ratio_rate1d",
        "slo:sli_error:ratio_rate1h",
        "slo:sli_error:ratio_rate2h",
        "slo:sli_error:ratio_rate30m",
        "slo:sli_error:ratio_rate3d",
        "slo:sli_error:ratio_rate5m",
        "slo:sli_error:ratio_rate6h",
        "slo:time_period:days",
        "tailwater_slo_info",
    ];
    assert_eq!(names["data"], serde_json::json!(expected));
    let info = ask(&fixture, "series?match[]=tailwater_slo_info%7Bslo=%22pay%22%7D").await;
    let labels = &info["data"][0];
    let told = ["service", "objective", "target", "window", "method"].map(|name| labels[name].as_str().unwrap());
    assert_eq!(told, ["checkout", "objective-1", "90%", "1h", "Occurrences"]);
    let metadata = ask(&fixture, "metadata?metric=slo:objective:ratio").await;
    assert_eq!(metadata["data"]["slo:objective:ratio"][0]["type"], "gauge");
    let at = DAY + 3600;
    // What needs no data is there for all of them; what does, with a word about those that cannot be counted.
    let targets = format!("query?query=sum%20by%20(slo)%20(slo:objective:ratio)&time={at}");
    let targets = ask(&fixture, &targets).await;
    assert_eq!(targets["data"]["result"].as_array().unwrap().len(), 3);
    assert_eq!(targets["warnings"], serde_json::json!([]));
    let burns = ask(&fixture, &format!("query?query=slo:period_burn_rate:ratio&time={at}")).await;
    assert_eq!(burns["data"]["result"].as_array().unwrap().len(), 1, "{burns}");
    let warnings = burns["warnings"].to_string();
    assert!(
        warnings.contains("`theirs`") && warnings.contains("`broken`"),
        "{warnings}"
    );
    // A function over time sees a value a minute.
    let most = format!("query?query=count_over_time(slo:period_burn_rate:ratio%5B30m%5D)&time={at}");
    assert_eq!(ask(&fixture, &most).await["data"]["result"][0]["value"][1], "30");
    let hours = format!("query?query=slo:time_period:days%7Bslo=%22pay%22%7D*24&time={at}");
    assert_eq!(ask(&fixture, &hours).await["data"]["result"][0]["value"][1], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_lake_answers_before_its_first_minute_is_over() {
    let rows = [DAY + 20, DAY + 30].map(|at| Requests {
        at,
        ns: vec![MS; 500],
        ..Requests::default()
    });
    let fixture = lake(&rows).await;
    let slos = slo("red: {service: checkout, good: {errors: exclude}}", "0.9");
    fixture.engine.declare(slos.clone());
    let report = one(&fixture, &slos, DAY + 41).await;
    assert_eq!((counted(&report).2, report.verdict), (1000, Verdict::Met), "{report:?}");
    assert_eq!(report.windows[0].span.to, Time(DAY + 40));
    let burn = report.burn.iter().find(|burn| burn.window == "5m").unwrap();
    assert_eq!(burn.counts.total, 1000);
    // The slice that is being counted waits for its end.
    assert_eq!(counted(&one(&fixture, &slos, DAY + 35).await).2, 500);
    let name = "slo:period_error_budget_remaining:ratio";
    let left = graph(&fixture, name, DAY + 41, DAY + 41, 15).await;
    assert_eq!(shown(&left, DAY + 41), Some(1.0));
}

/// The breakdown adds up to the objective, and each group is what an objective of its own would be.
#[tokio::test(flavor = "multi_thread")]
async fn groups_add_up_to_the_objective() {
    let minute = |minute: i64, region, operation, error, n: usize| Requests {
        at: DAY + minute * 60,
        region,
        operation,
        error,
        ns: vec![MS; n],
        dims: vec![("shop".into(), if n > 50 { "de" } else { "fr" }.into())],
        ..Requests::default()
    };
    let rows: Vec<Requests<'_>> = (0..60)
        .flat_map(|at| {
            [
                minute(at, "eu", "POST /pay", false, 99),
                minute(at, "eu", "POST /pay", true, 1),
                minute(at, "eu", "GET /", false, 10),
                minute(at, "", "POST /pay", false, 60),
                minute(at, "us", "POST /pay", at % 2 == 0, 4),
                // A span inside of the service: no request, whatever its kind.
                Requests {
                    entry: false,
                    ..minute(at, "us", "POST /pay", true, 7)
                },
            ]
        })
        .collect();
    let fixture = lake(&rows).await;
    let source = "red: {service: checkout, good: {errors: exclude}}";
    let by = |keys: Vec<tailwater_openslo::RedKey>| {
        let mut slos = slo(source, "0.9");
        slos[0].extensions.group_by = keys;
        slos
    };
    use tailwater_openslo::RedKey as Key;
    for (keys, expected) in [
        (
            vec![Key::Region],
            vec!["us: Missed 120 of 236", "none: Met 0 of 3540", "eu: Met 59 of 6490"],
        ),
        (
            vec![Key::Region, Key::Operation],
            vec![
                "us,POST /pay: Missed 120 of 236",
                "eu,POST /pay: Met 59 of 5900",
                "none,POST /pay: Met 0 of 3540",
                "eu,GET /: Met 0 of 590",
            ],
        ),
        (vec![Key::Kind], vec!["server: Met 179 of 10266"]),
        (
            vec![Key::Dim("shop".into())],
            vec!["de: Met 0 of 9381", "fr: Missed 179 of 885"],
        ),
    ] {
        let report = one(&fixture, &by(keys.clone()), DAY + 3600).await;
        let groups = report.groups.as_ref().unwrap();
        let total: u64 = groups.groups.iter().map(|group| group.counts.total).sum();
        let bad: f64 = groups.groups.iter().map(|group| group.counts.bad).sum();
        let all = report.windows[0].counts;
        assert_eq!((bad, total, groups.left_out), (all.bad, all.total, 0), "{keys:?}");
        let mut shown: Vec<String> = groups
            .groups
            .iter()
            .map(|group| {
                let values: Vec<&str> = group
                    .keys
                    .iter()
                    .map(|key| if key.value.is_empty() { "none" } else { &key.value })
                    .collect();
                let counts = group.counts;
                format!(
                    "{}: {:?} {} of {}",
                    values.join(","),
                    group.verdict,
                    counts.bad,
                    counts.total
                )
            })
            .collect();
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        shown.sort();
        expected.sort();
        assert_eq!(shown, expected, "{keys:?}");
        assert_eq!(
            groups.groups[0].verdict,
            groups.groups.iter().map(|group| group.verdict).min().unwrap()
        );
    }
    assert!(one(&fixture, &slo(source, "0.9"), DAY + 3600).await.groups.is_none());
}

/// A pair over `red` has groups and durations as a `raw` source has; SQL has neither.
#[tokio::test(flavor = "multi_thread")]
async fn pairs_over_red_have_groups_and_durations() {
    use tailwater_openslo::RedKey as Key;
    let minute = |minute: i64, region, error, n: usize| Requests {
        at: DAY + minute * 60,
        region,
        error,
        ns: vec![(if error { 90 } else { 10 }) * MS; n],
        ..Requests::default()
    };
    let rows: Vec<Requests<'_>> = (0..60)
        .flat_map(|at| {
            [
                minute(at, "eu", false, 98),
                minute(at, "eu", true, 2),
                minute(at, "us", false, 50),
            ]
        })
        .collect();
    let fixture = lake(&rows).await;
    let source = |spec: &str| format!("{{metricSource: {{type: tailwater, spec: {{{spec}}}}}}}");
    let red = |more: &str| source(&format!("red: {{service: checkout{more}}}"));
    let sql = source("sql: \"select date_trunc('minute', ts) as slice, sum(errors) as value from red group by 1\"");
    let failed = red(", statusClass: 5xx");
    let pair = async |bad: &str, keys: Vec<Key>| {
        let metric = format!("ratioMetric: {{counter: false, bad: {bad}, total: {}}}", red(""));
        let mut slos = document(&metric, "Occurrences", "target: 0.9");
        slos[0].extensions.group_by = keys;
        one(&fixture, &slos, DAY + 3600).await
    };
    for (keys, expected) in [
        (vec![Key::Region], ["eu: 118 of 5900", "us: 0 of 2950"]),
        // The part asks for one of the groups alone.
        (vec![Key::StatusClass], ["2xx: 0 of 8732", "5xx: 118 of 118"]),
    ] {
        let report = pair(&failed, keys).await;
        assert_eq!(counted(&report), (8732, 8732, 8850));
        let groups = report.groups.unwrap().groups;
        let shown = groups.iter().map(|group| {
            let counts = group.counts;
            format!("{}: {} of {}", group.keys[0].value, counts.bad, counts.total)
        });
        let mut shown: Vec<String> = shown.collect();
        shown.sort();
        assert_eq!(shown, expected);
        // One in 75 took 90 ms.
        let latency = report.latency.unwrap();
        let slow: Vec<bool> = latency
            .percentiles
            .iter()
            .map(|of| of.value_ns.unwrap() > 50e6)
            .collect();
        assert_eq!((slow, latency.threshold_ns), (vec![false, false, true], None));
    }
    let report = pair(&sql, vec![Key::Region]).await;
    assert!(report.groups.is_none() && report.latency.is_some());
}
