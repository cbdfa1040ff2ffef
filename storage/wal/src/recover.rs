//! What opening a directory finds, decides and repairs.
//!
//! Guarantees, in the words of `design/protocol.md`:
//! - A bad record at or below the largest durable number seen anywhere (headers, markers, control page, the caller's floor) is
//!   damage: its segment gets a second name in `quarantine/` with a report beside it, the loss is answered as a range, everything
//!   else is read on. Above it, it is a torn tail: dropped, and superseded by the next segment, whose base says so.
//! - Records above the largest number *known* durable are copied into a new, synced segment before anything is
//!   accepted: they read well now, but after a failed fsync the page cache may show what the disk never got.
//!   Records at or below it were covered by a sync that succeeded, so copying those would only cost time and room.
//! - Running it again after a crash in the middle gives the same answer.
//!
//! From a segment's base on, the later generation counts; so one rename both publishes the copy and retires the originals.

use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::file::{Disk, Open, read_full, write_all};
use crate::format::{BLOCK, Body, FileName, HeaderRead, RecordHeader, SegmentHeader, align_up, data_start};
use crate::options::Bodies;
use crate::segment::{CreateError, FreeFile, NewSegment, SegmentMeta, limits};
use crate::walk::{Part, Step, Verify, Walk, Window};

/// Name of the directory for damaged segments.
pub const QUARANTINE: &str = "quarantine";

/// Damage found while opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File name of the segment; empty if the segment itself is missing.
    pub segment: String,
    /// Offset in it.
    pub offset: u64,
    /// What did not verify.
    pub part: Part,
    /// Lost sequence numbers, first and last. `None` if all records could be read in spite of it.
    pub lost: Option<(u64, u64)>,
    /// False if an earlier start reported the same.
    pub fresh: bool,
}

/// What [`Wal::open`](crate::Wal::open) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Sequence number of the first readable record; `next_seq` if there is none.
    pub first_seq: u64,
    /// Sequence number the next record gets.
    pub next_seq: u64,
    /// Readable records in the segments that hold `needed` and later ones.
    pub records: u64,
    /// Records copied into a new segment because nobody knew whether they were durable.
    pub copied: u64,
    /// Whether a torn tail was dropped.
    pub torn: bool,
    /// Damage at or below the largest durable number.
    pub damage: Vec<Damage>,
}

impl Recovered {
    /// The lost ranges, first and last, in order.
    pub fn lost(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.damage.iter().filter_map(|d| d.lost)
    }
}

/// What recovery is told.
pub(crate) struct Ask<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a Path,
    pub(crate) log_id: [u8; 16],
    pub(crate) kind: u32,
    pub(crate) salt: u32,
    pub(crate) direct: bool,
    /// Largest number known durable from elsewhere.
    pub(crate) floor: u64,
    /// First number still needed; 0 for whatever is there.
    pub(crate) needed: u64,
    pub(crate) bodies: Bodies,
}

/// Walks at a time when bodies are passed over: each waits for the disk again and again, a record at a time.
const WALKERS: usize = 4;

/// Everything the log starts from.
#[derive(Debug)]
pub(crate) struct State {
    /// In order of generation.
    pub(crate) segments: Vec<SegmentMeta>,
    pub(crate) free: Vec<FreeFile>,
    pub(crate) next_generation: u64,
    pub(crate) next_seq: u64,
    /// Offset behind the last record of the last segment.
    pub(crate) end: u64,
    pub(crate) recovered: Recovered,
}

/// One segment after its walk.
struct Found {
    meta: SegmentMeta,
    header: Option<SegmentHeader>,
    preamble: Option<Bytes>,
    bad: Vec<(u64, u64, u64, Part)>,
    /// Expected number and offset where the walk ended; `None` if it was not walked.
    ended: Option<(u64, u64)>,
    /// Runs of good records, first and last.
    good: Vec<(u64, u64)>,
    /// Whether bytes of this generation follow that do not verify.
    half_written: bool,
}

pub(crate) fn recover(ask: &Ask<'_>) -> Result<State> {
    let failed = |what: &str| {
        let message = format!("{what} in {}", ask.dir.display());
        move |e: io::Error| Error::io(message, e)
    };
    let mut metas = Vec::new();
    let mut free = Vec::new();
    let mut last_generation = 0;
    for entry in ask.disk.list(ask.dir).map_err(failed("listing files"))? {
        let generation = match FileName::parse(&entry.name) {
            Some(FileName::Segment { base, generation }) => {
                metas.push(SegmentMeta {
                    generation,
                    base,
                    len: entry.len,
                    quarantined: false,
                });
                generation
            }
            Some(FileName::Free { generation }) => {
                free.push(FreeFile {
                    generation,
                    len: entry.len,
                });
                generation
            }
            Some(FileName::New { generation }) => {
                ask.disk
                    .unlink(&ask.dir.join(&entry.name))
                    .map_err(failed("removing an unfinished segment"))?;
                generation
            }
            None => continue,
        };
        last_generation = last_generation.max(generation);
    }
    metas.sort_by_key(|m| m.generation);

    let limits_of = limits(&metas);
    let last = metas.len().checked_sub(1);
    let mut durable = ask.floor.max(ask.needed.saturating_sub(1));
    let mut found = Vec::with_capacity(metas.len());
    for meta in metas {
        let (header, preamble) = read_header(ask, &meta)?;
        // A segment is made after the one before it was synced.
        durable = durable.max(meta.base.saturating_sub(1));
        let segment = Found {
            meta,
            header,
            preamble,
            bad: Vec::new(),
            ended: None,
            good: Vec::new(),
            half_written: false,
        };
        found.push(segment);
    }
    let is_due = |i: usize, base: u64| Some(i) == last || (base < limits_of[i] && limits_of[i] > ask.needed);
    let due: Vec<(&mut Found, u64)> = found
        .iter_mut()
        .enumerate()
        .filter(|(i, segment)| is_due(*i, segment.meta.base))
        .map(|(i, segment)| (segment, limits_of[i]))
        .collect();
    durable = durable.max(walk_all(ask, due).map_err(failed("reading a segment"))?);
    if let (Bodies::WhenRead, Some(newest)) = (ask.bodies, found.last_mut())
        && newest
            .ended
            .is_some_and(|(expect, _)| expect > durable.saturating_add(1))
    {
        // Nobody knows whether these were synced, so their bodies tell where the log ends. Only the newest segment has such.
        walk(ask, newest, u64::MAX, Verify::Above(durable)).map_err(failed("reading a segment"))?;
    }
    let judged = judge(ask, &found, &limits_of, durable);
    finish(ask, found, free, last_generation, durable, judged)
}

/// Header and preamble, each `None` if it does not verify.
fn read_header(ask: &Ask<'_>, meta: &SegmentMeta) -> Result<(Option<SegmentHeader>, Option<Bytes>)> {
    let path = meta.path(ask.dir);
    let failed = |e| Error::io(format!("reading {}", path.display()), e);
    let file = ask.disk.open(&path, Open::Read).map_err(failed)?;
    read_segment_header(&*file, meta, &ask.log_id, ask.kind, &path)
}

pub(crate) fn read_segment_header(
    file: &dyn crate::file::File,
    meta: &SegmentMeta,
    log_id: &[u8; 16],
    kind: u32,
    path: &Path,
) -> Result<(Option<SegmentHeader>, Option<Bytes>)> {
    let failed = |e| Error::io(format!("reading {}", path.display()), e);
    let mut block = vec![0u8; BLOCK as usize];
    let got = read_full(file, &mut block, 0).map_err(failed)?;
    let header = match SegmentHeader::decode(&block[..got]) {
        HeaderRead::Bad => return Ok((None, None)),
        HeaderRead::Newer(version) => {
            let message = format!(
                "{} has format {version}, this program knows up to {}: use the newer program",
                path.display(),
                crate::format::VERSION
            );
            return Err(Error::new(Kind::Newer, message));
        }
        HeaderRead::Good(header) => header,
    };
    if header.log_id != *log_id || header.kind != kind {
        let message = format!(
            "{} belongs to another log (kind {}, expected {kind})",
            path.display(),
            header.kind
        );
        return Err(Error::new(Kind::Foreign, message));
    }
    if header.generation != meta.generation || header.base != meta.base || header.data_start() > meta.len {
        return Ok((None, None));
    }
    let mut preamble = vec![0u8; header.preamble_len as usize];
    let got = read_full(file, &mut preamble, BLOCK).map_err(failed)?;
    let good = got == preamble.len() && crc32c::crc32c(&preamble) == header.preamble_crc;
    Ok((Some(header), good.then(|| preamble.into())))
}

/// Where the first record of a segment is to be looked for: right behind the first block if the header is gone.
pub(crate) fn first_record(header: Option<&SegmentHeader>) -> u64 {
    header.map_or(data_start(0), SegmentHeader::data_start)
}

/// Walks these segments, each up to its limit; answers the largest durable number that any of them claims.
fn walk_all(ask: &Ask<'_>, segments: Vec<(&mut Found, u64)>) -> io::Result<u64> {
    let (walkers, verify) = match ask.bodies {
        Bodies::AtOpening => (1, Verify::ALL),
        Bodies::WhenRead => (WALKERS.min(segments.len()), Verify::Head),
    };
    let queue = Mutex::new(segments.into_iter());
    let work = || -> io::Result<u64> {
        let mut claim = 0;
        loop {
            let Some((segment, limit)) = queue.lock().next() else {
                return Ok(claim);
            };
            claim = claim.max(walk(ask, segment, limit, verify)?);
        }
    };
    thread::scope(|scope| {
        // Where no thread can be had, the others do its part.
        let helpers: Vec<_> = (1..walkers)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut claim = work()?;
        for helper in helpers {
            claim = claim.max(helper.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(claim)
    })
}

fn walk(ask: &Ask<'_>, segment: &mut Found, limit: u64, verify: Verify) -> io::Result<u64> {
    segment.good.clear();
    segment.bad.clear();
    let meta = &segment.meta;
    let file = ask.disk.open(&meta.path(ask.dir), Open::Read)?;
    let from = (first_record(segment.header.as_ref()), meta.base);
    let mut walk = Walk::new(
        Window::new(file),
        ask.salt,
        meta.generation,
        verify,
        from,
        limit,
        meta.len,
    );
    loop {
        match walk.step()? {
            Step::Record { header, .. } => match segment.good.last_mut() {
                Some((_, last)) if *last + 1 == header.seq => *last = header.seq,
                _ => segment.good.push((header.seq, header.seq)),
            },
            Step::Bad { first, last, at, part } => {
                // Without a header the way to the first record is itself a search; nothing is missing by that.
                let searching = segment.header.is_none() && segment.good.is_empty() && last < first;
                if !searching {
                    segment.bad.push((first, last, at, part));
                }
            }
            Step::End => break,
        }
    }
    segment.ended = Some((walk.expect, walk.at));
    segment.half_written = walk.half_written()?;
    Ok(walk.claim)
}

/// The verdict over all segments.
struct Judged {
    damage: Vec<(Option<usize>, Damage)>,
    /// First number that does not exist any more: everything before it that is readable stays.
    end: u64,
    torn: bool,
}

fn judge(ask: &Ask<'_>, found: &[Found], limits_of: &[u64], durable: u64) -> Judged {
    let mut damage: Vec<(Option<usize>, Damage)> = Vec::new();
    let mut torn = false;
    let mut cut = u64::MAX;
    // `i` is the segment that should have held the numbers, if there is one.
    let mut note = |i: Option<usize>, offset, part, first: u64, last: u64| {
        let (first, last) = (first.max(ask.needed), last.min(durable));
        if first <= last {
            let segment = i.map_or_else(String::new, |i| found[i].meta.name());
            let lost = Some((first, last));
            damage.push((
                i,
                Damage {
                    segment,
                    offset,
                    part,
                    lost,
                    fresh: true,
                },
            ));
        }
    };
    let mut covered = ask.needed.max(1);
    if ask.needed == 0 {
        covered = found.first().map_or(durable.saturating_add(1), |f| f.meta.base);
    }
    for (i, segment) in found.iter().enumerate() {
        let meta = &segment.meta;
        // Numbers between what the segments before held and this one's base.
        if covered < meta.base {
            let before = i.checked_sub(1).and_then(|b| Some((b, found[b].ended?.1)));
            note(
                before.map(|(b, _)| b),
                before.map_or(0, |(_, at)| at),
                Part::Missing,
                covered,
                meta.base - 1,
            );
        }
        covered = covered.max(meta.base);
        let Some((expect, at)) = segment.ended else {
            covered = covered.max(limits_of[i]);
            continue;
        };
        for &(first, last, offset, part) in &segment.bad {
            note(Some(i), offset, part, first, last);
            if last >= first && last > durable {
                cut = cut.min(first.max(durable + 1));
                torn = true;
            }
        }
        covered = covered.max(expect);
        if i + 1 == found.len() {
            torn |= segment.half_written && expect > durable;
            note(Some(i), at, Part::Missing, expect, durable);
        }
    }
    if found.is_empty() && ask.needed > 0 {
        note(None, 0, Part::Missing, ask.needed, durable);
    }
    // Headers and preambles, where records that are or were durable depend on them.
    for (i, segment) in found.iter().enumerate() {
        let used = segment.ended.is_some() && segment.meta.base <= durable && segment.meta.base < limits_of[i];
        if used && (segment.header.is_none() || segment.preamble.is_none()) {
            let part = if segment.header.is_none() {
                Part::SegmentHeader
            } else {
                Part::Preamble
            };
            let offset = if segment.header.is_none() { 0 } else { BLOCK };
            damage.push((
                Some(i),
                Damage {
                    segment: segment.meta.name(),
                    offset,
                    part,
                    lost: None,
                    fresh: true,
                },
            ));
        }
    }
    let read_to = found
        .iter()
        .filter_map(|f| f.ended)
        .map(|(expect, _)| expect)
        .max()
        .unwrap_or(0);
    let bases = found.iter().map(|f| f.meta.base).max().unwrap_or(1);
    Judged {
        damage,
        end: read_to.max(bases).min(cut),
        torn,
    }
}

fn finish(
    ask: &Ask<'_>,
    mut found: Vec<Found>,
    free: Vec<FreeFile>,
    mut last_generation: u64,
    durable: u64,
    judged: Judged,
) -> Result<State> {
    let Judged { mut damage, end, torn } = judged;
    let mut metas: Vec<&mut SegmentMeta> = found.iter_mut().map(|f| &mut f.meta).collect();
    quarantine(ask.disk, ask.dir, &mut metas, &mut damage)?;
    let (mut copied, mut tail) = (0, 0);
    let next_seq = end.max(durable.saturating_add(1));
    if let Some(last) = found.last() {
        tail = last
            .ended
            .map_or_else(|| first_record(last.header.as_ref()), |(_, at)| at);
        let from = last.meta.base.max(durable.saturating_add(1));
        if from < end {
            if let Some((meta, header, at)) = copy_tail(ask, last, from, end, durable, last_generation + 1)? {
                copied = end - from;
                last_generation += 1;
                tail = at;
                found.push(Found {
                    meta,
                    header: Some(header),
                    preamble: None,
                    bad: Vec::new(),
                    ended: Some((end, at)),
                    good: Vec::new(),
                    half_written: false,
                });
            } else {
                copied = end - from;
            }
        }
    }
    let good = || found.iter().flat_map(|f| &f.good).filter(|(first, _)| *first < end);
    let recovered = Recovered {
        first_seq: good().map(|(first, _)| *first).min().unwrap_or(next_seq),
        next_seq,
        records: good().map(|(first, last)| last.min(&(end - 1)) - first + 1).sum(),
        copied,
        torn,
        damage: damage.into_iter().map(|(_, d)| d).collect(),
    };
    Ok(State {
        segments: found.into_iter().map(|f| f.meta).collect(),
        free,
        next_generation: last_generation + 1,
        next_seq,
        end: tail,
        recovered,
    })
}

/// Copies `from..end` out of the newest segment. `None` if its preamble is damaged too: then it is synced where it is, because a copy
/// could not carry the preamble along.
fn copy_tail(
    ask: &Ask<'_>,
    last: &Found,
    from: u64,
    end: u64,
    durable: u64,
    generation: u64,
) -> Result<Option<(SegmentMeta, SegmentHeader, u64)>> {
    let path = last.meta.path(ask.dir);
    let failed = |e: io::Error| {
        let message = format!("making the tail of {} durable", path.display());
        match crate::error::is_no_room(&e) {
            true => Error::with(Kind::Full(crate::error::FullReason::Disk), message, e),
            false => Error::io(message, e),
        }
    };
    let (Some(_), Some(preamble)) = (&last.header, &last.preamble) else {
        let file = ask.disk.open(&path, Open::Write { direct: false }).map_err(failed)?;
        file.sync().map_err(failed)?;
        return Ok(None);
    };
    let open = || -> io::Result<Walk<Window>> {
        let file = ask.disk.open(&path, Open::Read)?;
        let start = (first_record(last.header.as_ref()), last.meta.base);
        Ok(Walk::new(
            Window::new(file),
            ask.salt,
            last.meta.generation,
            Verify::Above(from - 1),
            start,
            end,
            last.meta.len,
        ))
    };
    // Once for the size, once for the bytes: the tail is a few groups at most.
    let mut size = 0;
    let mut walk = open().map_err(failed)?;
    while let Some((header, _)) = next_record(&mut walk).map_err(failed)? {
        size += if header.seq >= from { header.total() } else { 0 };
    }
    let header = SegmentHeader {
        log_id: ask.log_id,
        kind: ask.kind,
        generation,
        base: from,
        preamble_len: preamble.len() as u32,
        preamble_crc: crc32c::crc32c(preamble),
    };
    let new = NewSegment {
        disk: ask.disk,
        dir: ask.dir,
        header,
        preamble,
        salt: ask.salt,
        len: align_up(header.data_start() + size, BLOCK) + BLOCK,
        direct: ask.direct,
        recycled: None,
    };
    let not_made = |e| match e {
        CreateError::NoRoom(e) | CreateError::Broken(e) => failed(e),
    };
    let mut writer = new.create().map_err(not_made)?;
    let mut walk = open().map_err(failed)?;
    while let Some((record, at)) = next_record(&mut walk).map_err(failed)? {
        if record.seq < from {
            continue;
        }
        let (head, body) = walk.content(&record, at).map_err(failed)?;
        let body = Body::from(Bytes::copy_from_slice(body));
        writer
            .put(
                &RecordHeader {
                    generation,
                    durable,
                    ..record
                },
                head,
                &body,
            )
            .map_err(failed)?;
    }
    writer.flush(end, durable).map_err(failed)?;
    writer.sync().map_err(failed)?;
    let meta = new.publish().map_err(not_made)?;
    Ok(Some((meta, header, writer.end())))
}

fn next_record(walk: &mut Walk<Window>) -> io::Result<Option<(RecordHeader, u64)>> {
    loop {
        match walk.step()? {
            Step::Record { header, at } => return Ok(Some((header, at))),
            Step::Bad { .. } => {}
            Step::End => return Ok(None),
        }
    }
}

/// Sets damaged segments aside under a second name, so that trimming cannot take the evidence, and writes a report per damage. A report
/// that is already there means an earlier start said so.
fn quarantine(
    disk: &dyn Disk,
    dir: &Path,
    segments: &mut [&mut SegmentMeta],
    damage: &mut [(Option<usize>, Damage)],
) -> Result<()> {
    let aside = dir.join(QUARANTINE);
    let failed = |e| Error::io(format!("setting damage aside in {}", aside.display()), e);
    let already: Vec<String> = match disk.list(&aside) {
        Ok(entries) => entries.into_iter().map(|e| e.name).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    for segment in segments.iter_mut() {
        segment.quarantined = already.contains(&segment.name());
    }
    if damage.is_empty() {
        return Ok(());
    }
    disk.create_dir(&aside).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)?;
    for (i, damage) in damage.iter_mut() {
        let name = if damage.segment.is_empty() {
            "missing"
        } else {
            &damage.segment
        };
        let report = match damage.lost {
            Some((first, last)) => format!("{name}.{}.{first}-{last}.txt", damage.offset),
            None => format!("{name}.{}.txt", damage.offset),
        };
        damage.fresh = !already.contains(&report);
        let text = match damage.lost {
            Some((first, last)) => format!(
                "lost {first}..={last}: {} at offset {}\n",
                damage.part.name(),
                damage.offset
            ),
            None => format!("nothing lost: {} at offset {}\n", damage.part.name(), damage.offset),
        };
        if damage.fresh {
            tracing::error!(
                segment = %damage.segment, offset = damage.offset, part = damage.part.name(), lost = ?damage.lost,
                "damaged log segment set aside in quarantine"
            );
        }
        if let Some(segment) = i.and_then(|i| segments.get_mut(i)).filter(|s| !s.quarantined) {
            match disk.link(&segment.path(dir), &aside.join(segment.name())) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
            segment.quarantined = true;
        }
        if damage.fresh {
            let written = disk
                .open(&aside.join(&report), Open::Create { direct: false })
                .and_then(|file| {
                    write_all(&*file, text.as_bytes(), 0)?;
                    file.sync()
                });
            match written {
                Ok(()) => {}
                // A full disk must not keep the log from opening; then the next start reports it as news again.
                Err(error) if crate::error::is_no_room(&error) => {
                    tracing::warn!(%error, report, "no room for the report of a damaged segment");
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
    disk.sync_dir(&aside).map_err(failed)
}

/// Looks for what a reader found damaged, and sets it aside: for damage in bodies, which opening may pass over. Answers whether there is any.
pub(crate) fn set_aside(
    disk: &dyn Disk,
    dir: &Path,
    (log_id, kind, salt): (&[u8; 16], u32, u32),
    segments: &mut [SegmentMeta],
    (first, last): (u64, u64),
) -> Result<bool> {
    let failed = |e| Error::io(format!("reading what is damaged in {}", dir.display()), e);
    let mut damage = Vec::new();
    for (i, (meta, limit)) in segments.iter().zip(limits(segments)).enumerate() {
        if meta.base > last || limit <= first {
            continue;
        }
        let path = meta.path(dir);
        let file = disk.open(&path, Open::Read).map_err(failed)?;
        let (header, _) = read_segment_header(&*file, meta, log_id, kind, &path)?;
        let from = (first_record(header.as_ref()), meta.base);
        // What lies before is not this reader's.
        let verify = Verify::Above(first.saturating_sub(1));
        let limit = limit.min(last.saturating_add(1));
        let mut walk = Walk::new(Window::new(file), salt, meta.generation, verify, from, limit, meta.len);
        loop {
            match walk.step().map_err(failed)? {
                Step::Bad {
                    first: a,
                    last: b,
                    at,
                    part,
                } if a.max(first) <= b.min(last) => {
                    let found = Damage {
                        segment: meta.name(),
                        offset: at,
                        part,
                        lost: Some((a.max(first), b.min(last))),
                        fresh: true,
                    };
                    damage.push((Some(i), found));
                }
                Step::End => break,
                _ => {}
            }
        }
    }
    let mut segments: Vec<&mut SegmentMeta> = segments.iter_mut().collect();
    quarantine(disk, dir, &mut segments, &mut damage)?;
    Ok(!damage.is_empty())
}
