#![allow(clippy::unwrap_used)]
use chrono::NaiveDate;
use proptest::prelude::*;

use super::*;

fn time(text: &str) -> Time {
    Time(DateTime::parse_from_rfc3339(text).unwrap().timestamp())
}

fn local(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
}

/// `at` in the window of this calendar must give these bounds and this many hours.
fn check(start: &str, zone: &str, unit: CalendarUnit, at: &str, from: &str, to: &str, hours: u64) {
    let window = Window::Calendar {
        start: local(start),
        zone: zone.parse().unwrap(),
        unit,
    };
    let span = window.at(time(at));
    assert_eq!(
        (span.from.to_string(), span.to.to_string()),
        (from.into(), to.into()),
        "{zone} {at}"
    );
    assert_eq!(span.seconds(), hours * 3600, "{zone} {at}");
}

#[test]
fn days_have_the_hours_they_have() {
    use CalendarUnit::Days;
    let berlin = "Europe/Berlin";
    let start = "2020-01-01 00:00:00";
    check(
        start,
        berlin,
        Days(1),
        "2026-03-29T12:00:00Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T22:00:00Z",
        23,
    );
    check(
        start,
        berlin,
        Days(1),
        "2026-10-25T12:00:00Z",
        "2026-10-24T22:00:00Z",
        "2026-10-25T23:00:00Z",
        25,
    );
    check(
        start,
        berlin,
        Days(1),
        "2026-07-01T22:00:00Z",
        "2026-07-01T22:00:00Z",
        "2026-07-02T22:00:00Z",
        24,
    );
    check(
        start,
        berlin,
        Days(1),
        "2026-07-01T21:59:59Z",
        "2026-06-30T22:00:00Z",
        "2026-07-01T22:00:00Z",
        24,
    );
    // Weeks from a Monday.
    check(
        "2020-01-06 00:00:00",
        berlin,
        Days(7),
        "2026-03-29T12:00:00Z",
        "2026-03-22T23:00:00Z",
        "2026-03-29T22:00:00Z",
        167,
    );
    // Lord Howe moves by half an hour.
    let lord_howe = Window::Calendar {
        start: local(start),
        zone: Tz::Australia__Lord_Howe,
        unit: Days(1),
    };
    assert_eq!(lord_howe.at(time("2026-04-05T00:00:00Z")).seconds(), 24 * 3600 + 1800);
}

#[test]
fn months_have_the_days_they_have() {
    use CalendarUnit::Months;
    let (utc, start) = ("UTC", "2020-01-01 00:00:00");
    check(
        start,
        utc,
        Months(1),
        "2024-02-29T23:59:59Z",
        "2024-02-01T00:00:00Z",
        "2024-03-01T00:00:00Z",
        29 * 24,
    );
    check(
        start,
        utc,
        Months(1),
        "2026-02-28T23:59:59Z",
        "2026-02-01T00:00:00Z",
        "2026-03-01T00:00:00Z",
        28 * 24,
    );
    check(
        start,
        utc,
        Months(3),
        "2026-05-05T00:00:00Z",
        "2026-04-01T00:00:00Z",
        "2026-07-01T00:00:00Z",
        91 * 24,
    );
    check(
        start,
        utc,
        Months(12),
        "2024-05-05T00:00:00Z",
        "2024-01-01T00:00:00Z",
        "2025-01-01T00:00:00Z",
        366 * 24,
    );
    check(
        start,
        "America/New_York",
        Months(1),
        "2026-03-15T00:00:00Z",
        "2026-03-01T05:00:00Z",
        "2026-04-01T04:00:00Z",
        31 * 24 - 1,
    );
    // Before the first one, and a first one on the 31st that February cuts but March gives back.
    check(
        start,
        utc,
        Months(1),
        "2019-12-31T23:59:59Z",
        "2019-12-01T00:00:00Z",
        "2020-01-01T00:00:00Z",
        31 * 24,
    );
    let late = "2026-01-31 00:00:00";
    check(
        late,
        utc,
        Months(1),
        "2026-03-01T00:00:00Z",
        "2026-02-28T00:00:00Z",
        "2026-03-31T00:00:00Z",
        31 * 24,
    );
    check(
        late,
        utc,
        Months(1),
        "2026-03-31T00:00:00Z",
        "2026-03-31T00:00:00Z",
        "2026-04-30T00:00:00Z",
        30 * 24,
    );
}

#[test]
fn starts_that_do_not_exist_or_exist_twice() {
    use CalendarUnit::Days;
    // Berlin skips 02:30 on 2026-03-29 and has it twice on 2026-10-25.
    check(
        "2026-01-01 02:30:00",
        "Europe/Berlin",
        Days(1),
        "2026-03-29T12:00:00Z",
        "2026-03-29T01:30:00Z",
        "2026-03-30T00:30:00Z",
        23,
    );
    check(
        "2026-01-01 02:30:00",
        "Europe/Berlin",
        Days(1),
        "2026-10-25T12:00:00Z",
        "2026-10-25T00:30:00Z",
        "2026-10-26T01:30:00Z",
        25,
    );
    // Samoa had no 2011-12-30 at all: the day is empty and the next one takes its place.
    let samoa = Window::Calendar {
        start: local("2011-01-01 00:00:00"),
        zone: Tz::Pacific__Apia,
        unit: Days(1),
    };
    let span = samoa.at(time("2011-12-30T10:00:00Z"));
    assert_eq!(
        (span.from.to_string().as_str(), span.seconds()),
        ("2011-12-30T10:00:00Z", 86_400)
    );
}

#[test]
fn minutes_and_hours_are_physical() {
    check(
        "2026-01-01 00:00:00",
        "Europe/Berlin",
        CalendarUnit::Seconds(3600),
        "2026-03-29T01:10:00Z",
        "2026-03-29T01:00:00Z",
        "2026-03-29T02:00:00Z",
        1,
    );
    assert_eq!(Window::Rolling(60).at(Time(100)), Span::new(Time(40), Time(100)));
}

#[test]
fn times_floor_and_ceil_below_zero_too() {
    assert_eq!(
        (
            Time(-1).floor(60),
            Time(-1).ceil(60),
            Time(60).ceil(60),
            Time(61).floor(60)
        ),
        (Time(-60), Time(0), Time(60), Time(60))
    );
}

proptest! {
    /// Windows hold their point, are back to back, and every zone and day obeys.
    #[test]
    fn calendar_windows_tile_time(
        zone in prop::sample::select(chrono_tz::TZ_VARIANTS.to_vec()),
        at in 0_i64..4_000_000_000,
        unit in prop_oneof![(1_u32..15).prop_map(CalendarUnit::Days), (1_u32..13).prop_map(CalendarUnit::Months), (60_u32..90_000).prop_map(CalendarUnit::Seconds)],
        day in 1_u32..=31,
        hour in 0_u32..24,
    ) {
        let start = NaiveDate::from_ymd_opt(2020, 1, day).unwrap().and_hms_opt(hour, 0, 0).unwrap();
        let window = Window::Calendar { start, zone, unit };
        let span = window.at(Time(at));
        prop_assert!(span.holds(Time(at)), "{span:?}");
        let next = window.at(span.to);
        prop_assert_eq!(next.from, span.to);
        prop_assert_eq!(window.at(span.from), span);
    }
}
