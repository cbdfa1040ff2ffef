//! When the budget will be gone if things go on as they have lately.
//!
//! The budget is that of the whole window. What was judged of it, `t` of `W`, spent `t consumed / W` at the traffic so far: a bad first day of
//! a month overdraws the budget of the day, and that of the month only where nothing but bad days would have.
//!
//! Calendar windows: it is gone `(W - t consumed) / burn` from now, which at the end of the window is the workbook's `remaining * W / burn`.
//! Rolling windows forget: old errors roll off while new ones come in, so the
//! window is rolled forward step by step, and the answer may be "never" although the burn rate is above 1 for now or the budget is low.
//! Traffic is taken as steady at its recent rate. Left out: seasons of day and week, hence no probability.

use serde::Serialize;

use crate::evaluate::Series;
use crate::plan::Plan;
use crate::tally::Tally;
use crate::time::Span;

/// When the budget is gone at the recent pace.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Exhaustion {
    /// It is gone, all that the whole window has.
    Spent,
    /// Not within one window's length (rolling) or not before the window ends (calendar).
    Never {
        /// The burn window that set the pace.
        pace: String,
    },
    /// So many seconds after the end of data.
    In {
        /// Seconds.
        seconds: f64,
        /// The burn window that set the pace.
        pace: String,
    },
    /// It cannot be said.
    Unknown {
        /// Why.
        because: String,
    },
}

/// Steps in which a rolling window is rolled on by its own length.
const STEPS: u32 = 720;

/// The pace is that of the longest burn window of at most this many seconds that counted something: long enough not to jump, short enough
/// to notice.
const PACE_SECONDS: u64 = 6 * 3600;

pub(super) fn exhaustion(plan: &Plan, series: &Series<'_>, index: usize, judged: Span) -> Exhaustion {
    let planned = &plan.windows[index];
    let (whole, span) = (planned.whole, planned.span);
    let unknown = |because: &str| Exhaustion::Unknown {
        because: because.into(),
    };
    let tally = series.sums(span).tally(&plan.budgeting);
    let budget = plan.target.budget().to_f64();
    let Some(consumed) = tally.consumed(plan.target.budget()).map(|ratio| ratio.as_f64()) else {
        return unknown("nothing was counted");
    };
    let (length, gone) = (whole.seconds() as f64, judged.seconds() as f64);
    if gone * consumed >= length {
        return Exhaustion::Spent;
    }
    if judged != span {
        return unknown("data does not reach back to the start of the window");
    }
    let recent = plan
        .burn
        .iter()
        .rev()
        .filter(|(period, _)| period.nominal().as_secs() <= PACE_SECONDS)
        .find_map(|(period, span)| {
            let tally = series.sums(*span).tally(&plan.budgeting);
            (tally.total > 0 && span.seconds() >= plan.slice().into())
                .then(|| (period.to_string(), tally, span.seconds() as f64))
        });
    let Some((pace, recent, seconds)) = recent else {
        return unknown("nothing was counted lately");
    };
    let (traffic, failing) = (recent.total as f64 / seconds, recent.bad as f64 / seconds);
    let reached = if planned.window.is_rolling() {
        roll(plan, series, span, traffic, failing, budget)
    } else {
        let burn = failing / traffic / budget;
        Some((length - gone * consumed) / burn).filter(|seconds| *seconds <= length - gone)
    };
    match reached {
        Some(seconds) => Exhaustion::In { seconds, pace },
        None => Exhaustion::Never { pace },
    }
}

/// Rolls a window on until `bad = budget * total`.
fn roll(plan: &Plan, series: &Series<'_>, span: Span, traffic: f64, failing: f64, budget: f64) -> Option<f64> {
    let length = span.seconds();
    let overdrawn = |seconds: f64| {
        let from = span.from.plus(seconds as i64);
        let Tally { bad, total, .. } = series.sums(Span::new(from, span.to)).tally(&plan.budgeting);
        (bad as f64 + failing * seconds) - budget * (total as f64 + traffic * seconds)
    };
    let mut before = (0.0, overdrawn(0.0));
    for step in 1..=STEPS {
        let seconds = length as f64 * f64::from(step) / f64::from(STEPS);
        let now = (seconds, overdrawn(seconds));
        if now.1 >= 0.0 {
            // Where both ends are zero but for rounding, it is gone now.
            let part = if before.1 < 0.0 {
                -before.1 / (now.1 - before.1)
            } else {
                0.0
            };
            return Some(before.0 + (now.0 - before.0) * part);
        }
        before = now;
    }
    None
}
