//! Numbers for people: few digits, honest ones.

use crate::report::{
    BudgetReport, CompositeReport, CompositeWindow, Exhaustion, GroupReport, Groups, Member, Report, SloReport,
    WindowReport,
};
use crate::time::{Span, Time};
use crate::verdict::seconds;

/// `1,234,567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of events, values or slices that may be a part of one: whole from 100 on, else with two digits.
pub(super) fn amount(n: f64) -> String {
    if n.abs() >= 100.0 {
        count(n.round() as u64)
    } else {
        trimmed(n, 2)
    }
}

fn trimmed(n: f64, digits: usize) -> String {
    let text = format!("{n:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    if text == "-0" { "0".into() } else { text.into() }
}

/// `63.4%` of a budget. Cut off, so that a budget that is not whole never reads 100 % and one that is overdrawn never 0 %.
pub(super) fn budget(share: f64) -> String {
    let tenths = (share * 1000.0).floor();
    let text = format!("{:.1}%", tenths / 10.0);
    if text == "-0.0%" { "0.0%".into() } else { text }
}

/// `99.95%`, at the digits that the target needs.
pub(super) fn share(share: f64, digits: usize) -> String {
    format!("{:.digits$}%", share * 100.0)
}

/// Both ends of an interval in percent, rounded outward.
pub(super) fn interval(interval: crate::interval::Interval, digits: usize) -> String {
    let scale = 10_f64.powi(i32::try_from(digits).unwrap_or(9)) * 100.0;
    // A number that is whole but for its last bit is whole.
    let lo = (interval.lo * scale + 1e-6).floor() / scale;
    let hi = (interval.hi * scale - 1e-6).ceil() / scale;
    format!("{} to {}", share(lo, digits), share(hi, digits))
}

/// Digits that a window's figures are shown with.
pub(super) fn digits(window: &WindowReport) -> usize {
    window
        .sli_text
        .as_ref()
        .and_then(|text| text.split_once('.'))
        .map_or(3, |(_, part)| part.len().saturating_sub(1))
}

/// A burn rate: `0`, `0.042`, `1.3`, `14.4`, `980`.
pub(super) fn burn(rate: Option<f64>) -> String {
    match rate {
        None => "-".into(),
        Some(0.0) => "0".into(),
        Some(rate) if rate < 0.001 => "<0.001".into(),
        Some(rate) if rate < 0.1 => trimmed(rate, 3),
        Some(rate) if rate < 10.0 => trimmed(rate, 2),
        Some(rate) if rate < 100.0 => trimmed(rate, 1),
        Some(rate) => count(rate.round() as u64),
    }
}

/// A latency with three digits: `12.3ms`.
pub(super) fn latency(ns: f64) -> String {
    const UNITS: [(&str, f64); 4] = [("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0)];
    if !ns.is_finite() {
        return if ns > 0.0 {
            "beyond all buckets".into()
        } else {
            "-".into()
        };
    }
    let (unit, scale) = UNITS.into_iter().find(|(_, scale)| ns >= *scale).unwrap_or(("ns", 1.0));
    let value = ns / scale;
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{}{unit}", trimmed(value, digits))
}

/// `P99`, `P99.9`.
pub(super) fn percentile(q: f64) -> String {
    format!("P{}", trimmed(q * 100.0, 6))
}

/// What is known of one quantile: `240ms (230ms to 251ms)`.
pub(super) fn quantile(quantile: &crate::latency::Quantile) -> String {
    match (quantile.value_ns, quantile.lo_ns, quantile.hi_ns) {
        (Some(value), Some(lo), Some(hi)) => format!("{} ({} to {})", latency(value), latency(lo), latency(hi)),
        _ => {
            let max = quantile.max_ns.map_or_else(|| "-".into(), latency);
            format!(
                "not estimable from {} of {} needed, largest {max}",
                count(quantile.n),
                count(quantile.minimum_n)
            )
        }
    }
}

/// When the budget will be gone, as the end of "budget gone ...".
pub(super) fn exhaustion(exhaustion: &Exhaustion) -> String {
    match exhaustion {
        Exhaustion::Spent => "already gone".into(),
        Exhaustion::Never { pace } => format!("not at the pace of the last {pace}"),
        Exhaustion::In { seconds: s, pace } => {
            format!("in {} at the pace of the last {pace}", seconds(s.ceil() as i64))
        }
        Exhaustion::Unknown { because } => format!("unknown: {because}"),
    }
}

/// The same in a word, for a table.
pub(super) fn exhaustion_short(exhaustion: &Exhaustion) -> String {
    match exhaustion {
        Exhaustion::Spent => "gone".into(),
        Exhaustion::Never { .. } => "never".into(),
        Exhaustion::In { seconds: s, .. } => seconds(s.ceil() as i64),
        Exhaustion::Unknown { .. } => "-".into(),
    }
}

/// `2026-03-01 12:30`.
pub(super) fn minute(time: Time) -> String {
    let text = time.to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

/// `2026-03-01 12:30 to 2026-03-31 12:30 UTC`.
pub(super) fn span(span: Span) -> String {
    format!("{} to {} UTC", minute(span.from), minute(span.to))
}

/// Where data ends.
pub(super) fn watermark(watermark: Option<Time>) -> String {
    watermark.map_or_else(|| "none".into(), |time| time.to_string())
}

/// The name of an objective among all: that of the SLO, and its own where the SLO has several.
pub(super) fn title(report: &Report, slo: &SloReport) -> String {
    let alone = report.objectives.iter().filter(|other| other.slo == slo.slo).count() == 1;
    if alone {
        slo.display_name.clone()
    } else {
        format!("{} / {}", slo.display_name, slo.objective)
    }
}

/// What happened: `2,321 bad of 1,234,567 events`, `14.4 bad of 288 values`.
pub(super) fn events(slo: &SloReport, window: &WindowReport) -> String {
    let counts = window.counts;
    let bad = if counts.good == counts.good_most {
        amount(counts.bad)
    } else {
        format!(
            "{} to {}",
            amount(counts.total as f64 - counts.good_most),
            amount(counts.bad)
        )
    };
    let slices = window
        .slices
        .map(|slices| format!("{} bad of {} slices; ", amount(slices.bad), count(slices.measured)));
    format!(
        "{}{bad} bad of {} {}",
        slices.unwrap_or_default(),
        count(counts.total),
        slo.counted
    )
}

/// What is left of a budget, in all its units. Where a part of the window is judged, what is of the part and what of all of it.
pub(super) fn budget_words(window: &WindowReport, budget: &BudgetReport) -> String {
    let (left, all) = (budget.time_left_seconds as i64, seconds(budget.time_seconds as i64));
    let outage = if left < 0 {
        format!("overdrawn by {} of outage, {all} allowed", seconds(-left))
    } else {
        format!("{} of {all} of outage left", seconds(left))
    };
    let (of_part, of_all) = match part(window) {
        Some(part) => (format!(" in {part}"), " in the whole window"),
        None => (String::new(), ""),
    };
    format!(
        "{} of {} bad {} spent{of_part}; {outage}{of_all}",
        amount(budget.spent),
        amount(budget.allowed),
        budget.unit
    )
}

/// What is judged of a window: `the 1d judged`. `None` where it is all of it.
pub(super) fn part(window: &WindowReport) -> Option<String> {
    let judged = window.judged();
    let length = i64::try_from(judged.seconds()).unwrap_or(i64::MAX);
    (judged != window.whole).then(|| format!("the {} judged", seconds(length)))
}

/// The bin that spent most of the budget: `2026-03-09 06:00 to 2026-03-09 12:00 UTC: 34.2% of the budget, 120 bad of 4,000`. `None` when
/// none spent any; the first of equals.
pub(super) fn worst(history: &[crate::report::Point]) -> Option<String> {
    let worst = history
        .iter()
        .rev()
        .max_by(|a, b| a.spent.total_cmp(&b.spent))
        .filter(|point| point.spent > 0.0)?;
    let counts = worst.counts;
    Some(format!(
        "{}: {} of the budget, {} bad of {}",
        span(worst.span),
        budget(worst.spent),
        amount(counts.bad),
        count(counts.total)
    ))
}

/// Method and confidence of an interval: `Wilson 95%`.
pub(super) fn interval_name(window: &WindowReport) -> String {
    match window.interval_method {
        Some(method) => format!("{} {}", method.name(), window.confidence.name()),
        None => "known".into(),
    }
}

/// What a composite spent: `43.2% left (56.8% spent; between 52.1% and 61.9%)`.
pub(super) fn composite(window: &CompositeWindow) -> String {
    let (Some(consumed), Some(remaining)) = (window.consumed, window.remaining) else {
        return "-".into();
    };
    let between = window
        .consumed_between
        .filter(|between| between.lo < between.hi)
        .map(|between| format!(", between {} and {}", share(between.lo, 1), share(between.hi, 1)))
        .unwrap_or_default();
    format!("{} left ({} spent{between})", budget(remaining), share(consumed, 1))
}

/// A member of a composite: `Search (99.9%, weight 0.5, met): 12.3% spent`.
pub(super) fn member(member: &Member) -> String {
    let spent = member.spent.map_or("-".into(), |spent| share(spent, 1));
    format!(
        "{} ({}, weight {}, {}): {spent} spent",
        member.objective, member.target, member.weight, member.verdict
    )
}

/// Burn rates of a composite: `5m 10   1h 3.33`.
pub(super) fn composite_burn(composite: &CompositeReport) -> String {
    let rates = composite.burn.iter();
    let rates: Vec<String> = rates.map(|one| format!("{} {}", one.window, burn(one.burn))).collect();
    rates.join("   ")
}

/// The values of a group: `eu, GET /`; `none` where there is no value.
pub(super) fn group_name(group: &GroupReport) -> String {
    let values = group.keys.iter().map(|key| match key.value.as_str() {
        "" => "none",
        value => value,
    });
    values.collect::<Vec<_>>().join(", ")
}

/// The figures of a group: `met, 99.95% (12 bad of 3,000 events), 62.1% left, burn 1h 0.3`.
pub(super) fn group(group: &GroupReport) -> String {
    let sli = group.sli_text.as_deref().unwrap_or("-");
    let left = group.remaining.map_or("-".into(), budget);
    let rate = group.burn.iter().find(|rate| rate.window == "1h");
    format!(
        "{}, {sli} ({} bad of {} events), {left} left, burn 1h {}",
        group.verdict,
        amount(group.counts.bad),
        count(group.counts.total),
        burn(rate.and_then(|rate| rate.burn))
    )
}

/// What is said of groups that are not shown.
pub(super) fn left_out(groups: &Groups) -> Option<String> {
    (groups.left_out > 0).then(|| format!("{} more groups with fewer requests are not shown", groups.left_out))
}

/// The burn rate of a window by name.
pub(super) fn burn_of(slo: &SloReport, window: &str) -> Option<f64> {
    slo.burn
        .iter()
        .find(|burn| burn.window == window)
        .and_then(|burn| burn.burn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.004, 0.5, 43.2, 99.999, 1234.6].map(amount),
            ["0", "0", "0.5", "43.2", "100", "1,235"]
        );
        assert_eq!(
            [1.0, 0.9999, 0.0, -0.0001, -0.881, 0.0005].map(budget),
            ["100.0%", "99.9%", "0.0%", "-0.1%", "-88.1%", "0.0%"]
        );
        assert_eq!(
            [0.0, 0.0004, 0.042, 1.0, 1.301, 14.4, 980.4].map(|rate| burn(Some(rate))),
            ["0", "<0.001", "0.042", "1", "1.3", "14.4", "980"]
        );
        assert_eq!(burn(None), "-");
        assert_eq!(
            [1.0, 999.0, 12_345.0, 240e6, 1.5e9, 75e9].map(latency),
            ["1ns", "999ns", "12.3us", "240ms", "1.5s", "75s"]
        );
        assert_eq!([0.5, 0.99, 0.999].map(percentile), ["P50", "P99", "P99.9"]);
        assert_eq!(
            interval(
                crate::interval::Interval {
                    lo: 0.99717,
                    hi: 0.999_912
                },
                3
            ),
            "99.717% to 99.992%"
        );
    }
}
