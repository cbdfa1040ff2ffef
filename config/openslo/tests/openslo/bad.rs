//! Bad documents: every mistake with its line, its path and what to write instead. Inputs are here, answers in `bad.txt`.

use std::path::Path;

use proptest::prelude::*;
use tailwater_openslo::{lint, read, resolve};

use crate::expect_file;

/// An SLO that is right, but for what a case replaces.
const GOOD: &str = "apiVersion: openslo/v1
kind: SLO
metadata:
  name: checkout
spec:
  service: checkout
  indicator:
    metadata:
      name: success
    spec:
      ratioMetric:
        rawType: success
        raw:
          metricSource:
            type: tailwater
            spec:
              red: {service: checkout, good: {errors: exclude}}
  timeWindow:
    - duration: 30d
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - target: 0.999
";

/// What is replaced by what.
const EDITS: &[(&str, &str)] = &[
    ("", ""),
    ("openslo/v1", "openslo/v3"),
    ("apiVersion: openslo/v1\n", ""),
    ("kind: SLO\n", ""),
    ("kind: SLO", "kind: slo"),
    ("kind: SLO", "kind: Slos"),
    ("name: checkout\n", "name: Check Out\n"),
    ("  name: checkout\n", "  title: checkout\n"),
    (
        "name: checkout\n",
        "name: checkout\n  displayName: A name of more than sixty-three characters is too long for a name\n",
    ),
    (
        "name: checkout\n",
        "name: checkout\n  labels: {'a b': c, d: {e: f}, team: [a, b]}\n",
    ),
    (
        "name: checkout\n",
        "name: checkout\n  annotations: {tailwater.io/min-event: '5', tailwater.io/min-events: many, other.io/x: '1', tailwater.io/burn-tiers: 1@1h}\n",
    ),
    (
        "name: checkout\n",
        "name: checkout\n  annotations: {a/b/c: x, d: [e]}\n",
    ),
    ("metadata:\n  name: checkout", "metadata: checkout"),
    ("  service: checkout\n  ind", "  ind"),
    ("  service: checkout\n  ind", "  services: checkout\n  ind"),
    ("  indicator:", "  indicatorRef: x\n  indicator:"),
    ("rawType: success", "rawType: sucess"),
    ("rawType: success", "rawType: failure"),
    ("        rawType: success\n", ""),
    (
        "        raw:",
        "        total: {metricSource: {type: tailwater, spec: {red: {service: a}}}}\n        raw:",
    ),
    (
        "      ratioMetric:",
        "      thresholdMetric: {metricSource: {type: tailwater, spec: {red: {service: a}}}}\n      ratioMetric:",
    ),
    ("ratioMetric", "ratioMetrics"),
    ("type: tailwater", "type: Tailwater"),
    (
        "red: {service: checkout, good: {errors: exclude}}",
        "red: {service: checkout}",
    ),
    (
        "red: {service: checkout, good: {errors: exclude}}",
        "red: {servce: checkout, service.name: a, foo: b, not: {opration: x}, good: {errors: exlude}}",
    ),
    ("red: {service: checkout, good: {errors: exclude}}", "service: checkout"),
    (
        "red: {service: checkout, good: {errors: exclude}}",
        "rde: {service: checkout}",
    ),
    (
        "red: {service: checkout, good: {errors: exclude}}",
        "{red: {service: checkout, good: {}}, sql: select 1}",
    ),
    ("good: {errors: exclude}", "good: {maxDuration: 300}"),
    ("good: {errors: exclude}", "good: {maxDuration: 5 min, error: include}"),
    ("good: {errors: exclude}", "good: {errors: include}"),
    ("good: {errors: exclude}", "good: fast"),
    ("service: checkout, good", "service: [], env: {a: b}, dims: x, good"),
    (
        "red: {service: checkout, good: {errors: exclude}}",
        "sql: delete from red",
    ),
    (
        "red: {service: checkout, good: {errors: exclude}}",
        "sql: select ts, items from ledger",
    ),
    ("red: {service: checkout, good: {errors: exclude}}", "{}"),
    ("duration: 30d", "duration: 30D"),
    ("duration: 30d", "duration: 30s"),
    ("duration: 30d", "duration: 0d"),
    ("duration: 30d", "duration: 99Y"),
    ("      isRolling: true\n", ""),
    ("isRolling: true", "isRolling: yes"),
    ("isRolling: true", "isRolling: false"),
    (
        "isRolling: true",
        "isRolling: true\n      calendar: {startTime: 2026-01-01 00:00:00, timeZone: UTC}",
    ),
    ("isRolling: true", "calendar: {startTime: 2026-01-01, timeZone: Berlin}"),
    (
        "isRolling: true",
        "calendar: {startTime: '2026-01-01T00:00:00Z', timeZone: europe/berlin}",
    ),
    (
        "isRolling: true",
        "calendar: {startTime: 2026-02-30 00:00:00, timezone: Nowhere}",
    ),
    (
        "isRolling: true",
        "isRolling: true\n    - duration: 7d\n      isRolling: true",
    ),
    (
        "  timeWindow:\n    - duration: 30d\n      isRolling: true\n",
        "  timeWindow: 30d\n",
    ),
    (
        "  timeWindow:\n    - duration: 30d\n      isRolling: true\n",
        "  timeWindow: []\n",
    ),
    ("  budgetingMethod: Occurrences\n", ""),
    ("Occurrences", "Occurences"),
    ("Occurrences", "TimeSlices"),
    ("Occurrences", "Timeslices"),
    ("Occurrences", "RatioTimeslices"),
    (
        "    - target: 0.999",
        "    - {target: 0.999, timeSliceWindow: 1M, timeSliceTarget: 1.1}",
    ),
    ("  objectives:\n    - target: 0.999\n", ""),
    ("  objectives:\n    - target: 0.999\n", "  objectives: []\n"),
    ("  objectives:\n    - target: 0.999\n", "  objectives:\n"),
    ("target: 0.999", "target: 1"),
    ("target: 0.999", "target: 99.9"),
    ("target: 0.999", "target: 99.9%"),
    ("target: 0.999", "targetPercent: 100"),
    ("target: 0.999", "target: 0.999\n      targetPercent: 99.9"),
    ("target: 0.999", "displayName: Good"),
    (
        "target: 0.999",
        "target: 0.999\n      op: '<='\n      compositeWeight: 0",
    ),
    ("target: 0.999", "target: 0.999\n      indicatorRef: other"),
    ("- target: 0.999", "- 0.999"),
    ("target: 0.999", "target: 0.999\n      target: 0.99"),
    (
        "target: 0.999\n",
        "target: 0.999\n  alertPolicies:\n    - alertPolicyRef: a\n      kind: AlertPolicy\n    - {}\n    - name: b\n",
    ),
    (
        "target: 0.999\n",
        "target: 0.999\n  alertPolicies:\n    - kind: AlertCondition\n      metadata: {name: a}\n      spec: {alertWhenBreaching: maybe, conditions: [], notificationTargets: []}\n",
    ),
    (
        "service: checkout, good: {errors: exclude}}",
        "service: checkout, good: {errors: exclude}\n",
    ),
];

/// Whole documents.
const DOCUMENTS: &[&str] = &[
    "- {}\n- 5\n",
    "a: &a [*a]\n",
    "apiVersion: openslo/v1\nkind: DataSource\nmetadata: {name: a}\nspec: {type: Prometheus}\n",
    "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: a, label: {b: c}}\nspec: {descripton: d}\nstatus: ok\n",
    "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: a}\n",
    "apiVersion: openslo/v1
kind: SLI
metadata: {name: a}
spec:
  ratioMetric:
    good: {metricSource: {type: tailwater, spec: {red: {service: a, good: {maxDuration: 1s}}}}}
    total: {metricSource: {type: tailwater, spec: {red: {service: a, env: prod}}}}
",
    "apiVersion: openslo/v1
kind: SLI
metadata: {name: a}
spec:
  ratioMetric:
    good: {metricSource: {type: tailwater, spec: {red: {service: a, good: {maxDuration: 1s}}}}}
    total: {metricSource: {type: tailwater, spec: {sql: 'select slice, value from t'}}}
",
    "apiVersion: openslo/v1
kind: SLI
metadata: {name: a}
spec:
  ratioMetric:
    rawType: success
    bad: {metricSource: {type: tailwater, spec: {red: {service: a, good: {maxDuration: 1s}}}}}
    total: {metricSource: {type: tailwater, spec: {red: {service: a, good: {maxDuration: 1s}}}}}
",
    "apiVersion: openslo/v1\nkind: SLI\nmetadata: {name: a}\nspec: {ratioMetric: {counter: true}}\n",
    "apiVersion: openslo/v1\nkind: SLI\nmetadata: {name: a}\nspec: {ratioMetric: {good: {type: x}, bad: {}, total: {metricSource: {}}}}\n",
    "apiVersion: openslo/v1\nkind: SLI\nmetadata: {name: a}\nspec: {}\n",
    "apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: a}
spec:
  conditions: [{conditionRef: b}, {conditionRef: c}]
  notificationTarget: []
",
    "apiVersion: openslo/v1
kind: AlertCondition
metadata: {name: a, annotations: {tailwater.io/burn-tiers: 14.4@5m/1h}}
spec:
  condition: {kind: burn, op: '>', threshold: high, lookbackWindow: 1M, alertAfter: 5}
",
    "apiVersion: openslo/v1\nkind: AlertNotificationTarget\nmetadata: {name: a}\nspec: {description: b}\n",
    "apiVersion: openslo/v1
kind: SLO
metadata: {name: composite}
spec:
  service: a
  budgetingMethod: Occurrences
  objectives:
    - {target: 0.9, indicatorRef: a, compositeWeight: 2}
    - {target: 0.9}
    - {target: 0.9, indicatorRef: B}
",
    "apiVersion: openslo/v1
kind: SLO
metadata: {name: threshold}
spec:
  service: a
  indicator:
    metadata: {name: b}
    spec: {thresholdMetric: {metricSource: {type: tailwater, spec: {sql: 'select slice, value from t'}}}}
  budgetingMethod: Occurrences
  objectives:
    - {target: 0.9, op: lte}
    - {target: 0.9, value: 5}
",
    // Between documents: names, references, sources.
    "apiVersion: openslo/v1
kind: SLO
metadata: {name: a}
spec:
  service: a
  indicatorRef: latenci
  budgetingMethod: Timeslices
  timeWindow: [{duration: 1h, isRolling: true}]
  objectives: [{target: 0.9, timeSliceTarget: 0.9, timeSliceWindow: 1m}]
  alertPolicies: [{alertPolicyRef: page}, {alertPolicyRef: gone}]
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: a}
spec:
  service: a
  indicatorRef: latency
  budgetingMethod: Timeslices
  timeWindow: [{duration: 1h, isRolling: true}]
  objectives: [{target: 0.9, timeSliceTarget: 0.9, timeSliceWindow: 1d}]
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: latency}
spec: {thresholdMetric: {metricSource: {metricSourceRef: lake, spec: {red: {service: a}}}}}
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: other}
spec: {thresholdMetric: {metricSource: {metricSourceRef: lak, type: x, spec: {query: b}}}}
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: third}
spec: {thresholdMetric: {metricSource: {metricSourceRef: lake, type: Prometheus, spec: {query: b}}}}
---
apiVersion: openslo/v1
kind: DataSource
metadata: {name: lake}
spec: {type: tailwater}
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: page}
spec:
  alertWhenBreaching: true
  conditions: [{conditionRef: fast}]
  notificationTargets: [{targetRef: me}]
",
    "apiVersion: openslo/v1
kind: SLO
metadata: {name: a}
spec:
  service: a
  indicatorRef: latency
  budgetingMethod: Occurrences
  objectives: [{target: 0.9}]
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: latency}
spec: {thresholdMetric: {metricSource: {type: tailwater, spec: {sql: 'select slice, value from t'}}}}
",
];

fn problems(text: &str) -> Vec<String> {
    let reading = read(Path::new("slo.yaml"), text);
    let mut problems = reading.problems;
    if problems.is_empty() {
        problems = resolve(&reading.documents).problems;
    }
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_mistake_says_where_and_what_to_write() {
    let mut found = String::from("# Written by the test of `bad.rs` with UPDATE_EXPECT=1. Inputs are there.\n");
    for (old, new) in EDITS {
        assert!(GOOD.contains(old), "{old:?} is in the good document");
        let problems = problems(&GOOD.replacen(old, new, 1));
        assert_eq!(problems.is_empty(), old.is_empty(), "{old:?} -> {new:?}: {problems:?}");
        found += &format!("\n==== {old:?} -> {new:?}\n");
        problems.iter().for_each(|problem| found += &format!("{problem}\n"));
    }
    for text in DOCUMENTS {
        let problems = problems(text);
        assert!(!problems.is_empty(), "{text}");
        found += &format!("\n==== {text}----\n");
        problems.iter().for_each(|problem| found += &format!("{problem}\n"));
    }
    expect_file("bad.txt", &found);
}

proptest! {
    /// Whatever is cut, doubled or replaced in a document, it is answered, and where the answer points is in the text.
    #[test]
    fn damage_is_answered(from in 0..GOOD.len(), length in 0_usize..40, with in "[-a-z0-9:{}\\[\\]&*!|>'\"%#\n .]{0,20}") {
        let to = (from + length).min(GOOD.len());
        let text = format!("{}{with}{}", &GOOD[..from], &GOOD[to..]);
        let reading = read(Path::new("slo.yaml"), &text);
        let _ = lint(&reading.documents);
        let problems = reading.problems.into_iter().chain(resolve(&reading.documents).problems);
        for problem in problems {
            let shown = problem.to_string();
            let mut parts = shown.split(':').skip(1);
            let (line, column) = (parts.next().unwrap(), parts.next().unwrap());
            let (line, column): (usize, usize) = (line.parse().unwrap(), column.parse().unwrap());
            prop_assert!(line >= 1 && line <= text.lines().count() + 1, "{}", shown);
            let width = text.lines().nth(line - 1).map_or(0, |line| line.chars().count());
            prop_assert!(column >= 1 && column <= width + 1, "{}\n{}", shown, text);
        }
    }
}
