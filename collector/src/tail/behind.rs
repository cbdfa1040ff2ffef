//! What lies behind the road: the intake log's records, the outbox's queue, the policy's file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tailwater_config::Problems;
use tailwater_journal::record::Head;
use tailwater_model::ids::Lsn;
use tailwater_sampling::governor::{Drain, Rung};
use tailwater_sampling::policy::{self, Policy};
use tailwater_wal::{Stats, Wal};
use tracing::{error, info, warn};
use xxhash_rust::xxh3::xxh3_128;

use crate::gate::{Cause, Gate};
use crate::open;
use crate::outbox::Waiting;

/// What lies behind the road, read at every tick.
pub trait Behind: Send {
    /// Bytes of rows decided and not yet committed, bytes of rows committed since start: both as stored.
    fn drain(&self) -> Drain;
    /// Stored bytes that a byte of protobuf took, in what was committed since the last answer; `None` if nothing was.
    fn stored_per_byte(&self) -> Option<f64> {
        None
    }
    /// Queue to the writer and space of the intake log, as parts of their limits.
    fn pressure(&self) -> (f64, f64);
    /// These records of the intake log, which ascend.
    fn records(&self, lsns: Vec<Lsn>) -> Box<dyn Picks>;
    /// A policy that was read since the last call.
    fn policy(&mut self) -> Option<Policy>;
    /// How many traces of a tenant may wait at once.
    fn live_traces(&self, _tenant: &str) -> Option<u32> {
        None
    }
    /// Where the intake log has hardly any room left: the records at its beginning that ought to be needed no more.
    fn crowded(&self) -> Option<Range<Lsn>> {
        None
    }
    /// What a clock says that nobody sets, ns since any moment; `None` where arrivals alone say the time.
    fn steady_ns(&self) -> Option<u64> {
        None
    }
    /// Where the ladder stands now, what is fullest, and how long what is queued takes to drain.
    fn stand(&mut self, _rung: Rung, _fullest: Cause, _delay: Duration) {}
}

/// Records of the intake log, one after the other.
pub trait Picks {
    /// The next one, for as long as the one behind it is not asked for; no record where damage took it.
    ///
    /// # Errors
    /// The log does not let itself be read: nobody knows what is there.
    fn next(&mut self) -> Option<Result<Option<Picked<'_>>, tailwater_wal::Error>>;
}

/// What rows need of a record.
#[derive(Debug)]
pub struct Picked<'a> {
    /// Its number.
    pub lsn: Lsn,
    /// Arrival, unix ns.
    pub arrival_ns: u64,
    /// Ordinals of the items refused, ascending.
    pub rejected: Vec<u32>,
    /// The protobuf bytes.
    pub payload: &'a [u8],
}

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
    /// Any moment, by a clock that nobody sets.
    pub begun: Instant,
}

/// From this part of its room on the intake log lets its beginning go, and what waits there is decided early.
const CROWDED: f64 = 0.9;
/// So much of it, in records.
const LET_GO: u64 = 4;

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
        (part(stats.queue_bytes, stats.queue_bytes_max), full(&stats))
    }

    fn crowded(&self) -> Option<Range<Lsn>> {
        let stats = self.intake.stats();
        let first = stats.first_seq;
        let end = first + stats.next_seq.saturating_sub(first) / LET_GO;
        (full(&stats) > CROWDED).then_some(Lsn(first)..Lsn(end))
    }

    fn steady_ns(&self) -> Option<u64> {
        Some(self.begun.elapsed().as_nanos() as u64)
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

fn part(of: u64, limit: u64) -> f64 {
    of as f64 / limit.max(1) as f64
}

/// The part of the intake log's room that is taken. Segments kept for reuse are room, too.
fn full(stats: &Stats) -> f64 {
    part(stats.disk_bytes, stats.budget_bytes) * part(stats.segments, stats.segments + stats.free_segments)
}

/// Records of the intake log. What does not verify is set aside, as a replay does.
struct FromLog {
    picks: tailwater_wal::Picks,
    intake: Arc<Wal>,
}

impl Picks for FromLog {
    fn next(&mut self) -> Option<Result<Option<Picked<'_>>, tailwater_wal::Error>> {
        let record = match self.picks.next()? {
            Ok(record) => record,
            Err(error) => {
                let is_damaged = open::set_aside(&self.intake, &error).is_some();
                return Some(if is_damaged { Ok(None) } else { Err(error) });
            }
        };
        let head = Head::decode(record.head)
            .inspect_err(|error| error!(lsn = record.seq, %error, "the head of a record cannot be read"));
        Some(Ok(head.ok().map(|head| Picked {
            lsn: Lsn(record.seq),
            arrival_ns: head.arrival_ns,
            rejected: head.rejected.iter().map(|(ordinal, _)| ordinal).collect(),
            payload: record.body,
        })))
    }
}

/// The file of a policy, as it was read last. The epoch of what it says is the time of its last change, unix s, or more than that: it grows
/// with every edit, also where two come in a second, and survives a restart.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    /// Of the text; `None` after one that cannot be read.
    digest: Option<u128>,
    epoch: u64,
}

impl PolicyFile {
    /// Reads the policy of a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, or that it cannot be read.
    pub fn open(path: &Path) -> Result<(PolicyFile, Policy), Problems> {
        let mut file = PolicyFile {
            path: path.to_path_buf(),
            digest: None,
            epoch: 0,
        };
        let policy = file.take(std::fs::read_to_string(path))?;
        Ok((file, policy))
    }

    /// Reads it again, if it says anything else than before.
    pub fn look(&mut self) -> Option<Result<Policy, Problems>> {
        let text = std::fs::read_to_string(&self.path);
        let digest = text.as_ref().ok().map(|text| digest(text));
        (digest != self.digest).then(|| self.take(text))
    }

    fn take(&mut self, text: std::io::Result<String>) -> Result<Policy, Problems> {
        self.digest = text.as_ref().ok().map(|text| digest(text));
        let text = text.map_err(|error| Problems::unreadable(&self.path, &error))?;
        let mut policy = policy::read(&self.path, &text)?;
        self.epoch = modified(&self.path).unwrap_or(0).max(self.epoch + 1);
        policy.epoch = self.epoch;
        Ok(policy)
    }

    /// Puts what it says into the slot whenever that changes, until dropped. A file that is wrong changes nothing.
    pub async fn watch(mut self, slot: Arc<Mutex<Option<Policy>>>) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.look() {
                Some(Ok(policy)) => {
                    info!(policy = %self.path.display(), epoch = policy.epoch, "sampling policy read again");
                    *slot.lock() = Some(policy);
                }
                Some(Err(problems)) => warn!("the sampling policy stays as it was:\n{problems}"),
                None => {}
            }
        }
    }
}

/// How often the file is looked at. It is read each time: its time says too little, where edits come fast or a copy brings its own.
const LOOK: Duration = Duration::from_secs(2);

fn digest(text: &str) -> u128 {
    xxh3_128(text.as_bytes())
}

fn modified(path: &Path) -> Option<u64> {
    let time: SystemTime = std::fs::metadata(path).ok()?.modified().ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two edits of one length within a second, which leave the file's time as it was; a wrong one; one that is taken back.
    #[test]
    fn every_edit_of_a_policy_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(long_ago).unwrap();
        };
        let text = |share: u32| format!("strata: [{{name: rest, target: {share}%}}]\n");
        write(&text(10));
        let (mut file, first) = PolicyFile::open(&path).unwrap();
        assert_eq!(first.epoch, 1_000_000_000);
        assert!(file.look().is_none());
        for (share, epoch) in [(20, 1_000_000_001), (30, 1_000_000_002)] {
            write(&text(share));
            let policy = file.look().unwrap().unwrap();
            let target = policy::Target::Probability(f64::from(share) / 100.0);
            assert_eq!((policy.epoch, &policy.strata[0].target), (epoch, &target));
            assert!(file.look().is_none());
        }
        write("strata: 7\n");
        assert!(file.look().unwrap().is_err());
        assert!(file.look().is_none(), "it is said once");
        std::fs::remove_file(&path).unwrap();
        assert!(file.look().unwrap().is_err());
        assert!(file.look().is_none());
        write(&text(30));
        assert_eq!(file.look().unwrap().unwrap().epoch, 1_000_000_003);
    }
}
