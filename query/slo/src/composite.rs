//! Composite SLOs as one figure: what the members spent, weighed.
//!
//! OpenSLO's rule for Occurrences and RatioTimeslices: the burn rate of the whole is the sum of the members' burn rates, each times its weight.
//! Weights are taken as they are written (1 where none is), not scaled to a sum of one: a member of weight 1 that overdraws its budget
//! overdraws that of the whole.
//!
//! The verdict goes by the evidence that the members go by. By intervals it holds whatever the members have in common: ends of the range are
//! sums of the members' ends, wider than chance alone would make them where members are independent. By counts the range is what they leave
//! open, a threshold inside a bucket, and else one figure. Left out: Timeslices, where a slice is bad if it is for any member: members have budgets of
//! their own, and the specification does not say which one such a slice spends.

use tailwater_openslo::{BudgetingMethod, ResolvedSlo};

use crate::interval::Interval;
use crate::report::{BurnRate, CompositeReport, CompositeWindow, Member, SloReport, WindowReport};
use crate::verdict::{Evidence, Verdict};

/// The figure of a composite out of the reports of its objectives, in any order. `None` for an SLO that is no composite or counts by
/// Timeslices, and where a member has no report.
#[must_use]
pub fn composite(slo: &ResolvedSlo, objectives: &[SloReport]) -> Option<CompositeReport> {
    if !slo.composite || slo.method == BudgetingMethod::Timeslices {
        return None;
    }
    let mut weighed = Vec::with_capacity(slo.objectives.len());
    for objective in &slo.objectives {
        let mut of_slo = objectives.iter().filter(|report| report.slo == slo.name);
        let report = of_slo.find(|report| report.objective == objective.name)?;
        weighed.push(Weighed {
            weight: objective.weight.to_f64(),
            budget: objective.target.budget().to_f64(),
            report,
        });
    }
    let first = weighed.first()?.report;
    let windows: Vec<CompositeWindow> = (0..first.windows.len()).map(|at| window(&weighed, at)).collect();
    let rates = first.burn.iter().enumerate().map(|(at, of_first)| BurnRate {
        window: of_first.window.clone(),
        burn: sum(&weighed, |one| one.report.burn.get(at)?.burn),
    });
    let members = slo.objectives.iter().zip(&weighed).map(|(objective, one)| Member {
        objective: objective.name.clone(),
        target: one.report.target.clone(),
        weight: objective.weight.to_string(),
        verdict: one.report.verdict,
        spent: one.consumed(0).map(|consumed| consumed * one.weight),
    });
    Some(CompositeReport {
        slo: slo.name.clone(),
        display_name: slo.display_name.clone(),
        service: slo.service.clone(),
        description: slo.description.clone(),
        definition: first.definition.clone(),
        verdict: windows.first()?.verdict,
        members: members.collect(),
        burn: rates.collect(),
        windows,
    })
}

/// A member with what its figures are multiplied by.
struct Weighed<'r> {
    weight: f64,
    budget: f64,
    report: &'r SloReport,
}

impl Weighed<'_> {
    /// Share of its own budget.
    fn consumed(&self, window: usize) -> Option<f64> {
        Some(self.report.windows.get(window)?.budget?.consumed)
    }

    /// Least and most of it, by what decides.
    fn between(&self, window: usize) -> Option<Interval> {
        let of = self.report.windows.get(window)?;
        let spent = |good: f64| ((1.0 - good) / self.budget).max(0.0);
        match of.evidence {
            Evidence::Interval => of.interval.map(|Interval { lo, hi }| Interval {
                lo: spent(hi),
                hi: spent(lo),
            }),
            Evidence::Counts => {
                let (known, most) = (of.known?, self.consumed(window)?);
                Some(Interval {
                    lo: if known.lo < known.hi { spent(known.hi) } else { most },
                    hi: most,
                })
            }
        }
    }
}

/// Sums of fractions that differ by less from one are one.
const NEAR_ONE: f64 = 1e-9;

/// Of all members, or `None` if one has none.
fn sum(weighed: &[Weighed<'_>], of: impl Fn(&Weighed<'_>) -> Option<f64>) -> Option<f64> {
    weighed.iter().map(|one| Some(of(one)? * one.weight)).sum()
}

fn window(weighed: &[Weighed<'_>], at: usize) -> CompositeWindow {
    let consumed = sum(weighed, |one| one.consumed(at));
    let least = sum(weighed, |one| Some(one.between(at)?.lo));
    let most = sum(weighed, |one| Some(one.between(at)?.hi));
    let member = |of: &dyn Fn(&WindowReport) -> bool| {
        let mut found = weighed.iter().filter(|one| one.report.windows.get(at).is_some_and(of));
        found.next().map(|one| one.report.objective.clone())
    };
    let evidence = weighed[0].report.windows[at].evidence;
    let counts = evidence == Evidence::Counts;
    let without = member(&|window| window.verdict == Verdict::NoData);
    // By counts that say one thing, only what is wrong with them leaves a member open.
    let open = member(&|window| counts && window.verdict == Verdict::Undetermined && window.counts_reach.is_some());
    let (verdict, because) = match (without, open, least, most) {
        (Some(member), ..) => (Verdict::NoData, format!("its member {member} has no data")),
        (None, Some(member), ..) => (Verdict::Undetermined, format!("its member {member} is undetermined")),
        (None, None, Some(least), _) if least > 1.0 + NEAR_ONE => (Verdict::Missed, words(evidence).missed.into()),
        (None, None, _, Some(most)) if most <= 1.0 + NEAR_ONE => (Verdict::Met, words(evidence).met.into()),
        (None, None, Some(_), Some(_)) => (Verdict::Undetermined, words(evidence).open.into()),
        (None, None, ..) => (Verdict::NoData, "a member was not counted".into()),
    };
    CompositeWindow {
        name: weighed[0].report.windows[at].name.clone(),
        consumed,
        remaining: consumed.map(|consumed| 1.0 - consumed),
        consumed_between: least.zip(most).map(|(lo, hi)| Interval { lo, hi }),
        verdict,
        because,
    }
}

/// Why a verdict is what it is.
struct Words {
    met: &'static str,
    missed: &'static str,
    open: &'static str,
}

const fn words(evidence: Evidence) -> Words {
    match evidence {
        Evidence::Interval => Words {
            met: "even at the worst ends of their intervals the members leave some of the budget",
            missed: "even at the best ends of their intervals the members overdraw the budget",
            open: "the members' intervals leave open whether they overdraw the budget",
        },
        Evidence::Counts => Words {
            met: "by their counts the members stay within the budget",
            missed: "by their counts the members overdraw the budget",
            open: "thresholds inside buckets leave open whether the members overdraw the budget",
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tailwater_openslo::Budgeting;

    use super::*;
    use crate::fixture::{NOON, as_of, days, decimal, read, slo};
    use crate::{Report, Settings, Time, evaluate, plan};

    /// A composite whose members have this many bad requests of 1,000 a minute: `(bad, weight)`.
    fn journey(members: &[(u64, &str)]) -> (ResolvedSlo, Report) {
        journey_by(&Settings::default(), members, |bad, _| (1000 - bad, 1000))
    }

    /// The same of any requests: `minute` gives good and all of each, of a member's bad ones.
    fn journey_by(
        settings: &Settings,
        members: &[(u64, &str)],
        minute: impl Fn(u64, Time) -> (u64, u64),
    ) -> (ResolvedSlo, Report) {
        let mut journey = slo("journey", "0.99", Budgeting::Occurrences, days(1), None);
        let one = journey.objectives.remove(0);
        journey.composite = true;
        for (at, (_, weight)) in members.iter().enumerate() {
            let mut member = one.clone();
            member.name = format!("step-{at}");
            member.weight = decimal(weight);
            journey.objectives.push(member);
        }
        let plans = plan(&journey, settings, as_of(NOON)).unwrap();
        let reports = plans.iter().zip(members);
        let reports = reports.map(|(plan, (bad, _))| evaluate(plan, read(plan, |time| minute(*bad, time))));
        let report = Report::new(NOON, reports.collect()).with_composites(std::slice::from_ref(&journey));
        (journey, report)
    }

    #[test]
    fn burn_is_the_weighed_sum() {
        let check = |members: &[(u64, &str)], consumed: f64, verdict: Verdict| {
            let (_, report) = journey(members);
            let whole = &report.composites[0];
            let found = whole.windows[0].consumed.unwrap();
            assert!((found - consumed).abs() < 1e-9, "{members:?}: {found}, not {consumed}");
            assert!((whole.windows[0].remaining.unwrap() - (1.0 - consumed)).abs() < 1e-9);
            let between = whole.windows[0].consumed_between.unwrap();
            assert!(between.lo <= consumed && consumed <= between.hi, "{between:?}");
            assert_eq!(whole.verdict, verdict, "{members:?}: {}", whole.windows[0].because);
            for burn in &whole.burn {
                assert!((burn.burn.unwrap() - consumed).abs() < 1e-9, "{}", burn.window);
            }
            let spent: f64 = whole.members.iter().map(|member| member.spent.unwrap()).sum();
            assert!((spent - consumed).abs() < 1e-9);
        };
        // 1 % of 1,000 a minute is 10: 2 bad ones spend a fifth.
        check(&[(2, "1"), (3, "1")], 0.5, Verdict::Met);
        check(&[(2, "0.5"), (3, "2")], 0.7, Verdict::Met);
        check(&[(7, "1"), (5, "1")], 1.2, Verdict::Missed);
        // A member that overdraws its own budget weighs little.
        check(&[(20, "0.25"), (1, "0.75")], 0.575, Verdict::Met);
        check(&[(10, "0.5"), (10, "0.5")], 1.0, Verdict::Undetermined);
    }

    /// A hundred requests a day each, which is too few for an interval.
    #[test]
    fn counts_decide_where_the_caller_says_so() {
        let check = |evidence: Evidence, members: &[(u64, &str)], verdict: Verdict, because: &str| {
            let settings = Settings {
                evidence,
                ..Settings::default()
            };
            let (_, report) = journey_by(&settings, members, |bad, time| {
                let n = u64::from(time.0.rem_euclid(60 * 14) == 0);
                let of_bad = NOON.0 - time.0 <= 14 * 60 * i64::try_from(bad).unwrap();
                (n - n.min(of_bad.into()), n)
            });
            let window = &report.composites[0].windows[0];
            assert_eq!(window.verdict, verdict, "{members:?}: {window:?}");
            assert!(window.because.contains(because), "{}", window.because);
            let between = window.consumed_between.unwrap();
            assert_eq!(between.lo == between.hi, evidence == Evidence::Counts);
        };
        let clean = [(0, "1"), (0, "1")];
        check(
            Evidence::Interval,
            &clean,
            Verdict::Undetermined,
            "intervals leave open",
        );
        check(Evidence::Counts, &clean, Verdict::Met, "by their counts");
        // 1 of 103 is 97 % of a budget of 1 %.
        check(
            Evidence::Counts,
            &[(1, "1"), (0, "1")],
            Verdict::Met,
            "within the budget",
        );
        check(
            Evidence::Counts,
            &[(1, "1"), (1, "1")],
            Verdict::Missed,
            "overdraw the budget",
        );
        check(
            Evidence::Counts,
            &[(1, "0.5"), (1, "0.5")],
            Verdict::Met,
            "within the budget",
        );
    }

    #[test]
    fn counts_that_are_open_or_wrong_leave_it_open() {
        let settings = Settings {
            evidence: Evidence::Counts,
            ..Settings::default()
        };
        // Ten bad ones of 1,000 each, half of the budget twice: exactly spent is not overdrawn.
        let (of, mut report) = journey_by(&settings, &[(10, "0.5"), (10, "0.5")], |bad, _| (1000 - bad, 1000));
        assert_eq!(report.composites[0].verdict, Verdict::Met);
        report.objectives[0].windows[0].verdict = Verdict::Undetermined;
        let whole = composite(&of, &report.objectives).unwrap();
        assert_eq!(whole.verdict, Verdict::Undetermined, "{}", whole.windows[0].because);
        let window = &mut report.objectives[0].windows[0];
        (window.counts_reach, window.known) = (None, Some(Interval { lo: 0.985, hi: 0.99 }));
        window.budget.as_mut().unwrap().consumed = 1.5;
        let whole = composite(&of, &report.objectives).unwrap();
        let because = &whole.windows[0].because;
        assert_eq!(whole.verdict, Verdict::Undetermined, "{because}");
        assert!(because.contains("inside buckets"), "{because}");
    }

    #[test]
    fn what_one_figure_cannot_say() {
        let (mut of, report) = journey(&[(2, "1"), (3, "1")]);
        assert!(composite(&of, &report.objectives[..1]).is_none(), "a member is missing");
        of.composite = false;
        assert!(
            composite(&of, &report.objectives).is_none(),
            "several targets are no composite"
        );
        of.composite = true;
        of.method = BudgetingMethod::Timeslices;
        assert!(composite(&of, &report.objectives).is_none());
        // A pipeline hears of a composite that is missed although its members are met.
        let (_, report) = journey(&[(7, "1"), (5, "1")]);
        assert!(report.objectives.iter().all(|member| member.verdict == Verdict::Met));
        assert_eq!(report.worst(), Some(Verdict::Missed));
        let (of, mut report) = journey(&[(2, "1"), (3, "1")]);
        report.objectives[1].windows[0].verdict = Verdict::NoData;
        let whole = composite(&of, &report.objectives).unwrap();
        assert_eq!(whole.verdict, Verdict::NoData);
        assert!(
            whole.windows[0].because.contains("step-"),
            "{}",
            whole.windows[0].because
        );
    }
}
