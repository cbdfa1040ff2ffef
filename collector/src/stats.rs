//! What the collector counts of itself, on `/metrics` and `/status`.
//!
//! Items are counted twice on purpose of the identity: `received` when the record is durable, every other account when the
//! batch that settles it is. The difference is in flight. Totals start from the ledger, so a restart does not reset them.

use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use tailwater_model::ledger::{Account, Amount, Key};
use tailwater_model::otlp::columns::Changes;
use tailwater_model::signal::Signal;
use tailwater_runtime::Metrics;
use tailwater_runtime::metrics::{BYTES, Counter, Gauge, Histogram, Labelled, SECONDS};

use crate::intake::Packed;
use crate::log::Entry;

/// Counters of one collector.
pub struct Stats {
    requests: Labelled<3, Counter>,
    refused: Labelled<3, Counter>,
    wire_bytes: Labelled<1, Counter>,
    sanitized: Labelled<2, Counter>,
    items_changed: Labelled<2, Counter>,
    connections_refused: Labelled<1, Counter>,
    items: Labelled<4, Counter>,
    item_bytes: Labelled<4, Counter>,
    in_flight: Labelled<2, Gauge>,
    bytes_in_flight: Labelled<2, Gauge>,
    ack_seconds: Labelled<1, Histogram>,
    batch_rows: Histogram,
    batch_bytes: Histogram,
    commit_seconds: Labelled<1, Histogram>,
    commit_failures: Labelled<1, Counter>,
    batches_lost: Labelled<1, Counter>,
    red_folded: Counter,
    totals: Mutex<AHashMap<(Arc<str>, Signal), Totals>>,
}

/// How an export request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Ok,
    /// Nothing of it is stored, for this reason.
    Refused(&'static str),
    /// It may be durable: nobody waited for that, for this reason.
    Unknown(&'static str),
}

/// Accounts of one tenant and signal.
#[derive(Default)]
struct Totals {
    accounts: AHashMap<(Account, &'static str), Amount>,
    in_flight: i64,
    bytes_in_flight: i64,
}

impl Stats {
    /// Registers everything.
    pub fn new(metrics: &Metrics) -> Arc<Stats> {
        Arc::new(Stats {
            requests: metrics.counters(
                "tailwater_requests",
                "export requests whose head was accepted, by protocol, signal and outcome: ok, the reason of the refusal, or deadline and cancelled, \
                 when the client stopped waiting",
                ["protocol", "signal", "outcome"],
            ),
            refused: metrics.counters(
                "tailwater_requests_refused",
                "requests refused before or instead of being accepted, by protocol, signal (none: refused by its head) and reason",
                ["protocol", "signal", "reason"],
            ),
            wire_bytes: metrics.counters("tailwater_request_bytes", "request body bytes as they arrived", ["signal"]),
            sanitized: metrics.counters(
                "tailwater_strings_changed",
                "strings that were not UTF-8 (sanitized) or beyond a cap (truncated)",
                ["signal", "change"],
            ),
            items_changed: metrics.counters(
                "tailwater_items_changed",
                "what was stored otherwise than it was sent, or with a flag: attributes (duplicate_key: left out, empty_key, strindex: no value), \
                 log records (unlinked: an id that is none), and spans and log records by ts_flag",
                ["signal", "change"],
            ),
            connections_refused: metrics.counters("tailwater_connections_refused", "connections not served, or cut off", ["reason"]),
            items: metrics.counters(
                "tailwater_items",
                "spans, data points and log records by the account they are in; received is the sum of the others and of in flight",
                ["tenant", "signal", "account", "reason"],
            ),
            item_bytes: metrics.counters(
                "tailwater_item_bytes",
                "protobuf bytes of the items of each account",
                ["tenant", "signal", "account", "reason"],
            ),
            in_flight: metrics.gauges("tailwater_items_in_flight", "items received and not yet in a durable batch", ["tenant", "signal"]),
            bytes_in_flight: metrics.gauges(
                "tailwater_item_bytes_in_flight",
                "protobuf bytes of the items received and not yet in a durable batch",
                ["tenant", "signal"],
            ),
            ack_seconds: metrics.histograms(
                "tailwater_ack_seconds",
                "time from the head of a request to its durable record, or until nobody waited for it any more",
                ["signal"],
                &SECONDS,
            ),
            batch_rows: metrics.histogram("tailwater_batch_rows", "rows of an outbox batch", &BYTES),
            batch_bytes: metrics.histogram("tailwater_batch_bytes", "bytes of an outbox batch", &BYTES),
            commit_seconds: metrics.histograms("tailwater_commit_seconds", "time of a table commit", ["table"], &SECONDS),
            commit_failures: metrics.counters("tailwater_commit_failures", "table commits that failed and will be tried again", ["table"]),
            red_folded: metrics.counter(
                "tailwater_red_spans_folded",
                "spans counted as __other__ in table red, because their service or tenant has more keys than red.keys or red.services",
            ),
            batches_lost: metrics.counters(
                "tailwater_outbox_batches_lost",
                "outbox batches whose rows a table lacks, because they do not verify or no file can be made of them",
                ["table"],
            ),
            totals: Mutex::default(),
        })
    }

    /// A request has ended.
    pub fn request(&self, packed: Packed, wire_bytes: u64, outcome: Outcome, took: Duration) {
        let (protocol, signal) = (if packed.framed { "grpc" } else { "http" }, packed.signal.name());
        let name = match outcome {
            Outcome::Ok => "ok",
            Outcome::Refused(reason) | Outcome::Unknown(reason) => reason,
        };
        self.requests.with([protocol, signal, name]).inc();
        self.wire_bytes.with([signal]).inc_by(wire_bytes);
        match outcome {
            Outcome::Refused(reason) => {
                self.refused.with([protocol, signal, reason]).inc();
            }
            // Who gave up waited, too: without them a slow disk would look fast.
            Outcome::Ok | Outcome::Unknown(_) => self.ack_seconds.with([signal]).observe(took.as_secs_f64()),
        }
    }

    /// A request was refused by its head alone.
    pub fn refused_unread(&self, protocol: &'static str, reason: &'static str) {
        self.refused.with([protocol, "none", reason]).inc();
    }

    /// A connection was not served.
    pub fn refused_connection(&self, reason: &'static str) {
        self.connections_refused.with([reason]).inc();
    }

    /// Strings changed on the way in.
    pub fn changed(&self, signal: Signal, sanitized: u64, truncated: u64) {
        if sanitized > 0 {
            self.sanitized.with([signal.name(), "sanitized"]).inc_by(sanitized);
        }
        if truncated > 0 {
            self.sanitized.with([signal.name(), "truncated"]).inc_by(truncated);
        }
    }

    /// Rows went into a batch, of which this was changed.
    pub fn items_changed(&self, signal: Signal, changes: &Changes) {
        for (change, count) in changes.counts() {
            self.items_changed.with([signal.name(), change]).inc_by(count);
        }
    }

    /// A record is durable (or was found in the log again).
    pub fn received(&self, entry: &Entry) {
        let key = Key {
            tenant: entry.tenant.clone(),
            signal: entry.signal,
            account: Account::Received,
            reason: "",
        };
        self.add(
            &key,
            Amount {
                items: entry.items,
                bytes: entry.wire_bytes,
            },
        );
    }

    /// A batch is durable: everything in its deltas but `received`, which was counted before.
    pub fn settled<'a>(&self, deltas: impl IntoIterator<Item = (&'a Key, &'a Amount)>) {
        deltas
            .into_iter()
            .filter(|(key, _)| key.account != Account::Received)
            .for_each(|(key, amount)| self.add(key, *amount));
    }

    /// Totals of the process before this one, all accounts.
    pub fn restore<'a>(&self, totals: impl IntoIterator<Item = (&'a Key, &'a Amount)>) {
        totals.into_iter().for_each(|(key, amount)| self.add(key, *amount));
    }

    /// A batch of this size went to the outbox.
    pub fn batch(&self, rows: u64, bytes: u64) {
        self.batch_rows.observe(rows as f64);
        self.batch_bytes.observe(bytes as f64);
    }

    /// A table was committed.
    pub fn committed(&self, table: &'static str, took: Duration) {
        self.commit_seconds.with([table]).observe(took.as_secs_f64());
    }

    /// A commit failed; its rows stay in the outbox.
    pub fn commit_failed(&self, table: &'static str) {
        self.commit_failures.with([table]).inc();
    }

    /// Batches of the outbox could not be read; their rows of this table are lost.
    pub fn batches_lost(&self, table: &'static str, batches: u64) {
        self.batches_lost.with([table]).inc_by(batches);
    }

    /// Spans were counted under a key that stands for others.
    pub fn folded(&self, spans: u64) {
        self.red_folded.inc_by(spans);
    }

    /// All totals, sorted: what `/status` shows.
    pub fn totals(&self) -> Vec<(Key, Amount)> {
        let totals = self.totals.lock();
        let mut all: Vec<_> = totals
            .iter()
            .flat_map(|((tenant, signal), totals)| {
                totals.accounts.iter().map(|((account, reason), amount)| {
                    (
                        Key {
                            tenant: tenant.clone(),
                            signal: *signal,
                            account: *account,
                            reason,
                        },
                        *amount,
                    )
                })
            })
            .collect();
        all.sort();
        all
    }

    fn add(&self, key: &Key, amount: Amount) {
        let labels = [&*key.tenant, key.signal.name(), key.account.name(), key.reason];
        self.items.with(labels).inc_by(amount.items);
        self.item_bytes.with(labels).inc_by(amount.bytes);
        let mut totals = self.totals.lock();
        let of = totals.entry((key.tenant.clone(), key.signal)).or_default();
        let total = of.accounts.entry((key.account, key.reason)).or_default();
        total.items += amount.items;
        total.bytes += amount.bytes;
        let sign = match key.account {
            Account::Received => 1,
            Account::Expired => 0,
            _ => -1,
        };
        of.in_flight += sign * amount.items as i64;
        of.bytes_in_flight += sign * amount.bytes as i64;
        let labels = [&*key.tenant, key.signal.name()];
        self.in_flight.with(labels).set(of.in_flight);
        self.bytes_in_flight.with(labels).set(of.bytes_in_flight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_no_account_is_in_flight_in_items_and_in_bytes() {
        let metrics = Metrics::new();
        let stats = Stats::new(&metrics);
        let key = |account, reason| Key {
            tenant: "t".into(),
            signal: Signal::Logs,
            account,
            reason,
        };
        let check = |account, reason, (items, bytes): (u64, u64), expected: (i64, i64)| {
            stats.restore([(&key(account, reason), &Amount { items, bytes })]);
            let page = metrics.encode();
            for (name, value) in [("items", expected.0), ("item_bytes", expected.1)] {
                let sample = format!("tailwater_{name}_in_flight{{tenant=\"t\",signal=\"logs\"}} {value}\n");
                assert!(page.contains(&sample), "{sample}: {page}");
            }
        };
        check(Account::Received, "", (10, 1000), (10, 1000));
        check(Account::Stored, "", (6, 500), (4, 500));
        check(Account::Rejected, "future", (1, 50), (3, 450));
        check(Account::Lost, "damaged", (1, 50), (2, 400));
        check(Account::Expired, "", (3, 200), (2, 400));
        check(Account::Dropped, "", (2, 400), (0, 0));
    }
}
