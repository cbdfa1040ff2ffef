//! What the collector says of itself when somebody asks: gauges, and what `/status` answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tailwater_journal::Journal;
use tailwater_journal::dedup::Register;
use tailwater_model::ids::TraceId;
use tailwater_model::table::Table;
use tailwater_runtime::{Metrics, Readiness};
use tailwater_wal::Wal;

use crate::intake::Intake;
use crate::outbox::Waiting;
use crate::tail::{Fate, Tail};

/// The parts that have figures.
#[derive(Clone)]
pub struct Figures {
    /// Memory, backlog, items.
    pub intake: Arc<Intake>,
    /// A log.
    pub intake_log: Arc<Wal>,
    /// The other.
    pub outbox: Arc<Wal>,
    /// Decisions, versions of tables.
    pub journal: Arc<Mutex<Journal>>,
    /// What waits for tables.
    pub waiting: Arc<Waiting>,
    /// The sampler, with a policy.
    pub tail: Option<Arc<Mutex<Tail>>>,
    /// The state of all.
    pub readiness: Readiness,
}

impl Figures {
    /// Registers the gauges.
    pub fn watch(&self, metrics: &Metrics) {
        let Figures {
            intake,
            intake_log,
            outbox,
            journal,
            waiting,
            ..
        } = self;
        type OfIntake = fn(&Intake) -> u64;
        let gauges: [(&str, &str, OfIntake); 4] = [
            ("memory_used_bytes", "request bytes held in memory", |intake| {
                intake.memory.used()
            }),
            ("memory_limit_bytes", "request bytes that may be held", |intake| {
                intake.memory.limit()
            }),
            (
                "backlog_used_bytes",
                "accepted bytes not yet in a durable batch",
                |intake| intake.backlog.used(),
            ),
            ("backlog_limit_bytes", "accepted bytes there is room for", |intake| {
                intake.backlog.limit()
            }),
        ];
        for (name, help, read) in gauges {
            let intake = intake.clone();
            metrics.gauge_fn(&format!("tailwater_{name}"), help, move || read(&intake) as f64);
        }
        if let Some(dedup) = intake.dedup.clone() {
            metrics.counter_fn(
                "tailwater_digests_evicted",
                "requests that intake.dedup forgot before intake.dedup_window was over, because more came than it remembers",
                move || dedup.with(Register::evicted),
            );
        }
        for (log, wal) in [("intake_log", intake_log), ("outbox", outbox)] {
            type Read = fn(&tailwater_wal::Stats) -> u64;
            let gauges: [(&str, &str, Read); 7] = [
                ("disk_bytes", "disk taken", |stats| stats.disk_bytes),
                ("budget_bytes", "disk that may be taken", |stats| stats.budget_bytes),
                ("segments", "live segments", |stats| stats.segments),
                (
                    "lag_records",
                    "records accepted and not yet durable",
                    tailwater_wal::Stats::lag,
                ),
                ("queue_bytes", "bytes waiting for the disk", |stats| stats.queue_bytes),
                ("queue_limit_bytes", "bytes that may wait for the disk", |stats| {
                    stats.queue_bytes_max
                }),
                ("kept_records", "records still on disk", |stats| {
                    stats.next_seq.saturating_sub(stats.first_seq)
                }),
            ];
            for (name, help, read) in gauges {
                let wal = wal.clone();
                metrics.gauge_fn(
                    &format!("tailwater_{log}_{name}"),
                    &format!("{log}: {help}"),
                    move || read(&wal.stats()) as f64,
                );
            }
            let counters: [(&str, &str, Read); 4] = [
                ("written_bytes", "bytes written", |stats| stats.bytes),
                ("records", "records written", |stats| stats.records),
                ("syncs", "syncs done", |stats| stats.syncs),
                ("sync_nanoseconds", "time spent in syncs", |stats| stats.sync_nanos),
            ];
            for (name, help, read) in counters {
                let wal = wal.clone();
                metrics.counter_fn(
                    &format!("tailwater_{log}_{name}"),
                    &format!("{log}: {help}"),
                    move || read(&wal.stats()),
                );
            }
        }
        let of = journal.clone();
        metrics.gauge_fn(
            "tailwater_decisions_remembered",
            "decisions remembered for late spans",
            move || of.lock().remembered() as f64,
        );
        for table in Table::COLLECTED {
            let of = waiting.clone();
            metrics.gauge_fn(
                &format!("tailwater_waiting_{}_bytes", table.name()),
                &format!("bytes of table {} in the outbox and not yet committed", table.name()),
                move || of.of(table).map_or(0.0, |(bytes, _)| bytes as f64),
            );
        }
        if let Some(tail) = &self.tail {
            watch_tail(metrics, tail);
        }
    }

    /// What `/trace/{id}` says: what is known of the traces of this id, by tenant. Without a policy nothing is decided, and nothing said.
    pub fn trace(&self, id: u128) -> Value {
        let trace = TraceId(id.to_be_bytes());
        let totals = self.intake.stats.totals();
        let tenants: BTreeSet<&Arc<str>> = totals.iter().map(|(key, _)| &key.tenant).collect();
        let found: Vec<Value> = self
            .tail
            .iter()
            .flat_map(|tail| {
                // One by one, and in the order of the road: it waits for nobody who asks.
                let fate = |tenant: &&Arc<str>| {
                    Some(fate_json(
                        tenant,
                        tail.lock().fate(tenant, trace, &self.journal.lock())?,
                    ))
                };
                tenants.iter().filter_map(fate).collect::<Vec<_>>()
            })
            .collect();
        json!({ "samples": self.tail.is_some(), "found": found })
    }

    /// What `/status` says: the same figures for the command line.
    pub fn status(&self) -> Value {
        let Figures {
            intake,
            journal,
            waiting,
            tail,
            readiness,
            ..
        } = self;
        let logs = [("intake_log", &self.intake_log), ("outbox", &self.outbox)];
        let items: Vec<Value> = intake
            .stats
            .totals()
            .into_iter()
            .map(|(key, amount)| {
                json!({
                    "tenant": &*key.tenant, "signal": key.signal.name(), "account": key.account.name(), "reason": key.reason,
                    "items": amount.items, "bytes": amount.bytes,
                })
            })
            .collect();
        let logs: serde_json::Map<String, Value> = logs
            .iter()
            .map(|(name, wal)| {
                let stats = wal.stats();
                let figures = json!({
                    "disk_bytes": stats.disk_bytes, "budget_bytes": stats.budget_bytes, "next": stats.next_seq,
                    "first": stats.first_seq, "durable": stats.durable_seq, "lag": stats.lag(),
                    "written_bytes": stats.bytes, "syncs": stats.syncs,
                });
                ((*name).to_owned(), figures)
            })
            .collect();
        let tables: serde_json::Map<String, Value> = {
            let journal = journal.lock();
            Table::COLLECTED
                .into_iter()
                .map(|table| {
                    let (bytes, age) = waiting.of(table).map_or((0, 0.0), |(bytes, since)| (bytes, since.elapsed().as_secs_f64()));
                    let figures = json!({
                        "committed_batch": journal.version(table).0, "waiting_bytes": bytes, "oldest_waiting_seconds": age,
                    });
                    (table.name().to_owned(), figures)
                })
                .collect()
        };
        json!({
            "role": "collector",
            "log_id": journal.lock().log_id().to_string(),
            "state": format!("{:?}", readiness.report().state).to_lowercase(),
            "items": items,
            "memory": { "used_bytes": intake.memory.used(), "limit_bytes": intake.memory.limit() },
            "backlog": { "used_bytes": intake.backlog.used(), "limit_bytes": intake.backlog.limit() },
            "logs": logs,
            "tables": tables,
            "sampling": tail.as_ref().map(|tail| {
                let tail = tail.lock();
                let (traces, bytes) = tail.waiting();
                json!({
                    "policy_epoch": tail.epoch(), "waiting_traces": traces, "waiting_bytes": bytes, "overload": tail.rung().name(),
                })
            }),
            "digests": intake.dedup.as_ref().map(|dedup| dedup.with(Register::len)),
        })
    }
}

fn fate_json(tenant: &str, fate: Fate) -> Value {
    match fate {
        Fate::Waits => json!({ "tenant": tenant, "state": "waits" }),
        Fate::Dropped => json!({ "tenant": tenant, "state": "sampled_out" }),
        Fate::Decided {
            decision,
            is_kept,
            settled_ns,
        } => json!({
            "tenant": tenant, "state": if is_kept { "kept" } else { "sampled_out" }, "stratum": &*decision.reason,
            "threshold": decision.threshold.bits(), "th": decision.threshold.to_string(), "p": decision.threshold.probability(),
            "dropped": decision.is_dropped, "policy_epoch": decision.epoch, "settled_ns": settled_ns,
        }),
    }
}

/// Gauges of the sampler.
fn watch_tail(metrics: &Metrics, tail: &Arc<Mutex<Tail>>) {
    type Read = fn(&Tail) -> f64;
    let gauges: [(&str, &str, Read); 3] = [
        (
            "tailwater_sampling_waiting_traces",
            "traces that wait for their decision",
            |tail| tail.waiting().0 as f64,
        ),
        (
            "tailwater_sampling_waiting_bytes",
            "memory of traces that wait, and of requests kept for them",
            |tail| tail.waiting().1 as f64,
        ),
        (
            "tailwater_sampling_overload",
            "rung of the overload ladder: 0 normal, 1 rest, 2 protected, 3 admission, 4 refuse",
            |tail| f64::from(tail.rung() as u8),
        ),
    ];
    for (name, help, read) in gauges {
        let tail = tail.clone();
        metrics.gauge_fn(name, help, move || read(&tail.lock()));
    }
    let tail = tail.clone();
    metrics.counter_fn(
        "tailwater_sampling_decisions_crowded_out",
        "decisions forgotten before their time, because more were made than are remembered",
        move || tail.lock().crowded_out(),
    );
}
