//! Which table answers which part of what is to be read of `red`.
//!
//! The derived tables have the same sums in wider slices. A span is read from the widest whose slices neither its ends nor the slices
//! of the need cut; what is left at its ends is read from the next one, at last from `red` itself. Levels are never added up for the same time.

use tailwater_model::table::Table;
use tailwater_slo::{Span, Time};

use super::rows::group_seconds;

/// Spans to be read from a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub table: Table,
    /// Disjoint, in order.
    pub spans: Vec<Span>,
    /// Width of the groups to ask for.
    pub seconds: u32,
}

/// The pieces of these spans, in slices of `width` seconds.
pub(super) fn pieces(spans: &[Span], width: u32) -> Vec<Piece> {
    let mut left = spans.to_vec();
    let mut pieces = Vec::new();
    let mut push = |table, spans: Vec<Span>| {
        if !spans.is_empty() {
            let seconds = group_seconds(&spans, width);
            pieces.push(Piece { table, spans, seconds });
        }
    };
    for table in [Table::Red1h, Table::Red15m] {
        if let Some(slice) = table.derived_slice_s().filter(|slice| width.is_multiple_of(*slice)) {
            let (whole, rest) = split(&left, slice);
            push(table, whole);
            left = rest;
        }
    }
    push(Table::Red, left);
    pieces
}

/// The parts of spans that are whole slices, and the others.
fn split(spans: &[Span], slice: u32) -> (Vec<Span>, Vec<Span>) {
    let (mut whole, mut rest) = (Vec::new(), Vec::new());
    for span in spans {
        let inner = Span::new(span.from.ceil(slice), span.to.floor(slice));
        if inner.from >= inner.to {
            rest.push(*span);
            continue;
        }
        whole.push(inner);
        let ends = [Span::new(span.from, inner.from), Span::new(inner.to, span.to)];
        rest.extend(ends.into_iter().filter(|end| !end.is_empty()));
    }
    (whole, rest)
}

/// The widest table that answers in slices of `width` seconds: the one that most of a span is read from.
pub(super) fn widest(width: u32) -> Table {
    let fits = |table: &Table| table.derived_slice_s().is_some_and(|slice| width.is_multiple_of(slice));
    [Table::Red1h, Table::Red15m]
        .into_iter()
        .find(fits)
        .unwrap_or(Table::Red)
}

/// Up to which moment before `time` whole slices of the coarsest table reach, and what is left of it.
pub(super) fn earlier(time: Time) -> [(Table, Option<Time>, Time); 2] {
    let hour = time.floor(Table::Red1h.derived_slice_s().unwrap_or(1));
    [(Table::Red1h, None, hour), (Table::Red, Some(hour), time)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_read_from_the_widest_slices_that_fit() {
        type Expected<'a> = (Table, &'a [(i64, i64)], u32);
        let check = |spans: &[(i64, i64)], width: u32, expected: &[Expected<'_>]| {
            let of = |spans: &[(i64, i64)]| -> Vec<Span> {
                let spans = spans.iter().map(|(from, to)| Span::new(Time(*from), Time(*to)));
                spans.collect()
            };
            let expected: Vec<Piece> = expected
                .iter()
                .map(|(table, spans, seconds)| Piece {
                    table: *table,
                    spans: of(spans),
                    seconds: *seconds,
                })
                .collect();
            assert_eq!(pieces(&of(spans), width), expected, "{spans:?} {width}");
        };
        use Table::{Red, Red1h, Red15m};
        check(&[], 3600, &[]);
        check(&[(60, 7260)], 60, &[(Red, &[(60, 7260)], 60)]);
        check(&[(3600, 36_000)], 3600, &[(Red1h, &[(3600, 36_000)], 3600)]);
        // Minutes at the ends, hours and quarters between.
        check(
            &[(60, 8100)],
            7200,
            &[
                (Red1h, &[(3600, 7200)], 3600),
                (Red15m, &[(900, 3600), (7200, 8100)], 900),
                (Red, &[(60, 900)], 60),
            ],
        );
        check(
            &[(0, 900), (3600, 10_800)],
            86_400,
            &[(Red1h, &[(3600, 10_800)], 3600), (Red15m, &[(0, 900)], 900)],
        );
        // An hour would cut slices of 40 minutes.
        check(&[(0, 7200)], 2400, &[(Red, &[(0, 7200)], 2400)]);
        check(&[(0, 7200)], 1800, &[(Red15m, &[(0, 7200)], 1800)]);
    }

    #[test]
    fn most_is_read_from_the_widest_table_that_fits() {
        use Table::{Red, Red1h, Red15m};
        let tables = [60, 300, 900, 1800, 2400, 3600, 5400, 86_400].map(widest);
        assert_eq!(tables, [Red, Red, Red15m, Red15m, Red, Red1h, Red15m, Red1h]);
    }

    #[test]
    fn before_a_moment() {
        assert_eq!(
            earlier(Time(7300)),
            [
                (Table::Red1h, None, Time(7200)),
                (Table::Red, Some(Time(7200)), Time(7300))
            ]
        );
    }
}
