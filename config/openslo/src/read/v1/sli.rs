//! SLIs and their sources.

use std::collections::BTreeMap;

use super::super::fields::{Field, Reader, join};
use super::{description, dns_label};
use crate::document::{Metric, MetricSource, Part, Sli};
use crate::source;

pub(super) fn sli(spec: &Field<'_>, r: &mut Reader<'_>) -> Option<Sli> {
    let fields = r.fields(
        spec.node,
        &spec.path,
        &["description", "thresholdMetric", "ratioMetric"],
    )?;
    let description = description(&fields, r);
    let metric = match (fields.get("thresholdMetric"), fields.get("ratioMetric")) {
        (Some(field), None) => metric_source(&field, source::Role::Threshold, r).map(Metric::Threshold),
        (None, Some(field)) => ratio(&field, r),
        (Some(_), Some(field)) => {
            let message = "both `thresholdMetric` and `ratioMetric`: keep one of them";
            r.wrong(field.key_at(), &field.path, message, None);
            None
        }
        (None, None) => {
            r.missing(&fields, "ratioMetric", "`ratioMetric:` or `thresholdMetric:`");
            None
        }
    };
    Some(Sli {
        description,
        metric: metric?,
    })
}

fn ratio(field: &Field<'_>, r: &mut Reader<'_>) -> Option<Metric> {
    let fields = r.fields(
        field.node,
        &field.path,
        &["counter", "good", "bad", "total", "rawType", "raw"],
    )?;
    let counter = fields.get("counter").and_then(|field| r.bool(&field)).unwrap_or(false);
    if let Some(raw) = fields.get("raw") {
        for key in ["good", "bad", "total"] {
            if let Some(other) = fields.get(key) {
                let message = format!("`{key}` beside `raw`: a ready ratio has no counts; keep one of the two forms");
                r.wrong(other.key_at(), &other.path, message, None);
            }
        }
        let kind = r.required(&fields, "rawType", "`rawType: success` or `rawType: failure`");
        let part_is = kind.and_then(|field| r.word(&field, &[("success", Part::Good), ("failure", Part::Bad)]));
        let source = metric_source(&raw, source::Role::Raw(part_is.unwrap_or(Part::Good)), r);
        return Some(Metric::Raw {
            counter,
            part_is: part_is?,
            source: source?,
        });
    }
    if let Some(kind) = fields.get("rawType") {
        r.wrong(kind.key_at(), &kind.path, "only with `raw`: remove it", None);
    }
    let total = r.required(&fields, "total", "`total:` beside `good` or `bad` (or `raw` alone)");
    let total = total.and_then(|field| metric_source(&field, source::Role::Total, r));
    let part = match (fields.get("good"), fields.get("bad")) {
        (Some(field), None) => metric_source(&field, source::Role::Good, r).map(|source| (Part::Good, source)),
        (None, Some(field)) => metric_source(&field, source::Role::Bad, r).map(|source| (Part::Bad, source)),
        (Some(_), Some(field)) => {
            r.wrong(
                field.key_at(),
                &field.path,
                "both `good` and `bad`: keep one of them",
                None,
            );
            None
        }
        (None, None) => {
            r.missing(&fields, "good", "`good:` or `bad:` beside `total`");
            None
        }
    };
    let ((part_is, part), total) = (part?, total?);
    if let Err(wrong) = source::check_pair(&part, &total) {
        r.wrong_path(
            &join(
                &join(&fields.path, if part_is == Part::Good { "good" } else { "bad" }),
                &wrong.path,
            ),
            wrong.message,
            wrong.near,
        );
    }
    Some(Metric::Ratio {
        counter,
        part_is,
        part,
        total,
    })
}

fn metric_source(field: &Field<'_>, role: source::Role, r: &mut Reader<'_>) -> Option<MetricSource> {
    let fields = r.fields(field.node, &field.path, &["metricSource"])?;
    let field = r.required(&fields, "metricSource", "a `metricSource:` with its `spec`")?;
    let fields = r.fields(field.node, &field.path, &["metricSourceRef", "type", "spec"])?;
    let source_ref = fields
        .get("metricSourceRef")
        .and_then(|field| r.parsed(&field, dns_label));
    let source_type = fields.get("type").and_then(|field| r.text(&field));
    let spec_field = r.required(&fields, "spec", "what to measure, such as `red: {service: checkout}`")?;
    let spec_fields = r.open(spec_field.node, &spec_field.path)?;
    let mut spec = BTreeMap::new();
    for (key, field) in spec_fields.all() {
        let value = r.free(field.node, &field.path);
        spec.insert(key.to_owned(), value);
    }
    if spec.is_empty() {
        r.wrong_field(
            &spec_field,
            "empty: write at least one key, such as `red: {service: checkout}`",
        );
        return None;
    }
    let source = MetricSource {
        source_ref,
        source_type,
        spec,
    };
    for wrong in source::check(&source, role) {
        r.wrong_path(&join(&fields.path, &wrong.path), wrong.message, wrong.near);
    }
    Some(source)
}
