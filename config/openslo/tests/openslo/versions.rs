//! v1alpha and v2alpha: what they become, what is said about it, and that mistakes in them are found where they stand.

use std::path::Path;

use tailwater_openslo::{read, write};

use crate::expect_file;

const CASES: &[(&str, &str)] = &[
    (
        "v1alpha, a ratio",
        "apiVersion: openslo/v1alpha
kind: SLO
metadata: {name: web-availability, displayName: Web}
spec:
  description: Searches succeed
  service: web
  timeWindows:
    - {unit: Month, count: 1, isRolling: false, calendar: {startTime: 2022-01-01 12:00:00, timeZone: America/New_York}}
  budgetingMethod: Timeslices
  objectives:
    - displayName: Good
      target: 0.995
      timeSliceTarget: 0.95
      value: 1
      ratioMetrics:
        incremental: true
        good: {source: datadog, queryType: query, query: 'sum:ok{service:web}'}
        total: {source: datadog, queryType: query, query: 'sum:all{service:web}'}
",
    ),
    (
        "v1alpha, a threshold",
        "apiVersion: openslo/v1alpha
kind: SLO
metadata: {name: web-latency}
spec:
  service: web
  indicator:
    thresholdMetric: {source: Prometheus, queryType: query, query: 'latency{job=\"nginx\"}'}
  timeWindows:
    - {unit: Second, count: 3600, isRolling: true}
  budgetingMethod: Occurrences
  objectives:
    - {value: 200.0, op: lte, target: 0.98}
",
    ),
    (
        "v1alpha, different ratios make a composite",
        "apiVersion: openslo/v1alpha
kind: SLO
metadata: {name: web}
spec:
  service: web
  timeWindows: [{unit: Day, count: 28, isRolling: true}]
  budgetingMethod: Occurrences
  objectives:
    - target: 0.99
      ratioMetrics: {good: {source: p, queryType: q, query: a}, total: {source: p, queryType: q, query: b}}
    - target: 0.9
      ratioMetrics: {good: {source: p, queryType: q, query: c}, total: {source: p, queryType: q, query: d}}
",
    ),
    (
        "v1alpha, mistakes",
        "apiVersion: openslo/v1alpha
kind: SLO
metadata: {name: web}
spec:
  service: web
  timeWindows: [{unit: Days, count: 0, isRolling: true}]
  budgetingMethod: RatioTimeslices
  indicators: 1
  objectives:
    - target: 99
      ratioMetrics: {god: {source: p}, total: {source: p, queryType: q, query: d}}
",
    ),
    (
        "v1alpha, a kind that it has not",
        "apiVersion: openslo/v1alpha\nkind: SLI\nmetadata: {name: a}\nspec: {}\n",
    ),
    (
        "v1alpha, seconds",
        "apiVersion: openslo/v1alpha
kind: SLO
metadata: {name: web}
spec:
  service: web
  indicator: {thresholdMetric: {source: p, queryType: q, query: a}}
  timeWindows: [{unit: Second, count: 90, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{value: 1, op: lt, target: 0.9}]
",
    ),
    (
        "v2alpha, all of an SLO",
        "apiVersion: openslo.com/v2alpha
kind: SLO
metadata:
  name: web
  labels: {env: prod}
spec:
  serviceRef: web
  sli:
    metadata: {name: web-sli}
    spec:
      ratioMetric:
        counter: true
        good: {dataSourceRef: prometheus, spec: {query: a}}
        total:
          dataSourceSpec: {type: Prometheus, connectionDetails: {token: secret}}
          spec: {query: b}
  timeWindow: [{duration: 1w, isRolling: true}]
  budgetingMethod: Occurrences
  objectives:
    - {displayName: Good, target: 0.99, labels: {tier: gold}}
  alertPolicies:
    - kind: AlertPolicy
      metadata: {name: page}
      spec:
        alertWhenBreaching: true
        conditions: [{conditionRef: fast}]
        notificationTargets: [{targetRef: on-call}]
",
    ),
    (
        "v2alpha, mistakes",
        "apiVersion: openslo.com/v2alpha
kind: SLO
metadata: {name: web, displayName: Web, labels: {env: [a, b]}}
spec:
  service: web
  indicatorRef: web-sli
  timeWindow: [{duration: 1M, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 1.5}]
",
    ),
    (
        "v2alpha, an SLI with a mistake",
        "apiVersion: openslo.com/v2alpha
kind: SLI
metadata: {name: web}
spec:
  thresholdMetric: {metricSource: {type: Prometheus}, dataSourceRef: a, dataSourceSpec: {typ: b}, spec: {query: c}}
",
    ),
    ("another version", "apiVersion: openslo/v2\nkind: SLO\n"),
    (
        "v2alpha under its wrong name",
        "apiVersion: openslo/v2alpha\nkind: SLO\n",
    ),
    ("no version", "apiversion: openslo/v1\nkind: SLO\n"),
    ("Sloth", "version: prometheus/v1\nservice: a\n"),
    ("not a document", "- 5\n"),
];

#[test]
fn versions() {
    let mut found =
        String::from("# Written by the test `versions` with UPDATE_EXPECT=1. Lines: the input, then what it became.\n");
    for (case, text) in CASES {
        let reading = read(Path::new("slo.yaml"), text);
        found += &format!("\n==== {case}\n{text}---- reads as\n{}", write(&reading.documents));
        for note in &reading.reinterpreted {
            found += &format!("note {note}\n");
        }
        for problem in &reading.problems {
            found += &format!("wrong {problem}\n");
        }
    }
    expect_file("versions.txt", &found);
}
