//! Small numbers as Parquet packs them: the RLE / bit-packing hybrid.
//!
//! Source: Apache Parquet, "Encodings", Run Length Encoding / Bit-Packing Hybrid (RLE = 3). A stream of runs, each after a
//! varint header: an even one says `count * 2` and is followed by one value in whole bytes; an odd one says
//! `groups * 2 + 1` and is followed by that many groups of eight values, packed from the lowest bit up.

/// Equal values in a row that are worth a run of their own. Below two groups a run only cuts packed stretches apart.
const RUN_MIN: usize = 16;
/// Values in a packed group.
const GROUP: usize = 8;

/// Bits that numbers up to `max` need.
pub(super) fn width(max: u32) -> u8 {
    (u32::BITS - max.leading_zeros()) as u8
}

/// Appends `count` times `value`.
pub(super) fn put_run(value: u32, count: usize, width: u8, out: &mut Vec<u8>) {
    if count == 0 {
        return;
    }
    put_varint((count as u64) << 1, out);
    out.extend_from_slice(&value.to_le_bytes()[..usize::from(width).div_ceil(8)]);
}

/// Appends `values`, each below `2^width`. Nothing may follow: the last group is filled up.
pub(super) fn put<T: Copy + Eq + Into<u32>>(values: &[T], width: u8, out: &mut Vec<u8>) {
    let (mut packed, mut at) = (0, 0);
    while at < values.len() {
        let value = values[at];
        let run = values[at..].iter().take_while(|next| **next == value).count();
        if run >= RUN_MIN {
            put_packed(&values[packed..at], width, out);
            put_run(value.into(), run, width, out);
            at += run;
            packed = at;
        } else {
            // Whole groups, so that a run starts where a group ends. Those that lie in this run hold no longer one.
            at = (at + run.div_ceil(GROUP) * GROUP).min(values.len());
        }
    }
    put_packed(&values[packed..], width, out);
}

fn put_packed<T: Copy + Into<u32>>(values: &[T], width: u8, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(GROUP);
    put_varint((groups as u64) << 1 | 1, out);
    let end = out.len() + groups * usize::from(width);
    let (mut bits, mut filled) = (0u64, 0);
    for value in values {
        bits |= u64::from((*value).into()) << filled;
        filled += u32::from(width);
        if filled >= u32::BITS {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= u32::BITS;
            filled -= u32::BITS;
        }
    }
    out.extend_from_slice(&bits.to_le_bytes()[..filled.div_ceil(8) as usize]);
    // The zeros that fill up the last group.
    out.resize(end, 0);
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// The format read back as the specification words it.
    fn read(mut bytes: &[u8], width: u8, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while !bytes.is_empty() {
            let (mut header, mut shift) = (0u64, 0);
            loop {
                let byte = bytes[0];
                bytes = &bytes[1..];
                header |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            let whole = usize::from(width).div_ceil(8);
            if header & 1 == 0 {
                let mut value = [0; 4];
                value[..whole].copy_from_slice(&bytes[..whole]);
                bytes = &bytes[whole..];
                values.extend(std::iter::repeat_n(u32::from_le_bytes(value), (header >> 1) as usize));
            } else {
                let length = (header >> 1) as usize * usize::from(width);
                let bit = |at: usize| u32::from(bytes[at / 8] >> (at % 8) & 1);
                values.extend((0..(header >> 1) as usize * GROUP).map(|value| {
                    (0..usize::from(width))
                        .map(|place| bit(value * usize::from(width) + place) << place)
                        .sum::<u32>()
                }));
                bytes = &bytes[length..];
            }
        }
        assert!(values.len() - count < GROUP, "{} values for {count}", values.len());
        values.truncate(count);
        values
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(
            runs in proptest::collection::vec((any::<u32>(), prop_oneof![1usize..4, 1usize..60]), 0..40),
            width in 0u8..=32,
        ) {
            let mask = u32::MAX.checked_shr(32 - u32::from(width)).unwrap_or(0);
            let values: Vec<u32> = runs.iter().flat_map(|(value, count)| std::iter::repeat_n(value & mask, *count)).collect();
            let mut out = Vec::new();
            put(&values, width, &mut out);
            prop_assert_eq!(read(&out, width, values.len()), values);
        }
    }

    #[test]
    fn long_runs_are_short() {
        let mut out = Vec::new();
        put(&[5u32; 100_000], 20, &mut out);
        assert_eq!(out.len(), 3 + 3);
        assert_eq!(
            [width(0), width(1), width(7), width(8), width(u32::MAX)],
            [0, 1, 3, 4, 32]
        );
    }
}
