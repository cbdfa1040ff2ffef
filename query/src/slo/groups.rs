//! The breakdown of an objective by key columns (annotation `group-by`): which groups there are, and each as an objective of its own.
//!
//! A group is counted by the same questions as the objective, with its values in the selectors, so its figures are exact and the groups add up to
//! the objective. What is not requests of `red` alone has no key columns, and no groups. Groups beyond [`GROUPS_MAX`] are left out, those with the
//! fewest requests first; the report says how many.

use std::collections::BTreeMap;

use tailwater_openslo::{RedKey, RedSelector};
use tailwater_slo::plan::What;
use tailwater_slo::report::{GroupKey, GroupReport, Groups};
use tailwater_slo::{Plan, Span};

use super::pieces::pieces;
use super::reader::Reader;
use super::rows::{count, integers, texts};
use super::select::{KINDS, Text, column, from_red_by, kind_word};
use crate::error::Result;

/// Most groups of an objective.
pub(super) const GROUPS_MAX: usize = 50;

/// Width of the slices that groups are looked for in, s: the widest table answers where it can.
const WIDE_SECONDS: u32 = 3600;

impl Reader<'_> {
    /// The groups of an objective whose SLO asks for them.
    pub(super) async fn groups(&self, plan: &Plan, watched: &[Span]) -> Result<Option<Groups>> {
        let keys = &plan.extensions.group_by;
        let Some(of) = plan.indicator.all_requests() else {
            return Ok(None);
        };
        if keys.is_empty() || !plan.indicator.has_keys() {
            return Ok(None);
        }
        let found = self.found(of, keys, plan.windows[0].span).await?;
        let left_out = found.len().saturating_sub(GROUPS_MAX);
        let mut groups = Vec::with_capacity(found.len() - left_out);
        for (values, _) in found.into_iter().take(GROUPS_MAX) {
            let mut own = plan.clone();
            for of in own.indicator.selectors_mut() {
                keys.iter().zip(&values).for_each(|(key, value)| narrow(of, key, value));
            }
            own.needs.retain(|need| need.what == What::Counts);
            let data = self.data(&own, watched).await?;
            let report = self.evaluate(own, data).await?;
            let pairs = keys.iter().zip(values);
            let pairs = pairs.map(|(key, value)| GroupKey {
                key: written(key),
                value,
            });
            groups.push(GroupReport::new(pairs.collect(), &report));
        }
        let by = keys.iter().map(written).collect();
        Ok(Some(Groups::new(by, groups, left_out)))
    }

    /// Values of the keys and how many requests have them, most first.
    async fn found(&self, of: &RedSelector, keys: &[RedKey], span: Span) -> Result<Vec<(Vec<String>, u64)>> {
        let mut found: BTreeMap<Vec<String>, u64> = BTreeMap::new();
        if span.is_empty() {
            return Ok(Vec::new());
        }
        for piece in pieces(&[span], WIDE_SECONDS) {
            let mut text = Text::default();
            text.push("select ");
            for (at, key) in keys.iter().enumerate() {
                text.push(&format!("coalesce(arrow_cast({}, 'Utf8'), '') as k{at}, ", column(key)));
            }
            text.push("sum(n) as total");
            let by: Vec<String> = (1..=keys.len()).map(|at| at.to_string()).collect();
            from_red_by(&mut text, of, &piece, &by.join(", "));
            for rows in self.ask(text).await?.iter() {
                let total = integers(rows, "total")?;
                let values: Vec<_> = (0..keys.len())
                    .map(|at| texts(rows, &format!("k{at}")))
                    .collect::<Result<_>>()?;
                for row in 0..rows.num_rows() {
                    let group = keys.iter().zip(&values).map(|(key, values)| match key {
                        RedKey::Kind => kind_word(values.value(row)).to_owned(),
                        _ => values.value(row).to_owned(),
                    });
                    let sum = found.entry(group.collect()).or_default();
                    *sum = sum.saturating_add(count(&total, row)?);
                }
            }
        }
        let mut found: Vec<(Vec<String>, u64)> = found.into_iter().collect();
        found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(found)
    }
}

/// Of the requests of a selector those that have this value too.
fn narrow(of: &mut RedSelector, key: &RedKey, value: &str) {
    let is_one = |other: &str| match key {
        RedKey::Kind => other.eq_ignore_ascii_case(value),
        _ => other == value,
    };
    let asked = of.any_of.get(key);
    let others: Vec<String> = match asked {
        // A selector that says which kinds it wants gets other spans than those at which a service is entered: this one must not begin to.
        None if *key == RedKey::Kind => KINDS
            .iter()
            .filter(|kind| !is_one(kind))
            .map(|kind| (*kind).to_owned())
            .collect(),
        // The part of a pair may ask for other values than the group's: it has nothing of the group.
        Some(values) if !values.iter().any(|other| is_one(other)) => values.clone(),
        _ => {
            of.any_of.insert(key.clone(), vec![value.to_owned()]);
            return;
        }
    };
    of.none_of.entry(key.clone()).or_default().extend(others);
}

/// A key as documents write it.
fn written(key: &RedKey) -> String {
    match key {
        RedKey::Dim(name) => format!("dims.{name}"),
        key => key.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_a_selector_and_its_values_have_in_common() {
        let check = |asked: &[&str], key: RedKey, value: &str, expected: &str| {
            let mut of = RedSelector::default();
            let values: Vec<String> = asked.iter().map(|value| (*value).to_owned()).collect();
            if !values.is_empty() {
                of.any_of.insert(key.clone(), values);
            }
            narrow(&mut of, &key, value);
            assert_eq!(of.to_string(), expected);
        };
        check(&[], RedKey::StatusClass, "5xx", "statusClass=5xx");
        check(&["4xx", "5xx"], RedKey::StatusClass, "5xx", "statusClass=5xx");
        check(&["5xx"], RedKey::StatusClass, "2xx", "statusClass=5xx !statusClass=5xx");
        check(&[""], RedKey::Region, "", "region=");
        check(&["SERVER"], RedKey::Kind, "server", "kind=server");
        let others = "!kind=unspecified|internal|client|producer|consumer";
        check(&[], RedKey::Kind, "server", others);
    }
}
