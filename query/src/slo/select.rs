//! From a selector of requests to a condition over the table `red` and those derived from it.

use std::fmt::Write as _;

use datafusion::common::ScalarValue;
use tailwater_openslo::{RedKey, RedSelector};
use tailwater_slo::{Span, Time};

use super::pieces::Piece;

/// A query that grows: values become `$1`, `$2`, ..., so that no text of a document is ever read as SQL.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    pub sql: String,
    pub params: Vec<ScalarValue>,
}

impl Text {
    pub fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    /// Where the answer to this question is kept.
    pub fn key(&self) -> String {
        format!("{}\0{:?}", self.sql, self.params)
    }

    pub fn value(&mut self, value: ScalarValue) {
        self.params.push(value);
        // Writing to a string cannot fail.
        let _ = write!(self.sql, "${}", self.params.len());
    }

    pub fn time(&mut self, time: Time) {
        self.value(ScalarValue::TimestampMicrosecond(
            Some(time.0.saturating_mul(1_000_000)),
            Some("UTC".into()),
        ));
    }

    /// `column` lies in one of these spans.
    pub fn within(&mut self, column: &str, spans: &[Span]) {
        for (at, span) in spans.iter().enumerate() {
            self.push(if at == 0 { "(" } else { " or " });
            self.push(column);
            self.push(" >= ");
            self.time(span.from);
            self.push(" and ");
            self.push(column);
            self.push(" < ");
            self.time(span.to);
        }
        self.push(if spans.is_empty() { "false" } else { ")" });
    }

    /// The row is one that the selector means.
    ///
    /// A service's requests are the spans at which it is entered; a selector that says which kinds it wants gets those, entries or not.
    pub fn selected(&mut self, selector: &RedSelector) {
        let kinds_named = selector.any_of.contains_key(&RedKey::Kind);
        self.push(if kinds_named { "true" } else { "is_entry" });
        for (key, values) in &selector.any_of {
            self.push(" and ");
            self.any(key, values);
        }
        for (key, values) in &selector.none_of {
            self.push(" and ");
            self.none(key, values);
        }
    }

    fn any(&mut self, key: &RedKey, values: &[String]) {
        let column = column(key);
        let with_nothing = values.iter().any(String::is_empty) && *key != RedKey::Kind;
        if with_nothing {
            self.push(&format!("({column} is null or "));
        }
        self.push(&format!("{column} in ("));
        self.list(key, values);
        self.push(if with_nothing { "))" } else { ")" });
    }

    /// Not `not (...)`: that would be null, and so leave the row out, where the column is.
    fn none(&mut self, key: &RedKey, values: &[String]) {
        let column = column(key);
        if values.iter().any(String::is_empty) && *key != RedKey::Kind {
            self.push(&format!("({column} is not null and {column} not in ("));
        } else {
            self.push(&format!("({column} is null or {column} not in ("));
        }
        self.list(key, values);
        self.push("))");
    }

    fn list(&mut self, key: &RedKey, values: &[String]) {
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.push(", ");
            }
            self.value(match key {
                RedKey::Kind => ScalarValue::Int8(Some(kind(value))),
                _ => ScalarValue::Utf8(Some(value.clone())),
            });
        }
    }
}

pub(super) fn bin(text: &mut Text, seconds: u32, column: &str) {
    text.push(&format!("date_bin(interval '{seconds} seconds', {column})"));
}

/// ` from ... where ... group by` the first column.
pub(super) fn from_red(text: &mut Text, of: &RedSelector, piece: &Piece) {
    from_red_by(text, of, piece, "1");
}

/// The same, by these columns of the answer.
pub(super) fn from_red_by(text: &mut Text, of: &RedSelector, piece: &Piece, by: &str) {
    text.push(" from ");
    text.push(piece.table.name());
    text.push(" where ");
    text.within("ts", &piece.spans);
    text.push(" and ");
    text.selected(of);
    text.push(" group by ");
    text.push(by);
}

/// The column of `red` with this key.
pub(super) fn column(key: &RedKey) -> String {
    match key {
        RedKey::Tenant => "tenant",
        RedKey::Service => "service_name",
        RedKey::Namespace => "service_namespace",
        RedKey::Env => "deployment_env",
        RedKey::Region => "cloud_region",
        RedKey::Version => "service_version",
        RedKey::Operation => "operation",
        RedKey::Route => "http_route",
        RedKey::Kind => "kind",
        RedKey::StatusClass => "status_class",
        RedKey::ErrorType => "error_type",
        RedKey::Dim(name) => return format!("dims['{}']", name.replace('\'', "''")),
    }
    .to_owned()
}

/// Span kinds by their number.
pub(super) const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];

/// The word for the number of a span kind.
pub(super) fn kind_word(number: &str) -> &'static str {
    let number = number.parse::<usize>().ok();
    number.and_then(|number| KINDS.get(number)).unwrap_or(&KINDS[0])
}

/// The number of a span kind. -1, which no row has, for a word that is none.
fn kind(word: &str) -> i8 {
    KINDS
        .iter()
        .position(|known| known.eq_ignore_ascii_case(word))
        .map_or(if word.is_empty() { 0 } else { -1 }, |at| at as i8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[(RedKey, &[&str])]) -> std::collections::BTreeMap<RedKey, Vec<String>> {
        keys.iter()
            .map(|(key, values)| (key.clone(), values.iter().map(|value| (*value).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn selectors_become_conditions() {
        let check = |any: &[(RedKey, &[&str])], none: &[(RedKey, &[&str])], sql: &str, params: usize| {
            let mut text = Text::default();
            text.selected(&RedSelector {
                any_of: of(any),
                none_of: of(none),
            });
            assert_eq!((text.sql.as_str(), text.params.len()), (sql, params));
        };
        check(&[], &[], "is_entry", 0);
        check(
            &[(RedKey::Service, &["a' or 1=1 --", "b"])],
            &[],
            "is_entry and service_name in ($1, $2)",
            2,
        );
        check(
            &[(RedKey::Region, &["", "eu"])],
            &[(RedKey::Operation, &["GET /healthz"]), (RedKey::Route, &["", "/x"])],
            "is_entry and (cloud_region is null or cloud_region in ($1, $2)) \
             and (operation is null or operation not in ($3)) and (http_route is not null and http_route not in ($4, $5))",
            5,
        );
        check(
            &[
                (RedKey::Kind, &["server", "Consumer"]),
                (RedKey::Dim("it's".into()), &["x"]),
            ],
            &[],
            "true and kind in ($1, $2) and dims['it''s'] in ($3)",
            3,
        );
        assert_eq!(["server", "", "unspecified", "pony"].map(kind), [2, 0, 0, -1]);
    }

    #[test]
    fn no_span_is_no_row() {
        let mut text = Text::default();
        text.within("ts", &[]);
        assert_eq!(text.sql, "false");
        let spans = [Span::new(Time(0), Time(60)), Span::new(Time(120), Time(180))];
        let mut text = Text::default();
        text.within("ts", &spans);
        assert_eq!(text.sql, "(ts >= $1 and ts < $2 or ts >= $3 and ts < $4)");
    }
}
