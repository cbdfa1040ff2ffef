//! The hash of a definition: the same for the same meaning, however it is written and wherever it stands.
//!
//! XXH3-128 over a text that this module writes itself, field by field. Strings carry their length, so no two definitions share a text.
//! The first line is the version of the text: change it when a field is added, and reports tell that definitions cannot be compared.

use std::fmt::Write as _;

use crate::document::{Free, TimeWindow};
use crate::resolved::{AlertRule, Budgeting, DefinitionHash, ResolvedSlo};
use crate::source::{Indicator, RedKey, RedSelector, Source};

pub(crate) fn definition(slo: &ResolvedSlo) -> DefinitionHash {
    DefinitionHash(xxhash_rust::xxh3::xxh3_128(canonical(slo).as_bytes()))
}

fn canonical(slo: &ResolvedSlo) -> String {
    let mut out = String::from("tailwater slo definition 1\n");
    text(&mut out, &slo.name);
    text(&mut out, &slo.service);
    match &slo.window {
        TimeWindow::Rolling(period) => text(&mut out, &format!("rolling {period}")),
        TimeWindow::Calendar { period, start, zone } => {
            text(
                &mut out,
                &format!("calendar {period} {} {zone}", start.format("%Y-%m-%dT%H:%M:%S")),
            );
        }
    }
    text(&mut out, slo.method.word());
    text(&mut out, if slo.composite { "composite" } else { "single" });
    for objective in &slo.objectives {
        text(&mut out, "objective");
        text(&mut out, &objective.name);
        text(&mut out, &objective.target.fraction().to_string());
        text(&mut out, &objective.weight.to_string());
        let budgeting = match objective.budgeting {
            Budgeting::Occurrences => "occurrences".to_owned(),
            Budgeting::Timeslices { slice, target } => format!("timeslices {} {target}", slice.as_secs()),
            Budgeting::RatioTimeslices { slice } => format!("ratio {}", slice.as_secs()),
        };
        text(&mut out, &budgeting);
        indicator(&mut out, &objective.indicator);
    }
    for alert in &slo.alerts {
        rule(&mut out, alert);
    }
    let x = &slo.extensions;
    text(
        &mut out,
        &format!("{} {} {}", x.coverage_floor, x.min_bad_events, x.min_events),
    );
    text(
        &mut out,
        match x.no_data {
            crate::annotation::NoData::Gap => "gap",
            crate::annotation::NoData::Good => "good",
            crate::annotation::NoData::Bad => "bad",
        },
    );
    text(&mut out, "group by");
    for key in &x.group_by {
        red_key(&mut out, key);
    }
    text(&mut out, "thresholds");
    for ns in &x.latency_thresholds_ns {
        text(&mut out, &ns.to_string());
    }
    text(&mut out, "percentiles");
    for percentile in &x.percentiles {
        text(&mut out, &percentile.to_string());
    }
    text(&mut out, "maintenance");
    for time in &x.maintenance {
        use crate::annotation::MaintenanceMode::{CountGood, Exclude, Mute};
        let mode = match time.mode {
            Exclude => "exclude",
            CountGood => "count-good",
            Mute => "mute",
        };
        text(&mut out, &format!("{mode} {} {}", time.from_ns, time.to_ns));
    }
    out
}

fn text(out: &mut String, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}:{value}", value.len());
}

fn rule(out: &mut String, alert: &AlertRule) {
    text(out, "alert");
    text(out, &alert.name);
    text(out, &alert.severity);
    let flags = (alert.when_breaching, alert.when_no_data, alert.when_resolved);
    text(
        out,
        &format!("{} {} {} {}", alert.after.as_secs(), flags.0, flags.1, flags.2),
    );
    for tier in &alert.tiers {
        let short = tier.short.map_or(0, |short| short.as_secs());
        text(
            out,
            &format!("{} {} {} {short}", tier.op.word(), tier.threshold, tier.long.as_secs()),
        );
    }
    for (name, target) in &alert.targets {
        text(out, name);
        text(out, target);
    }
}

fn indicator(out: &mut String, indicator: &Indicator) {
    match indicator {
        Indicator::Requests { of, good } => {
            text(out, "requests");
            selector(out, of);
            let limit = good
                .max_duration_ns
                .map_or_else(|| "any".to_owned(), |ns| ns.to_string());
            text(out, &format!("{} {limit}", good.exclude_errors));
        }
        Indicator::Ratio {
            part_is,
            part,
            total,
            counter,
        } => {
            text(out, &format!("ratio {} {counter}", part_word(*part_is)));
            source(out, part);
            source(out, total);
        }
        Indicator::Raw { part_is, source: from } => {
            text(out, &format!("raw {}", part_word(*part_is)));
            source(out, from);
        }
        Indicator::Threshold {
            source: from,
            op,
            limit,
        } => {
            text(out, &format!("threshold {} {limit}", op.word()));
            source(out, from);
        }
    }
}

const fn part_word(part: crate::document::Part) -> &'static str {
    match part {
        crate::document::Part::Good => "good",
        crate::document::Part::Bad => "bad",
    }
}

fn source(out: &mut String, from: &Source) {
    match from {
        Source::Red(of) => {
            text(out, "red");
            selector(out, of);
        }
        Source::Sql(sql) => {
            text(out, "sql");
            text(out, sql);
        }
        Source::Foreign { source_type, spec } => {
            text(out, "foreign");
            text(out, source_type);
            for (key, value) in spec {
                text(out, key);
                free(out, value);
            }
        }
    }
}

fn red_key(out: &mut String, key: &RedKey) {
    text(out, if matches!(key, RedKey::Dim(_)) { "dim" } else { "key" });
    text(out, key.word());
}

fn selector(out: &mut String, of: &RedSelector) {
    for (word, keys) in [("any", &of.any_of), ("none", &of.none_of)] {
        text(out, word);
        for (key, values) in keys {
            red_key(out, key);
            text(out, &values.len().to_string());
            values.iter().for_each(|value| text(out, value));
        }
    }
}

fn free(out: &mut String, value: &Free) {
    match value {
        Free::Scalar { text: scalar, plain } => {
            text(out, if *plain { "plain" } else { "text" });
            text(out, scalar);
        }
        Free::List(items) => {
            text(out, &format!("list {}", items.len()));
            items.iter().for_each(|item| free(out, item));
        }
        Free::Map(entries) => {
            text(out, &format!("map {}", entries.len()));
            for (key, value) in entries {
                text(out, key);
                free(out, value);
            }
        }
    }
}
