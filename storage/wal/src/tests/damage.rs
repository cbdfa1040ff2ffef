//! Flipped bits and cut tails: what is damage, what is a torn tail, and that everything else is read on.

use std::sync::Arc;

use super::*;
use crate::format::{BLOCK, RecordHeader, RecordRead, SegmentHeader, log_salt};
use crate::sim::Sim;
use crate::{Bodies, Part};

const DIR: &str = "/log";

/// A log on a simulated disk, every record a group of its own, closed without a marker.
struct Fixture {
    sim: Sim,
    options: Options,
    last: u64,
}

/// Where a record lies.
#[derive(Clone, Debug)]
struct Place {
    file: String,
    at: usize,
    header: RecordHeader,
}

impl Fixture {
    fn new(records: u64, len: usize) -> Fixture {
        let options = Options {
            segment_bytes: 32 << 10,
            preamble: Bytes::from_static(b"the preamble"),
            ..options(Path::new(DIR))
        };
        let sim = Sim::new(1);
        let (wal, _) = Wal::open_inline(Arc::new(sim.clone()), options.clone()).unwrap();
        for seq in 1..=records {
            wal.append(head(seq), body(seq, len)).unwrap();
            wal.tick();
        }
        assert_eq!(wal.durable(), records);
        sim.kill();
        Fixture {
            sim,
            options,
            last: records,
        }
    }

    fn open(&self) -> crate::Result<(Wal, Recovered)> {
        Wal::open_inline(Arc::new(self.sim.clone()), self.options.clone())
    }

    /// All records, in order.
    fn places(&self) -> Vec<Place> {
        let salt = log_salt(&LOG_ID, 1);
        let mut places = Vec::new();
        for file in self
            .sim
            .names(Path::new(DIR))
            .into_iter()
            .filter(|n| n.ends_with(".wal"))
        {
            let bytes = self.sim.read(&Path::new(DIR).join(&file));
            let mut at = 2 * BLOCK as usize;
            while let RecordRead::Good(header) = RecordHeader::decode(&bytes[at..], salt) {
                places.push(Place {
                    file: file.clone(),
                    at,
                    header,
                });
                at += header.total() as usize;
            }
        }
        places
    }

    fn flip(&self, file: &str, at: usize, bit: u8) {
        self.sim.edit(&Path::new(DIR).join(file), |bytes| bytes[at] ^= 1 << bit);
    }

    /// Opens, and expects exactly the records `1..=last` without `lost`, then that a second start says the same but not
    /// as news, and that the log goes on.
    fn check(&mut self, last: u64, damage: &[(Part, Option<(u64, u64)>)], torn: bool, what: &str) {
        for start in 0..2 {
            let (wal, recovered) = self.open().unwrap();
            let found: Vec<_> = recovered.damage.iter().map(|d| (d.part, d.lost)).collect();
            if start == 0 {
                assert_eq!(found, damage, "{what}");
            } else {
                // Once what lies behind it was copied elsewhere, a bad header is the end of its segment.
                let lost = |damage: &[(Part, _)]| damage.iter().map(|d| d.1).collect::<Vec<_>>();
                assert_eq!(lost(&found), lost(damage), "{what}");
            }
            assert!(
                recovered.damage.iter().all(|d| d.fresh == (start == 0)),
                "{what}: {:?}",
                recovered.damage
            );
            assert_eq!(recovered.next_seq, last + 1, "{what}");
            if start == 0 {
                assert_eq!(recovered.torn, torn, "{what}");
            }
            let lost = |seq: &u64| recovered.lost().any(|(a, b)| a <= *seq && *seq <= b);
            assert_eq!(
                read(&wal, 1),
                (1..=last).filter(|seq| !lost(seq)).collect::<Vec<_>>(),
                "{what}"
            );
            for damage in recovered.damage.iter().filter(|d| !d.segment.is_empty()) {
                let aside = self.sim.names(&Path::new(DIR).join(crate::QUARANTINE));
                assert!(aside.contains(&damage.segment), "{what}: {aside:?}");
            }
            drop(wal);
            self.sim.kill();
        }
        let (wal, before) = self.open().unwrap();
        wal.append(head(last + 1), body(last + 1, 77)).unwrap();
        wal.close().unwrap();
        drop(wal);
        self.sim.power_cut();
        let (wal, after) = self.open().unwrap();
        assert_eq!(after.next_seq, last + 2, "{what}");
        assert_eq!(
            after.lost().collect::<Vec<_>>(),
            before.lost().collect::<Vec<_>>(),
            "{what}: nothing more is lost"
        );
        assert_eq!(read(&wal, last + 1), vec![last + 1], "{what}");
    }
}

/// Byte offsets in a record header, by the field they belong to.
const FIELDS: [(&str, usize); 12] = [
    ("magic", 0),
    ("header crc", 5),
    ("seq", 8),
    ("seq, high", 15),
    ("generation", 16),
    ("durable", 24),
    ("body length", 32),
    ("body length, high", 39),
    ("head length", 40),
    ("head crc", 44),
    ("body crc", 48),
    ("flags", 52),
];

#[test]
fn a_flipped_bit_in_a_durable_record_is_damage() {
    // First, middle, last of a segment, first of the next, and the last that a later record calls durable.
    for victim in [1, 3, 4, 5, 9] {
        let header = FIELDS.map(|(name, offset)| (name, Part::Header, offset));
        let content = [("head", Part::Head, 64 + 3), ("body", Part::Body, 64 + 64 + 4_321)];
        for (name, part, offset) in header.into_iter().chain(content) {
            let mut fixture = Fixture::new(10, 5_000);
            let places = fixture.places();
            let place = &places[victim as usize - 1];
            let segment_end = places.get(victim as usize).is_none_or(|next| next.file != place.file);
            let expect = if segment_end && part == Part::Header {
                Part::Missing
            } else {
                part
            };
            fixture.flip(&place.file, place.at + offset, 3);
            let last = fixture.last;
            fixture.check(
                last,
                &[(expect, Some((victim, victim)))],
                false,
                &format!("{name} of {victim}"),
            );
        }
    }
}

#[test]
fn a_body_that_opening_passes_over_is_found_and_set_aside_by_who_reads_it() {
    for victim in [1, 3, 4, 5, 9] {
        let mut fixture = Fixture::new(10, 5_000);
        fixture.options.bodies = Bodies::WhenRead;
        let place = &fixture.places()[victim as usize - 1];
        fixture.flip(&place.file, place.at + 64 + 64 + 4_321, 3);
        for start in 0..2 {
            let (wal, recovered) = fixture.open().unwrap();
            assert_eq!(
                (recovered.damage, recovered.torn, recovered.next_seq),
                (vec![], false, 11)
            );
            assert_eq!(
                wal.heads(1).map(|record| record.unwrap().seq).collect::<Vec<_>>(),
                (1..=10).collect::<Vec<_>>()
            );
            let aside = || fixture.sim.names(&Path::new(DIR).join(crate::QUARANTINE));
            let reports = aside().len();
            assert_eq!(reports, 2 * start, "{:?}", aside());
            let (good, bad): (Vec<_>, Vec<_>) = wal.records(1).partition(|record| record.is_ok());
            assert_eq!(good.len(), 9);
            let damaged = Kind::Damaged {
                first: victim,
                last: victim,
            };
            assert_eq!(bad.into_iter().map(kind).collect::<Vec<_>>(), [damaged]);
            let mut picks = wal.pick(1..=10);
            for seq in 1..=10 {
                match picks.next().unwrap() {
                    Ok(picked) => assert_eq!((picked.seq, picked.seq == victim), (seq, false)),
                    bad => assert_eq!((kind(bad), seq), (damaged, victim)),
                }
            }
            assert!(wal.set_aside(victim, victim).unwrap());
            assert!(!wal.set_aside(10, 10).unwrap());
            let report = format!("{}.{}.{victim}-{victim}.txt", place.file, place.at);
            assert!(
                aside().contains(&place.file) && aside().contains(&report),
                "{:?}",
                aside()
            );
            drop(wal);
            fixture.sim.kill();
        }
    }
}

#[test]
fn what_is_above_the_durable_number_is_verified_at_opening_in_any_case() {
    let mut fixture = Fixture::new(10, 5_000);
    fixture.options.bodies = Bodies::WhenRead;
    let place = fixture.places()[9].clone();
    fixture.flip(&place.file, place.at + 64 + 64 + 4_321, 3);
    fixture.check(9, &[], true, "the last body");
}

#[test]
fn a_flipped_bit_above_the_durable_number_is_a_torn_tail() {
    for (name, offset) in FIELDS.into_iter().chain([("head", 64 + 3), ("body", 64 + 64 + 4_321)]) {
        let mut fixture = Fixture::new(10, 5_000);
        let places = fixture.places();
        let place = &places[9];
        fixture.flip(&place.file, place.at + offset, 3);
        // A flipped magic or generation looks like bytes of somebody else, which are not worth a word.
        let seen = !["magic", "generation"].contains(&name);
        fixture.check(9, &[], seen, name);
    }
}

#[test]
fn a_torn_tail_that_somebody_knows_to_be_durable_is_damage() {
    for (name, offset) in FIELDS.into_iter().chain([("head", 64 + 3), ("body", 64 + 64 + 4_321)]) {
        let mut fixture = Fixture::new(10, 5_000);
        fixture.options.floor = 10;
        let place = fixture.places()[9].clone();
        fixture.flip(&place.file, place.at + offset, 3);
        let part = match name {
            "head" => Part::Head,
            "body" => Part::Body,
            _ => Part::Missing,
        };
        fixture.check(10, &[(part, Some((10, 10)))], false, name);
    }
}

#[test]
fn a_marker_makes_the_last_record_known() {
    let mut fixture = Fixture::new(1, 100);
    let (wal, _) = fixture.open().unwrap();
    for seq in 2..=10 {
        wal.append(head(seq), body(seq, 100)).unwrap();
    }
    wal.close().unwrap();
    drop(wal);
    let places = fixture.places();
    let marker = places.last().unwrap();
    assert!(marker.header.marker && marker.header.durable == 10 && marker.header.seq == 11);
    let place = places.iter().find(|p| p.header.seq == 10).unwrap();
    fixture.flip(&place.file, place.at + 8, 0);
    fixture.check(
        10,
        &[(Part::Header, Some((10, 10)))],
        false,
        "seq of the last record, a marker behind it",
    );
}

#[test]
fn damage_to_a_segment_header_or_preamble_loses_no_record() {
    for segment in 0..2 {
        let header_bytes = [0, 8, 12, 16, 32, 40, 48, 52, 56, 100];
        for at in header_bytes {
            let mut fixture = Fixture::new(8, 5_000);
            let file = fixture.places()[segment * 5].file.clone();
            fixture.flip(&file, at, 1);
            fixture.check(
                8,
                &[(Part::SegmentHeader, None)],
                false,
                &format!("header byte {at} of segment {segment}"),
            );
        }
        let fixture = Fixture::new(8, 5_000);
        let file = fixture.places()[segment * 5].file.clone();
        fixture.flip(&file, BLOCK as usize + 4, 1);
        let (wal, _) = fixture.open().unwrap();
        let without: Vec<u64> = wal
            .records(1)
            .map(|r| r.unwrap())
            .filter(|r| r.preamble.is_none())
            .map(|r| r.seq)
            .collect();
        assert!(without.contains(&(segment as u64 * 5 + 1)) && without.len() < 8);
        drop(wal);
        fixture.sim.kill();
        let mut fixture = Fixture::new(8, 5_000);
        fixture.flip(&file, BLOCK as usize + 4, 1);
        fixture.check(
            8,
            &[(Part::Preamble, None)],
            false,
            &format!("preamble of segment {segment}"),
        );
    }
}

#[test]
fn a_doubtful_tail_behind_a_damaged_preamble_is_kept_where_it_is() {
    let fixture = Fixture::new(3, 100);
    let file = fixture.places()[0].file.clone();
    fixture.flip(&file, BLOCK as usize + 4, 1);
    let (wal, recovered) = fixture.open().unwrap();
    assert_eq!((recovered.copied, recovered.next_seq), (1, 4));
    drop(wal);
    fixture.sim.power_cut();
    let (wal, recovered) = fixture.open().unwrap();
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!(read(&wal, 1), vec![1, 2, 3]);
}

#[test]
fn a_missing_segment_is_damage_if_it_is_needed() {
    for (needed, lost) in [(1, Some((1, 4))), (4, Some((4, 4))), (5, None), (0, None)] {
        let fixture = Fixture::new(8, 5_000);
        let file = fixture.places()[0].file.clone();
        crate::file::Disk::unlink(&fixture.sim, &Path::new(DIR).join(file)).unwrap();
        let options = Options {
            needed,
            ..fixture.options.clone()
        };
        let (wal, recovered) = Wal::open_inline(Arc::new(fixture.sim.clone()), options).unwrap();
        assert_eq!(recovered.lost().collect::<Vec<_>>(), Vec::from_iter(lost));
        assert_eq!(read(&wal, needed), (needed.max(5)..=8).collect::<Vec<_>>());
    }
    let fixture = Fixture::new(8, 5_000);
    let file = fixture.places()[7].file.clone();
    crate::file::Disk::unlink(&fixture.sim, &Path::new(DIR).join(file)).unwrap();
    let options = Options {
        floor: 8,
        needed: 3,
        ..fixture.options.clone()
    };
    let (wal, recovered) = Wal::open_inline(Arc::new(fixture.sim.clone()), options).unwrap();
    assert_eq!(
        (recovered.lost().collect::<Vec<_>>(), recovered.next_seq),
        (vec![(5, 8)], 9)
    );
    assert_eq!(read(&wal, 1), vec![1, 2, 3, 4], "known losses are passed over");
}

#[test]
fn cut_at_every_byte_of_the_last_three_records() {
    let places = Fixture::new(7, 100).places();
    let end = places[6].at + places[6].header.total() as usize;
    use Bodies::{AtOpening, WhenRead};
    let cases = [
        (0u8, false, AtOpening),
        (0xa5, false, AtOpening),
        (0, true, AtOpening),
        (0, false, WhenRead),
    ];
    for (filling, with_floor, bodies) in cases {
        for cut in places[4].at..=end {
            let fixture = Fixture::new(7, 100);
            let path = Path::new(DIR).join(&places[6].file);
            fixture.sim.edit(&path, |bytes| bytes[cut..].fill(filling));
            let whole = places.iter().filter(|p| {
                let content = p.at as u64 + p.header.body_offset() + p.header.body_len;
                content <= cut as u64
            });
            let last = whole.count() as u64;
            let options = Options {
                floor: if with_floor { 7 } else { 0 },
                bodies,
                ..fixture.options.clone()
            };
            let (wal, recovered) = Wal::open_inline(Arc::new(fixture.sim.clone()), options).unwrap();
            assert_eq!(read(&wal, 1), (1..=last).collect::<Vec<_>>(), "cut at {cut}");
            if with_floor {
                let lost = (last < 7).then_some((last + 1, 7));
                let got: Vec<u64> = recovered.lost().flat_map(|(a, b)| a..=b).collect();
                assert_eq!(got, lost.map_or(vec![], |(a, b)| (a..=b).collect()), "cut at {cut}");
                assert_eq!(recovered.next_seq, 8);
            } else {
                assert_eq!(
                    (recovered.damage.len(), recovered.next_seq),
                    (0, last + 1),
                    "cut at {cut}"
                );
            }
        }
    }
}

#[test]
fn what_a_torn_group_left_behind_never_comes_back() {
    let fixture = Fixture::new(2, 100);
    let (wal, _) = fixture.open().unwrap();
    for seq in 3..=6 {
        wal.append(head(seq), body(seq, 100)).unwrap();
    }
    wal.tick();
    fixture.sim.kill();
    drop(wal);
    // The group 3..=6 was being written when the power went; 4 did not make it, 5 and 6 did.
    let places = fixture.places();
    let torn = places.iter().find(|p| p.header.seq == 4).unwrap();
    fixture.flip(&torn.file, torn.at + 70, 2);
    let (wal, recovered) = fixture.open().unwrap();
    assert_eq!(
        (recovered.next_seq, recovered.torn, recovered.damage.len()),
        (4, true, 0)
    );
    assert_eq!(read(&wal, 1), vec![1, 2, 3]);
    // A single record more: numbers 5 and 6 in the old file must stay dead.
    wal.append(head(4), body(4, 5)).unwrap();
    wal.close().unwrap();
    drop(wal);
    let (wal, recovered) = fixture.open().unwrap();
    assert_eq!((recovered.next_seq, recovered.damage.len()), (5, 0));
    assert_eq!(read(&wal, 1), vec![1, 2, 3, 4]);
}

#[test]
fn stale_records_in_a_recycled_file_are_not_read() {
    let mut options = options(Path::new(DIR));
    options.segment_bytes = 32 << 10;
    options.recycle = 4;
    let sim = Sim::new(1);
    let (wal, _) = Wal::open_inline(Arc::new(sim.clone()), options.clone()).unwrap();
    let append = |wal: &Wal| {
        let seq = wal.next_seq();
        wal.append(head(seq), body(seq, 5_000)).unwrap();
        wal.tick();
    };
    // Equal records, so that old headers lie exactly where new ones are looked for.
    (0..20).for_each(|_| append(&wal));
    wal.trim_below(20).unwrap();
    (0..4).for_each(|_| append(&wal));
    sim.power_cut();
    drop(wal);
    let (wal, recovered) = Wal::open_inline(Arc::new(sim), options).unwrap();
    assert_eq!(
        (recovered.next_seq, recovered.damage.len(), recovered.torn),
        (25, 0, false)
    );
    assert_eq!(read(&wal, 20).last(), Some(&24));
}

#[test]
fn a_valid_record_of_another_generation_ends_the_log() {
    for (generation, readable) in [(1, 4), (0, 3), (2, 3)] {
        let fixture = Fixture::new(3, 100);
        let places = fixture.places();
        let last = &places[2];
        let (head, body) = (head(4), body(4, 9));
        let record = RecordHeader {
            seq: 4,
            generation,
            durable: 3,
            body_len: body.len() as u64,
            head_len: head.len() as u32,
            head_crc: crc32c::crc32c(&head),
            body_crc: crc32c::crc32c(&body),
            marker: false,
        };
        let at = last.at + last.header.total() as usize;
        fixture.sim.edit(&Path::new(DIR).join(&last.file), |bytes| {
            bytes[at..at + 64].copy_from_slice(&record.encode(log_salt(&LOG_ID, 1)));
            bytes[at + 64..at + 64 + head.len()].copy_from_slice(&head);
            bytes[at + 128..at + 128 + body.len()].copy_from_slice(&body);
        });
        assert_eq!(last.header.generation, 1, "the fixture's only segment");
        let (wal, recovered) = fixture.open().unwrap();
        assert_eq!((recovered.next_seq, recovered.damage.len()), (readable + 1, 0));
        assert_eq!(read(&wal, 1), (1..=readable).collect::<Vec<_>>());
    }
}

#[test]
fn a_segment_proves_that_everything_before_it_was_durable() {
    let mut fixture = Fixture::new(5, 5_000);
    let places = fixture.places();
    assert_ne!(places[3].file, places[4].file);
    // The last record of the first segment is damaged, and the only one of the next never made it.
    fixture.flip(&places[3].file, places[3].at + 64 + 3, 0);
    let path = Path::new(DIR).join(&places[4].file);
    fixture.sim.edit(&path, |bytes| bytes[places[4].at..].fill(0));
    fixture.check(
        4,
        &[(Part::Head, Some((4, 4)))],
        false,
        "damage before an empty segment",
    );
}

#[test]
fn a_newer_format_is_refused() {
    let fixture = Fixture::new(1, 10);
    let file = fixture.places()[0].file.clone();
    let path = Path::new(DIR).join(file);
    fixture.sim.edit(&path, |bytes| {
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[0..12]), &bytes[16..128]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let error = fixture.open().map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Newer);
    assert!(
        error.to_string().contains("has format 2, this program knows up to 1"),
        "{error}"
    );
}

/// The layout is a promise: these bytes were written by the first released format.
#[test]
fn the_first_format_stays_readable() {
    let header = SegmentHeader {
        log_id: LOG_ID,
        kind: 7,
        generation: 3,
        base: 41,
        preamble_len: 2,
        preamble_crc: crc32c::crc32c(b"ab"),
    };
    let block = header.encode(b"ab");
    assert_eq!(block.len(), 8192);
    assert_eq!(&block[..12], b"TWWALSEG\x01\0\0\0");
    let record = RecordHeader {
        seq: 41,
        generation: 3,
        durable: 40,
        body_len: 5,
        head_len: 3,
        head_crc: crc32c::crc32c(b"abc"),
        body_crc: crc32c::crc32c(b"hello"),
        marker: false,
    };
    let bytes = record.encode(log_salt(&LOG_ID, 7));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&block[12..64]), SEGMENT_HEX);
    assert_eq!(hex(&bytes), RECORD_HEX);
    assert_eq!(record.total(), 192);
}

const SEGMENT_HEX: &str =
    "0114d7d77461696c77617465722d746573742d310300000000000000290000000000000007000000020000003629a2e200000000";
const RECORD_HEX: &str = "54577231f037d36e290000000000000003000000000000002800000000000000050000000000000003000000b73f4b364cbb719a000000000000000000000000";
