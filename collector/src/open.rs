//! Opening a data directory: locks, checkpoint, both logs, everything the process before this one had settled (P9).

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tailwater_journal::dedup::Register;
use tailwater_journal::record::Head;
use tailwater_journal::{Journal, Reasons, Recovery, Settings};
use tailwater_model::ids::{BatchSeq, Lsn, SHARDS};
use tailwater_model::otlp::reject::Reason;
use tailwater_sampling::{ADMISSION, LIVE_TRACES};
use tailwater_storage::outbox;
use tailwater_wal::{Bodies, Kind, Options, Record, Recovered, Wal};
use tracing::{error, info, warn};

use crate::checkpoint;
use crate::keep::{GUARD_SECTION, SAMPLER_SECTION};
use crate::log::{Accepted, Entry};
use crate::road::{LOST_DAMAGED, LOST_UNDECODABLE};
use crate::run::CollectorError;
use crate::tail::AGAIN;

/// Which of the two logs a segment belongs to.
const INTAKE_KIND: u32 = 1;

/// Decisions remembered, some 110 bytes each. With everything kept they only number the parts of a trace.
const DECISIONS_MAX: usize = 200_000;
const DECISION_AGE_MAX_NS: u64 = 3600 * 1_000_000_000;
/// Digests remembered; at 1,000 requests a second a window of 15 minutes holds 900,000.
const DIGESTS_MAX: usize = 1 << 20;

/// Where things lie and how large they may be.
#[derive(Debug, Clone)]
pub struct Directory {
    /// The data directory.
    pub data: PathBuf,
    /// Where the two logs lie.
    pub logs: PathBuf,
    /// Options of the intake log, but for what recovery finds out.
    pub intake: LogOptions,
    /// Options of the outbox.
    pub outbox: LogOptions,
    /// Free bytes of the file system that are left alone.
    pub reserve_bytes: u64,
    /// When an append counts as done.
    pub ack: tailwater_wal::Ack,
    /// Promise it even where no sync can keep it.
    pub allow_volatile: bool,
    /// Largest record of the intake log.
    pub record_bytes_max: u64,
    /// How long a digest is remembered; `None` with `dedup: off`.
    pub dedup_window_ns: Option<u64>,
}

/// Size of one log.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// One segment.
    pub segment_bytes: u64,
    /// All of them.
    pub budget_bytes: u64,
}

/// Ranges of records, first and last.
pub type Lost = Arc<Mutex<Vec<(u64, u64)>>>;

/// A directory that is open and recovered.
pub struct Opened {
    /// The rules, rolled forward over everything settled.
    pub journal: Journal,
    /// Recent digests; `None` with `dedup: off`.
    pub register: Option<Register>,
    /// The intake log.
    pub intake: Arc<Wal>,
    /// The outbox.
    pub outbox: Arc<Wal>,
    /// What the outbox still holds, for delivery.
    pub heads: Vec<(BatchSeq, outbox::Head)>,
    /// The keys and services that RED knew; `None` on a new directory.
    pub guard: Option<Vec<u8>>,
    /// What the sampler had spent and saved up; `None` without one.
    pub sampler: Option<Vec<u8>>,
    /// First record of the replay.
    pub replay_from: Lsn,
    /// Ranges of intake records that media damage took, as far as opening saw it.
    pub lost: Lost,
    /// Held for the life of the process.
    pub lock: File,
}

/// The reasons that ledger rows of the collector carry.
fn reasons() -> Reasons {
    let others = [LOST_UNDECODABLE, LOST_DAMAGED, ADMISSION, LIVE_TRACES, AGAIN];
    Reasons::new(Reason::ALL.map(Reason::name).into_iter().chain(others))
}

/// Whether what is synced stays: rows leave the logs for the lake, so both places count.
fn keeps_promises(directory: &Directory) -> Result<(), CollectorError> {
    if directory.ack != tailwater_wal::Ack::Fsync {
        return Ok(());
    }
    for place in [&directory.data, &directory.logs] {
        let kind = tailwater_wal::volatile(place).map_err(|error| CollectorError::io(place, error))?;
        let Some(kind) = kind else { continue };
        let place = place.display();
        if !directory.allow_volatile {
            return Err(CollectorError::Volatile(format!(
                "{place} is on {kind}, where no sync outlives the machine, and storage.ack is fsync: choose another directory, \
                 or say storage.allow_volatile: true"
            )));
        }
        warn!(%place, kind, "no sync outlives the machine here; storage.allow_volatile accepts that");
    }
    Ok(())
}

/// Opens a directory. The logs hold its locks until they are dropped.
///
/// # Errors
/// Everything that makes the directory unusable as it is, with the file that is to blame.
pub fn open(directory: &Directory) -> Result<Opened, CollectorError> {
    let data = &directory.data;
    keeps_promises(directory)?;
    let lock = lock(data)?;
    let log_id = checkpoint::log_id(data).map_err(|error| CollectorError::io(data, error))?;
    let reasons = reasons();
    let mut checkpoint = checkpoint::load(data, &reasons).map_err(|error| CollectorError::io(data, error))?;
    let guard = (checkpoint.as_mut()).and_then(|checkpoint| checkpoint.take_section(GUARD_SECTION));
    let sampler = (checkpoint.as_mut()).and_then(|checkpoint| checkpoint.take_section(SAMPLER_SECTION));
    let settings = Settings {
        log_id,
        shards: SHARDS as u8,
        decisions_max: DECISIONS_MAX,
        decision_age_max_ns: DECISION_AGE_MAX_NS,
        reasons,
    };
    let mut recovery = Recovery::new(settings, checkpoint.as_ref())?;
    let settled = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.batch.0);

    let mut options = Options::new(directory.logs.join("outbox"), log_id.0, outbox::OUTBOX_KIND);
    options.segment_bytes = directory.outbox.segment_bytes;
    options.budget_bytes = directory.outbox.budget_bytes;
    options.reserve_bytes = directory.reserve_bytes;
    // A batch that is larger than a segment gets one of its own length. To refuse it would be to refuse what was accepted.
    options.record_bytes_max = directory.outbox.budget_bytes;
    options.preamble = outbox::preamble();
    options.recycle = 0;
    options.control = Some(directory.logs.join("outbox").join(outbox::CONTROL));
    options.floor = settled;
    // Delivery reads them, and nobody else here does.
    options.bodies = Bodies::WhenRead;
    options.allow_volatile = directory.allow_volatile;
    let (outbox, recovered) = Wal::open(options)?;
    report("outbox", &recovered);
    if let Some((first, last)) = recovered.lost().find(|(_, last)| *last > settled) {
        return Err(CollectorError::Outbox(format!(
            "batches {first} to {last} are damaged and not in the checkpoint, so nobody can tell what they settled. To go on without what is in the logs \
             and in no table yet, move intake, outbox, checkpoint and log_id out of {} and {}: the lake stays as it is",
            directory.data.display(),
            directory.logs.display()
        )));
    }
    let mut heads = Vec::new();
    // What is damaged is in the checkpoint already, or was refused above. Of what cannot be read the batches behind would be settled again, under
    // other numbers.
    let told = outbox.heads(0).inspect(|record| {
        if let Err(error) = record {
            warn!(%error, "outbox");
        }
    });
    for record in undamaged(told) {
        let record = record?;
        let head = outbox::Head::decode(record.head)?;
        recovery.batch(BatchSeq(record.seq), &head.settlement)?;
        heads.push((BatchSeq(record.seq), head));
    }
    let journal = recovery.finish();

    let mut options = Options::new(directory.logs.join("intake"), log_id.0, INTAKE_KIND);
    options.segment_bytes = directory.intake.segment_bytes;
    options.budget_bytes = directory.intake.budget_bytes;
    options.reserve_bytes = directory.reserve_bytes;
    options.record_bytes_max = directory.record_bytes_max;
    options.ack = directory.ack;
    options.allow_volatile = directory.allow_volatile;
    options.floor = journal.lsn_floor().0;
    options.needed = journal.replay_from().0;
    // The replay reads every one of them.
    options.bodies = Bodies::WhenRead;
    let (intake, recovered) = Wal::open(options)?;
    report("intake log", &recovered);
    let lost: Lost = Arc::new(Mutex::new(recovered.lost().collect()));

    let mut register = directory
        .dedup_window_ns
        .map(|window| Register::new(DIGESTS_MAX, window));
    if let Some(register) = &mut register {
        let mut from = 0;
        if let Some(checkpoint) = checkpoint {
            from = checkpoint.mark().low.0;
            for known in checkpoint.digests {
                register.restore(known.digest, known.arrival_ns, known.answer);
            }
        }
        for record in undamaged(intake.heads(from)) {
            let record = record?;
            let head = Head::decode(&record.head)?;
            if let (Some(digest), false) = (head.digest, head.duplicate) {
                register.restore(digest, head.arrival_ns, head.rejected.answer());
            }
        }
    }
    let replay_from = journal.replay_from();
    info!(
        log_id = %log_id,
        batch = journal.batch().0,
        replay_from = replay_from.0,
        next_lsn = intake.next_seq(),
        digests = register.as_ref().map_or(0, Register::len),
        "data directory open"
    );
    Ok(Opened {
        journal,
        register,
        intake: Arc::new(intake),
        outbox: Arc::new(outbox),
        heads,
        guard: guard.map(|section| section.bytes),
        sampler: sampler.map(|section| section.bytes),
        replay_from,
        lost,
        lock,
    })
}

fn lock(data: &std::path::Path) -> Result<File, CollectorError> {
    let path = data.join("collector.lock");
    let failed = |error: std::io::Error| CollectorError::io(&path, error);
    std::fs::create_dir_all(data).map_err(failed)?;
    let file = File::create(&path).map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(CollectorError::Locked(data.display().to_string())),
        Err(error) => Err(failed(error.into())),
    }
}

fn report(log: &'static str, recovered: &Recovered) {
    for (first, last) in recovered.lost() {
        error!(
            log,
            first, last, "records are lost to damage; what could be read of them is in quarantine"
        );
    }
}

/// A record of the intake log cannot be read: what is damaged is set aside, and its range answered.
pub fn set_aside(intake: &Wal, error: &tailwater_wal::Error) -> Option<(u64, u64)> {
    error!(%error, "a record of the intake log cannot be read");
    let Kind::Damaged { first, last } = error.kind() else {
        return None;
    };
    if let Err(error) = intake.set_aside(first, last) {
        error!(%error, "a damaged segment of the intake log cannot be set aside");
    }
    Some((first, last))
}

/// Why a replay cannot go on. What it has not read is still in the log, for the next start.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The disk does not answer, or no file can be opened.
    #[error("{0}")]
    Log(#[from] tailwater_wal::Error),
    /// A record of another version of this program, most likely.
    #[error("the head of record {lsn} cannot be read: {error}")]
    Head {
        /// Which.
        lsn: u64,
        /// What is wrong with it.
        error: tailwater_journal::Error,
    },
}

/// The records that a replay walks, one in memory at a time.
///
/// Of what does not verify only a head may be left: the record is there without its payload, so that its items are counted as lost. `lost` gets the
/// ranges.
pub fn replay(intake: &Arc<Wal>, from: Lsn, lost: Lost) -> impl Iterator<Item = Result<Accepted, ReplayError>> + use<> {
    let wal = intake.clone();
    intake.records(from.0).flat_map(move |record| match record {
        Ok(record) => vec![accepted(&record)],
        Err(error) => {
            let Kind::Damaged { first, last } = error.kind() else {
                return vec![Err(error.into())];
            };
            let heads = heads_within(&wal, first, last);
            lost.lock().extend(set_aside(&wal, &error));
            heads
        }
    })
}

/// The records of a damaged range whose heads are whole, without their payloads.
fn heads_within(wal: &Wal, first: u64, last: u64) -> Vec<Result<Accepted, ReplayError>> {
    let within =
        undamaged(wal.heads(first)).take_while(|record| record.as_ref().map_or(true, |record| record.seq <= last));
    within.map(|record| accepted(&record?)).collect()
}

/// Passes over what damage took. The log does not go on behind an error of another kind.
fn undamaged(records: impl Iterator<Item = WalResult>) -> impl Iterator<Item = WalResult> {
    let is_damaged = |error: &tailwater_wal::Error| matches!(error.kind(), Kind::Damaged { .. });
    records.filter(move |record| !record.as_ref().is_err_and(is_damaged))
}

type WalResult = Result<Record, tailwater_wal::Error>;

fn accepted(record: &Record) -> Result<Accepted, ReplayError> {
    let head = Head::decode(&record.head).map_err(|error| ReplayError::Head { lsn: record.seq, error })?;
    Ok(Accepted {
        lsn: Lsn(record.seq),
        entry: Entry {
            arrival_ns: head.arrival_ns,
            tenant: Arc::from(head.tenant),
            signal: head.signal,
            items: head.items,
            wire_bytes: head.wire_bytes,
            digest: head.digest,
            duplicate: head.duplicate,
            rejected: head.rejected,
        },
        payload: Bytes::clone(&record.body),
        held: None,
        place: None,
    })
}
