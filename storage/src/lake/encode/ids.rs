//! Columns of ids: bytes as they are, or, where an id comes back, a dictionary; with a bloom filter of what is there.

use ahash::AHashMap;
use arrow::array::{Array, AsArray, BinaryArray};
use parquet::basic::Encoding;
use parquet::bloom_filter::Sbbf;

use super::chunk::{Bounds, Content, DataPage, DictionaryPage};
use super::levels::{self, Levels};
use super::words::put_places;
use super::{Stretch, values};
use crate::Result;

/// How a column of ids is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub max_definition: i16,
    pub dictionary: bool,
    pub bounds: bool,
    /// False positives of the bloom filter, if there is to be one.
    pub bloom: Option<f64>,
}

/// The content of a chunk of ids.
///
/// # Errors
/// [`crate::ErrorKind::Store`] if there can be no such bloom filter.
pub(super) fn flat(sources: &[&BinaryArray], pages: &[Vec<Stretch>], form: Form) -> Result<Content> {
    let mut known: AHashMap<&[u8], u32> = AHashMap::new();
    let mut ids = DictionaryPage::default();
    let mut out = Vec::with_capacity(pages.len());
    let (mut places, mut present, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for page in pages {
        places.clear();
        present.clear();
        plain.clear();
        let mut range: Option<(&[u8], &[u8])> = None;
        let mut values = 0;
        for (array, row) in page
            .iter()
            .flat_map(|stretch| stretch.rows().map(|row| (sources[stretch.batch], row)))
        {
            let valid = array.is_valid(row);
            present.push(u8::from(valid));
            if !valid {
                continue;
            }
            values += 1;
            let id = array.value(row);
            if form.dictionary {
                let place = *known.entry(id).or_insert_with(|| {
                    values::put_bytes(id, &mut ids.body);
                    ids.values += 1;
                    (ids.values - 1) as u32
                });
                places.push(place);
            } else {
                values::put_bytes(id, &mut plain);
            }
            if form.bounds {
                range = Some(range.map_or((id, id), |(min, max)| (min.min(id), max.max(id))));
            }
        }
        let rows = present.len();
        let mut body = Vec::with_capacity(plain.len() + places.len() * 3 + 64);
        let definition = if values == rows {
            Levels::All(1, rows)
        } else {
            Levels::Each(&present)
        };
        levels::put(definition, form.max_definition, &mut body);
        if form.dictionary {
            put_places(&places, ids.values, &mut body);
        } else {
            body.extend_from_slice(&plain);
        }
        out.push(DataPage {
            body,
            encoding: if form.dictionary {
                Encoding::RLE_DICTIONARY
            } else {
                Encoding::PLAIN
            },
            values: rows,
            nulls: rows - values,
            rows,
            bounds: range.map(|(min, max)| Bounds {
                min: min.to_vec(),
                max: max.to_vec(),
                exact: true,
            }),
        });
    }
    let bloom = match form.bloom {
        // A dictionary knows each id once, and how many there are.
        Some(wrong) if form.dictionary => {
            let mut bloom = Sbbf::new_with_ndv_fpp(ids.values.max(1) as u64, wrong)?;
            known.keys().for_each(|id| bloom.insert(*id));
            Some(bloom)
        }
        Some(wrong) => {
            let rows: usize = out.iter().map(|page| page.values - page.nulls).sum();
            let mut bloom = Sbbf::new_with_ndv_fpp(rows.max(1) as u64, wrong)?;
            for stretch in pages.iter().flatten() {
                let array = sources[stretch.batch];
                stretch
                    .rows()
                    .filter(|row| array.is_valid(*row))
                    .for_each(|row| bloom.insert(array.value(row)));
            }
            Some(bloom)
        }
        None => None,
    };
    Ok(Content {
        dictionary: form.dictionary.then_some(ids),
        pages: out,
        bloom,
    })
}

/// As ids, if it is a column of bytes.
pub(super) fn of(array: &dyn Array) -> Option<&BinaryArray> {
    array.as_binary_opt::<i32>()
}
