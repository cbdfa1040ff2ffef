//! What a file says of the hours of its day, so that derived tables know what they still cover.
//!
//! A file of `red` tells for every hour of its `date` in which version of the table its rows were last added to; rewriting rows
//! hands that on. A file of a derived table tells which version of `red` its rows of an hour were made of. An hour of a derived table
//! holds as long as its number is not below any of `red`'s. Both are a tag of the Add, which checkpoints keep.

use std::fmt;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;

/// Tag of an Add: [`Hours`] as text.
pub(crate) const TAG_HOURS: &str = "tailwater.hours";

/// Hours of a day.
pub(crate) const HOURS: usize = 24;
/// Microseconds of an hour.
pub(crate) const HOUR_US: i64 = 3_600_000_000;

/// A version of `red` for each hour of a day; 0 (the version that made the table) is for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hours(pub [u64; HOURS]);

impl Hours {
    /// `version` for the hours whose bit is set.
    pub(crate) fn of_mask(mask: u32, version: u64) -> Hours {
        let mut hours = Hours::default();
        for (hour, place) in hours.0.iter_mut().enumerate() {
            if mask & 1 << hour != 0 {
                *place = version;
            }
        }
        hours
    }

    /// The later version of each hour.
    pub(crate) fn absorb(&mut self, other: &Hours) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = (*mine).max(theirs);
        }
    }

    /// The hours that [`Hours`]'s text names; `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<Hours> {
        let mut hours = Hours::default();
        for part in text.split_ascii_whitespace() {
            let (range, version) = part.split_once('=')?;
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if first > last {
                return None;
            }
            hours.0.get_mut(first..=last)?.fill(version.parse().ok()?);
        }
        Some(hours)
    }
}

/// `0-5=17 9=18`: runs of hours with their version.
impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hour = 0;
        let mut gap = "";
        while hour < HOURS {
            let version = self.0[hour];
            let run = self.0[hour..].iter().take_while(|other| **other == version).count();
            let last = hour + run - 1;
            match version {
                0 => {}
                _ if run == 1 => write!(f, "{gap}{hour}={version}")?,
                _ => write!(f, "{gap}{hour}-{last}={version}")?,
            }
            gap = if version == 0 { gap } else { " " };
            hour += run;
        }
        Ok(())
    }
}

/// The hours of `date` in which slices of these rows begin; `None` if one begins on another day.
pub(crate) fn touched(date: i32, batches: &[RecordBatch]) -> Option<u32> {
    let midnight = i64::from(date) * HOURS as i64 * HOUR_US;
    let mut mask = 0;
    for batch in batches {
        let times = batch
            .column_by_name("ts")?
            .as_primitive_opt::<TimestampMicrosecondType>()?;
        for time in times.values() {
            let hour = (time - midnight).div_euclid(HOUR_US);
            if !(0..HOURS as i64).contains(&hour) {
                return None;
            }
            mask |= 1 << hour;
        }
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_short() {
        let check = |mask: u32, version: u64, text: &str| assert_eq!(Hours::of_mask(mask, version).to_string(), text);
        check(0, 7, "");
        check(1, 7, "0=7");
        check(0xff_ffff, 12, "0-23=12");
        check(0b1000_0110, 3, "1-2=3 7=3");
        for bad in ["x", "1", "24=1", "3-2=1", "1=-1", "0-24=1"] {
            assert_eq!(Hours::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(versions in prop::collection::vec(0u64..4, HOURS)) {
            let hours = Hours(versions.try_into().unwrap());
            prop_assert_eq!(Hours::parse(&hours.to_string()), Some(hours));
        }
    }
}
