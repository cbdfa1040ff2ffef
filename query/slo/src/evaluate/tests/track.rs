//! Reports over time.

use super::*;

/// What a graph shows at each moment is what a report made then says.
#[test]
fn tracks_are_reports_over_time() {
    let bad = |time: Time| (time.0 / 60 * 7919).rem_euclid(13) as u64;
    let minute = |time: Time| (100 - bad(time), 100);
    let month = TimeWindow::Calendar {
        period: Period::new(1, Unit::Month),
        start: chrono::NaiveDate::from_ymd_opt(2026, 1, 1).unwrap().into(),
        zone: chrono_tz::Europe::Berlin,
    };
    let check = |budgeting: Budgeting, window: TimeWindow, step: i64| {
        let slo = slo("s", "0.93", budgeting, window, None);
        let moments: Vec<AsOf> = (0..40).map(|at| as_of(NOON.plus((at - 39) * step))).collect();
        let wanted = Wanted {
            burn: vec![Period::new(5, Unit::Minute), Period::new(6, Unit::Hour)],
            period: true,
        };
        let settings = Settings::default();
        let track = track(&slo, &slo.objectives[0], &settings, wanted, moments.clone()).unwrap();
        let points = track.evaluate(read(&track.plan, minute));
        assert_eq!(points.len(), moments.len());
        for (as_of, point) in moments.into_iter().zip(points) {
            let plan = only(&slo, &settings, as_of);
            let report = evaluate(&plan, read(&plan, minute));
            let burn = ["5m", "6h"].map(|window| burn_over(&report, window));
            let found: Vec<_> = point.burn.iter().map(|rates| rates.map(|rates| rates.burn)).collect();
            assert_eq!((point.at, found), (as_of.at, burn.to_vec()), "{:?}", slo.window);
            let budget = report.windows[0].budget;
            assert_eq!(
                point.period.map(|rates| (rates.burn, rates.remaining)),
                budget.map(|budget| (budget.consumed, budget.remaining))
            );
            if let (Some(rates), Some(sli)) = (point.period, report.windows[0].sli) {
                near(rates.errors, 1.0 - sli);
            }
        }
    };
    for step in [15, 60, 3600, 12 * 3600, 7 * 60] {
        check(Budgeting::Occurrences, days(3), step);
        check(Budgeting::Occurrences, month.clone(), step);
        check(timeslices(5, "0.95"), days(3), step);
    }
}

#[test]
fn tracks_read_no_more_than_their_ends_ask_for() {
    let needs = |step: i64, burn: Vec<Period>| {
        let slo = plain("0.999");
        let moments = (0..720).map(|at| as_of(NOON.plus((at - 719) * step))).collect();
        let wanted = Wanted { burn, period: true };
        let track = track(&slo, &slo.objectives[0], &Settings::default(), wanted, moments).unwrap();
        let slices = |need: &Need| need.spans.iter().map(|span| span.seconds()).sum::<u64>() / u64::from(need.width);
        track
            .plan
            .needs
            .iter()
            .map(|need| (need.width, slices(need)))
            .collect::<Vec<_>>()
    };
    // 30 days in steps of an hour, each with 30 days before it.
    assert_eq!(needs(3600, Vec::new()), [(3600, 719 + 720)]);
    let short = needs(3600, vec![Period::new(5, Unit::Minute)]);
    assert!(short.iter().all(|(width, _)| *width >= 300), "{short:?}");
    // Six hours in steps of half a minute: minutes now and 30 days ago, hours between them.
    let graph = needs(30, vec![Period::new(5, Unit::Minute)]);
    assert_eq!(graph[0].0, 3600);
    assert!(
        graph[0].1 > 700 && graph[1].0 == 60 && graph[1].1 <= 15 * 60,
        "{graph:?}"
    );
}

#[test]
fn nothing_is_said_of_moments_without_data() {
    let slo = plain("0.99");
    let at = |at: i64, watermark: Option<i64>| AsOf {
        at: NOON.plus(at),
        watermark: watermark.map(|watermark| NOON.plus(watermark)),
    };
    let moments = vec![at(0, None), at(600, Some(0)), at(601, Some(0)), at(0, Some(0))];
    let wanted = Wanted {
        burn: vec![Period::new(5, Unit::Minute)],
        period: true,
    };
    let track = track(&slo, &slo.objectives[0], &Settings::default(), wanted, moments).unwrap();
    let points = track.evaluate(read(&track.plan, |_| (9, 10)));
    let said: Vec<bool> = points.iter().map(|point| point.period.is_some()).collect();
    assert_eq!(said, [false, true, false, true]);
    assert!(
        points
            .iter()
            .all(|point| point.burn[0].is_some() == point.period.is_some())
    );
    assert_eq!(points[3].period.unwrap().errors, 0.1);
}
