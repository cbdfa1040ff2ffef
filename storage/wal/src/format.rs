//! Bytes on disk: segment header, record header, names. Pure.
//!
//! Guarantees: whatever decodes was written by [`SegmentHeader::encode`] or [`RecordHeader::encode`] of the same log (the
//! log id is mixed into every header CRC), or collides in 32 bits. All integers are little-endian. Everything starts at
//! a multiple of 64 bytes, segments' records at a multiple of 4096.
//!
//! Leaves out: what head and body mean. The page with the picture is the crate's README.

use bytes::Bytes;

/// Alignment of records, heads and bodies in the file, and of body slices when asked for.
pub const ALIGN: u64 = 64;
/// Alignment of the first record of a segment, and of every write in direct mode.
pub const BLOCK: u64 = 4096;
/// Version of the layout written by this program.
pub const VERSION: u32 = 1;
/// Bytes of a record header.
pub const RECORD_HEADER: u64 = 64;
/// Bytes of the part of the segment header that carries fields; the preamble starts at [`BLOCK`].
const SEGMENT_FIELDS: usize = 128;

const SEGMENT_MAGIC: [u8; 8] = *b"TWWALSEG";
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"TWr1");
const FLAG_MARKER: u32 = 1;

/// The next multiple of `to` (a power of two), saturating.
pub const fn align_up(n: u64, to: u64) -> u64 {
    match n.checked_add(to - 1) {
        Some(n) => n & !(to - 1),
        None => !(to - 1),
    }
}

/// First block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random identity of the data directory.
    pub log_id: [u8; 16],
    /// Which of the directory's logs this is; chosen by the caller.
    pub kind: u32,
    /// Grows by one with every segment ever created, so that old bytes in a recycled file are recognised.
    pub generation: u64,
    /// Sequence number of the first record. Everything before it was durable when the segment was made.
    pub base: u64,
    /// Length of the preamble, which starts at offset 4096.
    pub preamble_len: u32,
    /// CRC32C of the preamble.
    pub preamble_crc: u32,
}

/// How a segment's first block reads.
#[derive(Debug, PartialEq, Eq)]
pub enum HeaderRead {
    /// Verified. Log id and kind are still the caller's to compare.
    Good(SegmentHeader),
    /// Verified, but of this newer version.
    Newer(u32),
    /// Not a header.
    Bad,
}

impl SegmentHeader {
    /// Offset of the first record.
    pub fn data_start(&self) -> u64 {
        data_start(u64::from(self.preamble_len))
    }

    /// Header and preamble, padded to [`SegmentHeader::data_start`].
    pub fn encode(&self, preamble: &[u8]) -> Vec<u8> {
        debug_assert_eq!(preamble.len() as u64, u64::from(self.preamble_len));
        let mut out = vec![0u8; self.data_start() as usize];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        // 12..16 is the CRC.
        out[16..32].copy_from_slice(&self.log_id);
        out[32..40].copy_from_slice(&self.generation.to_le_bytes());
        out[40..48].copy_from_slice(&self.base.to_le_bytes());
        out[48..52].copy_from_slice(&self.kind.to_le_bytes());
        out[52..56].copy_from_slice(&self.preamble_len.to_le_bytes());
        out[56..60].copy_from_slice(&self.preamble_crc.to_le_bytes());
        let crc = segment_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out[BLOCK as usize..BLOCK as usize + preamble.len()].copy_from_slice(preamble);
        out
    }

    /// Reads the first block of a file. A later version keeps magic, version, CRC and the 128 bytes they cover where
    /// they are, so "newer" and "damaged" stay different answers.
    pub fn decode(block: &[u8]) -> HeaderRead {
        if block.len() < SEGMENT_FIELDS || block[0..8] != SEGMENT_MAGIC || u32_at(block, 12) != segment_crc(block) {
            return HeaderRead::Bad;
        }
        let version = u32_at(block, 8);
        if version > VERSION {
            return HeaderRead::Newer(version);
        }
        let mut log_id = [0; 16];
        log_id.copy_from_slice(&block[16..32]);
        HeaderRead::Good(SegmentHeader {
            log_id,
            generation: u64_at(block, 32),
            base: u64_at(block, 40),
            kind: u32_at(block, 48),
            preamble_len: u32_at(block, 52),
            preamble_crc: u32_at(block, 56),
        })
    }
}

/// Offset of the first record in a segment whose preamble has `preamble_len` bytes.
pub fn data_start(preamble_len: u64) -> u64 {
    BLOCK + align_up(preamble_len, BLOCK)
}

fn segment_crc(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[0..12]), &block[16..SEGMENT_FIELDS])
}

/// The 64 bytes before every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// This record's sequence number. A marker carries the number of the record to come.
    pub seq: u64,
    /// The segment's generation.
    pub generation: u64,
    /// Largest durable sequence number when this was written.
    pub durable: u64,
    /// Bytes of the body, padding between slices included. Of a marker: bytes to skip.
    pub body_len: u64,
    /// Bytes of the head.
    pub head_len: u32,
    /// CRC32C of the head.
    pub head_crc: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
    /// A marker says what is durable and fills up blocks; it is not a record.
    pub marker: bool,
}

/// How 64 bytes read.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordRead {
    /// A verified header of this log; generation and sequence are still the caller's to compare.
    Good(RecordHeader),
    /// Anything else: zeros, another log's record, damage.
    Bad,
}

impl RecordHeader {
    /// A marker that skips `fill` bytes after itself.
    pub fn marker(seq: u64, generation: u64, durable: u64, fill: u64) -> Self {
        RecordHeader {
            seq,
            generation,
            durable,
            body_len: fill,
            head_len: 0,
            head_crc: 0,
            body_crc: 0,
            marker: true,
        }
    }

    /// Bytes in the file, header and padding included.
    pub fn total(&self) -> u64 {
        record_total(u64::from(self.head_len), self.body_len)
    }

    /// Offset of the body from the record's start.
    pub fn body_offset(&self) -> u64 {
        RECORD_HEADER + align_up(u64::from(self.head_len), ALIGN)
    }

    /// The header's 64 bytes. `salt` is [`log_salt`].
    pub fn encode(&self, salt: u32) -> [u8; RECORD_HEADER as usize] {
        let mut out = [0u8; RECORD_HEADER as usize];
        out[0..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        // 4..8 is the CRC.
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable.to_le_bytes());
        out[32..40].copy_from_slice(&self.body_len.to_le_bytes());
        out[40..44].copy_from_slice(&self.head_len.to_le_bytes());
        out[44..48].copy_from_slice(&self.head_crc.to_le_bytes());
        out[48..52].copy_from_slice(&self.body_crc.to_le_bytes());
        out[52..56].copy_from_slice(&if self.marker { FLAG_MARKER } else { 0 }.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and verifies 64 bytes.
    pub fn decode(bytes: &[u8], salt: u32) -> RecordRead {
        if !looks_like_record(bytes)
            || u32_at(bytes, 4) != crc32c::crc32c_append(salt, &bytes[8..RECORD_HEADER as usize])
        {
            return RecordRead::Bad;
        }
        let flags = u32_at(bytes, 52);
        if flags & !FLAG_MARKER != 0 {
            return RecordRead::Bad;
        }
        RecordRead::Good(RecordHeader {
            seq: u64_at(bytes, 8),
            generation: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
            body_len: u64_at(bytes, 32),
            head_len: u32_at(bytes, 40),
            head_crc: u32_at(bytes, 44),
            body_crc: u32_at(bytes, 48),
            marker: flags & FLAG_MARKER != 0,
        })
    }
}

/// A cheap test before the CRC, for scans over arbitrary bytes.
pub fn looks_like_record(bytes: &[u8]) -> bool {
    bytes.len() >= RECORD_HEADER as usize && u32_at(bytes, 0) == RECORD_MAGIC
}

/// Bytes of a record in the file.
pub fn record_total(head_len: u64, body_len: u64) -> u64 {
    RECORD_HEADER
        .saturating_add(align_up(head_len, ALIGN))
        .saturating_add(align_up(body_len, ALIGN))
}

/// What every record CRC of a log starts from: a record of another log, or of the directory's other log, never verifies.
pub fn log_salt(log_id: &[u8; 16], kind: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(log_id), &kind.to_le_bytes())
}

/// What a file in the log's directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    /// A segment: part of the log.
    Segment {
        /// Sequence number of the first record.
        base: u64,
        /// Its generation.
        generation: u64,
    },
    /// A trimmed segment kept for reuse.
    Free {
        /// The generation of the bytes in it.
        generation: u64,
    },
    /// A segment being made; worthless after a crash.
    New {
        /// Its generation to be.
        generation: u64,
    },
}

impl FileName {
    /// The name.
    pub fn format(self) -> String {
        match self {
            FileName::Segment { base, generation } => format!("{base:020}-{generation:010}.wal"),
            FileName::Free { generation } => format!("free-{generation:010}"),
            FileName::New { generation } => format!("new-{generation:010}"),
        }
    }

    /// The meaning of `name`; `None` for files of others.
    pub fn parse(name: &str) -> Option<FileName> {
        let number = |digits: &str, width: usize| {
            let plain = digits.len() >= width && digits.bytes().all(|b| b.is_ascii_digit());
            if plain { digits.parse::<u64>().ok() } else { None }
        };
        if let Some(rest) = name.strip_prefix("free-") {
            return Some(FileName::Free {
                generation: number(rest, 10)?,
            });
        }
        if let Some(rest) = name.strip_prefix("new-") {
            return Some(FileName::New {
                generation: number(rest, 10)?,
            });
        }
        let (base, generation) = name.strip_suffix(".wal")?.split_once('-')?;
        Some(FileName::Segment {
            base: number(base, 20)?,
            generation: number(generation, 10)?,
        })
    }
}

/// What is appended behind a record's head: any number of slices, stored one after the other.
#[derive(Clone, Debug, Default)]
pub struct Body {
    slices: Vec<Bytes>,
    aligned: bool,
    /// Of the stored bytes, if it is known already.
    crc: Option<u32>,
}

impl Body {
    /// Slices that each start at a multiple of 64 bytes from the body's start, zeros between them.
    pub fn aligned(slices: Vec<Bytes>) -> Body {
        Body {
            slices,
            aligned: true,
            crc: None,
        }
    }

    /// Slices stored without padding between them, with the CRC32C of all of them. It is not made again, so a wrong one makes a record that
    /// reads as damaged.
    pub fn checked(slices: Vec<Bytes>, crc: u32) -> Body {
        Body {
            crc: Some(crc),
            ..Body::from(slices)
        }
    }

    /// Bytes as stored.
    pub fn stored_len(&self) -> u64 {
        let mut len = 0u64;
        for slice in &self.slices {
            if self.aligned {
                len = align_up(len, ALIGN);
            }
            len = len.saturating_add(slice.len() as u64);
        }
        len
    }

    /// Calls `put` with each run of stored bytes, padding included, in order.
    pub(crate) fn for_each_run(&self, mut put: impl FnMut(&[u8])) {
        const ZEROS: [u8; ALIGN as usize] = [0; ALIGN as usize];
        let mut len = 0u64;
        for slice in &self.slices {
            if self.aligned {
                let pad = align_up(len, ALIGN) - len;
                put(&ZEROS[..pad as usize]);
                len += pad;
            }
            put(slice);
            len += slice.len() as u64;
        }
    }

    /// CRC32C of the stored bytes.
    pub(crate) fn crc(&self) -> u32 {
        if let Some(crc) = self.crc {
            debug_assert_eq!(crc, self.count_crc(), "the caller's CRC is that of its slices");
            return crc;
        }
        self.count_crc()
    }

    fn count_crc(&self) -> u32 {
        let mut crc = 0;
        self.for_each_run(|run| crc = crc32c::crc32c_append(crc, run));
        crc
    }
}

/// Slices stored without padding between them.
impl From<Vec<Bytes>> for Body {
    fn from(slices: Vec<Bytes>) -> Body {
        Body {
            slices,
            aligned: false,
            crc: None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(slice: Bytes) -> Body {
        Body {
            slices: vec![slice],
            aligned: false,
            crc: None,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
