//! Our words where OpenSLO has none: annotations under `tailwater.io/`.
//!
//! Guarantees: [`TABLE`] is all there is; a key under the prefix that is not in it, or stands on the wrong kind, or has a value that
//! cannot be read, is an error. Values are strings, as the specification wants, so any other reader of the document skips them unharmed.

mod tiers;

use chrono::{DateTime, Utc};
use tailwater_config::nearest;

pub(crate) use self::tiers::{parse_tiers, share_to_rate};
use crate::decimal::Decimal;
use crate::document::Metadata;
use crate::period;
use crate::source::RedKey;

/// What our keys begin with.
pub const PREFIX: &str = "tailwater.io/";

/// One annotation.
#[derive(Clone, Copy, Debug)]
pub struct Annotation {
    /// After the prefix.
    pub key: &'static str,
    /// The kinds it may stand on.
    pub on: &'static [&'static str],
    /// How its value is written.
    pub value: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does, in a sentence.
    pub doc: &'static str,
}

/// All of them. The README shows this table; a test keeps the two alike.
pub const TABLE: &[Annotation] = &[
    Annotation {
        key: "alert-profile",
        on: &["SLO"],
        value: "`workbook`, `seed`, `default` or `none`",
        default: "`none`",
        doc: "Ready multiwindow burn alerts, in addition to `alertPolicies`.",
    },
    Annotation {
        key: "burn-tiers",
        on: &["AlertCondition"],
        value: "`14.4@1h/5m or 6@6h/30m`, `2%@1h/5m`",
        default: "`threshold` over `lookbackWindow`",
        doc: "Burn rate @ long window / short window, both above it; `2%` is the share of budget spent in the long window. \
              Takes the place of `op`, `threshold` and `lookbackWindow`.",
    },
    Annotation {
        key: "coverage-floor",
        on: &["SLO"],
        value: "number from 0 to 1",
        default: "`0.9`",
        doc: "Share of slices that must have been observed; below it the verdict is `no data`.",
    },
    Annotation {
        key: "group-by",
        on: &["SLO"],
        value: "`operation, region, dims.shop`",
        default: "nothing",
        doc: "Key columns of `red` by which the report breaks the SLO down, where all that it counts is in `red`.",
    },
    Annotation {
        key: "latency-thresholds",
        on: &["SLO", "SLI"],
        value: "`100ms, 300ms, 1s`",
        default: "nothing",
        doc: "Further durations for which exact registers are kept, for a later objective or a what-if; of `raw` sources over `red`.",
    },
    Annotation {
        key: "maintenance",
        on: &["SLO"],
        value: "`exclude 2026-03-01T22:00:00Z/2026-03-02T00:00:00Z; ...`",
        default: "nothing",
        doc: "Times that are left out of the counts (`exclude`), count as good (`count-good`) or only silence alerts (`mute`).",
    },
    Annotation {
        key: "min-bad-events",
        on: &["SLO"],
        value: "whole number",
        default: "`3`",
        doc: "Fewer bad events in the long window of a tier never page.",
    },
    Annotation {
        key: "min-events",
        on: &["SLO"],
        value: "whole number",
        default: "`0`",
        doc: "With fewer events in the window the verdict is `undetermined`; of ready ratios and thresholds, with fewer values.",
    },
    Annotation {
        key: "no-data",
        on: &["SLO"],
        value: "`gap`, `good` or `bad`",
        default: "`gap`",
        doc: "What a measured slice without events or without a value is, with Timeslices and RatioTimeslices.",
    },
    Annotation {
        key: "percentiles",
        on: &["SLO"],
        value: "`50, 90, 99, 99.9`",
        default: "`50, 90, 99`",
        doc: "Percentiles of duration that the report shows, each with its interval, where `total` or `raw` is in `red`.",
    },
    Annotation {
        key: "runbook",
        on: &["SLO", "AlertPolicy"],
        value: "link",
        default: "nothing",
        doc: "What to do; sent with alerts.",
    },
    Annotation {
        key: "summary",
        on: &["AlertPolicy"],
        value: "text",
        default: "nothing",
        doc: "One line for the message.",
    },
];

/// What our annotations on one SLO (and its SLI) say.
#[derive(Clone, Debug, PartialEq)]
pub struct Extensions {
    /// `alert-profile`
    pub alert_profile: AlertProfile,
    /// `coverage-floor`, in `[0, 1]`
    pub coverage_floor: Decimal,
    /// `group-by`
    pub group_by: Vec<RedKey>,
    /// `latency-thresholds`, ascending, in nanoseconds
    pub latency_thresholds_ns: Vec<u64>,
    /// `maintenance`
    pub maintenance: Vec<Maintenance>,
    /// `min-bad-events`
    pub min_bad_events: u64,
    /// `min-events`
    pub min_events: u64,
    /// `no-data`
    pub no_data: NoData,
    /// `percentiles`, in percent, each in `(0, 100)`, ascending
    pub percentiles: Vec<Decimal>,
    /// `runbook`
    pub runbook: Option<String>,
}

impl Default for Extensions {
    fn default() -> Self {
        let whole = |n| Decimal::new(n, 0).unwrap_or_default();
        Self {
            alert_profile: AlertProfile::None,
            coverage_floor: Decimal::new(9, 1).unwrap_or_default(),
            group_by: Vec::new(),
            latency_thresholds_ns: Vec::new(),
            maintenance: Vec::new(),
            min_bad_events: 3,
            min_events: 0,
            no_data: NoData::Gap,
            percentiles: vec![whole(50), whole(90), whole(99)],
            runbook: None,
        }
    }
}

/// Ready sets of alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertProfile {
    /// The four tiers of the SRE workbook, chapter 5: page at 2 % of budget in 1 h or 5 % in 6 h, ticket at 10 % in 1 d or in 3 d.
    Workbook,
    /// Page above burn 4 over 5 min, ticket above 2 over 30 min. Far more sensitive: use `min-bad-events`.
    Seed,
    /// Page as `workbook`, ticket as `seed`.
    Default,
    /// None.
    None,
}

/// What a measured slice without events or without a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoData {
    /// Not counted.
    Gap,
    /// Good.
    Good,
    /// Bad: for freshness, where nothing is what breakage looks like.
    Bad,
}

/// A time of planned work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Maintenance {
    /// First moment, ns since 1970.
    pub from_ns: i64,
    /// First moment after it, ns since 1970.
    pub to_ns: i64,
    /// What becomes of events in it.
    pub mode: MaintenanceMode,
}

/// What becomes of events during planned work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaintenanceMode {
    /// Neither good nor bad.
    Exclude,
    /// All good.
    CountGood,
    /// Counted; alerts keep silent.
    Mute,
}

/// Every mistake in our annotations on an object of `kind`: `(key as written, message, key that was probably meant)`.
pub(crate) fn mistakes(kind: &str, metadata: &Metadata) -> Vec<(String, String, Option<String>)> {
    let mut mistakes = Vec::new();
    for (full, value) in &metadata.annotations {
        let Some(key) = full.strip_prefix(PREFIX) else {
            continue;
        };
        let Some(known) = TABLE.iter().find(|known| known.key == key) else {
            let near = nearest(
                key,
                TABLE
                    .iter()
                    .filter(|known| known.on.contains(&kind))
                    .map(|known| known.key),
            )
            .or_else(|| nearest(key, TABLE.iter().map(|known| known.key)));
            let near = near.map(|near| format!("{PREFIX}{near}"));
            mistakes.push((full.clone(), "unknown annotation".into(), near));
            continue;
        };
        if !known.on.contains(&kind) {
            let on = known.on.join(" or ");
            mistakes.push((
                full.clone(),
                format!("stands on an {on}, not on {}", with_article(kind)),
                None,
            ));
            continue;
        }
        if let Err(message) = check(key, value) {
            mistakes.push((full.clone(), message, None));
        }
    }
    mistakes
}

/// The word with its article.
pub(crate) fn with_article(kind: &str) -> String {
    // SLO and SLI are spelled out: "an es-el-o".
    let vowel = kind.starts_with(['A', 'S']) && kind != "Service";
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

/// Lays what `metadata` says over `extensions`. Values that cannot be read were refused by [`mistakes`]; they change nothing here.
pub(crate) fn apply(extensions: &mut Extensions, metadata: &Metadata) {
    for (full, value) in &metadata.annotations {
        if let Some(key) = full.strip_prefix(PREFIX) {
            // Keys of other kinds (`burn-tiers`, `summary`) are read where they are used.
            let _ = set(extensions, key, value);
        }
    }
}

/// The text of one of our annotations.
pub(crate) fn text(metadata: &Metadata, key: &str) -> Option<String> {
    metadata.annotations.get(&format!("{PREFIX}{key}")).cloned()
}

fn check(key: &str, value: &str) -> Result<(), String> {
    match key {
        "burn-tiers" => parse_tiers(value).map(drop),
        "summary" if value.trim().is_empty() => Err("expected a sentence".into()),
        _ => set(&mut Extensions::default(), key, value),
    }
}

fn set(extensions: &mut Extensions, key: &str, value: &str) -> Result<(), String> {
    match key {
        "alert-profile" => {
            extensions.alert_profile = match value {
                "workbook" => AlertProfile::Workbook,
                "seed" => AlertProfile::Seed,
                "default" => AlertProfile::Default,
                "none" => AlertProfile::None,
                _ => return Err("expected one of workbook, seed, default, none".into()),
            };
        }
        "coverage-floor" => {
            let floor = Decimal::parse(value)?;
            if floor < Decimal::ZERO || floor > Decimal::ONE {
                return Err("expected a number from 0 to 1, such as 0.9".into());
            }
            extensions.coverage_floor = floor;
        }
        "group-by" => extensions.group_by = items(value).map(red_key).collect::<Result<_, _>>()?,
        "latency-thresholds" => {
            let found = items(value).map(period::parse_latency).collect::<Result<Vec<_>, _>>()?;
            extensions.latency_thresholds_ns.extend(found);
            extensions.latency_thresholds_ns.sort_unstable();
            extensions.latency_thresholds_ns.dedup();
        }
        "maintenance" => {
            extensions.maintenance = value
                .split(';')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(maintenance)
                .collect::<Result<_, _>>()?;
        }
        "min-bad-events" => extensions.min_bad_events = whole(value)?,
        "min-events" => extensions.min_events = whole(value)?,
        "no-data" => {
            extensions.no_data = match value {
                "gap" => NoData::Gap,
                "good" => NoData::Good,
                "bad" => NoData::Bad,
                _ => return Err("expected one of gap, good, bad".into()),
            };
        }
        "percentiles" => {
            let mut found = items(value).map(percentile).collect::<Result<Vec<_>, _>>()?;
            found.sort_unstable();
            found.dedup();
            if found.is_empty() {
                return Err("expected percentiles such as 50, 90, 99".into());
            }
            extensions.percentiles = found;
        }
        "runbook" => {
            if !value.starts_with("https://") && !value.starts_with("http://") {
                return Err("expected a link that begins with https://".into());
            }
            extensions.runbook = Some(value.to_owned());
        }
        _ => {}
    }
    Ok(())
}

fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn whole(value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| "expected a whole number".into())
}

fn percentile(text: &str) -> Result<Decimal, String> {
    let expected = || "expected percentiles between 0 and 100, such as 50, 90, 99".to_owned();
    let percent = Decimal::parse(text).map_err(|_| expected())?;
    let hundred = Decimal::new(100, 0).ok_or_else(expected)?;
    if percent.is_positive() && percent < hundred && percent.scale() <= 6 {
        Ok(percent)
    } else {
        Err(expected())
    }
}

/// Reads a key column as `group-by` writes it.
pub(crate) fn red_key(text: &str) -> Result<RedKey, String> {
    if let Some(dim) = text.strip_prefix("dims.") {
        return if dim.is_empty() {
            Err("expected the name of a dimension after `dims.`".into())
        } else {
            Ok(RedKey::Dim(dim.to_owned()))
        };
    }
    RedKey::FIXED.into_iter().find(|key| key.word() == text).ok_or_else(|| {
        let words: Vec<_> = RedKey::FIXED.iter().map(|key| key.word().to_owned()).collect();
        match nearest(text, words.iter().map(String::as_str)) {
            Some(near) => format!("`{text}` is no key column; did you mean {near}?"),
            None => format!(
                "`{text}` is no key column: expected one of {}, dims.NAME",
                words.join(", ")
            ),
        }
    })
}

fn maintenance(text: &str) -> Result<Maintenance, String> {
    let expected = || "expected `exclude 2026-03-01T22:00:00Z/2026-03-02T00:00:00Z` (or count-good, mute)".to_owned();
    let (mode, times) = text.split_once(char::is_whitespace).ok_or_else(expected)?;
    let mode = match mode {
        "exclude" => MaintenanceMode::Exclude,
        "count-good" => MaintenanceMode::CountGood,
        "mute" => MaintenanceMode::Mute,
        _ => return Err(expected()),
    };
    let (from, to) = times.trim().split_once('/').ok_or_else(expected)?;
    let time = |text: &str| {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .and_then(|time| time.with_timezone(&Utc).timestamp_nanos_opt())
            .ok_or_else(|| format!("`{text}` is not a time such as 2026-03-01T22:00:00Z"))
    };
    let (from_ns, to_ns) = (time(from)?, time(to)?);
    if from_ns >= to_ns {
        return Err(format!("`{times}` ends before it begins"));
    }
    Ok(Maintenance { from_ns, to_ns, mode })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(kind: &str, key: &str, value: &str, word: &str) {
        let mut metadata = Metadata::default();
        metadata.annotations.insert(format!("{PREFIX}{key}"), value.to_owned());
        let found = mistakes(kind, &metadata);
        let shown: Vec<_> = found
            .into_iter()
            .map(|(_, message, near)| format!("{message} {}", near.unwrap_or_default()))
            .collect();
        match word {
            "" => assert_eq!(shown, Vec::<String>::new(), "{key}: {value}"),
            word => assert!(shown.len() == 1 && shown[0].contains(word), "{key}: {value}: {shown:?}"),
        }
    }

    #[test]
    fn values() {
        check("SLO", "alert-profile", "workbook", "");
        check("SLO", "alert-profile", "Workbook", "expected one of workbook");
        check(
            "SLO",
            "alert-profil",
            "workbook",
            "unknown annotation tailwater.io/alert-profile",
        );
        check("SLI", "alert-profile", "workbook", "stands on an SLO, not on an SLI");
        check(
            "SLO",
            "burn-tiers",
            "14.4@1h/5m",
            "stands on an AlertCondition, not on an SLO",
        );
        check("AlertCondition", "burn-tiers", "14.4@1h/5m or 5%@6h/30m or 1@3d", "");
        check(
            "AlertCondition",
            "burn-tiers",
            "14.4@1h/5m,6@6h/30m",
            "unknown unit `m,6@6h/30m`",
        );
        check(
            "AlertCondition",
            "burn-tiers",
            "14.4@5m/1h",
            "short window comes second",
        );
        check("AlertCondition", "burn-tiers", "0@1h/5m", "above zero");
        check("AlertCondition", "burn-tiers", "x@1h/5m", "is no tier");
        check("AlertCondition", "burn-tiers", "1@1M/5m", "in m, h, d or w");
        check("SLO", "coverage-floor", "0.95", "");
        check("SLO", "coverage-floor", "95", "from 0 to 1");
        check("SLO", "group-by", "operation, dims.shop", "");
        check("SLO", "group-by", "operations", "did you mean operation?");
        check("SLO", "group-by", "dims.", "name of a dimension");
        check("SLI", "latency-thresholds", "100ms, 1s", "");
        check("SLO", "latency-thresholds", "100", "needs its unit");
        check(
            "SLO",
            "maintenance",
            "exclude 2026-03-01T22:00:00Z/2026-03-02T00:00:00Z; mute 2026-04-01T00:00:00+02:00/2026-04-02T00:00:00Z",
            "",
        );
        check(
            "SLO",
            "maintenance",
            "exclude 2026-03-02T00:00:00Z/2026-03-01T22:00:00Z",
            "ends before it begins",
        );
        check("SLO", "maintenance", "exclude tomorrow/later", "is not a time");
        check("SLO", "min-events", "-1", "whole number");
        check("SLO", "no-data", "bad", "");
        check("SLO", "no-data", "red", "expected one of gap");
        check("SLO", "percentiles", "50, 99.9", "");
        check("SLO", "percentiles", "100", "between 0 and 100");
        check("SLO", "percentiles", "", "such as 50");
        check("AlertPolicy", "runbook", "https://example.com/x", "");
        check("SLO", "runbook", "see wiki", "begins with https://");
        check("AlertPolicy", "summary", " ", "a sentence");
        check("SLO", "zzz", "1", "unknown annotation");
    }

    #[test]
    fn no_text_panics() {
        proptest!(|(i in 0..TABLE.len(), value in "[-0-9a-zA-Z@/%,;:. ]{0,40}")| {
            let _ = check_value(TABLE[i].key, &value);
        });
    }

    fn check_value(key: &str, value: &str) -> Result<(), String> {
        super::check(key, value)
    }
}
