//! What tells the series of a family apart: columns of its table, and the labels made of them.

use std::borrow::Borrow;

use arrow::array::{RecordBatch, StringArray};
use tailwater_promql::{BUCKET, Labels, METRIC_NAME};

use super::super::{Sql, naming, table};
use super::Family;
use crate::error::Result;

/// Between names and values of dimensions: no attribute has it.
const SEPARATOR: char = '\u{1f}';

/// After each part of a key: in no text that a person sends.
const NEXT: char = '\u{1e}';

/// Columns of a family that are read to tell series apart.
pub(crate) struct Key {
    /// Label and SQL.
    fixed: Vec<(&'static str, &'static str)>,
    dims: bool,
}

impl Family {
    /// All columns.
    pub fn key(&self) -> Key {
        Key {
            fixed: self.keys.to_vec(),
            dims: self.has_dims,
        }
    }

    /// Those that these labels are made of. Names and bounds of buckets are made of none.
    pub fn key_of<S: Borrow<str>>(&self, labels: &[S]) -> Key {
        let named = |name: &str| labels.iter().any(|label| label.borrow() == name);
        let is_fixed = |name: &str| self.keys.iter().any(|(label, _)| *label == name);
        let other = |name: &str| !is_fixed(name) && ![METRIC_NAME, BUCKET].contains(&name);
        Key {
            fixed: self.keys.iter().copied().filter(|(label, _)| named(label)).collect(),
            dims: self.has_dims && labels.iter().any(|label| other(label.borrow())),
        }
    }
}

impl Key {
    /// `select` of these columns and of others.
    pub fn select(&self, others: impl IntoIterator<Item = String>) -> Sql {
        let fixed = self.fixed.iter().map(|(_, column)| (*column).to_owned());
        let dims = ["map_keys", "map_values"].iter().filter(|_| self.dims);
        let dims = dims.map(|part| format!("array_to_string({part}(dims), chr(31))"));
        let columns: Vec<String> = fixed.chain(dims).chain(others).collect();
        let mut sql = Sql::default();
        sql.push("select ").push(&columns.join(", "));
        sql
    }

    /// How many columns.
    pub fn width(&self) -> usize {
        self.fixed.len() + if self.dims { 2 } else { 0 }
    }

    /// The keys of rows whose first columns these are.
    pub fn of(&self, rows: &RecordBatch) -> Result<Keys> {
        let columns = (0..self.width()).map(|column| table::texts(rows, column));
        columns.collect::<Result<_>>().map(Keys)
    }

    /// Labels out of a key. Fixed labels come last: a dimension of the same name does not hide them.
    pub fn labels(&self, key: &str) -> Labels {
        let parts: Vec<&str> = key.split(NEXT).collect();
        let mut labels = Vec::new();
        if self.dims {
            let of = |at: usize| parts.get(at).copied().unwrap_or_default().split(SEPARATOR);
            let (names, values) = (of(self.fixed.len()), of(self.fixed.len() + 1));
            labels.extend(
                names
                    .zip(values)
                    .filter(|(name, _)| !name.is_empty())
                    .map(|(name, value)| (naming::label(name), value.to_owned())),
            );
        }
        let fixed = self.fixed.iter().zip(&parts);
        labels.extend(fixed.map(|((label, _), value)| ((*label).to_owned(), (*value).to_owned())));
        labels.into_iter().collect()
    }
}

/// The keys of some rows, by column.
pub(crate) struct Keys(Vec<StringArray>);

impl Keys {
    /// One text per series.
    pub fn write(&self, row: usize, key: &mut String) {
        key.clear();
        for column in &self.0 {
            key.push_str(table::text(column, row).unwrap_or_default());
            key.push(NEXT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FAMILIES;

    #[test]
    fn labels_name_the_columns_they_are_made_of() {
        let check = |family: usize, labels: &[&str], columns: &[&str], dims: bool| {
            let key = FAMILIES[family].key_of(labels);
            let found: Vec<&str> = key.fixed.iter().map(|(label, _)| *label).collect();
            assert_eq!((&found[..], key.dims), (columns, dims), "{labels:?}");
        };
        check(0, &[], &[], false);
        check(0, &["__name__", "le"], &[], false);
        check(0, &["span_name", "service"], &["service", "span_name"], false);
        check(0, &["service", "team"], &["service"], true);
        // Nobody has it.
        check(1, &["client", "team"], &["client"], false);
    }

    #[test]
    fn a_key_gives_its_labels() {
        let check = |labels: &[&str], key: &str, expected: &str| {
            let key = key.replace(';', "\u{1e}").replace('|', "\u{1f}");
            assert_eq!(FAMILIES[0].key_of(labels).labels(&key).to_string(), expected);
        };
        check(&["service"], "cart;", r#"{service="cart"}"#);
        check(
            &["service", "team"],
            "cart;a|team;1|red;",
            r#"{a="1", service="cart", team="red"}"#,
        );
        check(&["service", "team"], "cart;service;other;", r#"{service="cart"}"#);
        check(&[], "", "{}");
    }
}
