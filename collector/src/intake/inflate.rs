//! Content decoding under a cap: the one place where compressed bytes become plain ones.
//!
//! Guarantees: the output never exceeds its limit, memory is taken from the budget before it is used, a ratio above
//! the limit after the first MiB is a bomb, a zstd window above 8 MiB is refused, one layer of encoding only.

use std::io::Read;

use bytes::Bytes;

use super::refusal::Refusal;
use crate::admit::Held;

/// How a request body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952, several members allowed.
    Gzip,
    /// RFC 8878, window up to 8 MiB.
    Zstd,
    /// RFC 1950 as HTTP says; raw RFC 1951 as some clients send it.
    Deflate,
}

impl Encoding {
    /// What we accept, as `grpc-accept-encoding` and `Accept-Encoding` list it.
    pub const ACCEPTED: &'static str = "identity,gzip,zstd,deflate";

    /// The encoding of this name; a list of several is nested encoding, which is refused.
    pub fn parse(name: &str) -> Option<Encoding> {
        let name = name.trim();
        [
            ("", Encoding::Identity),
            ("identity", Encoding::Identity),
            ("gzip", Encoding::Gzip),
            ("x-gzip", Encoding::Gzip),
            ("zstd", Encoding::Zstd),
            ("deflate", Encoding::Deflate),
        ]
        .into_iter()
        .find_map(|(known, encoding)| name.eq_ignore_ascii_case(known).then_some(encoding))
    }
}

/// Limits of one body.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes after inflating.
    pub body: u64,
    /// Inflated bytes per compressed byte, looked at after the first MiB.
    pub ratio: u64,
}

const STEP: usize = 64 * 1024;
const RATIO_FREE: u64 = 1 << 20;
const ZSTD_WINDOW_LOG: u32 = 23;

/// Inflates `packed`, growing `held` as the output grows: what it has for `packed` stands beside that until both are gone.
pub fn inflate(encoding: Encoding, packed: Bytes, limits: Limits, held: &mut Held) -> Result<Bytes, Refusal> {
    let wire = packed.len() as u64;
    let raw = |error: std::io::Error| Refusal::malformed(format!("{encoding:?} body cannot be inflated: {error}"));
    match encoding {
        Encoding::Identity if wire > limits.body => Err(Refusal::TooLarge { limit: limits.body }),
        Encoding::Identity => Ok(packed),
        Encoding::Gzip => drain(
            flate2::bufread::MultiGzDecoder::new(&packed[..]),
            wire,
            limits,
            held,
            raw,
        ),
        Encoding::Deflate if looks_like_zlib(&packed) => {
            drain(flate2::bufread::ZlibDecoder::new(&packed[..]), wire, limits, held, raw)
        }
        Encoding::Deflate => drain(
            flate2::bufread::DeflateDecoder::new(&packed[..]),
            wire,
            limits,
            held,
            raw,
        ),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&packed[..]).map_err(raw)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(raw)?;
            drain(decoder, wire, limits, held, raw)
        }
    }
}

/// RFC 1950: method 8 in the low bits, and the first two bytes a multiple of 31.
fn looks_like_zlib(packed: &[u8]) -> bool {
    matches!(packed, [cmf, flg, ..] if cmf & 0x0f == 8 && (u16::from(*cmf) * 256 + u16::from(*flg)).is_multiple_of(31))
}

fn drain(
    mut from: impl Read,
    wire: u64,
    limits: Limits,
    held: &mut Held,
    broken: impl Fn(std::io::Error) -> Refusal,
) -> Result<Bytes, Refusal> {
    let body = usize::try_from(limits.body).unwrap_or(usize::MAX);
    let (mut plain, mut filled, mut beyond) = (Vec::new(), 0, [0]);
    loop {
        // Every byte is zeroed once, and the buffer moves only when it is full.
        if filled == plain.len() && filled < body {
            let more = if plain.capacity() == 0 { STEP.min(body) } else { 1 };
            held.make_room(&mut plain, more, body, wire)?;
            plain.resize(plain.capacity().min(filled + STEP), 0);
        }
        let into = match filled < plain.len() {
            true => &mut plain[filled..],
            // Is there more than there may be?
            false => &mut beyond[..],
        };
        let read = from.read(into).map_err(&broken)?;
        filled += read;
        if filled > body {
            return Err(Refusal::TooLarge { limit: limits.body });
        }
        let size = filled as u64;
        if size > RATIO_FREE && size / wire.max(1) > limits.ratio {
            return Err(Refusal::Bomb { ratio: limits.ratio });
        }
        if read == 0 {
            plain.truncate(filled);
            plain.shrink_to_fit();
            held.shrink_to(wire + size);
            return Ok(Bytes::from(plain));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rand::rngs::SmallRng;
    use rand::{RngCore, SeedableRng};

    use super::*;
    use crate::admit::Budget;

    const LIMITS: Limits = Limits {
        body: 4 << 20,
        ratio: 200,
    };

    fn pack(encoding: Encoding, plain: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Identity => plain.to_vec(),
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Zstd => zstd::encode_all(plain, 1).unwrap(),
        }
    }

    fn check(encoding: Encoding, packed: Vec<u8>, budget: u64, expected: Result<&[u8], &str>) {
        let mut held = Held::take(&Budget::new(budget), &Budget::new(u64::MAX), 0).unwrap();
        match (inflate(encoding, Bytes::from(packed), LIMITS, &mut held), expected) {
            (Ok(plain), Ok(wanted)) => assert_eq!(plain, wanted),
            (Err(refusal), Err(wanted)) => assert!(refusal.to_string().contains(wanted), "{refusal}"),
            (got, wanted) => panic!("{encoding:?}: got {got:?}, wanted {wanted:?}"),
        }
    }

    #[test]
    fn every_encoding_gives_back_what_was_packed() {
        let plain: Vec<u8> = (0..3_000_000u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .take(3 << 20)
            .collect();
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
            for size in [0, 1, STEP - 1, STEP, STEP + 1, plain.len()] {
                check(encoding, pack(encoding, &plain[..size]), 64 << 20, Ok(&plain[..size]));
            }
        }
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        raw.write_all(b"raw deflate").unwrap();
        check(Encoding::Deflate, raw.finish().unwrap(), 1 << 20, Ok(b"raw deflate"));
        let two_members = [pack(Encoding::Gzip, b"one "), pack(Encoding::Gzip, b"two")].concat();
        check(Encoding::Gzip, two_members, 1 << 20, Ok(b"one two"));
    }

    /// Gives what it has in small pieces, as decoders do.
    struct Pieces<'p>(&'p [u8]);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let piece = into.len().min(1000);
            self.0.read(&mut into[..piece])
        }
    }

    #[test]
    fn the_output_moves_only_when_it_is_full_and_is_held_as_large_as_it_is() {
        const WIRE: u64 = 1000;
        let plain = vec![7u8; (3 << 20) - 5];
        let broken = |error: std::io::Error| panic!("{error}");
        for (budget, expected) in [
            // The last time it moves from 2 MiB to 4 MiB.
            (WIRE + (6 << 20), Ok(WIRE + plain.len() as u64)),
            (
                WIRE + (6 << 20) - 1,
                Err(Refusal::OverMemory {
                    limit: WIRE + (6 << 20) - 1,
                }),
            ),
        ] {
            let mut held = Held::take(&Budget::new(budget), &Budget::new(u64::MAX), WIRE).unwrap();
            let got = drain(
                Pieces(&plain),
                WIRE,
                Limits {
                    ratio: 10_000,
                    ..LIMITS
                },
                &mut held,
                broken,
            );
            assert_eq!(
                got.map(|got| (got == plain, held.bytes())),
                expected.map(|held| (true, held))
            );
        }
    }

    #[test]
    fn bombs_truncation_and_rubbish_are_refused() {
        let zeros = vec![0u8; 4 << 20];
        let mut large = vec![0u8; (4 << 20) + 1];
        SmallRng::seed_from_u64(9).fill_bytes(&mut large);
        for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
            check(encoding, pack(encoding, &large), 64 << 20, Err("larger than 4194304"));
            check(encoding, pack(encoding, &zeros[..1 << 20]), 512 << 10, Err("memory"));
            check(
                encoding,
                b"\xff\xffnot packed at all".to_vec(),
                1 << 20,
                Err("cannot be inflated"),
            );
            let noise: Vec<u8> = (0..200_000u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect();
            let mut cut = pack(encoding, &noise);
            cut.truncate(cut.len() / 2);
            check(encoding, cut, 1 << 20, Err("cannot be inflated"));
        }
        check(Encoding::Identity, large, 64 << 20, Err("larger than"));
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        bomb.write_all(&zeros).unwrap();
        let ratio = "inflates to more than 200 times its size (intake.inflate_ratio)";
        check(Encoding::Gzip, bomb.finish().unwrap(), 64 << 20, Err(ratio));
        check(Encoding::Zstd, pack(Encoding::Zstd, &zeros), 64 << 20, Err(ratio));
    }

    #[test]
    fn a_giant_zstd_window_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&[7; 100_000]).unwrap();
        check(
            Encoding::Zstd,
            encoder.finish().unwrap(),
            64 << 20,
            Err("cannot be inflated"),
        );
    }

    #[test]
    fn names_of_encodings() {
        for (name, expected) in [
            ("gzip", Some(Encoding::Gzip)),
            (" GZIP ", Some(Encoding::Gzip)),
            ("identity", Some(Encoding::Identity)),
            ("", Some(Encoding::Identity)),
            ("gzip, gzip", None),
            ("br", None),
        ] {
            assert_eq!(Encoding::parse(name), expected, "{name}");
        }
    }
}
