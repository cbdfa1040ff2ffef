//! Made-up SLOs and data for tests and for `examples/report.rs`. Everything is a function of its arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use tailwater_config::Origin;
use tailwater_openslo::annotation::Extensions;
use tailwater_openslo::{
    Budgeting, BudgetingMethod, Decimal, DefinitionHash, Good, Indicator, Part, Period, RedKey, RedSelector,
    ResolvedObjective, ResolvedSlo, Source, Target, TimeWindow, Unit,
};
use tailwater_slo::latency::{Bucket, Histogram, LatencyBin};
use tailwater_slo::{AsOf, Data, Need, Observed, Plan, Settings, Slice, Span, Time, What};

/// 2026-03-10T12:00:00Z, a Tuesday.
pub const NOON: Time = Time(1_773_144_000);

/// A decimal that is one.
pub fn decimal(text: &str) -> Decimal {
    Decimal::parse(text).expect("a decimal")
}

/// Slices of so many minutes, good at so much.
pub fn timeslices(minutes: u64, target: &str) -> Budgeting {
    Budgeting::Timeslices {
        slice: Duration::from_secs(minutes * 60),
        target: decimal(target),
    }
}

/// Slices of so many minutes.
pub fn ratio_timeslices(minutes: u64) -> Budgeting {
    Budgeting::RatioTimeslices {
        slice: Duration::from_secs(minutes * 60),
    }
}

/// The last so many days.
pub fn days(count: u32) -> TimeWindow {
    TimeWindow::Rolling(Period::new(count, Unit::Day))
}

/// Requests of `checkout` without error and, if it says so, fast enough.
pub fn slo(
    name: &str,
    target: &str,
    budgeting: Budgeting,
    window: TimeWindow,
    max_duration_ns: Option<u64>,
) -> ResolvedSlo {
    let any_of = BTreeMap::from([(RedKey::Service, vec!["checkout".to_owned()])]);
    let objective = ResolvedObjective {
        name: "objective-1".into(),
        target: Target::new(decimal(target)).expect("a target"),
        budgeting,
        indicator: Indicator::Requests {
            of: RedSelector {
                any_of,
                none_of: BTreeMap::new(),
            },
            good: Good {
                exclude_errors: max_duration_ns.is_none(),
                max_duration_ns,
            },
        },
        weight: Decimal::ONE,
    };
    ResolvedSlo {
        name: name.into(),
        display_name: name.into(),
        service: "checkout".into(),
        description: String::new(),
        labels: BTreeMap::new(),
        window,
        method: BudgetingMethod::Occurrences,
        objectives: vec![objective],
        composite: false,
        alerts: Vec::new(),
        extensions: Extensions::default(),
        hash: DefinitionHash(0x1234_5678_9abc_def0),
        origin: Origin::Default,
    }
}

/// Everything up to now is there.
pub fn as_of(at: Time) -> AsOf {
    AsOf {
        at,
        watermark: Some(at),
    }
}

/// Slices for every need of a plan, as an engine would read them: `minute` gives `(good, total)` of each minute.
pub fn read(plan: &Plan, minute: impl Fn(Time) -> (u64, u64)) -> Data {
    let mut slices = Vec::new();
    for Need { what, width, spans } in &plan.needs {
        for span in spans.iter().filter(|_| *what == What::Counts) {
            let mut from = span.from;
            while from < span.to {
                let to = from.plus(1).ceil(*width).min(span.to);
                let (mut good, mut total, mut at) = (0, 0, from);
                while at < to {
                    let (g, n) = minute(at);
                    (good, total, at) = (good + g, total + n, at.plus(60));
                }
                slices.push(Slice::new(
                    from,
                    u32::try_from(to.0 - from.0).expect("short"),
                    good,
                    total,
                ));
                from = to;
            }
        }
    }
    let all = Span::new(Time(i64::MIN / 2), Time(i64::MAX / 2));
    Data {
        slices,
        latency: Vec::new(),
        observed: Observed::Spans(vec![all]),
        begins: None,
        ..Data::default()
    }
}

/// A ready ratio of good over a day, of which 90 % must be.
pub fn ready_ratio(method: Budgeting, min_events: u64) -> Plan {
    let mut slo = slo("ready", "0.9", method, days(1), None);
    slo.extensions.min_events = min_events;
    slo.objectives[0].indicator = Indicator::Raw {
        part_is: Part::Good,
        source: Source::Sql("select slice, value from quality".into()),
    };
    let plans = tailwater_slo::plan(&slo, &Settings::default(), as_of(NOON));
    plans.expect("a plan").remove(0)
}

/// So many values up to noon, one every five minutes.
pub fn ready_ratios(plan: &Plan, count: i64, good: f64) -> Data {
    let slices = (1..=count).map(|back| plan.slice_of_value(NOON.plus(-300 * back), 300, good).expect("a share"));
    Data {
        slices: slices.collect(),
        observed: Observed::Spans(vec![Span::new(NOON.plus(-86_400), NOON)]),
        ..Data::default()
    }
}

/// A number that looks random, the same for the same arguments (SplitMix64).
pub fn scatter(seed: u64, at: u64) -> f64 {
    let mut z = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(at.wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Durations around a median that doubles during the last day, in buckets of a 32nd of an octave.
pub fn durations(plan: &Plan, per_bin: u32, median_ns: f64) -> Vec<LatencyBin> {
    let mut bins = Vec::new();
    for Need { width, spans, .. } in plan.needs.iter().filter(|need| need.what == What::Durations) {
        for span in spans {
            let mut from = span.from;
            while from < span.to {
                let to = from.plus(1).ceil(*width).min(span.to);
                let slow = if span.to.0 - from.0 < 2 * 86_400 { 1.0 } else { 0.0 };
                let buckets = (0..per_bin).map(|i| {
                    let u = |k: u64| scatter(k + 7, u64::from(i) ^ from.0.unsigned_abs());
                    // Close enough to normal, with a tail.
                    let normal = (0..6).map(u).sum::<f64>() - 3.0;
                    let tail = if u(9) > 0.985 { 3.0 * u(10) } else { 0.0 };
                    let index = ((median_ns.log2() + slow + 0.9 * normal + tail) * 32.0).floor();
                    Bucket {
                        above: (index / 32.0).exp2(),
                        upto: ((index + 1.0) / 32.0).exp2(),
                        count: 1,
                    }
                });
                let histogram = Histogram::new(buckets.collect(), None).expect("buckets");
                bins.push(LatencyBin {
                    span: Span::new(from, to),
                    histogram,
                });
                from = to;
            }
        }
    }
    bins
}

/// A report of every kind of verdict.
pub fn sample() -> tailwater_slo::Report {
    use tailwater_slo::{Report, evaluate, plan};
    let mut reports = Vec::new();
    let mut add =
        |slo: &ResolvedSlo, settings: &Settings, minute: &dyn Fn(Time) -> (u64, u64), latency: Option<f64>| {
            for plan in plan(slo, settings, as_of(NOON)).expect("a plan") {
                let mut data = read(&plan, minute);
                if let Some(median_ns) = latency {
                    data.latency = durations(&plan, 4000, median_ns);
                }
                reports.push(evaluate(&plan, data));
            }
        };
    let traffic = |time: Time, per_minute: f64, seed: u64| {
        let day = (time.0.rem_euclid(86_400) as f64 / 86_400.0 * std::f64::consts::TAU).sin();
        (per_minute * (1.0 + 0.6 * day) * (0.9 + 0.2 * scatter(seed, time.0.unsigned_abs()))) as u64
    };
    let failing = |n: u64, rate: f64, seed: u64, time: Time| {
        let expected = n as f64 * rate;
        let whole = expected.floor();
        (whole as u64 + u64::from(scatter(seed, time.0.unsigned_abs() + 1) < expected - whole)).min(n)
    };
    let hours_ago = |time: Time, from: i64, to: i64| (to * 3600..from * 3600).contains(&(NOON.0 - time.0));
    let settings = Settings::default();
    let two = Settings {
        windows: vec![Period::new(30, Unit::Day), Period::new(90, Unit::Day)],
        ..settings.clone()
    };

    let mut checkout = slo("checkout-availability", "0.999", Budgeting::Occurrences, days(30), None);
    checkout.display_name = "Checkout answers".into();
    checkout.description = "Customers can pay: requests to checkout end without a server error.".into();
    checkout.extensions.runbook = Some("https://runbooks.example/checkout".into());
    add(
        &checkout,
        &two,
        &|time| {
            let n = traffic(time, 800.0, 1);
            let rate = if hours_ago(time, 218, 216) {
                0.12
            } else if hours_ago(time, 30, 27) {
                0.21
            } else if hours_ago(time, 3, 0) {
                0.0042
            } else {
                0.0003
            };
            (n - failing(n, rate, 2, time), n)
        },
        Some(38e6),
    );

    let mut fast = slo(
        "checkout-latency",
        "0.99",
        Budgeting::Occurrences,
        days(30),
        Some(300_000_000),
    );
    fast.display_name = "Checkout is quick".into();
    add(
        &fast,
        &settings,
        &|time| {
            let n = traffic(time, 800.0, 1);
            (
                n - failing(n, if hours_ago(time, 40, 6) { 0.021 } else { 0.0048 }, 3, time),
                n,
            )
        },
        Some(45e6),
    );

    let mut search = slo(
        "search-availability",
        "0.9995",
        timeslices(5, "0.99"),
        TimeWindow::Calendar {
            period: Period::new(1, Unit::Month),
            start: chrono::DateTime::from_timestamp(1_767_225_600, 0)
                .expect("a time")
                .naive_utc(),
            zone: chrono_tz::Europe::Berlin,
        },
        None,
    );
    search.display_name = "Search answers".into();
    search.service = "search".into();
    add(
        &search,
        &settings,
        &|time| {
            let n = traffic(time, 300.0, 4);
            (
                n - failing(n, if hours_ago(time, 100, 99) { 0.3 } else { 0.0001 }, 5, time),
                n,
            )
        },
        None,
    );

    let mut refunds = slo("refund-availability", "0.999", Budgeting::Occurrences, days(30), None);
    refunds.display_name = "Refunds <by hand> & \"others\"".into();
    refunds.service = "refund".into();
    add(
        &refunds,
        &settings,
        &|time| {
            let n = u64::from(scatter(6, time.0.unsigned_abs()) < 0.03);
            (n - u64::from(n > 0 && hours_ago(time, 300, 299)), n)
        },
        None,
    );

    let mut batch = slo("nightly-export", "0.95", ratio_timeslices(15), days(7), None);
    batch.display_name = "Nightly export".into();
    batch.service = "export".into();
    batch.extensions.runbook = Some("javascript:alert(1)".into());
    add(&batch, &settings, &|_| (0, 0), None);

    let mut cart = slo("cart-availability", "0.995", Budgeting::Occurrences, days(30), None);
    cart.display_name = "Cart answers".into();
    cart.service = "cart".into();
    add(
        &cart,
        &settings,
        &|time| {
            let n = traffic(time, 1200.0, 8);
            (
                n - failing(n, if hours_ago(time, 9, 2) { 0.028 } else { 0.0006 }, 9, time),
                n,
            )
        },
        Some(12e6),
    );
    Report::new(NOON, reports)
}
