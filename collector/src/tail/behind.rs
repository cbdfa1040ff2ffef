//! What lies behind the road: the intake log's records, the outbox's queue, the policy's file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tailwater_config::Problems;
use tailwater_journal::record::Head;
use tailwater_model::ids::Lsn;
use tailwater_sampling::governor::{Drain, Rung};
use tailwater_sampling::policy::{self, Policy};
use tailwater_wal::Wal;
use tracing::{error, info, warn};

use super::{Behind, Picked, Picks};
use crate::gate::{Cause, Gate};
use crate::open;
use crate::outbox::Waiting;

/// What a byte of frames takes in a table, until the first commit tells.
const STORED_PER_FRAME_BYTE: f64 = 0.13;

/// How many traces of a tenant may wait at once; `None` sets no limit.
pub type LiveTraces = Box<dyn Fn(&str) -> Option<u32> + Send>;

/// The logs of this collector.
pub struct Logs {
    /// To read records from.
    pub intake: Arc<Wal>,
    /// Rows that wait.
    pub waiting: Arc<Waiting>,
    /// Rows of one commit: so much waits when nothing is behind, bytes of frames.
    pub commit_bytes: u64,
    /// Where [`watch`] puts a new policy.
    pub policy: Arc<Mutex<Option<Policy>>>,
    /// How many traces of a tenant may wait at once.
    pub live_traces: LiveTraces,
    /// What intake refuses by.
    pub gate: Arc<Gate>,
}

impl Behind for Logs {
    fn drain(&self) -> Drain {
        let figures = self.waiting.traces();
        let ratio = match figures.drained {
            0 => STORED_PER_FRAME_BYTE,
            drained => figures.stored as f64 / drained as f64,
        };
        Drain {
            queued: figures.waiting.saturating_sub(self.commit_bytes) as f64 * ratio,
            drained: Some(figures.stored as f64),
            commits: figures.commits,
        }
    }

    fn stored_per_byte(&self) -> Option<f64> {
        self.waiting.stored_per_byte()
    }

    fn pressure(&self) -> (f64, f64) {
        let stats = self.intake.stats();
        let part = |of: u64, limit: u64| of as f64 / limit.max(1) as f64;
        (
            part(stats.queue_bytes, stats.queue_bytes_max),
            // Segments kept for reuse are room, too.
            part(stats.disk_bytes, stats.budget_bytes) * part(stats.segments, stats.segments + stats.free_segments),
        )
    }

    fn records(&self, lsns: Vec<Lsn>) -> Box<dyn Picks> {
        Box::new(FromLog {
            picks: self.intake.pick(lsns.into_iter().map(|lsn| lsn.0)),
            intake: self.intake.clone(),
        })
    }

    fn policy(&mut self) -> Option<Policy> {
        self.policy.lock().take()
    }

    fn live_traces(&self, tenant: &str) -> Option<u32> {
        (self.live_traces)(tenant)
    }

    fn stand(&mut self, rung: Rung, fullest: Cause, delay: Duration) {
        self.gate.stand(rung, fullest, delay);
    }
}

/// Records of the intake log. What does not verify is set aside, as a replay does.
struct FromLog {
    picks: tailwater_wal::Picks,
    intake: Arc<Wal>,
}

impl Picks for FromLog {
    fn next(&mut self) -> Option<Option<Picked<'_>>> {
        let record = match self.picks.next()? {
            Ok(record) => record,
            Err(error) => {
                open::set_aside(&self.intake, &error);
                return Some(None);
            }
        };
        let head = Head::decode(record.head)
            .inspect_err(|error| error!(lsn = record.seq, %error, "the head of a record cannot be read"));
        Some(head.ok().map(|head| Picked {
            lsn: Lsn(record.seq),
            arrival_ns: head.arrival_ns,
            rejected: head.rejected.iter().map(|(ordinal, _)| ordinal).collect(),
            payload: record.body,
        }))
    }
}

/// Reads the policy of a file. Its epoch is the time of its last change, unix s: it grows with every edit and survives a restart.
///
/// # Errors
/// Everything that is wrong with it, or that it cannot be read.
pub fn read(path: &Path) -> Result<Policy, Problems> {
    let text = std::fs::read_to_string(path).map_err(|error| Problems::unreadable(path, &error))?;
    let mut policy = policy::read(path, &text)?;
    policy.epoch = modified(path).unwrap_or(0);
    Ok(policy)
}

fn modified(path: &Path) -> Option<u64> {
    let time: SystemTime = std::fs::metadata(path).ok()?.modified().ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

const LOOK: Duration = Duration::from_secs(2);

/// Reads the file again whenever it changes, until dropped. A file that is wrong changes nothing.
pub async fn watch(path: PathBuf, slot: Arc<Mutex<Option<Policy>>>) {
    let mut known = modified(&path);
    loop {
        tokio::time::sleep(LOOK).await;
        let now = modified(&path);
        if now == known {
            continue;
        }
        known = now;
        match read(&path) {
            Ok(policy) => {
                info!(policy = %path.display(), epoch = policy.epoch, "sampling policy read again");
                *slot.lock() = Some(policy);
            }
            Err(problems) => warn!("the sampling policy stays as it was:\n{problems}"),
        }
    }
}
