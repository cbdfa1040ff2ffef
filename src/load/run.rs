//! The open loop: requests become due by the clock, whatever the server does.
//!
//! Latency counts from the due time, so a server that stalls is charged for the requests that had to wait (no coordinated
//! omission). At most `in_flight` requests are under way, waiting for retries included; when that is reached, later ones are
//! late, and those still due at the end count as unsent.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tailwater_model::signal::Signal;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::client::{Client, Target, headroom};
use super::ledger::Ledger;
use super::send::{Parcel, Sender, stopped};
use super::stamp::{Moment, Template};
use super::tally::{Report, Tally};

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// So many items a second.
    PerSecond(f64),
    /// A closed loop: as fast as answers come, `in_flight` at a time.
    Max,
}

/// Settings of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where and how to send.
    pub target: Target,
    /// Which signals, and how fast each.
    pub signals: Vec<(Signal, Rate)>,
    /// How long requests become due; `None`: until stopped.
    pub duration: Option<Duration>,
    /// Requests under way at once, of each signal.
    pub in_flight: usize,
    /// How long a request is repeated before it is given up.
    pub retry_for: Duration,
    /// Decides ids and contents.
    pub seed: u64,
    /// Where to write the sender's own account.
    pub ledger: Option<PathBuf>,
}

/// The templates to use now, by signal and time since the start: lets a workload change during a run.
pub type Source = dyn Fn(Signal, Duration) -> Arc<Vec<Template>> + Send + Sync;

/// Runs until the time is up or `stop` turns true, then waits for what is under way.
///
/// `progress` is called about four times a second with the figures so far.
///
/// # Errors
/// When the endpoint is no address or the ledger cannot be written. A server that refuses or is absent is a figure, not an error.
pub async fn run(
    options: Options,
    source: Arc<Source>,
    stop: watch::Receiver<bool>,
    progress: impl Fn(&Report),
) -> anyhow::Result<Report> {
    let ledger = options
        .ledger
        .as_deref()
        .map(|path| Ledger::open(path, options.seed))
        .transpose()?;
    let sender = Arc::new(Sender {
        client: Client::new(options.target.clone())?,
        tally: Tally::default(),
        ledger,
        retry_for: options.retry_for,
        stop: stop.clone(),
    });
    let run = Arc::new(Run {
        started: Instant::now(),
        run_start_ns: unix_ns(),
        next: AtomicU64::new(0),
        linked: std::sync::Mutex::default(),
        sender,
        source,
        options,
    });
    let mut loops = JoinSet::new();
    for (signal, rate) in run.options.signals.clone() {
        loops.spawn(run.clone().signal(signal, rate, stop.clone()));
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            ended = loops.join_next() => match ended {
                Some(ended) => ended.context("a sender panicked")??,
                None => break,
            },
            _ = ticks.tick() => progress(&run.sender.tally.report(run.options.seed, run.started.elapsed())),
        }
    }
    let elapsed = run.started.elapsed();
    let run = Arc::into_inner(run).context("all loops have ended")?;
    let report = run.sender.tally.report(run.options.seed, elapsed);
    if let Some(ledger) = Arc::into_inner(run.sender).context("all senders have ended")?.ledger {
        ledger.close()?;
    }
    Ok(report)
}

struct Run {
    options: Options,
    source: Arc<Source>,
    sender: Arc<Sender>,
    started: Instant,
    run_start_ns: u64,
    /// Number of the next request, of whatever signal.
    next: AtomicU64,
    /// Newest traces request of each template: what logs of the same template belong to.
    linked: std::sync::Mutex<Vec<Option<u64>>>,
}

impl Run {
    /// Sends one signal until the end.
    async fn signal(self: Arc<Run>, signal: Signal, rate: Rate, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let turns = Arc::new(Semaphore::new(self.options.in_flight.max(1)));
        let mut under_way = JoinSet::new();
        let mut scheduled = 0_u64;
        let mut round = 0_usize;
        loop {
            let due = match rate {
                Rate::PerSecond(rate) => self.started + Duration::from_secs_f64(scheduled as f64 / rate.max(1e-6)),
                Rate::Max => Instant::now(),
            };
            if self
                .options
                .duration
                .is_some_and(|duration| due >= self.started + duration)
            {
                break;
            }
            if rate != Rate::Max {
                tokio::select! {
                    () = stopped(&mut stop) => break,
                    () = tokio::time::sleep_until(due.into()) => {}
                }
            }
            let turn = tokio::select! {
                () = stopped(&mut stop) => break,
                () = self.time_up() => {
                    self.count_unsent(signal, rate, scheduled);
                    break;
                }
                turn = turns.clone().acquire_owned() => turn?,
            };
            let templates = (self.source)(signal, self.started.elapsed());
            let template = &templates[round % templates.len()];
            let due = if rate == Rate::Max { Instant::now() } else { due };
            let parcel = self.parcel(template, round % templates.len(), due)?;
            scheduled += u64::from(template.items);
            round += 1;
            let sender = self.sender.clone();
            under_way.spawn(async move {
                sender.deliver(parcel).await;
                drop(turn);
            });
            while let Some(ended) = under_way.try_join_next() {
                ended.context("a request panicked")?;
            }
        }
        while let Some(ended) = under_way.join_next().await {
            ended.context("a request panicked")?;
        }
        Ok(())
    }

    /// Completes when the duration is over.
    async fn time_up(&self) {
        match self.options.duration {
            Some(duration) => tokio::time::sleep_until((self.started + duration).into()).await,
            None => std::future::pending().await,
        }
    }

    fn count_unsent(&self, signal: Signal, rate: Rate, scheduled: u64) {
        let (Rate::PerSecond(rate), Some(duration)) = (rate, self.options.duration) else {
            return;
        };
        let items = (self.source)(signal, duration)
            .first()
            .map_or(1, |template| u64::from(template.items))
            .max(1);
        let missing = (rate * duration.as_secs_f64()) as u64;
        let requests = missing.saturating_sub(scheduled).div_ceil(items);
        self.sender
            .tally
            .change(signal, |figures| figures.unsent_requests += requests);
    }

    /// Stamps the next request.
    fn parcel(&self, template: &Template, position: usize, due: Instant) -> anyhow::Result<Parcel> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let moment = Moment {
            seed: self.options.seed,
            request: number,
            link: self.link(template.signal, position, number),
            now_ns: unix_ns(),
            run_start_ns: self.run_start_ns,
        };
        let head = headroom(self.options.target.protocol);
        let mut payload = Vec::with_capacity(head + template.len());
        payload.resize(head, 0);
        template.write(&moment, &mut payload);
        Ok(Parcel {
            number,
            signal: template.signal,
            items: template.items.into(),
            first_id: template.first_id(&moment),
            payload_bytes: template.len() as u64,
            body: self.sender.client.envelop(payload)?,
            due,
        })
    }

    /// The request whose spans this one speaks of: its own, or for logs the newest traces request of the same template.
    fn link(&self, signal: Signal, position: usize, number: u64) -> u64 {
        let mut linked = self.linked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if linked.len() <= position {
            linked.resize(position + 1, None);
        }
        match signal {
            Signal::Traces => *linked[position].insert(number),
            Signal::Logs => linked[position].unwrap_or(number),
            Signal::Metrics => number,
        }
    }
}

/// Nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
