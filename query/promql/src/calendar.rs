//! Days, months and years of a Unix time in UTC (Howard Hinnant's civil-from-days).

/// A UTC moment, as PromQL's date functions want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 is Sunday.
    pub weekday: u8,
    /// 1 to 366.
    pub day_of_year: u16,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

/// Beyond this many seconds a year has no meaning; a float may still ask for it.
const SECONDS_MAX: i64 = 1 << 53;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Every part is in the range its type names.
pub(crate) fn moment(unix_s: i64) -> Moment {
    let unix_s = unix_s.clamp(-SECONDS_MAX, SECONDS_MAX);
    let (days, second_of_day) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * from_march + 2) / 153;
    let day = from_march - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let before: i64 = (1..month)
        .map(|month| i64::from(days_in_month(year, month as u8)))
        .sum();
    Moment {
        year,
        month: month as u8,
        day: day as u8,
        weekday: (days + 4).rem_euclid(7) as u8,
        day_of_year: (before + day) as u16,
        hour: (second_of_day / 3600) as u8,
        minute: (second_of_day / 60 % 60) as u8,
        second: (second_of_day % 60) as u8,
    }
}

pub(crate) fn days_in_month(year: i64, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// `2026-11-22T10:00:00Z`.
pub(crate) fn rfc3339(unix_s: i64) -> String {
    let m = moment(unix_s);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        m.year, m.month, m.day, m.hour, m.minute, m.second
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let check = |unix_s, text: &str, weekday, day_of_year| {
            let moment = moment(unix_s);
            assert_eq!(rfc3339(unix_s), text);
            assert_eq!((moment.weekday, moment.day_of_year), (weekday, day_of_year), "{text}");
        };
        check(0, "1970-01-01T00:00:00Z", 4, 1);
        check(-1, "1969-12-31T23:59:59Z", 3, 365);
        check(951_782_400, "2000-02-29T00:00:00Z", 2, 60);
        check(1_795_388_400, "2026-11-22T23:00:00Z", 0, 326);
        assert_eq!(days_in_month(1900, 2), 28);
        assert_eq!(days_in_month(2000, 2), 29);
    }
}
