//! Which values of a page are there, and where lists begin: definition and repetition levels.
//!
//! Source: Apache Parquet, "Nested Encoding" (Dremel). A version 1 page has the repetition levels first, then the definition
//! levels, each as four bytes of length and a hybrid stream, each left out where the greatest possible level is 0.

use super::hybrid;

/// Levels of a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Levels<'a> {
    /// So many, all the same.
    All(u8, usize),
    Each(&'a [u8]),
}

/// Appends a level stream; `max` is the greatest level that the column can have.
pub(super) fn put(levels: Levels<'_>, max: i16, out: &mut Vec<u8>) {
    if max == 0 {
        return;
    }
    let width = hybrid::width(max as u32);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    match levels {
        Levels::All(level, count) => hybrid::put_run(level.into(), count, width, out),
        Levels::Each(levels) => hybrid::put(levels, width, out),
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// The entries of a page's maps.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// A level for each entry, and one for each map without entries.
    pub repetition: Vec<u8>,
    /// Which of these are entries; empty if all are.
    pub is_entry: Vec<bool>,
    /// How many are entries.
    pub entries: usize,
}

impl Shape {
    /// Takes the maps between these offsets.
    pub fn add(&mut self, offsets: &[i32]) {
        for ends in offsets.windows(2) {
            let entries = (ends[1] - ends[0]) as usize;
            if entries == 0 {
                self.note_empty();
                self.repetition.push(0);
                continue;
            }
            self.repetition.push(0);
            self.repetition.extend(std::iter::repeat_n(1, entries - 1));
            if !self.is_entry.is_empty() {
                self.is_entry.extend(std::iter::repeat_n(true, entries));
            }
            self.entries += entries;
        }
    }

    fn note_empty(&mut self) {
        if self.is_entry.is_empty() {
            self.is_entry.extend(std::iter::repeat_n(true, self.repetition.len()));
        }
        self.is_entry.push(false);
    }

    /// Definition levels where every entry has the level `full`, and every empty map the level `empty`.
    pub fn definition<'a>(&self, full: u8, empty: u8, room: &'a mut Vec<u8>) -> Levels<'a> {
        if self.is_entry.is_empty() {
            return Levels::All(full, self.repetition.len());
        }
        room.clear();
        room.extend(self.is_entry.iter().map(|entry| if *entry { full } else { empty }));
        Levels::Each(room)
    }
}
