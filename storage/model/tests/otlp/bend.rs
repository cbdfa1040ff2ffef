//! Bends a well-formed request into another one: fields out of order, unknown fields, messages in two parts, packed lists
//! unpacked, scalars given twice, strings that are not UTF-8. And breaks one: flipped, cut and repeated bytes.

use tailwater_model::signal::Signal;

use crate::wire::{self, Content, Field, Shape, Type};

/// SplitMix64: small, seeded, the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// A request that still is one.
pub fn bend(signal: Signal, bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let ty = wire::request(signal);
    let mut fields = wire::parse(ty, bytes, 0).expect("only whole requests are bent");
    message(ty, &mut fields, &mut dice);
    wire::encode(&fields)
}

fn message(ty: &'static Type, fields: &mut Vec<Field>, dice: &mut Dice) {
    for field in fields.iter_mut() {
        if let Content::Message(ty, inner) = &mut field.content {
            message(ty, inner, dice);
        }
    }
    let mut bent = Vec::with_capacity(fields.len());
    for field in fields.drain(..) {
        one(ty, field, &mut bent, dice);
    }
    if dice.one_in(3) {
        for place in (1..bent.len()).rev() {
            bent.swap(place, dice.below(place + 1));
        }
    }
    if dice.one_in(4) {
        let place = dice.below(bent.len() + 1);
        bent.insert(place, unknown(dice));
    }
    *fields = bent;
}

fn one(ty: &'static Type, field: Field, bent: &mut Vec<Field>, dice: &mut Dice) {
    let number = field.number;
    match (field.content, ty.shape(number)) {
        (Content::Message(inner, mut first), Some(Shape::One(_))) if dice.one_in(4) && !first.iter().any(is_list) => {
            let second = first.split_off(dice.below(first.len() + 1));
            bent.push(Field {
                number,
                content: Content::Message(inner, first),
            });
            bent.push(Field {
                number,
                content: Content::Message(inner, second),
            });
        }
        (Content::Bytes(packed), Some(Shape::PackedFixed64)) if dice.one_in(3) => {
            let elements: Vec<[u8; 8]> = packed.as_chunks::<8>().0.to_vec();
            let loose = dice.below(elements.len() + 1);
            for element in &elements[..loose] {
                bent.push(Field {
                    number,
                    content: Content::Fixed64(*element),
                });
            }
            let rest = elements[loose..].concat();
            bent.push(Field {
                number,
                content: Content::Bytes(rest),
            });
        }
        (Content::Bytes(packed), Some(Shape::PackedVarint)) if dice.one_in(3) => {
            // As fields of their own: a packed list of varints reads like a message of bare values.
            let mut rest = &packed[..];
            while let Some(end) = rest.iter().position(|byte| *byte < 0x80) {
                let value = rest[..=end]
                    .iter()
                    .rev()
                    .fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
                bent.push(Field {
                    number,
                    content: Content::Varint(value),
                });
                rest = &rest[end + 1..];
            }
        }
        (Content::Bytes(mut text), Some(Shape::Str)) if dice.one_in(12) => {
            let bad: [&[u8]; 4] = [b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf0\x9f\x98"];
            let place = dice.below(text.len() + 1);
            text.splice(place..place, bad[dice.below(4)].iter().copied());
            bent.push(Field {
                number,
                content: Content::Bytes(text),
            });
        }
        (Content::Varint(value), shape) => {
            if dice.one_in(8) {
                bent.push(Field {
                    number,
                    content: Content::Varint(dice.roll() >> dice.below(64)),
                });
            }
            // A number of more than 32 bits in a 32-bit field loses the upper ones.
            let upper = if dice.one_in(10) && shape.is_none() { 1 << 40 } else { 0 };
            bent.push(Field {
                number,
                content: Content::Varint(value | upper),
            });
        }
        (Content::Fixed64(value), None) => {
            if dice.one_in(8) {
                bent.push(Field {
                    number,
                    content: Content::Fixed64(dice.roll().to_le_bytes()),
                });
            }
            bent.push(Field {
                number,
                content: Content::Fixed64(value),
            });
        }
        (content, _) => bent.push(Field { number, content }),
    }
}

fn is_list(field: &Field) -> bool {
    matches!(&field.content, Content::Message(ty, _) if ty.is("ARRAY_VALUE") || ty.is("KV_LIST"))
}

fn unknown(dice: &mut Dice) -> Field {
    let number = [17, 31, 32, 33, 1000, (1 << 29) - 1][dice.below(6)];
    let content = match dice.below(5) {
        0 => Content::Varint(dice.roll()),
        1 => Content::Fixed32([1; 4]),
        2 => Content::Fixed64([2; 8]),
        3 => Content::Bytes(vec![0xff; dice.below(200)]),
        _ => {
            let mut group = Vec::new();
            wire::put_varint(u64::from(number << 3 | 3), &mut group);
            group.extend_from_slice(b"\x08\x01\x12\x02hi\x1b\x0d\0\0\0\0\x1c");
            wire::put_varint(u64::from(number << 3 | 4), &mut group);
            Content::Group(group)
        }
    };
    Field { number, content }
}

/// Bytes that may be no request any more.
pub fn break_bytes(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut broken = bytes.to_vec();
    for _ in 0..=dice.below(3) {
        if broken.is_empty() {
            break;
        }
        let place = dice.below(broken.len());
        match dice.below(6) {
            0 => broken[place] ^= 1 << dice.below(8),
            1 => broken[place] = dice.roll() as u8,
            2 => broken.truncate(place),
            3 => drop(broken.remove(place)),
            4 => broken.insert(place, [0, 0x7f, 0x80, 0xff][dice.below(4)]),
            _ => {
                let end = (place + dice.below(20)).min(broken.len());
                let part = broken[place..end].to_vec();
                let to = dice.below(broken.len());
                broken.splice(to..to, part);
            }
        }
    }
    broken
}
