//! Label sets: sorted by name, shared, compared as Prometheus compares them.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";
/// The label that holds the upper bound of a classic histogram's bucket.
pub const BUCKET: &str = "le";

/// What a function that changes a metric's meaning takes away (prometheus/prometheus:schema/labels.go).
fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

/// One name and value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// Name; any UTF-8, never empty.
    pub name: Arc<str>,
    /// Value; never empty: an empty value is an absent label.
    pub value: Arc<str>,
}

/// A set of labels in order of name. A clone is a count, not a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[Label]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl Ord for Labels {
    /// By name and value, label by label; the shorter of two that begin alike comes first (labels.Compare).
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.iter().cmp(other.0.iter())
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<N: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(N, V)> for Labels {
    /// Sorts by name, drops empty values; of a name that is given twice the last one stays.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut labels: Vec<Label> = pairs
            .into_iter()
            .map(|(name, value)| Label {
                name: name.into(),
                value: value.into(),
            })
            .collect();
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        labels.reverse();
        labels.dedup_by(|later, kept| later.name == kept.name);
        labels.reverse();
        labels.retain(|label| !label.value.is_empty());
        Self(labels.into())
    }
}

impl Labels {
    /// All labels, in order of name.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// True without any label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a label; empty when it is absent, as PromQL sees it.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.value(name).map_or("", |value| value)
    }

    /// The metric's name; empty when it has none.
    #[must_use]
    pub fn metric(&self) -> &str {
        self.get(METRIC_NAME)
    }

    pub(crate) fn value(&self, name: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|label| (*label.name).cmp(name)).ok()?;
        Some(&self.0[at].value)
    }

    /// With this label set; an empty value takes it away.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut labels: Vec<Label> = self.0.to_vec();
        match labels.binary_search_by(|label| (*label.name).cmp(name)) {
            Ok(at) if value.is_empty() => {
                labels.remove(at);
            }
            Ok(at) => labels[at].value = value.into(),
            Err(_) if value.is_empty() => return self.clone(),
            Err(at) => labels.insert(
                at,
                Label {
                    name: name.into(),
                    value: value.into(),
                },
            ),
        }
        Self(labels.into())
    }

    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.0.iter().all(|label| keep(&label.name)) {
            return self.clone();
        }
        Self(self.0.iter().filter(|label| keep(&label.name)).cloned().collect())
    }

    /// Without name, type and unit.
    pub(crate) fn without_metadata(&self) -> Self {
        self.retain(|name| !is_metadata(name))
    }

    /// The labels that decide whether two samples belong together; `on` is `on(...)`, else `ignoring(...)`.
    pub(crate) fn matching(&self, on: bool, names: &[String]) -> Self {
        if on {
            self.retain(|name| names.iter().any(|n| n == name))
        } else {
            self.retain(|name| name != METRIC_NAME && !names.iter().any(|n| n == name))
        }
    }
}

impl fmt::Display for Labels {
    /// As Prometheus prints them in errors: `{a="1", b="2"}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, label) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            let plain = label
                .name
                .chars()
                .enumerate()
                .all(|(at, c)| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit()));
            if plain {
                write!(f, "{}={:?}", label.name, label.value)?;
            } else {
                write!(f, "{:?}={:?}", label.name, label.value)?;
            }
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    #[test]
    fn a_set_is_sorted_and_has_no_empty_values() {
        let set = labels(&[("b", "2"), ("a", "1"), ("c", ""), ("b", "3")]);
        assert_eq!(set.to_string(), r#"{a="1", b="3"}"#);
        assert_eq!(set.with("b", "").to_string(), r#"{a="1"}"#);
        assert_eq!(
            set.with("my.label", "x").to_string(),
            r#"{a="1", b="3", "my.label"="x"}"#
        );
        assert_eq!(set.get("zz"), "");
    }

    #[test]
    fn order_is_label_by_label() {
        let check = |a: &[(&str, &str)], b: &[(&str, &str)], expected| assert_eq!(labels(a).cmp(&labels(b)), expected);
        check(&[("a", "1")], &[("a", "2")], Ordering::Less);
        check(&[("a", "1")], &[("a", "1"), ("b", "1")], Ordering::Less);
        check(&[("b", "1")], &[("a", "2")], Ordering::Greater);
        check(&[], &[], Ordering::Equal);
    }

    #[test]
    fn matching_labels() {
        let set = labels(&[(METRIC_NAME, "m"), ("a", "1"), ("b", "2")]);
        assert_eq!(set.matching(true, &["a".into()]).to_string(), r#"{a="1"}"#);
        assert_eq!(set.matching(false, &["a".into()]).to_string(), r#"{b="2"}"#);
        assert_eq!(set.without_metadata().to_string(), r#"{a="1", b="2"}"#);
    }
}
