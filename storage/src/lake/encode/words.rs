//! Columns of words: the dictionaries of many frames become the one of a chunk, and keys go straight into its pages.
//!
//! The Parquet library's own writer hashes the text of every value again. Here a word is looked at once for each frame that
//! uses it; after that a value costs a look-up in a small array and its bits in the page.

use ahash::AHashMap;
use arrow::array::{Array, AsArray, DictionaryArray, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Int32Type;
use parquet::basic::Encoding;

use super::chunk::{Bounds, Content, DataPage, DictionaryPage};
use super::levels::{self, Levels, Shape};
use super::{Stretch, hybrid, values};
use crate::lake::stats;

/// A dictionary column of one batch, or the keys or values of its maps.
#[derive(Debug, Clone)]
pub(super) struct Words<'a> {
    keys: &'a [i32],
    nulls: Option<&'a NullBuffer>,
    values: &'a StringArray,
}

impl<'a> Words<'a> {
    pub fn new(column: &'a dyn Array) -> Words<'a> {
        let column: &DictionaryArray<Int32Type> = column.as_dictionary();
        Words {
            keys: column.keys().values(),
            nulls: column.nulls().filter(|nulls| nulls.null_count() > 0),
            values: column.values().as_string(),
        }
    }

    /// Bytes of all words in plain encoding.
    fn plain_bytes(&self) -> usize {
        let offsets = self.values.value_offsets();
        (offsets[offsets.len() - 1] - offsets[0]) as usize + 4 * self.values.len()
    }

    /// The word of every row, if there is only one and no null.
    pub fn only(&self) -> Option<&'a str> {
        let first = *self.keys.first()?;
        let one = self.nulls.is_none() && self.keys.iter().all(|key| *key == first);
        one.then(|| self.values.value(first as usize))
    }
}

/// Words seen in a chunk, each with its place in the dictionary page.
struct Dictionary<'a> {
    /// Of each batch, the place of each of its words.
    places: Vec<Vec<u32>>,
    /// None where words hardly repeat: session ids make up much of an attribute map, and finding the few equal ones costs
    /// more than they do. A dictionary may hold a word twice.
    known: Option<AHashMap<&'a str, u32>>,
    /// Kept if bounds are wanted.
    words: Option<Vec<&'a str>>,
    page: DictionaryPage,
}

/// With fewer values a word than this, equal words of two frames are not looked for.
const NEAR_UNIQUE: usize = 4;
const UNSEEN: u32 = u32::MAX;

impl<'a> Dictionary<'a> {
    fn new(sources: &[Words<'a>], with_words: bool) -> Dictionary<'a> {
        let words: usize = sources.iter().map(|source| source.values.len()).sum();
        let values: usize = sources.iter().map(|source| source.keys.len()).sum();
        let is_known = words * NEAR_UNIQUE < values || sources.len() > 1 && words < 4096;
        // Words that are not looked for come in all of them: a page that grows by and by is copied over and over.
        let body = match is_known {
            true => 0,
            false => sources.iter().map(Words::plain_bytes).sum(),
        };
        Dictionary {
            places: sources.iter().map(|source| vec![UNSEEN; source.values.len()]).collect(),
            known: is_known.then(AHashMap::new),
            words: with_words.then(Vec::new),
            page: DictionaryPage {
                body: Vec::with_capacity(body),
                values: 0,
            },
        }
    }

    /// Appends the places of these keys.
    fn put(&mut self, batch: usize, source: &Words<'a>, keys: &[i32], out: &mut Vec<u32>) {
        let places = &mut self.places[batch];
        out.reserve(keys.len());
        for key in keys {
            let place = &mut places[*key as usize];
            if *place == UNSEEN {
                let word = source.values.value(*key as usize);
                let (words, page) = (&mut self.words, &mut self.page);
                let mut append = || {
                    values::put_bytes(word.as_bytes(), &mut page.body);
                    if let Some(words) = words {
                        words.push(word);
                    }
                    page.values += 1;
                    (page.values - 1) as u32
                };
                *place = match &mut self.known {
                    Some(known) => *known.entry(word).or_insert_with(append),
                    None => append(),
                };
            }
            out.push(*place);
        }
    }
}

/// Least and greatest words of pages.
#[derive(Default)]
struct Range {
    /// Of each word, the last page it was met in.
    met: Vec<u32>,
    page: u32,
}

impl Range {
    fn of(&mut self, places: &[u32], words: &[&str]) -> Option<Bounds> {
        self.page += 1;
        self.met.resize(words.len(), 0);
        let mut range: Option<(&str, &str)> = None;
        for place in places {
            let met = &mut self.met[*place as usize];
            if *met == self.page {
                continue;
            }
            *met = self.page;
            let word = words[*place as usize];
            range = Some(range.map_or((word, word), |(min, max)| (min.min(word), max.max(word))));
        }
        range.map(|(min, max)| bounds(min, max))
    }
}

/// Bounds as they are written: not too long.
pub(super) fn bounds(min: &str, max: &str) -> Bounds {
    let (low, high) = (stats::cut(min), stats::cut_up(max));
    Bounds {
        exact: low.len() == min.len() && high == max,
        min: low.as_bytes().to_vec(),
        max: high.into_bytes(),
    }
}

/// Appends dictionary places: the bits of each, then a hybrid stream.
pub(super) fn put_places(places: &[u32], words: usize, body: &mut Vec<u8>) {
    let width = hybrid::width(words.saturating_sub(1) as u32);
    body.push(width);
    hybrid::put(places, width, body);
}

/// A column of words, one or none a row.
pub(super) fn flat(sources: &[Words<'_>], pages: &[Vec<Stretch>], max_definition: i16, with_bounds: bool) -> Content {
    let mut dictionary = Dictionary::new(sources, with_bounds);
    let mut range = Range::default();
    let (mut places, mut present) = (Vec::new(), Vec::new());
    let mut out = Vec::with_capacity(pages.len());
    for page in pages {
        places.clear();
        present.clear();
        for stretch in page {
            let source = &sources[stretch.batch];
            let keys = &source.keys[stretch.rows()];
            match source.nulls {
                None => {
                    dictionary.put(stretch.batch, source, keys, &mut places);
                    present.resize(present.len() + keys.len(), 1);
                }
                Some(nulls) => {
                    for (row, key) in stretch.rows().zip(keys) {
                        let valid = nulls.is_valid(row);
                        present.push(u8::from(valid));
                        if valid {
                            dictionary.put(stretch.batch, source, &[*key], &mut places);
                        }
                    }
                }
            }
        }
        let (rows, values) = (present.len(), places.len());
        let mut body = Vec::with_capacity(rows / 2 + 64);
        let definition = if values == rows {
            Levels::All(1, rows)
        } else {
            Levels::Each(&present)
        };
        levels::put(definition, max_definition, &mut body);
        put_places(&places, dictionary.page.values, &mut body);
        out.push(DataPage {
            body,
            encoding: Encoding::RLE_DICTIONARY,
            values: rows,
            nulls: rows - values,
            rows,
            bounds: dictionary.words.as_ref().and_then(|words| range.of(&places, words)),
        });
    }
    Content {
        dictionary: Some(dictionary.page),
        pages: out,
        bloom: None,
    }
}

/// The keys or values of maps.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    pub offsets: &'a [i32],
    pub words: Words<'a>,
}

/// The words in maps: `full` is the definition level of an entry's word, `full - 1` of an entry without one (if it may lack
/// one), `empty` of a map without entries. Shapes are those of the same pages.
pub(super) fn entries(
    sources: &[Entries<'_>],
    pages: &[Vec<Stretch>],
    shapes: &[Shape],
    max_definition: i16,
    empty: u8,
) -> Content {
    let words: Vec<Words<'_>> = sources.iter().map(|source| source.words.clone()).collect();
    let full = max_definition as u8;
    let mut dictionary = Dictionary::new(&words, false);
    let (mut places, mut room, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut out = Vec::with_capacity(pages.len());
    for (page, shape) in pages.iter().zip(shapes) {
        places.clear();
        missing.clear();
        let mut seen = 0;
        for stretch in page {
            let Entries { offsets, words } = &sources[stretch.batch];
            let rows = stretch.rows();
            let range = offsets[rows.start] as usize..offsets[rows.end] as usize;
            match words.nulls {
                None => dictionary.put(stretch.batch, words, &words.keys[range.clone()], &mut places),
                Some(nulls) => {
                    for (at, entry) in range.clone().enumerate() {
                        if nulls.is_valid(entry) {
                            dictionary.put(stretch.batch, words, &[words.keys[entry]], &mut places);
                        } else {
                            missing.push(seen + at);
                        }
                    }
                }
            }
            seen += range.len();
        }
        let levels = shape.repetition.len();
        let mut body = Vec::with_capacity(levels * 2 + 64);
        levels::put(Levels::Each(&shape.repetition), 1, &mut body);
        let definition = match shape.definition(full, empty, &mut room) {
            levels if missing.is_empty() => levels,
            Levels::All(..) => {
                room.clear();
                room.resize(shape.repetition.len(), full);
                lower(&mut room, &missing, full)
            }
            Levels::Each(_) => lower(&mut room, &missing, full),
        };
        levels::put(definition, max_definition, &mut body);
        put_places(&places, dictionary.page.values, &mut body);
        out.push(DataPage {
            body,
            encoding: Encoding::RLE_DICTIONARY,
            values: levels,
            nulls: levels - places.len(),
            rows: page.iter().map(|stretch| stretch.count).sum(),
            bounds: None,
        });
    }
    Content {
        dictionary: Some(dictionary.page),
        pages: out,
        bloom: None,
    }
}

/// Lowers the levels of the entries of these ordinals by one.
fn lower<'a>(levels: &'a mut [u8], missing: &[usize], full: u8) -> Levels<'a> {
    let mut missing = missing.iter().copied().peekable();
    for (entry, level) in levels.iter_mut().filter(|level| **level == full).enumerate() {
        if missing.next_if_eq(&entry).is_some() {
            *level -= 1;
        }
    }
    Levels::Each(levels)
}
