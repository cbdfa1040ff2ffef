//! What is where in a YAML node.

use tailwater_config::yaml::{Entry, Node, Value};

pub(super) fn entries(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

pub(super) fn list(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

pub(super) fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    entries(node)
        .iter()
        .find(|entry| entry.key == key)
        .map(|entry| &entry.node)
}

pub(super) fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match &get(node, key)?.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

pub(super) fn number(node: &Node, key: &str) -> Option<f64> {
    text(node, key)?.parse().ok().filter(|number: &f64| number.is_finite())
}

pub(super) fn is_set(node: &Node, key: &str) -> bool {
    text(node, key) == Some("true")
}

pub(super) fn texts(node: &Node, key: &str) -> Vec<String> {
    let items = get(node, key).map(list).unwrap_or_default();
    let text = |item: &Node| match &item.value {
        Value::Scalar { text, .. } => Some(text.clone()),
        _ => None,
    };
    items.iter().filter_map(text).collect()
}
