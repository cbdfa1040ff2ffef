//! The grammar of `metricSource.spec` with `type: tailwater`, with a path and an advice for every mistake.

use std::collections::BTreeMap;

use tailwater_config::nearest;

use super::{Good, RedKey, RedSelector, Source, TYPE};
use crate::document::{Free, MetricSource, Part};
use crate::period::parse_latency;

/// What a source is used for; it decides what the source may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Threshold,
    Raw(Part),
    Good,
    Bad,
    Total,
}

/// A mistake: where below `metricSource`, what, and the word that was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub path: String,
    pub message: String,
    pub near: Option<String>,
}

impl Wrong {
    fn new(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            message: message.into(),
            near: None,
        }
    }
}

/// Whether the source is ours, as far as one document can tell: by its type, or by its words where neither type nor reference is given.
pub(crate) fn is_ours(source: &MetricSource) -> bool {
    match (&source.source_type, &source.source_ref) {
        (Some(source_type), _) => source_type == TYPE,
        (None, Some(_)) => false,
        (None, None) => source.spec.contains_key("red") || source.spec.contains_key("sql"),
    }
}

/// The mistakes of a source that is ours; none if it is another's.
pub(crate) fn check(source: &MetricSource, role: Role) -> Vec<Wrong> {
    match &source.source_type {
        Some(other) if other != TYPE && other.eq_ignore_ascii_case(TYPE) => {
            vec![Wrong::new("type", format!("`{other}`: write {TYPE}"))]
        }
        _ if is_ours(source) => parse(&source.spec, role).err().unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// In a pair, `good` with a `good:` clause must select what `total` selects: the clause divides one set of requests.
pub(crate) fn check_pair(part: &MetricSource, total: &MetricSource) -> Result<(), Wrong> {
    if !is_ours(part) || !is_ours(total) {
        return Ok(());
    }
    let (Ok(part), Ok(total)) = (parse(&part.spec, Role::Good), parse(&total.spec, Role::Total)) else {
        return Ok(());
    };
    pair_holds(&part, &total.0)
}

pub(crate) fn pair_holds(part: &(Source, Option<Good>), total: &Source) -> Result<(), Wrong> {
    match (part, total) {
        ((Source::Red(of), Some(_)), Source::Red(all)) if of == all => Ok(()),
        ((Source::Red(of), Some(_)), Source::Red(all)) => Err(Wrong::new(
            "metricSource.spec.red.good",
            format!("divides the requests of `total`, so both must select the same: here {of}, in `total` {all}"),
        )),
        ((_, Some(_)), _) => Err(Wrong::new(
            "metricSource.spec.red.good",
            "divides the requests of `total`, so `total` must be a `red` source with the same keys",
        )),
        _ => Ok(()),
    }
}

/// Reads a spec. Paths begin with `spec`.
pub(crate) fn parse(spec: &BTreeMap<String, Free>, role: Role) -> Result<(Source, Option<Good>), Vec<Wrong>> {
    let mut wrong = Vec::new();
    for key in spec.keys().filter(|key| !["red", "sql"].contains(&key.as_str())) {
        let keys = RedKey::FIXED.iter().map(RedKey::word);
        let mut one = Wrong::new(&format!("spec.{key}"), "unknown key; expected `red:` or `sql:`");
        if keys.chain(["dims", "not", "good"]).any(|word| word == key) {
            one.message = format!("`{key}` goes below `red:`");
        } else {
            one.near = nearest(key, ["red", "sql"]).map(str::to_owned);
        }
        wrong.push(one);
    }
    let found = match (spec.get("red"), spec.get("sql")) {
        (Some(_), Some(_)) => {
            wrong.push(Wrong::new("spec.sql", "both `red` and `sql`: keep one of them"));
            None
        }
        (Some(red), None) => parse_red(red, role, &mut wrong),
        (None, Some(sql)) => parse_sql(sql, &mut wrong).map(|sql| (Source::Sql(sql), None)),
        (None, None) => {
            if wrong.is_empty() {
                wrong.push(Wrong::new("spec", "expected `red:` or `sql:`"));
            }
            None
        }
    };
    match found {
        Some(found) if wrong.is_empty() => Ok(found),
        _ => Err(wrong),
    }
}

fn parse_sql(sql: &Free, wrong: &mut Vec<Wrong>) -> Option<String> {
    let path = "spec.sql";
    let Free::Scalar { text, .. } = sql else {
        wrong.push(Wrong::new(path, "expected one query as text"));
        return None;
    };
    // The engine has the last word on a query; these are the mistakes that it would explain badly.
    let words = |word: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .any(|found| found.eq_ignore_ascii_case(word))
    };
    let text = text.trim().trim_end_matches(';').trim_end();
    let begins = text.split_whitespace().next().unwrap_or_default();
    let missing: Vec<_> = ["slice", "value"].into_iter().filter(|word| !words(word)).collect();
    if !["select", "with"].iter().any(|word| begins.eq_ignore_ascii_case(word)) {
        wrong.push(Wrong::new(
            path,
            "expected a query such as `select slice, value from ...`",
        ));
    } else if !missing.is_empty() && !text.contains('*') {
        let missing = missing.join("` and `");
        wrong.push(Wrong::new(
            path,
            format!("gives no column `{missing}`: expected `select ... as slice, ... as value`"),
        ));
    }
    Some(text.to_owned())
}

fn parse_red(red: &Free, role: Role, wrong: &mut Vec<Wrong>) -> Option<(Source, Option<Good>)> {
    if role == Role::Threshold {
        let message = "a `red` source counts requests, and a threshold SLI compares values: for latency write a `ratioMetric` with `rawType: success` and `raw` with `good: {maxDuration: 300ms}`";
        wrong.push(Wrong::new("spec.red", message));
        return None;
    }
    let entries = map(red, "spec.red", wrong)?;
    let mut selector = RedSelector::default();
    let mut good = None;
    let known = || {
        RedKey::FIXED
            .into_iter()
            .map(|key| key.word().to_owned())
            .chain(["dims", "not", "good"].map(str::to_owned))
    };
    for (key, value) in entries {
        let path = format!("spec.red.{key}");
        match key.as_str() {
            "not" => {
                if let Some(entries) = map(value, &path, wrong) {
                    let known = || known().filter(|word| word != "not" && word != "good");
                    for (key, value) in entries {
                        keys_of(
                            key,
                            value,
                            &format!("{path}.{key}"),
                            &mut selector.none_of,
                            known,
                            wrong,
                        );
                    }
                }
            }
            "good" => good = parse_good(value, &path, wrong),
            _ => keys_of(key, value, &path, &mut selector.any_of, known, wrong),
        }
    }
    let has_good = entries.iter().any(|(key, _)| key == "good");
    match role {
        Role::Total if has_good => {
            wrong.push(Wrong::new(
                "spec.red.good",
                "`total` counts all requests: move it to the `red` of `good`",
            ));
        }
        Role::Bad if has_good => {
            let message = "says which are good, under `bad`: write `good:` in place of `bad:`, with the same `red`";
            wrong.push(Wrong::new("spec.red.good", message));
        }
        Role::Raw(Part::Bad) => {
            let message = "says which requests are good: write `rawType: success`";
            wrong.push(Wrong::new("spec.red", message));
        }
        Role::Raw(Part::Good) if !has_good => {
            let message = "missing: write which requests are good, such as `good: {errors: exclude}` or `good: {maxDuration: 300ms}`";
            wrong.push(Wrong::new("spec.red.good", message));
        }
        _ => {}
    }
    Some((Source::Red(selector), good))
}

fn map<'f>(value: &'f Free, path: &str, wrong: &mut Vec<Wrong>) -> Option<&'f [(String, Free)]> {
    match value {
        Free::Map(entries) => Some(entries),
        _ => {
            wrong.push(Wrong::new(path, "expected keys, such as `service: checkout`"));
            None
        }
    }
}

fn keys_of<I: Iterator<Item = String>>(
    key: &str,
    value: &Free,
    path: &str,
    into: &mut BTreeMap<RedKey, Vec<String>>,
    known: impl Fn() -> I,
    wrong: &mut Vec<Wrong>,
) {
    if key == "dims" {
        for (name, value) in map(value, path, wrong).unwrap_or_default() {
            if let Some(values) = values(value, &format!("{path}.{name}"), wrong) {
                into.insert(RedKey::Dim(name.clone()), values);
            }
        }
    } else if let Some(found) = RedKey::FIXED.into_iter().find(|red| red.word() == key) {
        if let Some(values) = values(value, path, wrong) {
            into.insert(found, values);
        }
    } else {
        let words: Vec<_> = known().collect();
        let near = other_name(key)
            .map(str::to_owned)
            .or_else(|| nearest(key, words.iter().map(String::as_str)).map(str::to_owned));
        let message = match near {
            Some(_) => "unknown key".to_owned(),
            None => format!(
                "unknown key; expected {}; a configured dimension goes below `dims:`",
                words.join(", ")
            ),
        };
        wrong.push(Wrong {
            path: path.to_owned(),
            message,
            near,
        });
    }
}

/// Names that people bring from the semantic conventions and from other products.
fn other_name(key: &str) -> Option<&'static str> {
    Some(match key {
        "service.name" | "service_name" => "service",
        "service.namespace" | "service_namespace" => "namespace",
        "service.version" | "service_version" => "version",
        "environment" | "deployment.environment" | "deployment.environment.name" => "env",
        "cloud.region" => "region",
        "op" | "name" | "span_name" | "span.name" | "endpoint" => "operation",
        "http.route" | "http_route" => "route",
        "span_kind" | "span.kind" => "kind",
        "status" | "status_class" | "code" => "statusClass",
        "error.type" | "error_type" => "errorType",
        _ => return None,
    })
}

/// One value or a list of them, sorted and without repetition. A missing value is written `""`.
fn values(value: &Free, path: &str, wrong: &mut Vec<Wrong>) -> Option<Vec<String>> {
    let one = |value: &Free| match value {
        Free::Scalar { text, plain } if !*plain || !matches!(text.as_str(), "" | "~" | "null") => Some(text.clone()),
        _ => None,
    };
    let found: Option<Vec<_>> = match value {
        Free::List(items) => items.iter().map(one).collect(),
        Free::Scalar { .. } => one(value).map(|text| vec![text]),
        Free::Map(_) => None,
    };
    match found {
        Some(mut values) if !values.is_empty() => {
            values.sort_unstable();
            values.dedup();
            Some(values)
        }
        _ => {
            let message = "expected a value or a list of values; a missing value is written \"\"";
            wrong.push(Wrong::new(path, message));
            None
        }
    }
}

fn parse_good(value: &Free, path: &str, wrong: &mut Vec<Wrong>) -> Option<Good> {
    let Free::Map(entries) = value else {
        wrong.push(Wrong::new(
            path,
            "expected `errors: exclude`, `maxDuration: 300ms` or both",
        ));
        return None;
    };
    let (mut errors, mut max_duration_ns) = (None, None);
    for (key, value) in entries {
        let path = format!("{path}.{key}");
        let text = match value {
            Free::Scalar { text, .. } => text.as_str(),
            _ => "",
        };
        match key.as_str() {
            "errors" => match text {
                "exclude" => errors = Some(true),
                "include" => errors = Some(false),
                _ => {
                    let near = nearest(text, ["exclude", "include"]).map(str::to_owned);
                    let message =
                        "expected `exclude` (an error is not good) or `include` (it is good if it is fast enough)";
                    wrong.push(Wrong {
                        path,
                        message: message.into(),
                        near,
                    });
                }
            },
            "maxDuration" => match parse_latency(text) {
                Ok(ns) => max_duration_ns = Some(ns),
                Err(message) => wrong.push(Wrong::new(&path, message)),
            },
            _ => {
                let near = nearest(key, ["errors", "maxDuration"]).map(str::to_owned);
                wrong.push(Wrong {
                    path,
                    message: "unknown key; expected errors, maxDuration".into(),
                    near,
                });
            }
        }
    }
    let has = |key: &str| entries.iter().any(|(found, _)| found == key);
    if !has("maxDuration") && !has("errors") && wrong.is_empty() {
        wrong.push(Wrong::new(
            path,
            "empty: write `errors: exclude`, `maxDuration: 300ms` or both",
        ));
    }
    if !has("maxDuration") && errors == Some(false) {
        let path = format!("{path}.errors");
        wrong.push(Wrong::new(
            &path,
            "then every request is good: write `exclude`, or add a `maxDuration`",
        ));
    }
    Some(Good {
        exclude_errors: errors.unwrap_or(false),
        max_duration_ns,
    })
}
