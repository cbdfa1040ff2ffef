//! Tests of the whole log. The fixture's defaults are small; each option a test sets means something.
#![allow(clippy::unwrap_used)]

mod basic;
mod crash;
mod damage;
mod full;
mod kill;
mod readers;

use std::path::Path;

use bytes::Bytes;

use crate::{Io, Kind, Options, Record, Recovered, Wal};

pub(crate) const LOG_ID: [u8; 16] = *b"tailwater-test-1";

/// Small segments, buffered, no recycling, no reserve, any file system.
pub(crate) fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: 64 << 10,
        budget_bytes: 16 << 20,
        reserve_bytes: 0,
        recycle: 0,
        io: Io::Buffered,
        allow_volatile: true,
        ..Options::new(dir, LOG_ID, 1)
    }
}

pub(crate) fn open(options: &Options) -> (Wal, Recovered) {
    Wal::open(options.clone()).unwrap()
}

/// A body that says which record it is, of any length.
pub(crate) fn body(seq: u64, len: usize) -> Bytes {
    let mut body: Vec<u8> = (0..len)
        .map(|i| (seq as usize).wrapping_mul(31).wrapping_add(i) as u8)
        .collect();
    let stamp = seq.to_le_bytes();
    let n = len.min(8);
    body[..n].copy_from_slice(&stamp[..n]);
    body.into()
}

pub(crate) fn head(seq: u64) -> Bytes {
    Bytes::from(format!("head of {seq}"))
}

/// Appends `n` records of `len` bytes and waits for each.
pub(crate) fn fill(wal: &Wal, n: u64, len: usize) {
    for _ in 0..n {
        let seq = wal.next_seq();
        assert_eq!(wal.append(head(seq), body(seq, len)).unwrap().wait().unwrap(), seq);
    }
}

/// Reads everything from `from` on and checks each record's content.
pub(crate) fn read(wal: &Wal, from: u64) -> Vec<u64> {
    wal.records(from).map(|record| check_record(&record.unwrap())).collect()
}

pub(crate) fn check_record(record: &Record) -> u64 {
    assert_eq!(record.head, head(record.seq));
    assert_eq!(record.body, body(record.seq, record.body.len()));
    record.seq
}

pub(crate) fn kind<T: std::fmt::Debug>(result: crate::Result<T>) -> Kind {
    result.unwrap_err().kind()
}
