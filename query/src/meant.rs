//! What to say of a name that is not there: the nearest ones, and where all are listed.

use std::collections::BTreeSet;

use datafusion::common::Column;
use tailwater_config::nearest;
use tailwater_model::table::Table;

use crate::views::VIEWS;

/// Most names that are offered.
const OFFERED_MAX: usize = 3;

/// For DataFusion's message about a table; `None` if it is about something else.
pub(crate) fn table(message: &str) -> Option<String> {
    let name = message.strip_prefix("table '")?.strip_suffix("' not found")?;
    let name = name.rsplit('.').next().unwrap_or(name);
    let tables = Table::ALL.into_iter().map(Table::name);
    let all: Vec<&str> = tables.chain(VIEWS.into_iter().map(|view| view.name)).collect();
    let offer = offer(name, &all);
    Some(format!("there is no table {name}; SHOW TABLES lists all{offer}"))
}

/// For a column that none of those in sight is.
pub(crate) fn column(field: &Column, valid: &[Column]) -> String {
    let is_there = |name: &str| valid.iter().any(|column| column.name == name);
    let name = &field.name;
    if name.eq_ignore_ascii_case("attributes") && is_there("attrs_str") {
        return format!(
            "{name} stands only with a key in quotes: {name}['k']; all are in attrs_str, attrs_int, attrs_dbl, attrs_bool and attrs_json"
        );
    }
    if name.eq_ignore_ascii_case("resource") && is_there("resource_attrs") {
        return format!("{name} stands only with a key in quotes: {name}['k']; all are in resource_attrs");
    }
    let relations: BTreeSet<&str> = valid
        .iter()
        .filter_map(|column| Some(column.relation.as_ref()?.table()))
        .collect();
    let in_sight = valid.iter().filter(|column| match (&field.relation, &column.relation) {
        (Some(wanted), Some(of)) => wanted.table() == of.table() || !relations.contains(wanted.table()),
        _ => true,
    });
    let names: BTreeSet<&str> = in_sight.map(|column| column.name.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let offer = offer(name, &names);
    let is_listed = |name: &&str| Table::from_name(name).is_some() || VIEWS.iter().any(|view| view.name == *name);
    let listed: Vec<String> = relations
        .into_iter()
        .filter(is_listed)
        .map(|name| format!("DESCRIBE {name}"))
        .collect();
    let listed = match listed.as_slice() {
        [] => String::new(),
        [one] => format!("; {one} lists all"),
        several => format!("; {} list all", several.join(" and ")),
    };
    format!("there is no column {}{listed}{offer}", field.flat_name())
}

/// Names that are spelled alike, then those that have the word in them.
fn offer(word: &str, names: &[&str]) -> String {
    let mut left = names.to_vec();
    let mut offered: Vec<&str> = Vec::new();
    while let Some(near) = nearest(word, left.iter().copied()) {
        left.retain(|name| *name != near);
        offered.push(near);
    }
    left.retain(|name| name.contains(word));
    left.sort_by_key(|name| name.len());
    offered.extend(left);
    offered.truncate(OFFERED_MAX);
    match offered.split_last() {
        None => String::new(),
        Some((one, [])) => format!("; did you mean {one}?"),
        Some((last, others)) => format!("; did you mean {} or {last}?", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_near_are_offered() {
        let check = |word: &str, names: &[&str], expected: &str| assert_eq!(offer(word, names), expected, "{word}");
        check("span", &["logs", "spans"], "; did you mean spans?");
        check("nothing", &["logs", "spans"], "");
        check(
            "service",
            &["service_version", "service_name", "ts", "servico"],
            "; did you mean servico, service_name or service_version?",
        );
        check("a", &["b", "c", "d", "e"], "; did you mean b, c or d?");
        assert_eq!(table("something else"), None);
    }

    #[test]
    fn columns_are_those_of_the_qualifier() {
        let column_of = |table: &str, name: &str| Column::new(Some(table), name);
        let valid = [
            column_of("s", "service_name"),
            column_of("logs", "service_nam"),
            column_of("s", "resource_attrs"),
        ];
        assert_eq!(
            column(&column_of("s", "service_nme"), &valid),
            "there is no column s.service_nme; DESCRIBE logs lists all; did you mean service_name?"
        );
        assert_eq!(column(&Column::from_name("x"), &[]), "there is no column x");
        assert_eq!(
            column(&Column::from_name("resource"), &valid),
            "resource stands only with a key in quotes: resource['k']; all are in resource_attrs"
        );
    }
}
