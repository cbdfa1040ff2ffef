//! Rows of an answer as texts and numbers, and what of a matcher SQL can use.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use tailwater_promql::{Compare, Matcher};

use super::Sql;
use crate::engine::{Answer, Engine, Query};
use crate::error::{Error, ErrorKind, Result};

/// All rows of a query; its notes go to `notes`.
pub(super) async fn read(engine: &Engine, sql: Sql, notes: &mut BTreeSet<String>) -> Result<Vec<RecordBatch>> {
    let answer = engine.read(sql.into()).await?;
    notes.extend(answer.notes());
    answer.collect().await
}

/// The same for rows that are looked at as they come and not held.
pub(super) async fn stream(engine: &Engine, sql: Sql, notes: &mut BTreeSet<String>) -> Result<Answer> {
    let answer = engine.pass(sql.into()).await?;
    notes.extend(answer.notes());
    Ok(answer)
}

impl From<Sql> for Query {
    fn from(sql: Sql) -> Query {
        Query {
            text: sql.text,
            params: sql.params,
        }
    }
}

fn as_type(rows: &RecordBatch, column: usize, to: &DataType) -> Result<ArrayRef> {
    let array = rows.column(column);
    if array.data_type() == to {
        return Ok(array.clone());
    }
    cast(array, to).map_err(|error| Error::new(ErrorKind::Internal, format!("column {column} of a read: {error}")))
}

/// A column of texts.
pub(super) fn texts(rows: &RecordBatch, column: usize) -> Result<StringArray> {
    Ok(as_type(rows, column, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// A column of integers.
pub(super) fn integers(rows: &RecordBatch, column: usize) -> Result<Int64Array> {
    Ok(as_type(rows, column, &DataType::Int64)?
        .as_primitive::<Int64Type>()
        .clone())
}

/// A column of floats.
pub(super) fn floats(rows: &RecordBatch, column: usize) -> Result<Float64Array> {
    Ok(as_type(rows, column, &DataType::Float64)?
        .as_primitive::<Float64Type>()
        .clone())
}

/// A column of bytes.
pub(super) fn bytes(rows: &RecordBatch, column: usize) -> Result<BinaryArray> {
    Ok(as_type(rows, column, &DataType::Binary)?.as_binary::<i32>().clone())
}

/// The value of a row; `None` for null.
pub(super) fn text(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// The only values that a matcher lets through, where it names them: `=` and `=~` of plain alternatives, in parentheses or not, which is how
/// Grafana writes variables with several values. `None` where there may be others, among them the empty one, which an absent label has.
pub(super) fn only(matcher: &Matcher) -> Option<Vec<Arc<str>>> {
    let values: Vec<Arc<str>> = match matcher.compare {
        Compare::Equal => vec![matcher.value.as_str().into()],
        Compare::Matches(_) => {
            let inside = matcher.value.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
            let alternatives = inside.unwrap_or(&matcher.value).split('|');
            alternatives.map(literal).collect::<Option<_>>()?
        }
        Compare::NotEqual | Compare::MatchesNot(_) => return None,
    };
    values.iter().all(|value| !value.is_empty()).then_some(values)
}

/// The text that a regular expression without operators stands for.
fn literal(pattern: &str) -> Option<Arc<str>> {
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next()? {
                // `\d`, `\n` and others of letters and digits mean something else.
                escaped if escaped.is_ascii_punctuation() => text.push(escaped),
                _ => return None,
            },
            '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' => return None,
            plain => text.push(plain),
        }
    }
    Some(text.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_that_a_matcher_names() {
        let check = |matcher: &str, expected: Option<&[&str]>| {
            let query = tailwater_promql::Query::parse(&format!("{{__name__=\"x\",{matcher}}}")).unwrap();
            let found = only(&query.matchers().unwrap()[1]);
            let expected = expected.map(|values| values.iter().map(|value| (*value).into()).collect::<Vec<Arc<str>>>());
            assert_eq!(found, expected, "{matcher}");
        };
        check(r#"a="b""#, Some(&["b"]));
        check(r#"a="""#, None);
        check(r#"a!="b""#, None);
        check(r#"a=~"b|c""#, Some(&["b", "c"]));
        check(r#"a=~"b|""#, None);
        check(r#"a=~"b\\.x|c-d""#, Some(&["b.x", "c-d"]));
        check(r#"a=~"b.x""#, None);
        check(r#"a=~"\\d|x""#, None);
        check(r#"a=~"(b|c)""#, Some(&["b", "c"]));
        check(r#"a=~"(b\\.x)""#, Some(&["b.x"]));
        check(r#"a=~"(b)|(c)""#, None);
        check(r#"a!~"b|c""#, None);
    }
}
