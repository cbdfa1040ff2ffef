//! `tailwater status`: which roles run, what comes in, what is refused and why, what the tables hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tailwater_config::Config;
use tailwater_model::ledger::Account;
use tailwater_runtime::{Exit, run_dir};
use tailwater_storage::lake::Lake;

use super::client::{ClientArgs, Peer};
use super::exchange::{self, Unreachable};
use super::lake::{self, Figures, Format};
use super::{Common, print, role};
use crate::load::tally::align;

/// Say how the roles of a data directory are doing.
///
/// Without --data, and without a directory that roles work on, asks at the addresses of the settings.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 every role is ready or degraded; 1 one is not; 2 a table cannot be read, or it failed; 78 wrong settings.\n\n\
    Example:\n  tailwater status --data ./my-data --format json"
)]
pub struct StatusArgs {
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// How long rates are measured.
    #[arg(long, default_value = "1s", value_parser = tailwater_config::parse_duration, value_name = "TIME")]
    over: Duration,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
///
/// # Errors
/// Bad settings, or a table that cannot be read. A role that does not run is an answer, not an error.
pub fn run(args: &StatusArgs, common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let status =
        super::small_runtime()?.block_on(Box::pin(look(&config, &args.client, args.over, common.data.is_some())))?;
    print(&match args.format {
        Format::Table => status.table(),
        Format::Json => serde_json::to_string_pretty(&status)? + "\n",
    })?;
    Ok(
        if status
            .roles
            .iter()
            .all(|role| role.state == "ready" || role.state == "degraded")
        {
            Exit::Ok
        } else {
            Exit::No
        },
    )
}

/// Everything at once.
#[derive(Debug, Serialize)]
struct Status {
    data: String,
    roles: Vec<RoleStatus>,
    signals: Vec<SignalStatus>,
    /// Why items were not stored although their requests were accepted.
    reasons: Vec<Reasoned>,
    /// Requests that were not accepted.
    refusals: Vec<Refusal>,
    logs: Value,
    /// What waits for a decision, and the rung of the overload ladder; null without a policy.
    sampling: Value,
    /// By table: bytes waiting in the outbox and for how long.
    waiting: Value,
    tables: Vec<Figures>,
    /// Why something is not in it.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RoleStatus {
    role: &'static str,
    pid: Option<u32>,
    /// `ready`, `degraded`, `not_ready`, `not running`, `no answer`.
    state: String,
    why: Vec<String>,
    addresses: BTreeMap<String, String>,
    /// Where to ask it.
    #[serde(skip)]
    admin: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
struct SignalStatus {
    tenant: String,
    signal: String,
    items_per_second: f64,
    bytes_per_second: f64,
    /// Items by account since the directory was made.
    items: BTreeMap<String, u64>,
    /// Received and in no other account yet: on its way, or waiting for a decision.
    in_flight: i64,
    in_flight_bytes: i64,
}

impl SignalStatus {
    fn head() -> [String; 13] {
        let first = ["tenant", "signal", "items/s", "MB/s"].map(str::to_owned);
        let last = ["in flight", "MB in flight"].map(str::to_owned);
        cells(first, |account| account.name().replace('_', " "), last)
    }

    fn row(&self) -> [String; 13] {
        let first = [
            self.tenant.clone(),
            self.signal.clone(),
            format!("{:.0}", self.items_per_second),
            format!("{:.2}", self.bytes_per_second / 1e6),
        ];
        let items = |account| items_in(&self.items, account).to_string();
        let last = [
            self.in_flight.to_string(),
            format!("{:.2}", self.in_flight_bytes as f64 / 1e6),
        ];
        cells(first, items, last)
    }
}

/// With a cell for what was received and for each account that it ends in.
fn cells([a, b, c, d]: [String; 4], of: impl Fn(Account) -> String, [l, m]: [String; 2]) -> [String; 13] {
    let [f, g, h, i, j, k] = Account::ENDS.map(&of);
    [a, b, c, d, of(Account::Received), f, g, h, i, j, k, l, m]
}

fn items_in(items: &BTreeMap<String, u64>, account: Account) -> u64 {
    items.get(account.name()).copied().unwrap_or(0)
}

/// Items of an account that has reasons a reader will ask for.
#[derive(Debug, Serialize)]
struct Reasoned {
    account: String,
    reason: String,
    tenant: String,
    signal: String,
    items: u64,
    bytes: u64,
}

/// The accounts listed by reason. Those of `sampled_out` are the policy's strata: the table `ledger` has them.
const WITH_REASONS: [Account; 3] = [Account::Rejected, Account::Dropped, Account::Lost];

#[derive(Debug, Serialize)]
struct Refusal {
    protocol: String,
    signal: String,
    reason: String,
    requests: u64,
}

async fn look(config: &Config, client: &ClientArgs, over: Duration, is_named: bool) -> anyhow::Result<Status> {
    // A directory that was named, or that roles have worked on, says itself who is there.
    let has_run = is_named || config.data.join("run").is_dir();
    let at = |configured: SocketAddr| (!has_run).then_some(configured);
    let (collector, query, maintain) = (config.admin.collector, config.admin.query, config.admin.maintain);
    let mut roles = Vec::new();
    for (role, key, configured) in [
        ("collector", "admin.collector", at(collector)),
        ("query", "admin.query", at(query)),
        ("maintain", "admin.maintain", at(maintain)),
    ] {
        roles.push(role_status(config, client, role, key, configured).await?);
    }
    let (mut signals, mut reasons, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
    let (mut first, mut notes) = (Value::Null, Vec::new());
    let tls = config.tls_of("admin.collector").is_some();
    if let Some(admin) = roles[0].admin.map(|admin| client.local(admin, tls)).transpose()? {
        match looks(&admin, over).await {
            Ok((before, after)) => {
                signals = signals_of(&before, &after, over);
                reasons = reasons_of(&after);
                first = before;
            }
            Err(why) => notes.push(why),
        }
        if let Ok(answer) = exchange::get(&admin, "/metrics").await {
            refusals = refusals_of(&String::from_utf8_lossy(&answer.body));
        }
    }
    let lake_dir = role::lake_dir(config);
    let tables = match lake_dir.is_dir() {
        true => lake::figures(&Lake::open(&lake_dir)?, config).await?,
        false => {
            let is_running = roles.iter().any(|role| role.admin.is_some());
            notes.push(no_lake(config, has_run, is_running));
            Vec::new()
        }
    };
    Ok(Status {
        data: config.data.display().to_string(),
        roles,
        signals,
        reasons,
        refusals,
        logs: first["logs"].clone(),
        sampling: first["sampling"].clone(),
        waiting: first["tables"].clone(),
        tables,
        notes,
    })
}

fn no_lake(config: &Config, has_run: bool, is_running: bool) -> String {
    let what = match (has_run, is_running) {
        (true, true) => " yet",
        (true, false) => ", and no role works on it: is it the data directory?",
        (false, true) => ": for the tables, name the data directory with --data",
        (false, false) => ", and no role answers: name the data directory with --data",
    };
    format!("{} holds no lake{what}", config.data.display())
}

/// How a role is doing: the one that says in the data directory where it is, or the one at the `configured` address.
async fn role_status(
    config: &Config,
    client: &ClientArgs,
    role: &'static str,
    key: &str,
    configured: Option<SocketAddr>,
) -> anyhow::Result<RoleStatus> {
    let absent = || RoleStatus {
        role,
        pid: None,
        state: "not running".to_owned(),
        why: vec![],
        addresses: BTreeMap::new(),
        admin: None,
    };
    let file = run_dir::read(&config.data, role).with_context(|| format!("data: {}", config.data.display()))?;
    let mut status = match (&file, configured) {
        (Some(file), _) => RoleStatus {
            pid: Some(file.pid),
            addresses: file
                .addresses
                .iter()
                .map(|(key, address)| (key.clone(), address.to_string()))
                .collect(),
            admin: file.reach(key),
            ..absent()
        },
        (None, Some(address)) => RoleStatus {
            addresses: [(key.to_owned(), address.to_string())].into(),
            admin: Some(address),
            ..absent()
        },
        (None, None) => return Ok(absent()),
    };
    status.state = "no answer".to_owned();
    let Some(admin) = status.admin else {
        return Ok(status);
    };
    match exchange::get(&client.local(admin, config.tls_of(key).is_some())?, "/readyz").await {
        Ok(answer) => {
            let report: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            match report["state"].as_str() {
                Some(state) => state.clone_into(&mut status.state),
                None => status.why.push(format!(
                    "{admin} answers {}: is it a Tailwater admin port?",
                    answer.status
                )),
            }
            status.why.extend(reasons(&report));
        }
        Err(error) if file.is_none() && error.is::<Unreachable>() => return Ok(absent()),
        Err(error) => status.why.push(format!("{error:#}")),
    }
    Ok(status)
}

/// The reasons of a readiness report, whatever conditions it has.
fn reasons(report: &Value) -> Vec<String> {
    let conditions: Vec<(String, &Value)> = match &report["conditions"] {
        Value::Object(map) => map.iter().map(|(name, condition)| (name.clone(), condition)).collect(),
        Value::Array(list) => list
            .iter()
            .map(|condition| (condition["name"].as_str().unwrap_or_default().to_owned(), condition))
            .collect(),
        _ => vec![],
    };
    let why = conditions.into_iter().filter_map(|(name, condition)| {
        let reason = condition["reason"].as_str().filter(|reason| !reason.is_empty())?;
        Some(format!("{name}: {reason}"))
    });
    why.collect()
}

/// The collector's figures now and a moment later, or why there are none.
async fn looks(admin: &Peer, over: Duration) -> Result<(Value, Value), String> {
    let before = ask_json(admin).await?;
    tokio::time::sleep(over).await;
    Ok((before, ask_json(admin).await?))
}

async fn ask_json(admin: &Peer) -> Result<Value, String> {
    let answer = exchange::get(admin, "/status").await;
    let answer = answer.map_err(|error| format!("no figures: {error:#}"))?;
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err("figures need a token with the role admin (TAILWATER_TOKEN)".to_owned())
        }
        status if status.is_success() => {
            serde_json::from_slice(&answer.body).map_err(|error| format!("no figures: {}: {error}", admin.authority))
        }
        status => Err(format!("no figures: {} answers {status}", admin.authority)),
    }
}

/// Totals of the later look, rates from the difference.
fn signals_of(first: &Value, second: &Value, over: Duration) -> Vec<SignalStatus> {
    /// Items and bytes by account.
    type Totals = BTreeMap<(String, String), [BTreeMap<String, u64>; 2]>;
    let totals = |status: &Value| {
        let mut totals = Totals::new();
        for item in items_of(status) {
            let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            let entry = totals.entry((text("tenant"), text("signal"))).or_default();
            for (of, key) in entry.iter_mut().zip(["items", "bytes"]) {
                *of.entry(text("account")).or_default() += item[key].as_u64().unwrap_or(0);
            }
        }
        totals
    };
    let before = totals(first);
    let seconds = over.as_secs_f64().max(1e-3);
    let in_flight = |of: &BTreeMap<String, u64>| {
        let ended: u64 = Account::ENDS.into_iter().map(|account| items_in(of, account)).sum();
        items_in(of, Account::Received) as i64 - ended as i64
    };
    totals(second)
        .into_iter()
        .map(|((tenant, signal), [items, bytes])| {
            let before = before.get(&(tenant.clone(), signal.clone()));
            let rate = |at: usize, now: &BTreeMap<String, u64>| {
                let was = before.map_or(0, |before| items_in(&before[at], Account::Received));
                items_in(now, Account::Received).saturating_sub(was) as f64 / seconds
            };
            SignalStatus {
                in_flight: in_flight(&items),
                in_flight_bytes: in_flight(&bytes),
                items_per_second: rate(0, &items),
                bytes_per_second: rate(1, &bytes),
                tenant,
                signal,
                items,
            }
        })
        .collect()
}

/// Totals by account and reason, as the collector lists them.
fn items_of(status: &Value) -> &[Value] {
    status["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What did not become rows, by reason.
fn reasons_of(status: &Value) -> Vec<Reasoned> {
    let items = items_of(status).iter().map(|item| {
        let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| item[key].as_u64().unwrap_or(0);
        Reasoned {
            account: text("account"),
            reason: text("reason"),
            tenant: text("tenant"),
            signal: text("signal"),
            items: number("items"),
            bytes: number("bytes"),
        }
    });
    let mut found: Vec<Reasoned> = items
        .filter(|of| of.items > 0 && WITH_REASONS.iter().any(|account| account.name() == of.account))
        .collect();
    found.sort_by(|a, b| {
        let key = |of: &Reasoned| {
            (
                of.account.clone(),
                of.reason.clone(),
                of.tenant.clone(),
                of.signal.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    found
}

/// The samples of `tailwater_requests_refused_total` in a page of metrics.
fn refusals_of(page: &str) -> Vec<Refusal> {
    let samples = page.lines().filter_map(|line| {
        let (labels, value) = line
            .strip_prefix("tailwater_requests_refused_total{")?
            .split_once("} ")?;
        // Values of these labels are our own words: no quotes or commas inside.
        let labels: BTreeMap<&str, &str> = labels
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key, value.trim_matches('"')))
            .collect();
        let text = |key: &str| labels.get(key).copied().unwrap_or_default().to_owned();
        let requests = value.split(' ').next()?.parse::<f64>().ok()? as u64;
        Some(Refusal {
            protocol: text("protocol"),
            signal: text("signal"),
            reason: text("reason"),
            requests,
        })
    });
    samples.filter(|refusal| refusal.requests > 0).collect()
}

impl Status {
    fn table(&self) -> String {
        let mut text = format!("data {}\n\n", self.data);
        let mut rows = vec![["role", "state", "pid"].map(str::to_owned)];
        for role in &self.roles {
            let pid = role.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            rows.push([role.role.to_owned(), role.state.clone(), pid]);
        }
        text.push_str(&align(&rows));
        let listening = self.roles.iter().flat_map(|role| &role.addresses);
        listening.for_each(|(key, address)| text.push_str(&format!("{key} {address}\n")));
        for role in &self.roles {
            role.why
                .iter()
                .for_each(|why| text.push_str(&format!("{}: {why}\n", role.role)));
        }
        if let Some(overload) = self.sampling["overload"].as_str() {
            let waiting = self.sampling["waiting_traces"].as_u64().unwrap_or(0);
            text.push_str(&format!("sampling: overload {overload}, {waiting} traces wait\n"));
        }
        if !self.signals.is_empty() {
            let rows: Vec<_> = std::iter::once(SignalStatus::head())
                .chain(self.signals.iter().map(SignalStatus::row))
                .collect();
            text.push_str(&format!("\n{}", align(&rows)));
        }
        if !self.reasons.is_empty() {
            let mut rows = vec![["account", "because of", "tenant", "signal", "items"].map(str::to_owned)];
            for of in &self.reasons {
                rows.push([
                    of.account.clone(),
                    of.reason.clone(),
                    of.tenant.clone(),
                    of.signal.clone(),
                    of.items.to_string(),
                ]);
            }
            text.push_str(&format!("\n{}", align(&rows)));
        }
        if !self.refusals.is_empty() {
            let mut rows = vec![["refused because of", "protocol", "signal", "requests"].map(str::to_owned)];
            for of in &self.refusals {
                rows.push([
                    of.reason.clone(),
                    of.protocol.clone(),
                    of.signal.clone(),
                    of.requests.to_string(),
                ]);
            }
            text.push_str(&format!("\n{}", align(&rows)));
        }
        if let Some(logs) = self.logs.as_object() {
            let mut rows = vec![["log", "MB", "of MB", "not yet durable"].map(str::to_owned)];
            for (name, log) in logs {
                let mb = |key: &str| format!("{:.1}", log[key].as_f64().unwrap_or(0.0) / 1e6);
                rows.push([
                    name.clone(),
                    mb("disk_bytes"),
                    mb("budget_bytes"),
                    log["lag"].to_string(),
                ]);
            }
            text.push_str(&format!("\n{}", align(&rows)));
        }
        text.push_str(&format!("\n{}", lake::figures_table(&self.tables)));
        let lag = self
            .waiting
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(table, of)| {
                let seconds = of["oldest_waiting_seconds"].as_f64().filter(|seconds| *seconds > 0.0)?;
                let bytes = of["waiting_bytes"].as_f64().unwrap_or(0.0);
                Some(format!(
                    "{table}: {:.1} MB wait for a commit, for {seconds:.0} s\n",
                    bytes / 1e6
                ))
            });
        text.extend(lag);
        text.extend(self.notes.iter().map(|note| format!("note: {note}\n")));
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_differences_and_accounts_are_summed_over_reasons() {
        let look = |received: u64| {
            json!({"items": [
                {"tenant": "t", "signal": "logs", "account": "received", "reason": "", "items": received, "bytes": received * 10},
                {"tenant": "t", "signal": "logs", "account": "rejected", "reason": "a", "items": 1, "bytes": 1},
                {"tenant": "t", "signal": "logs", "account": "rejected", "reason": "b", "items": 2, "bytes": 1},
                {"tenant": "t", "signal": "logs", "account": "sampled_out", "reason": "rest", "items": 80, "bytes": 1},
                {"tenant": "t", "signal": "logs", "account": "stored", "reason": "", "items": 10, "bytes": 1},
                {"tenant": "t", "signal": "logs", "account": "lost", "reason": "", "items": 4, "bytes": 1},
                {"tenant": "t", "signal": "logs", "account": "expired", "reason": "", "items": 9, "bytes": 1},
            ]})
        };
        let signals = signals_of(&look(100), &look(300), Duration::from_secs(2));
        assert_eq!(signals.len(), 1);
        assert_eq!(
            (signals[0].items_per_second, signals[0].bytes_per_second),
            (100.0, 1_000.0)
        );
        assert_eq!((signals[0].items["received"], signals[0].items["rejected"]), (300, 3));
        assert_eq!(signals[0].in_flight, 300 - 3 - 80 - 10 - 4);
        assert_eq!(signals[0].in_flight_bytes, 3_000 - 5);
        let text = align(&[SignalStatus::head(), signals[0].row()]);
        let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            cells[1],
            [
                "t", "logs", "100", "0.00", "300", "3", "0", "80", "0", "10", "4", "203", "0.00"
            ]
        );
        assert!(text.contains("sampled out") && text.contains("in flight"), "{text}");
        assert!(signals_of(&Value::Null, &Value::Null, Duration::ZERO).is_empty());
    }

    #[test]
    fn items_that_were_not_stored_are_listed_by_reason() {
        let item = |account: &str, reason: &str, items: u64| json!({"tenant": "t", "signal": "logs", "account": account, "reason": reason, "items": items, "bytes": items * 10});
        let look = json!({"items": [
            item("received", "", 100),
            item("rejected", "too_large", 2),
            item("rejected", "future", 1),
            item("rejected", "past", 0),
            item("sampled_out", "rest", 80),
            item("dropped", "policy", 3),
            item("lost", "damaged", 4),
        ]});
        let status = Status {
            data: "x".to_owned(),
            roles: Vec::new(),
            signals: signals_of(&look, &look, Duration::ZERO),
            reasons: reasons_of(&look),
            refusals: Vec::new(),
            logs: Value::Null,
            sampling: Value::Null,
            waiting: Value::Null,
            tables: Vec::new(),
            notes: Vec::new(),
        };
        let text = status.table();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for expected in [
            ["dropped", "policy", "t", "logs", "3"],
            ["lost", "damaged", "t", "logs", "4"],
            ["rejected", "future", "t", "logs", "1"],
            ["rejected", "too_large", "t", "logs", "2"],
        ] {
            assert!(lines.iter().any(|line| line == &expected), "{expected:?}: {text}");
        }
        assert!(!text.contains("past") && !text.contains("rest"), "{text}");
        let json = serde_json::to_value(&status).unwrap_or_default();
        let lost =
            json!({"account": "lost", "reason": "damaged", "tenant": "t", "signal": "logs", "items": 4, "bytes": 40});
        assert_eq!(json["reasons"][1], lost);
        assert!(reasons_of(&Value::Null).is_empty());
    }

    #[test]
    fn refusals_are_read_from_the_metrics_page() {
        let page = "# TYPE tailwater_requests_refused counter\n\
            tailwater_requests_refused_total{protocol=\"grpc\",signal=\"logs\",reason=\"memory\"} 7\n\
            tailwater_requests_refused_total{protocol=\"http\",signal=\"none\",reason=\"method\"} 0\n\
            tailwater_other_total{a=\"b\"} 3\n# EOF\n";
        let refusals = refusals_of(page);
        assert_eq!(refusals.len(), 1);
        assert_eq!(
            (
                refusals[0].reason.as_str(),
                refusals[0].signal.as_str(),
                refusals[0].requests
            ),
            ("memory", "logs", 7)
        );
    }

    #[test]
    fn reasons_of_conditions() {
        let report = json!({"state": "degraded", "conditions": {"lake": {"state": "degraded", "reason": "slow"}, "log": {"state": "ready", "reason": ""}}});
        assert_eq!(reasons(&report), ["lake: slow"]);
        assert!(reasons(&Value::Null).is_empty());
    }
}
