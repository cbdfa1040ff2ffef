//! `tailwater sampling explain`: the rows of a trace and what decided them; of one without rows, what the collector knows of it.
//!
//! Stored are T, stratum, weight and the policy's epoch of every row. When that was decided no row says, but the ticks of its stratum are in the
//! batch that carried it. What was sampled out has no rows: for as long as decisions are remembered the collector tells.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat};
use http::StatusCode;
use serde_json::Value;
use tailwater_config::Config;
use tailwater_runtime::{Exit, run_dir};
use tailwater_sampling::policy;

use crate::cli::client::ClientArgs;
use crate::cli::sql::{self, note};
use crate::cli::{Common, exchange, print, small_runtime};

/// 2^56: how many values T has.
const RANGE: u64 = 1 << 56;

/// What decided some rows of the trace.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    stratum: String,
    epoch: u64,
    is_late: bool,
    batch: i64,
}

/// Prints the rows of the trace `id` (32 hex digits), and beside them what more is known.
///
/// # Errors
/// Bad settings, a lake that cannot be read.
pub(super) fn run(id: &str, client: &ClientArgs, format: sql::Format, common: &Common) -> anyhow::Result<Exit> {
    let kept = match sql::get(&kept_query(id), client, sql::Format::Json, common)? {
        Ok(answer) => kept_of(&serde_json::from_str(&answer)?),
        Err(exit) => return Ok(exit),
    };
    match sql::get(&rows_query(id, &kept), client, format, common)? {
        Ok(answer) => print(&answer)?,
        Err(exit) => return Ok(exit),
    }
    let config = common.load()?;
    rules(&config, &kept).iter().for_each(|rule| note(rule));
    if kept.is_empty() {
        let asked = small_runtime()?.block_on(ask(id, client, &config, common.data.is_some()));
        match asked {
            Ok(answer) => said(&answer).iter().for_each(|line| note(line)),
            Err(why) => note(&format!("whether it waits or was decided is not known: {why:#}")),
        }
        note(ELSEWHERE);
    }
    Ok(Exit::Ok)
}

/// Where to look when nobody knows the trace.
const ELSEWHERE: &str = "a trace that was sampled out leaves no rows. How many were, when and by which T: tailwater sql \"select ts, tenant, stratum, \
     seen_traces, kept_traces, threshold_max from sampling_ticks order by ts desc limit 20\"";

fn kept_query(id: &str) -> String {
    format!(
        "select sample_reason, policy_epoch, coalesce(late, false), min(batch_id) from spans where trace_id = decode('{id}', 'hex') group by 1, 2, 3"
    )
}

/// The rows of the answer. Where everything is kept there is no reason and no epoch.
fn kept_of(answer: &Value) -> Vec<Kept> {
    let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0);
    let row = |row: &Value| Kept {
        stratum: row[0].as_str().unwrap_or_default().to_owned(),
        epoch: number(&row[1]).max(0) as u64,
        is_late: row[2].as_bool().unwrap_or(false),
        batch: number(&row[3]),
    };
    rows.iter().map(row).collect()
}

fn rows_query(id: &str, kept: &[Kept]) -> String {
    // Late rows are in the batches of their arrival. No batch has the number 0.
    let batches = kept.iter().filter(|kept| !kept.is_late).map(|kept| kept.batch);
    let batches: Vec<String> = batches.chain([0]).map(|batch| batch.to_string()).collect();
    format!(
        "with kept as (select tenant, sample_reason as stratum, sample_weight as weight, sample_threshold as threshold, weight_quality, \
         trigger, partial, late, policy_epoch, min(batch_id) as batch, count(*) as spans, min(ts) as first, max(ingest_ts) as received \
         from spans where trace_id = decode('{id}', 'hex') group by 1, 2, 3, 4, 5, 6, 7, 8, 9), \
         ticks as (select tenant, stratum, policy_epoch, batch_id, max(ts) as decided from sampling_ticks where batch_id in ({}) \
         group by 1, 2, 3, 4) \
         select kept.tenant, kept.stratum, weight, threshold, \
         coalesce(nullif(rtrim(substr(to_hex(threshold + {RANGE}), 2), '0'), ''), case when threshold = 0 then '0' end) as th, \
         1 - threshold / {RANGE}.0 as p, weight_quality, trigger, partial, late, kept.policy_epoch, spans, first, received, decided \
         from kept left join ticks on kept.batch = ticks.batch_id and kept.tenant = ticks.tenant and kept.stratum = ticks.stratum \
         and kept.policy_epoch = ticks.policy_epoch and not kept.late order by late, spans desc",
        batches.join(", ")
    )
}

/// What the policy of the settings, if it can be read, says of these strata.
fn rules(config: &Config, kept: &[Kept]) -> Vec<String> {
    let Some(path) = &config.sampling.policy else {
        return Vec::new();
    };
    let text = std::fs::read_to_string(path);
    let changed = std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let changed = changed.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs()));
    let read = text.ok().and_then(|text| policy::read(path, &text).ok());
    let (Some(policy), Some(changed)) = (read, changed) else {
        return Vec::new();
    };
    let mut rules: Vec<String> = Vec::new();
    for Kept { stratum, epoch, .. } in kept {
        let Some(found) = policy.strata.iter().find(|known| *known.name == **stratum) else {
            continue;
        };
        let rule = match changed <= *epoch {
            true => format!("{found}"),
            false => format!("{found} by now: the policy has changed since epoch {epoch}"),
        };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// Asks the collector that works on the data directory, or the one at the address of the settings.
async fn ask(id: &str, client: &ClientArgs, config: &Config, is_named: bool) -> anyhow::Result<Value> {
    let file = run_dir::read(&config.data, "collector")?;
    let has_run = is_named || config.data.join("run").is_dir();
    let address = match file {
        Some(file) => file.reach("admin.collector"),
        None => (!has_run).then_some(config.admin.collector),
    };
    let address = address.context("no collector works on this data directory")?;
    let admin = client.local(address, config.tls_of("admin.collector").is_some())?;
    let answer = exchange::get(&admin, &format!("/trace/{id}")).await?;
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            anyhow::bail!("the collector tells that to tokens with the role admin (TAILWATER_TOKEN)")
        }
        status if status.is_success() => {
            serde_json::from_slice(&answer.body).with_context(|| format!("the answer of {address}"))
        }
        status => anyhow::bail!("{address} answers {status}"),
    }
}

/// What the collector says, a line for each tenant that has such a trace.
fn said(answer: &Value) -> Vec<String> {
    if answer["samples"] == false {
        return vec![
            "the collector keeps every trace (no sampling.policy): none of this id came, or its rows are no more kept"
                .to_owned(),
        ];
    }
    let found = answer["found"].as_array().map(Vec::as_slice).unwrap_or_default();
    if found.is_empty() {
        return vec![
            "the collector does not know it: it never came, or was decided longer ago than decisions are remembered"
                .to_owned(),
        ];
    }
    found.iter().map(of_tenant).collect()
}

fn of_tenant(found: &Value) -> String {
    let mut line = format!("tenant {}: ", found["tenant"].as_str().unwrap_or_default());
    let Some(stratum) = found["stratum"].as_str() else {
        line.push_str(match found["state"].as_str() {
            Some("waits") => "its spans wait for the decision",
            _ => "sampled out; by which stratum and T is forgotten",
        });
        return line;
    };
    let epoch = &found["policy_epoch"];
    let _ = match (found["state"].as_str(), found["dropped"] == true) {
        (Some("kept"), _) => write!(line, "kept by stratum {stratum}, its rows are on their way"),
        (_, true) => write!(line, "sampled out: stratum {stratum} keeps none (target: drop)"),
        _ => write!(line, "sampled out by stratum {stratum}: R < T"),
    };
    if found["dropped"] != true {
        let p = found["p"].as_f64().unwrap_or(1.0);
        let _ = write!(
            line,
            ", T {} (th {}, p {:.4} %)",
            found["threshold"],
            found["th"].as_str().unwrap_or_default(),
            p * 100.0
        );
    }
    let _ = write!(line, ", policy epoch {epoch}");
    if let Some(time) = found["settled_ns"].as_i64().map(DateTime::from_timestamp_nanos) {
        let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        let _ = write!(line, ", settled by {time} (the decision, or its last late span)");
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_collector_says_is_said_by_tenant() {
        let check = |found: Value, expect: &str| {
            assert_eq!(said(&json!({"samples": true, "found": [found]})), [expect]);
        };
        check(
            json!({"tenant": "a", "state": "waits"}),
            "tenant a: its spans wait for the decision",
        );
        check(
            json!({"tenant": "a", "state": "sampled_out"}),
            "tenant a: sampled out; by which stratum and T is forgotten",
        );
        let decided = |state: &str, dropped: bool, settled_ns: Option<u64>| {
            json!({
                "tenant": "a", "state": state, "stratum": "rest", "threshold": 1u64 << 55, "th": "8", "p": 0.5, "dropped": dropped,
                "policy_epoch": 7, "settled_ns": settled_ns,
            })
        };
        check(
            decided("sampled_out", false, Some(1_700_000_000_123_000_000)),
            "tenant a: sampled out by stratum rest: R < T, T 36028797018963968 (th 8, p 50.0000 %), policy epoch 7, \
             settled by 2023-11-14T22:13:20.123Z (the decision, or its last late span)",
        );
        check(
            decided("sampled_out", true, None),
            "tenant a: sampled out: stratum rest keeps none (target: drop), policy epoch 7",
        );
        check(
            decided("kept", false, None),
            "tenant a: kept by stratum rest, its rows are on their way, T 36028797018963968 (th 8, p 50.0000 %), policy epoch 7",
        );
        assert!(said(&json!({"samples": true, "found": []}))[0].contains("never came"));
        assert!(said(&json!({"samples": false, "found": []}))[0].contains("keeps every trace"));
    }

    #[test]
    fn the_rule_of_a_stratum_is_that_of_the_policy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(
            &path,
            "strata: [{name: error, when: trace.error, target: all}, {name: rest, target: 5%}]",
        )
        .unwrap();
        let config = Config::of(&[("sampling.policy", path.to_str().unwrap())]).unwrap();
        let kept = |stratum: &str, epoch: u64| Kept {
            stratum: stratum.to_owned(),
            epoch,
            is_late: false,
            batch: 1,
        };
        let of = |kept: &[Kept]| rules(&config, kept);
        assert_eq!(
            of(&[kept("rest", u64::MAX), kept("rest", u64::MAX)]),
            ["{name: rest, target: 5%}"]
        );
        assert_eq!(
            of(&[kept("error", 5)]),
            ["{name: error, when: 'trace.error', target: all} by now: the policy has changed since epoch 5"]
        );
        assert!(of(&[kept("gone", 5), kept("", 0)]).is_empty());
        assert!(rules(&Config::of(&[]).unwrap(), &[kept("rest", 5)]).is_empty());
    }

    #[test]
    fn ticks_are_asked_for_of_the_batches_that_the_decision_is_in() {
        let answer = json!({"rows": [["rest", 7, false, "12"], ["rest", 7, true, 15], [null, null, false, 3]]});
        let kept = kept_of(&answer);
        assert_eq!(
            (kept[1].is_late, kept[1].batch, kept[2].stratum.as_str()),
            (true, 15, "")
        );
        assert!(rows_query("00", &kept).contains("batch_id in (12, 3, 0)"));
    }
}
