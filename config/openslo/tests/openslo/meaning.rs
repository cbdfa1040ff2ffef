//! What documents mean: resolved SLOs, thresholds, hashes, lints, templates, and the pages that describe them.

use std::path::Path;
use std::time::Duration;

use tailwater_openslo::annotation::{AlertProfile, NoData, TABLE};
use tailwater_openslo::template::TEMPLATES;
use tailwater_openslo::{
    Budgeting, Good, Indicator, LINTS, Part, RedKey, RedSelector, ResolvedSlo, Source, TimeWindow, declared_thresholds,
    files, fmt, lint, read, resolve,
};

fn resolved(text: &str) -> Vec<ResolvedSlo> {
    let reading = read(Path::new("slo.yaml"), text);
    assert_eq!(reading.problems, [], "{text}");
    let resolved = resolve(&reading.documents);
    assert_eq!(resolved.problems, [], "{text}");
    resolved.slos
}

/// `metricSource` bodies in an SLO; `objective` completes its objective.
fn slo(metric: &str, objective: &str) -> String {
    format!(
        "apiVersion: openslo/v1
kind: SLO
metadata:
  name: checkout
  annotations: {{}}
spec:
  service: checkout
  indicator:
    metadata: {{name: x}}
    spec: {metric}
  timeWindow: [{{duration: 30d, isRolling: true}}]
  budgetingMethod: Occurrences
  objectives: [{{target: 0.999{objective}}}]
"
    )
}

fn selector(keys: &[(RedKey, &[&str])]) -> RedSelector {
    let mut selector = RedSelector::default();
    for (key, values) in keys {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        selector.any_of.insert(key.clone(), values);
    }
    selector
}

fn indicator(metric: &str, objective: &str) -> Indicator {
    resolved(&slo(metric, objective))
        .remove(0)
        .objectives
        .remove(0)
        .indicator
}

#[test]
fn sources() {
    let raw = |red: &str| {
        format!(
            "{{ratioMetric: {{rawType: success, raw: {{metricSource: {{type: tailwater, spec: {{red: {red}}}}}}}}}}}"
        )
    };
    let pair = |part: &str, one: &str, all: &str| {
        format!(
            "{{ratioMetric: {{{part}: {{metricSource: {{type: tailwater, spec: {one}}}}}, total: {{metricSource: {{type: tailwater, spec: {all}}}}}}}}}"
        )
    };
    let checkout = || selector(&[(RedKey::Service, &["checkout"])]);
    let errors = Good {
        exclude_errors: true,
        max_duration_ns: None,
    };
    assert_eq!(
        indicator(&raw("{service: checkout, good: {errors: exclude}}"), ""),
        Indicator::Requests {
            of: checkout(),
            good: errors
        }
    );
    // The pair of counts that OpenSLO asks for says the same.
    assert_eq!(
        indicator(
            &pair(
                "good",
                "{red: {service: checkout, good: {errors: exclude}}}",
                "{red: {service: [checkout]}}"
            ),
            ""
        ),
        Indicator::Requests {
            of: checkout(),
            good: errors
        }
    );
    let many = raw(
        "{kind: [server, consumer, server], dims: {shop: de}, not: {operation: a, errorType: ''}, good: {maxDuration: 1.5s}}",
    );
    let Indicator::Requests { of, good } = indicator(&many, "") else {
        panic!()
    };
    assert_eq!(
        of.to_string(),
        "kind=consumer|server dims.shop=de !operation=a !errorType="
    );
    assert_eq!(
        good,
        Good {
            exclude_errors: false,
            max_duration_ns: Some(1_500_000_000)
        }
    );
    let row = |operation: &'static str, error: &'static str| {
        move |key: &RedKey| match key {
            RedKey::Kind => "server",
            RedKey::Dim(name) if name == "shop" => "de",
            RedKey::Operation => operation,
            RedKey::ErrorType => error,
            _ => "",
        }
    };
    assert!(of.matches(row("b", "500")));
    assert!(!of.matches(row("a", "500")), "left out by operation");
    assert!(!of.matches(row("b", "")), "left out because it has no error type");
    assert_eq!(
        indicator(
            &pair(
                "bad",
                "{red: {service: checkout, statusClass: 5xx}}",
                "{red: {service: checkout}}"
            ),
            ""
        ),
        Indicator::Ratio {
            part_is: Part::Bad,
            part: Source::Red(selector(&[
                (RedKey::Service, &["checkout"]),
                (RedKey::StatusClass, &["5xx"])
            ])),
            total: Source::Red(checkout()),
            counter: false,
        }
    );
    let sql = "{thresholdMetric: {metricSource: {spec: {sql: 'select slice, value from lag;'}}}}";
    let Indicator::Threshold { source, op, limit } = indicator(sql, ", op: lte, value: 1.5") else {
        panic!()
    };
    assert_eq!(source, Source::Sql("select slice, value from lag".into()));
    assert_eq!((op.word(), limit.to_string()), ("lte", "1.5".to_owned()));
    let foreign = "{ratioMetric: {rawType: failure, raw: {metricSource: {type: Prometheus, spec: {query: up}}}}}";
    let Indicator::Raw {
        part_is: Part::Bad,
        source: Source::Foreign { source_type, .. },
    } = indicator(foreign, "")
    else {
        panic!()
    };
    assert_eq!(source_type, "Prometheus");
}

#[test]
fn references_lead_to_the_same_slo() {
    let inline = TEMPLATES
        .iter()
        .find(|t| t.name == "burn-rate")
        .expect("a template")
        .text;
    let refs = "apiVersion: openslo/v1
kind: SLO
metadata: {name: checkout-burn, annotations: {tailwater.io/min-bad-events: '5'}}
spec:
  service: checkout
  indicatorRef: checkout-success
  timeWindow: [{duration: 1M, calendar: {startTime: 2026-01-01 00:00:00, timeZone: Europe/Berlin}}]
  budgetingMethod: Occurrences
  objectives: [{displayName: Success, targetPercent: 99.90}]
  alertPolicies: [{alertPolicyRef: checkout-burn-page}, {alertPolicyRef: checkout-burn-ticket}]
---
- apiVersion: openslo/v1
  kind: SLI
  metadata: {name: checkout-success}
  spec:
    ratioMetric:
      good: {metricSource: {metricSourceRef: lake, spec: {red: {kind: server, service: [checkout], good: {errors: exclude}}}}}
      total: {metricSource: {metricSourceRef: lake, spec: {red: {service: checkout, kind: server}}}}
- apiVersion: openslo/v1
  kind: DataSource
  metadata: {name: lake}
  spec: {type: tailwater}
- apiVersion: openslo/v1
  kind: AlertPolicy
  metadata: {name: checkout-burn-page}
  spec: {alertWhenResolved: true, alertWhenBreaching: true, conditions: [{conditionRef: fast-burn}], notificationTargets: [{targetRef: alertmanager}]}
- apiVersion: openslo/v1
  kind: AlertPolicy
  metadata: {name: checkout-burn-ticket}
  spec: {alertWhenBreaching: true, conditions: [{conditionRef: slow-burn}], notificationTargets: [{targetRef: alertmanager}]}
- apiVersion: openslo/v1
  kind: AlertCondition
  metadata: {name: fast-burn, annotations: {tailwater.io/burn-tiers: 14.4@1h/5m or 6@6h/30m}}
  spec: {severity: page, condition: {kind: burnrate, op: gt, threshold: 14.4, lookbackWindow: 1h}}
- apiVersion: openslo/v1
  kind: AlertCondition
  metadata: {name: slow-burn, annotations: {tailwater.io/burn-tiers: 10%@1d/2h or 1@3d/6h}}
  spec: {severity: ticket, condition: {kind: burnrate, op: gt, threshold: 3, lookbackWindow: 1d}}
- apiVersion: openslo/v1
  kind: AlertNotificationTarget
  metadata: {name: alertmanager}
  spec: {target: alertmanager}
";
    let (inline, refs) = (resolved(inline).remove(0), resolved(refs).remove(0));
    assert_eq!(inline.objectives, refs.objectives);
    assert_eq!(inline.window, refs.window);
    assert_eq!(inline.alerts, refs.alerts);
    assert_eq!(inline.hash, refs.hash, "the same definition, written otherwise");
}

#[test]
fn the_hash_changes_with_the_meaning_only() {
    let base = TEMPLATES
        .iter()
        .find(|t| t.name == "latency-p99")
        .expect("a template")
        .text;
    let hash = |text: &str| resolved(text).remove(0).hash;
    assert_eq!(hash(base), hash(&fmt(Path::new("a.yaml"), base).expect("formats")));
    let check = |old: &str, new: &str, same: bool| {
        assert!(base.contains(old), "{old}");
        assert_eq!(hash(base) == hash(&base.replace(old, new)), same, "{old} -> {new}");
    };
    check("displayName: Checkout is fast", "displayName: Quick", true);
    check("  description: 99 of 100", "  description: 99 in 100", true);
    check("https://runbooks.example.com", "https://wiki.example.com", true);
    check("maxDuration: 300ms", "maxDuration: 0.3s", true);
    check("target: 0.99", "targetPercent: 99", true);
    check("target: 0.99", "target: 0.990", true);
    check("duration: 30d", "duration: 720h", false);
    check("maxDuration: 300ms", "maxDuration: 301ms", false);
    check("errors: exclude", "errors: include", false);
    check("target: 0.99", "target: 0.991", false);
    check("service: checkout", "service: check", false);
    check("kind: server", "kind: client", false);
    check("alert-profile: workbook", "alert-profile: seed", false);
    check("200ms, 500ms", "200ms", false);
    check("50, 90, 99, 99.9", "50, 90, 99", false);
    check("group-by: operation", "group-by: region", false);
    // Frozen: reports of different versions of this program compare definitions by it.
    assert_eq!(hash(base).to_string(), "4c32b2f72b27708519bc685d638c7ab8");
}

#[test]
fn extensions_and_profiles() {
    let text = slo(
        "{ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: a, good: {maxDuration: 300ms}}}}}}}",
        "",
    );
    let with = |annotations: &str| {
        resolved(&text.replace("annotations: {}", &format!("annotations: {{{annotations}}}"))).remove(0)
    };
    let plain = with("");
    assert_eq!(plain.extensions.alert_profile, AlertProfile::None);
    assert_eq!(plain.alerts, []);
    assert_eq!(plain.display_name, "checkout");
    assert_eq!(plain.objectives[0].name, "objective-1");
    let slo = with(
        "tailwater.io/no-data: bad, tailwater.io/min-events: '100', tailwater.io/latency-thresholds: '1s, 100ms, 300ms', tailwater.io/group-by: 'region, dims.shop'",
    );
    assert_eq!(slo.extensions.no_data, NoData::Bad);
    assert_eq!(slo.extensions.min_events, 100);
    assert_eq!(slo.extensions.group_by, [RedKey::Region, RedKey::Dim("shop".into())]);
    let ns: Vec<_> = declared_thresholds(&[slo, plain])
        .into_iter()
        .map(|t| (t.of.to_string(), t.ns / 1_000_000))
        .collect();
    assert_eq!(
        ns,
        [100, 300, 1000].map(|ms| ("service=a".to_owned(), ms)),
        "sorted, each once"
    );
    let tiers = |profile: &str| {
        let slo = with(&format!("tailwater.io/alert-profile: {profile}"));
        let rule = |rule: &tailwater_openslo::AlertRule| {
            let tier = |t: &tailwater_openslo::BurnTier| {
                format!(
                    "{}@{}/{}",
                    t.threshold,
                    t.long.as_secs(),
                    t.short.unwrap_or_default().as_secs()
                )
            };
            format!(
                "{} {}",
                rule.severity,
                rule.tiers.iter().map(tier).collect::<Vec<_>>().join(" ")
            )
        };
        slo.alerts.iter().map(rule).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        tiers("workbook"),
        "page 14.4@3600/300 6@21600/1800; ticket 3@86400/7200 1@259200/21600"
    );
    assert_eq!(tiers("seed"), "page 4@300/60; ticket 2@1800/600");
    assert_eq!(tiers("default"), "page 14.4@3600/300 6@21600/1800; ticket 2@1800/600");
    assert_eq!(tiers("none"), "");
}

#[test]
fn slices_and_windows() {
    let text = slo(
        "{ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: a, good: {errors: exclude}}}}}}}",
        ", timeSliceTarget: 0.95, timeSliceWindow: 5m",
    );
    let slices = resolved(&text.replace("Occurrences", "Timeslices")).remove(0);
    let Budgeting::Timeslices { slice, target } = slices.objectives[0].budgeting else {
        panic!()
    };
    assert_eq!(
        (slice, target.to_string()),
        (Duration::from_secs(300), "0.95".to_owned())
    );
    let ratio = resolved(&text.replace("Occurrences", "RatioTimeslices")).remove(0);
    assert_eq!(ratio.objectives[0].budgeting, Budgeting::RatioTimeslices { slice });
    assert_ne!(slices.hash, ratio.hash);
    let calendar = text.replace(
        "isRolling: true",
        "calendar: {startTime: 2026-03-01 00:00:00, timeZone: Europe/Berlin}",
    );
    let TimeWindow::Calendar { zone, start, .. } = resolved(&calendar).remove(0).window else {
        panic!()
    };
    assert_eq!(
        (zone.name(), start.to_string()),
        ("Europe/Berlin", "2026-03-01 00:00:00".to_owned())
    );
    let none = text.replace("  timeWindow: [{duration: 30d, isRolling: true}]\n", "");
    assert_eq!(resolved(&none).remove(0).window, tailwater_openslo::DEFAULT_WINDOW);
}

#[test]
fn composites() {
    let text = "apiVersion: openslo/v1
kind: SLO
metadata: {name: journey}
spec:
  service: shop
  timeWindow: [{duration: 28d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives:
    - {displayName: Search, target: 0.99, indicatorRef: search, compositeWeight: 0.5}
    - {displayName: Search, target: 0.999, indicatorRef: search}
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: search}
spec: {ratioMetric: {rawType: success, raw: {metricSource: {type: tailwater, spec: {red: {service: search, good: {errors: exclude}}}}}}}
";
    let slo = resolved(text).remove(0);
    assert!(slo.composite);
    let members: Vec<_> = slo
        .objectives
        .iter()
        .map(|o| format!("{} {} {}", o.name, o.target, o.weight))
        .collect();
    assert_eq!(members, ["Search 99% 0.5", "Search (2) 99.9% 1"]);
}

#[test]
fn every_lint() {
    let red = |red: &str| {
        format!(
            "{{ratioMetric: {{rawType: success, raw: {{metricSource: {{type: tailwater, spec: {{red: {red}}}}}}}}}}}"
        )
    };
    let fine = red("{service: a, good: {errors: exclude}}");
    let policy = |condition: &str, flags: &str| {
        format!(
            "{}  alertPolicies:\n    - kind: AlertPolicy\n      metadata: {{name: p}}\n      spec:\n        {flags}\n        conditions: [{{kind: AlertCondition, metadata: {{name: c{condition}}}]\n        notificationTargets: [{{kind: AlertNotificationTarget, metadata: {{name: t}}, spec: {{target: x}}}}]\n",
            slo(&fine, "")
        )
    };
    let burn = |annotation: &str, op: &str, rate: &str, severity: &str| {
        format!(
            "{annotation}}}, spec: {{severity: {severity}, condition: {{kind: burnrate, op: {op}, threshold: {rate}, lookbackWindow: 1h}}}}"
        )
    };
    let tiers = |tiers: &str| format!(", annotations: {{tailwater.io/burn-tiers: {tiers}}}");
    let on = "alertWhenBreaching: true";
    let cases: Vec<(&str, String)> = vec![
        ("", slo(&fine, "")),
        (
            "burn-below one-window-alert",
            policy(&burn("", "lte", "2", "ticket"), on),
        ),
        (
            "tiers-differ",
            policy(&burn(&tiers("14.4@1h/5m"), "lte", "14.4", "ticket"), on),
        ),
        (
            "tiers-differ",
            policy(&burn(&tiers("14.4@1h/5m"), "gt", "2", "ticket"), on),
        ),
        (
            "one-window-alert burn-below-one",
            policy(&burn("", "gt", "0.5", "ticket"), on),
        ),
        (
            "burn-unreachable",
            policy(&burn(&tiers("1000@1h/5m"), "gt", "1000", "ticket"), on),
        ),
        ("", policy(&burn(&tiers("999.9@1h/5m"), "gt", "999.9", "ticket"), on)),
        (
            "silent-policy",
            policy(
                &burn(&tiers("14.4@1h/5m"), "gt", "14.4", "ticket"),
                "alertWhenResolved: true",
            ),
        ),
        (
            "page-without-runbook",
            policy(&burn(&tiers("14.4@1h/5m"), "gt", "14.4", "page"), on),
        ),
        (
            "page-without-runbook",
            slo(&fine, "").replace("annotations: {}", "annotations: {tailwater.io/alert-profile: seed}"),
        ),
        (
            "burn-unreachable",
            slo(&fine, "").replace("0.999", "0.75").replace(
                "annotations: {}",
                "annotations: {tailwater.io/alert-profile: workbook, tailwater.io/runbook: https://a.b}",
            ),
        ),
        (
            "errors-unstated",
            slo(&red("{service: a, good: {maxDuration: 1s}}"), ""),
        ),
        (
            "",
            slo(&red("{service: a, good: {maxDuration: 1s, errors: include}}"), ""),
        ),
        ("selects-everything", slo(&red("{good: {errors: exclude}}"), "")),
        (
            "pattern-in-selector",
            slo(
                &red("{service: a, not: {operation: 'GET /static/*'}, good: {errors: exclude}}"),
                "",
            ),
        ),
        (
            "foreign-source ratio-without-counts",
            slo(
                "{ratioMetric: {rawType: success, raw: {metricSource: {type: Datadog, spec: {query: x}}}}}",
                "",
            ),
        ),
        (
            "ratio-without-counts",
            slo(
                "{ratioMetric: {rawType: success, raw: {metricSource: {spec: {sql: 'select slice, value from t'}}}}}",
                "",
            ),
        ),
        (
            "good-is-total",
            slo(
                "{ratioMetric: {good: {metricSource: {spec: {red: {service: a}}}}, total: {metricSource: {spec: {red: {service: a}}}}}}",
                "",
            ),
        ),
        ("minute-window", slo(&fine, "").replace("30d", "1m")),
        ("", slo(&fine, "").replace("30d", "1M")),
        (
            "no-time-window",
            slo(&fine, "").replace("  timeWindow: [{duration: 30d, isRolling: true}]\n", ""),
        ),
        ("op-on-ratio op-on-ratio", slo(&fine, ", op: gt, value: 1")),
        (
            "unused-slice unused-slice",
            slo(&fine, ", timeSliceTarget: 0.9, timeSliceWindow: 1m"),
        ),
        (
            "service-unknown",
            format!(
                "{}---\napiVersion: openslo/v1\nkind: Service\nmetadata: {{name: check-out}}\nspec: {{}}\n",
                slo(&fine, "")
            ),
        ),
    ];
    let unused = unused_annotations();
    let mut seen = Vec::new();
    for (expect, text) in cases.iter().chain(&unused) {
        let reading = read(Path::new("slo.yaml"), text);
        assert_eq!(reading.problems, [], "{text}");
        let found = lint(&reading.documents);
        let names: Vec<_> = found.iter().map(|lint| lint.name).collect();
        assert_eq!(names.join(" "), *expect, "{text}");
        for lint in &found {
            assert!(!lint.explanation().is_empty() && !lint.write.is_empty(), "{lint}");
            assert!(lint.write.ends_with(['.', '?']), "a sentence: {lint}");
        }
        seen.extend(names);
    }
    for (name, _) in LINTS {
        assert!(seen.contains(name), "{name} is tried");
    }
    assert!(LINTS.is_sorted_by_key(|(name, _)| *name));
}

/// What each annotation does nothing for, by indicator and method.
fn unused_annotations() -> Vec<(&'static str, String)> {
    const RED: &str = "metricSource: {spec: {red: {service: a}}}";
    const FAILED: &str = "metricSource: {spec: {red: {service: a, statusClass: 5xx}}}";
    const SQL: &str = "metricSource: {spec: {sql: 'select slice, value from t'}}";
    let one =
        "{ratioMetric: {rawType: success, raw: {metricSource: {spec: {red: {service: a, good: {errors: exclude}}}}}}}";
    let pair = |bad: &str, total: &str| format!("{{ratioMetric: {{bad: {{{bad}}}, total: {{{total}}}}}}}");
    let raw = format!("{{ratioMetric: {{rawType: success, raw: {{{SQL}}}}}}}");
    let value = format!("{{thresholdMetric: {{{SQL}}}}}");
    let foreign = pair("metricSource: {type: Datadog, spec: {query: x}}", RED);
    let methods = [
        ("Occurrences", ""),
        ("Timeslices", ", timeSliceTarget: 0.9, timeSliceWindow: 5m"),
        ("RatioTimeslices", ", timeSliceWindow: 5m"),
    ];
    let mut cases = Vec::new();
    let mut check = |annotation: &str, sli: &str, more: &str, unused: [bool; 3]| {
        for ((method, keys), unused) in methods.into_iter().zip(unused) {
            let text = slo(sli, &format!("{keys}{more}"))
                .replace(
                    "annotations: {}",
                    &format!("annotations: {{tailwater.io/{annotation}}}"),
                )
                .replace("Occurrences", method);
            let mut names = Vec::new();
            if sli == raw && method == "Occurrences" {
                names.push("ratio-without-counts");
            }
            if sli == foreign {
                names.push("foreign-source");
            }
            if unused {
                names.push("annotation-unused");
            }
            cases.push((names.join(" ").leak() as &'static str, text));
        }
    };
    for annotation in ["group-by: region", "percentiles: '50, 99'", "latency-thresholds: 1s"] {
        let (groups, durations) = (annotation.starts_with("group"), annotation.starts_with("percent"));
        check(annotation, one, "", [false; 3]);
        check(annotation, &pair(FAILED, RED), "", [!groups && !durations; 3]);
        check(annotation, &pair(SQL, RED), "", [!durations; 3]);
        check(
            annotation,
            &pair(SQL, SQL.replace("from t", "from u").as_str()),
            "",
            [true; 3],
        );
        check(annotation, &raw, "", [true; 3]);
        check(annotation, &value, ", op: lt, value: 1", [true; 3]);
        check(annotation, &foreign, "", [false; 3]);
    }
    for (sli, more) in [(one, ""), (raw.as_str(), ""), (value.as_str(), ", op: lt, value: 1")] {
        check("no-data: bad", sli, more, [true, false, false]);
        check("no-data: gap", sli, more, [false; 3]);
    }
    // The SLI's own annotation.
    let with_own = |sli: &str| {
        let own = "annotations: {tailwater.io/latency-thresholds: 1s}";
        slo(sli, "").replace(
            "indicator:\n    metadata: {name: x",
            &format!("indicator:\n    metadata: {{name: x, {own}"),
        )
    };
    cases.push(("", with_own(one)));
    cases.push(("annotation-unused", with_own(&pair(FAILED, RED))));
    cases
}

#[test]
fn templates_hold_without_lints_and_are_canonical() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../slo");
    let mut names: Vec<_> = crate::files(&folder)
        .iter()
        .map(|path| crate::name(path).replace(".yaml", ""))
        .collect();
    names.sort();
    let mut listed: Vec<_> = TEMPLATES.iter().map(|template| template.name.to_owned()).collect();
    listed.sort();
    assert_eq!(names, listed, "every file of config/slo is a template");
    // All in one set: their names do not collide.
    let checked = files::check(&[&folder]);
    assert_eq!(checked.problems, []);
    assert_eq!(checked.lints, []);
    assert_eq!(checked.slos.len(), TEMPLATES.len());
    for template in TEMPLATES {
        assert_eq!(
            fmt(Path::new("x.yaml"), template.text).as_deref(),
            Ok(template.text),
            "{} is formatted",
            template.name
        );
    }
    let thresholds: Vec<_> = declared_thresholds(&checked.slos)
        .iter()
        .map(|t| t.ns / 1_000_000)
        .collect();
    assert_eq!(thresholds, [200, 300, 500]);
}

/// The tables of the README are those of the code.
#[test]
fn readme_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("the README");
    let mut annotations = String::from("| annotation | on | value | without it | |\n|---|---|---|---|---|\n");
    for a in TABLE {
        annotations += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            a.key,
            a.on.join(", "),
            a.value,
            a.default,
            a.doc
        );
    }
    let mut lints = String::from("| lint | why |\n|---|---|\n");
    for (name, why) in LINTS {
        lints += &format!("| `{name}` | {why} |\n");
    }
    let mut fresh = readme.clone();
    for (name, table) in [("annotations", annotations), ("lints", lints)] {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let (head, rest) = fresh.split_once(&begin).expect("the begin of a table");
        let (_, tail) = rest.split_once(&end).expect("the end of a table");
        fresh = format!("{head}{begin}{table}{end}{tail}");
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &fresh).expect("written");
    } else {
        assert_eq!(readme, fresh, "UPDATE_EXPECT=1 rewrites it");
    }
    // What the README shows as documents are documents.
    for (i, block) in readme.split("```yaml\n").skip(1).enumerate() {
        let text = block.split("```").next().expect("a block");
        if text.starts_with("apiVersion") {
            let reading = read(Path::new("README.md"), text);
            assert_eq!(reading.problems, [], "block {i}");
            assert_eq!(resolve(&reading.documents).problems, [], "block {i}");
        }
    }
}

#[test]
fn files_and_folders() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write(
        "b.yaml",
        "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n",
    );
    write(
        "a.yml",
        "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n",
    );
    write("c.txt", "not read");
    let checked = files::check(&[folder.path()]);
    let names: Vec<_> = checked.files.iter().map(|path| crate::name(path)).collect();
    assert_eq!(names, ["a.yml", "b.yaml"]);
    assert_eq!(checked.problems.len(), 1, "the name is taken");
    let shown = checked.problems[0].to_string();
    assert!(
        shown.contains("b.yaml:3:12: metadata.name") && shown.contains("a.yml:3:12"),
        "{shown}"
    );
    // A mistake in one file, another between files; whoever refers to the first is not blamed.
    write(
        "a.yml",
        "apiVersion: openslo/v1\nkind: SLI\nmetadata: {name: sli}\nspec: {}\n",
    );
    write(
        "b.yaml",
        &slo("{}", "").replace(
            "indicator:\n    metadata: {name: x}\n    spec: {}",
            "indicatorRef: sli\n  alertPolicies: [{alertPolicyRef: gone}]",
        ),
    );
    let checked = files::check(&[folder.path()]);
    let shown: Vec<_> = checked.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(shown, ["spec.ratioMetric", "spec.alertPolicies[0].alertPolicyRef"]);
    assert_eq!(checked.slos.len(), 0);
    std::fs::write(folder.path().join("d.yaml"), [0xff, 0xfe, 0x00]).expect("written");
    let checked = files::check(&[folder.path().join("d.yaml"), folder.path().join("gone.yaml")]);
    let shown: Vec<_> = checked.problems.iter().map(|p| p.message.as_str()).collect();
    assert!(
        shown.len() == 2 && shown[0].contains("cannot be read") && shown[1] == "not UTF-8",
        "{shown:?}"
    );
}
