//! One request from its first byte to its end: attempts, waits, counters, ledger.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng;
use tailwater_model::signal::Signal;
use tokio::sync::watch;

use super::answer::{Answer, backoff};
use super::client::Client;
use super::ledger::{Entry, Ledger};
use super::tally::{Outcome, Tally};

/// A request ready to go.
#[derive(Debug)]
pub struct Parcel {
    /// Number in the run.
    pub number: u64,
    /// Its signal.
    pub signal: Signal,
    /// Spans, points or records in it.
    pub items: u64,
    /// Id of the first item, for the ledger.
    pub first_id: String,
    /// Bytes before compression and framing.
    pub payload_bytes: u64,
    /// The body as it travels.
    pub body: Bytes,
    /// When it was due.
    pub due: Instant,
}

/// Sends parcels and keeps account of them.
#[derive(Debug)]
pub struct Sender {
    /// Connections.
    pub client: Client,
    /// Counters.
    pub tally: Tally,
    /// The sender's own account, if wanted.
    pub ledger: Option<Ledger>,
    /// How long a request is repeated before it is given up.
    pub retry_for: Duration,
    /// Turns true when no further attempt should start.
    pub stop: watch::Receiver<bool>,
}

impl Sender {
    /// Sends a request until it is acknowledged, refused for good, or given up.
    pub async fn deliver(&self, parcel: Parcel) -> Outcome {
        let signal = parcel.signal;
        self.record(&parcel, "sent", None, None);
        self.tally.change(signal, |figures| {
            figures.requests += 1;
            figures.sent += parcel.items;
            figures.payload_bytes += parcel.payload_bytes;
        });
        let outcome = self.attempts(&parcel).await;
        let (rejected, reason) = match &outcome {
            Outcome::Acked => (None, None),
            Outcome::Partial(rejected) => (Some(*rejected), None),
            Outcome::Final(reason) | Outcome::Unknown(reason) | Outcome::Refused(reason) => {
                (None, Some(reason.as_str()))
            }
        };
        self.record(&parcel, outcome.name(), rejected, reason);
        self.tally.end(signal, parcel.items, &outcome, parcel.due.elapsed());
        outcome
    }

    async fn attempts(&self, parcel: &Parcel) -> Outcome {
        let signal = parcel.signal;
        let started = Instant::now();
        let mut unanswered = false;
        let mut attempt = 0;
        loop {
            self.tally.change(signal, |figures| {
                figures.wire_bytes += parcel.body.len() as u64;
                figures.retried += u64::from(attempt > 0);
            });
            let (why, after) = match self.client.send(signal, parcel.body.clone()).await {
                Answer::Acked { rejected: 0 } => return Outcome::Acked,
                Answer::Acked { rejected } => return Outcome::Partial(rejected),
                Answer::Final { code } => {
                    self.tally.reason(signal, &code);
                    return Outcome::Final(code);
                }
                Answer::Refused { code, after } => {
                    self.tally.change(signal, |figures| figures.refused += 1);
                    (code, after)
                }
                Answer::Broken { cause } => {
                    unanswered = true;
                    (cause, None)
                }
            };
            self.tally.reason(signal, &why);
            let wait = backoff(attempt, after, rand::rng().random());
            let given_up = started.elapsed() + wait > self.retry_for || self.pause(wait).await;
            match (given_up, unanswered) {
                (true, true) => return Outcome::Unknown(why),
                (true, false) => return Outcome::Refused(why),
                (false, _) => attempt += 1,
            }
        }
    }

    /// Waits; true when the run stops meanwhile.
    async fn pause(&self, wait: Duration) -> bool {
        let mut stop = self.stop.clone();
        tokio::time::timeout(wait, stopped(&mut stop)).await.is_ok()
    }

    fn record(&self, parcel: &Parcel, outcome: &str, rejected: Option<u64>, reason: Option<&str>) {
        let Some(ledger) = &self.ledger else { return };
        let entry = Entry {
            n: parcel.number,
            signal: parcel.signal.name(),
            first_id: &parcel.first_id,
            items: parcel.items,
            outcome,
            rejected,
            reason,
        };
        if let Err(error) = ledger.add(&entry) {
            // A crash test with holes in its ledger proves nothing; better no result than a wrong one.
            panic!("the ledger must be whole: {error:#}");
        }
    }
}

/// Completes when the run stops; never, when nobody can stop it any more.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
