//! Canonical YAML: any document comes back as it was, twice is once, and comments stay with what they are about.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use tailwater_openslo::document::{
    AlertCondition, AlertNotificationTarget, AlertPolicy, DataSource, Free, Inline, Metadata, Metric, MetricSource,
    Object, Objective, Service, Sli, Slo,
};
use tailwater_openslo::{
    BudgetingMethod, Decimal, Document, Op, Part, Period, Places, Target, TimeWindow, Unit, fmt, read, write,
};

const FILE: &str = "slo.yaml";

fn check(text: &str, expect: &str) {
    let found = fmt(Path::new(FILE), text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert_eq!(found, expect, "\n{found}");
    assert_eq!(fmt(Path::new(FILE), &found).as_deref(), Ok(expect), "twice is once");
}

#[test]
fn order_quotes_and_comments() {
    check(
        "# about the file
spec: # the spec
  # above the type
  type: 'tailwater'   # ours
  description: \"two\\nlines\\n\"
  # details
  connectionDetails: [ 1, 'yes', \"1\", {b: ~, a: 2026-01-01, q: 'say \"hi\"', c: }, [x, [y, # deep
      z]] ]
kind: DataSource
metadata: {labels: {team: [a], tier: ['1', b]}, name: lake} # one line
apiVersion: openslo/v1
# the end
",
        "# about the file
apiVersion: openslo/v1
kind: DataSource
metadata:
  name: lake # one line
  labels:
    team: a
    tier:
      - \"1\"
      - b
spec: # the spec
  description: |
    two
    lines
  # above the type
  type: tailwater # ours
  # details
  connectionDetails:
    - 1
    - \"yes\"
    - \"1\"
    - b: ~
      a: \"2026-01-01\"
      q: say \"hi\"
      c:
    -
      - x
      -
        - \"y\" # deep
        - z
# the end
",
    );
}

#[test]
fn comments_of_what_is_gone_stay() {
    let text = "apiVersion: openslo/v1alpha
kind: SLO
metadata: {name: a}
spec:
  service: a
  indicator: {thresholdMetric: {source: p, queryType: q, query: 'a # no comment'}}
  timeWindows:
    # a month
    - unit: Month # thirty days
      count: 1
      isRolling: true
  budgetingMethod: Occurrences
  objectives: [{value: 1, op: lt, target: 0.9}]
";
    let found = fmt(Path::new(FILE), text).expect("formats");
    for comment in ["# a month\n", "# thirty days\n"] {
        assert_eq!(found.matches(comment).count(), 1, "{found}");
    }
    assert!(found.contains("query: \"a # no comment\"\n"), "{found}");
}

#[test]
fn what_is_wrong_is_not_rewritten() {
    let problems = fmt(
        Path::new(FILE),
        "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: A}\nspec: {}\n",
    );
    assert_eq!(
        problems.expect_err("a bad name").to_string(),
        "slo.yaml:3:18: metadata.name: a name is of lower case letters, digits and `-`, and has 1 to 63 characters: write a"
    );
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9]{0,8}",
        // Whatever a quote, an indicator or a line end could break.
        "[-?:,\\[\\]{}#&*!|>'\"%@` \n\ta-c0-9.~=<+_\\\\é\u{85}\u{2028}\u{feff}\u{0}\u{7f}🙂]{0,24}",
        prop::sample::select(vec![
            "",
            "null",
            "~",
            "true",
            "False",
            "yes",
            "NO",
            "on",
            "1",
            "-1",
            "1.5",
            "1e5",
            ".5",
            "0x1f",
            "0o17",
            ".inf",
            "-.INF",
            ".nan",
            "2026-01-01",
            "12:30:45",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "a:",
            " a",
            "a ",
            "\n",
            "a\n",
            "a\n\n",
            "\na",
            " \na",
            "a\n  b\n",
            "a \nb",
            "---",
            "...",
            "--- a",
            "a\n---\nb",
            "a\n# b",
            "? a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "!a",
            "&a",
            "*a",
            "<<",
            "=",
            "\u{feff}",
            "a\r\nb",
            "a\tb",
        ])
        .prop_map(str::to_owned),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?"
}

fn key() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9]([-._a-zA-Z0-9]{0,10}[a-zA-Z0-9])?"
}

/// Strategies are boxed: in a debug build their nested types need more stack than the thread of a test has.
fn free() -> BoxedStrategy<Free> {
    let plain = prop::sample::select(vec!["1", "-2.5", "true", "null", "~", "", "1e3", "0x1F"]);
    let leaf = prop_oneof![
        text().prop_map(|text| Free::Scalar { text, plain: false }),
        plain.prop_map(|text| Free::Scalar {
            text: text.to_owned(),
            plain: true
        }),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Free::List),
            btree_map(text(), inner, 0..4)
                .prop_map(|map| Free::Map(map.into_iter().filter(|(key, _)| key != "<<").collect())),
        ]
    })
    .boxed()
}

fn metadata() -> BoxedStrategy<Metadata> {
    (
        name(),
        of(text()),
        btree_map(key(), vec(text(), 1..3), 0..3),
        btree_map(key(), text(), 0..3),
    )
        .prop_map(|(name, display_name, labels, annotations)| Metadata {
            name,
            display_name: display_name.filter(|text| text.chars().count() <= 63),
            labels,
            annotations,
        })
        .boxed()
}

fn decimal() -> impl Strategy<Value = Decimal> {
    (any::<i32>(), 0_u8..10).prop_map(|(mantissa, scale)| Decimal::new(mantissa.into(), scale).expect("nine digits"))
}

fn positive() -> impl Strategy<Value = Decimal> {
    (1_i64..1_000_000_000, 0_u8..10).prop_map(|(mantissa, scale)| Decimal::new(mantissa, scale).expect("nine digits"))
}

fn op() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![Op::Lt, Op::Lte, Op::Gt, Op::Gte])
}

fn inline<T: std::fmt::Debug + Clone>(here: impl Strategy<Value = T> + 'static) -> impl Strategy<Value = Inline<T>> {
    prop_oneof![
        name().prop_map(Inline::Ref),
        (metadata(), here).prop_map(|(metadata, object)| Inline::Here(metadata, object))
    ]
}

fn metric_source() -> BoxedStrategy<MetricSource> {
    (of(name()), of(name()), btree_map(key(), free(), 1..3))
        .prop_map(|(source_ref, source_type, mut spec)| {
            // `red` and `sql` without a type are ours, and then must be what we say they are.
            spec.retain(|key, _| key != "red" && key != "sql");
            if spec.is_empty() {
                spec.insert(
                    "query".into(),
                    Free::Scalar {
                        text: "a".into(),
                        plain: false,
                    },
                );
            }
            MetricSource {
                source_ref,
                source_type: source_type.filter(|found| found != "tailwater"),
                spec,
            }
        })
        .boxed()
}

fn sli() -> BoxedStrategy<Sli> {
    let part = || prop::sample::select(vec![Part::Good, Part::Bad]);
    let metric = prop_oneof![
        metric_source().prop_map(Metric::Threshold),
        (any::<bool>(), part(), metric_source(), metric_source()).prop_map(|(counter, part_is, part, total)| {
            Metric::Ratio {
                counter,
                part_is,
                part,
                total,
            }
        }),
        (any::<bool>(), part(), metric_source()).prop_map(|(counter, part_is, source)| Metric::Raw {
            counter,
            part_is,
            source
        }),
    ];
    (of(text()), metric)
        .prop_map(|(description, metric)| Sli { description, metric })
        .boxed()
}

fn condition() -> BoxedStrategy<AlertCondition> {
    (of(text()), text(), op(), decimal(), 1_u32..100, of(0_u32..100))
        .prop_map(
            |(description, severity, op, threshold, lookback, after)| AlertCondition {
                description,
                severity,
                op,
                threshold,
                lookback_window: Period::new(lookback, Unit::Hour),
                alert_after: after.map(|count| Period::new(count, Unit::Minute)),
            },
        )
        .boxed()
}

fn target() -> BoxedStrategy<AlertNotificationTarget> {
    (of(text()), text())
        .prop_map(|(description, target)| AlertNotificationTarget { description, target })
        .boxed()
}

fn policy() -> BoxedStrategy<AlertPolicy> {
    (
        of(text()),
        any::<[bool; 3]>(),
        inline(condition()),
        vec(inline(target()), 1..3),
    )
        .prop_map(|(description, flags, condition, notification_targets)| AlertPolicy {
            description,
            alert_when_no_data: flags[0],
            alert_when_resolved: flags[1],
            alert_when_breaching: flags[2],
            condition,
            notification_targets,
        })
        .boxed()
}

fn window() -> impl Strategy<Value = TimeWindow> {
    let period =
        (1_u32..10, prop::sample::select(Unit::ALL.to_vec())).prop_map(|(count, unit)| Period::new(count, unit));
    (period, of((0_i64..4_000_000_000, 0..tailwater_zones().len()))).prop_map(|(period, calendar)| match calendar {
        None => TimeWindow::Rolling(period),
        Some((second, zone)) => TimeWindow::Calendar {
            period,
            start: chrono::DateTime::from_timestamp(second, 0).expect("a time").naive_utc(),
            zone: tailwater_zones()[zone],
        },
    })
}

fn tailwater_zones() -> &'static [chrono_tz::Tz] {
    &chrono_tz::TZ_VARIANTS
}

fn slo() -> BoxedStrategy<Slo> {
    let objective = || {
        (
            of(text()),
            op(),
            decimal(),
            0_i64..1_000_000,
            positive(),
            1_i64..=1000,
            1_u32..60,
            inline(sli()),
        )
    };
    let methods = prop::sample::select(vec![
        BudgetingMethod::Occurrences,
        BudgetingMethod::Timeslices,
        BudgetingMethod::RatioTimeslices,
    ]);
    (
        (of(text()), text(), of(inline(sli())), of(window()), methods),
        vec(objective(), 1..3),
        vec(inline(policy()), 0..2),
    )
        .prop_map(
            |((description, service, indicator, time_window, method), objectives, alert_policies)| {
                let composite = indicator.is_none();
                let objectives =
                    objectives
                        .into_iter()
                        .map(
                            |(display_name, op, value, target, weight, share, minutes, own)| Objective {
                                display_name,
                                op: Some(op),
                                value: Some(value),
                                target: Target::new(Decimal::new(target, 6).expect("six digits")).expect("below one"),
                                time_slice_target: Some(Decimal::new(share, 3).expect("three digits")),
                                time_slice_window: Some(Period::new(minutes, Unit::Minute)),
                                indicator: composite.then_some(own),
                                composite_weight: composite.then_some(weight),
                            },
                        );
                Slo {
                    description,
                    service,
                    indicator,
                    time_window,
                    budgeting_method: method,
                    objectives: objectives.collect(),
                    alert_policies,
                }
            },
        )
        .boxed()
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        (of(text()), name(), free()).prop_map(|(description, source_type, details)| {
            let null =
                matches!(&details, Free::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"));
            Object::DataSource(DataSource {
                description,
                connection_details: Some(if null { Free::List(vec![]) } else { details }),
                source_type,
            })
        }),
        of(text()).prop_map(|description| Object::Service(Service { description })),
        slo().prop_map(|slo| Object::Slo(Box::new(slo))),
        sli().prop_map(Object::Sli),
        policy().prop_map(Object::AlertPolicy),
        condition().prop_map(Object::AlertCondition),
        target().prop_map(Object::AlertNotificationTarget),
    ]
}

proptest! {
    #[test]
    fn any_document_comes_back(parts in vec((metadata(), object()), 1..3)) {
        let documents: Vec<Document> = parts
            .into_iter()
            .map(|(metadata, object)| Document { metadata, object, places: Arc::new(Places::default()) })
            .collect();
        let written = write(&documents);
        let again = read(Path::new(FILE), &written);
        let problems: Vec<_> = again.problems.iter().map(ToString::to_string).collect();
        prop_assert_eq!(problems, Vec::<String>::new(), "{}", written);
        prop_assert_eq!(&again.documents, &documents, "{}", written);
        prop_assert_eq!(write(&again.documents), written.clone());
        let formatted = fmt(Path::new(FILE), &written);
        prop_assert_eq!(formatted.as_deref(), Ok(written.as_str()));
    }
}

/// Labels and annotations stand in order of their keys, whatever the file had.
#[test]
fn keys_are_sorted_where_order_means_nothing() {
    let annotations: BTreeMap<_, _> = [("b".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())].into();
    let document = Document {
        metadata: Metadata {
            name: "x".into(),
            annotations,
            ..Metadata::default()
        },
        object: Object::Service(Service::default()),
        places: Arc::new(Places::default()),
    };
    let text = write(&[document]);
    assert!(text.contains("  annotations:\n    a: \"2\"\n    b: \"1\"\n"), "{text}");
}

/// The deepest document that is read is also written, on the stack of any thread.
#[test]
fn deep() {
    let deep = format!("{}{}", "[".repeat(28), "]".repeat(28));
    let text = format!(
        "apiVersion: openslo/v1\nkind: DataSource\nmetadata: {{name: a}}\nspec: {{type: b, connectionDetails: {deep}}}\n"
    );
    let written = fmt(Path::new(FILE), &text).expect("formats");
    assert_eq!(
        read(Path::new(FILE), &written).documents,
        read(Path::new(FILE), &text).documents,
        "{written}"
    );
}
