//! `openslo/v1`, rule by rule. Sources: README of OpenSLO/OpenSLO and the validation of OpenSLO/go-sdk (`pkg/openslo/v1`).
//!
//! Looser than the SDK in one thing: `op` and `value` on a ratio SLI, which the published examples have, are left to a lint.

mod alert;
mod sli;
mod slo;

use std::collections::BTreeMap;

use tailwater_config::yaml::{Node, Value};

use self::alert::{alert_condition, alert_policy, notification_target};
use self::sli::sli;
use self::slo::slo;
use super::KINDS;
use super::fields::{Field, Fields, Reader, join};
use crate::annotation;
use crate::document::{DataSource, Inline, Metadata, Object, Service};
use crate::source;

/// Longest description, in characters.
const DESCRIPTION_MAX: usize = 1050;
/// Longest name and display name, in characters.
const NAME_MAX: usize = 63;

/// Reads one document. `None` if it has problems so grave that nothing is left of it.
pub(super) fn read(node: &Node, r: &mut Reader<'_>) -> Option<(Metadata, Object)> {
    let fields = r.fields(node, "", &["apiVersion", "kind", "metadata", "spec"])?;
    let kind = r.required(&fields, "kind", "for example `kind: SLO`")?;
    let kinds: Vec<_> = KINDS.iter().map(|kind| (*kind, *kind)).collect();
    let kind = r.word(&kind, &kinds)?;
    let metadata = metadata(&fields, kind, r);
    let spec = r.required(&fields, "spec", "a `spec:` section");
    let object = spec.and_then(|spec| object(kind, &spec, r));
    Some((metadata?, object?))
}

fn object(kind: &str, spec: &Field<'_>, r: &mut Reader<'_>) -> Option<Object> {
    Some(match kind {
        "DataSource" => Object::DataSource(data_source(spec, r)?),
        "Service" => Object::Service(service(spec, r)?),
        "SLO" => Object::Slo(Box::new(slo(spec, r)?)),
        "SLI" => Object::Sli(sli(spec, r)?),
        "AlertPolicy" => Object::AlertPolicy(alert_policy(spec, r)?),
        "AlertCondition" => Object::AlertCondition(alert_condition(spec, r)?),
        _ => Object::AlertNotificationTarget(notification_target(spec, r)?),
    })
}

fn metadata(fields: &Fields<'_>, kind: &str, r: &mut Reader<'_>) -> Option<Metadata> {
    let field = r.required(fields, "metadata", "a `metadata:` section with a `name`")?;
    let fields = r.fields(
        field.node,
        &field.path,
        &["name", "displayName", "labels", "annotations"],
    )?;
    let name = r.required(&fields, "name", "a name such as `checkout-availability`");
    let name = name.and_then(|name| r.parsed(&name, dns_label));
    let display_name = fields.get("displayName").and_then(|field| {
        r.parsed(&field, |text| match text.chars().count() {
            0..=NAME_MAX => Ok(text.to_owned()),
            n => Err(format!(
                "at most {NAME_MAX} characters, found {n}; a longer text goes into `spec.description`"
            )),
        })
    });
    let labels = fields.get("labels").map(|field| labels(&field, r)).unwrap_or_default();
    let annotations = fields
        .get("annotations")
        .map(|field| annotations(&field, r))
        .unwrap_or_default();
    let metadata = Metadata {
        name: name?,
        display_name,
        labels,
        annotations,
    };
    for (key, message, near) in annotation::mistakes(kind, &metadata) {
        r.wrong_path(&join(&join(&fields.path, "annotations"), &key), message, near);
    }
    Some(metadata)
}

fn labels(field: &Field<'_>, r: &mut Reader<'_>) -> BTreeMap<String, Vec<String>> {
    let Some(fields) = r.open(field.node, &field.path) else {
        return BTreeMap::new();
    };
    let mut labels = BTreeMap::new();
    for (key, field) in fields.all() {
        if !word_of(key, NAME_MAX) {
            let message = format!(
                "a label is of letters, digits, `-`, `_` and `.`, begins and ends with a letter or digit, and has at most {NAME_MAX} characters"
            );
            r.wrong(field.key_at(), &field.path, message, None);
        }
        let values = match &field.node.value {
            Value::List(_) => r.items(&field).iter().filter_map(|item| r.text(item)).collect(),
            Value::Map(_) => {
                r.wrong_field(&field, "expected a string or a list of strings");
                continue;
            }
            Value::Scalar { text, .. } => vec![text.clone()],
        };
        labels.insert(key.to_owned(), values);
    }
    labels
}

fn annotations(field: &Field<'_>, r: &mut Reader<'_>) -> BTreeMap<String, String> {
    let Some(fields) = r.open(field.node, &field.path) else {
        return BTreeMap::new();
    };
    let mut annotations = BTreeMap::new();
    for (key, field) in fields.all() {
        let (prefix, name) = key
            .rsplit_once('/')
            .map_or((None, key), |(prefix, name)| (Some(prefix), name));
        let prefix_holds =
            prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(|part| dns_label(part).is_ok()));
        if !prefix_holds || !word_of(name, NAME_MAX) {
            let message =
                "an annotation is a name such as `runbook`, or a domain and a name such as `example.com/runbook`";
            r.wrong(field.key_at(), &field.path, message, None);
        }
        if let Value::Scalar { text, .. } = &field.node.value {
            annotations.insert(key.to_owned(), text.clone());
        } else {
            r.wrong_field(&field, "the value of an annotation is one string: put it in quotes");
        }
    }
    annotations
}

/// `[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?`
fn word_of(text: &str, most: usize) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= most && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| inner(*b))
}

/// A name as RFC 1123 wants it.
pub(crate) fn dns_label(text: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let bytes = text.as_bytes();
    let ends_well = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    if text.len() <= NAME_MAX && bytes.iter().all(|b| inner(*b)) && ends_well(bytes.first()) && ends_well(bytes.last())
    {
        return Ok(text.to_owned());
    }
    let instead = slug(text);
    let rule = format!("a name is of lower case letters, digits and `-`, and has 1 to {NAME_MAX} characters");
    Err(if instead.is_empty() {
        rule
    } else {
        format!("{rule}: write {instead}")
    })
}

/// The nearest name that is allowed; empty if nothing of the text can stay.
pub(crate) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    slug.truncate(NAME_MAX);
    slug.trim_end_matches('-').to_owned()
}

fn description(fields: &Fields<'_>, r: &mut Reader<'_>) -> Option<String> {
    let field = fields.get("description")?;
    r.parsed(&field, |text| match text.chars().count() {
        0..=DESCRIPTION_MAX => Ok(text.to_owned()),
        n => Err(format!("at most {DESCRIPTION_MAX} characters, found {n}")),
    })
}

fn data_source(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<DataSource> {
    let fields = r.fields(spec.node, &spec.path, &["description", "type", "connectionDetails"])?;
    let description = description(&fields, r);
    let source_type = r
        .required(&fields, "type", "for example `type: tailwater`")
        .and_then(|f| r.text(&f));
    let details = fields.get("connectionDetails");
    // Ours needs no connection: it is this very lake.
    if details.is_none() && source_type.as_deref().is_some_and(|t| t != source::TYPE) {
        r.missing(&fields, "connectionDetails", "how to reach it, or `{}`");
    }
    Some(DataSource {
        description,
        connection_details: details.map(|field| r.free(field.node, &field.path)),
        source_type: source_type?,
    })
}

fn service(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<Service> {
    let fields = r.fields(spec.node, &spec.path, &["description"])?;
    Some(Service {
        description: description(&fields, r),
    })
}

/// An object here, or the name of one: `{kind, metadata, spec}` or `{<ref_key>: name}`.
fn inline<T>(
    item: &Field<'_>,
    ref_key: &str,
    kind: &str,
    r: &mut Reader<'_>,
    read: fn(&Field<'_>, &mut Reader<'_>) -> Option<T>,
) -> Option<Inline<T>> {
    let fields = r.fields(item.node, &item.path, &[ref_key, "kind", "metadata", "spec"])?;
    if let Some(name) = fields.get(ref_key) {
        for key in ["kind", "metadata", "spec"] {
            if let Some(other) = fields.get(key) {
                let message = format!("beside `{ref_key}`: keep the name, or the object without `{ref_key}`");
                r.wrong(other.key_at(), &other.path, message, None);
            }
        }
        return r.parsed(&name, dns_label).map(Inline::Ref);
    }
    if fields.get("spec").is_none() && fields.get("metadata").is_none() {
        let message = format!("expected `{ref_key}: name`, or `kind: {kind}` with `metadata` and `spec`");
        r.wrong(fields.at(), &item.path, message, None);
        return None;
    }
    let found = r.required(&fields, "kind", &format!("`kind: {kind}`"));
    let found = found.and_then(|field| r.word(&field, &[(kind, ())]));
    let metadata = metadata(&fields, kind, r);
    let spec = r.required(&fields, "spec", "a `spec:` section");
    let object = spec.and_then(|spec| read(&spec, r));
    found?;
    Some(Inline::Here(metadata?, object?))
}
