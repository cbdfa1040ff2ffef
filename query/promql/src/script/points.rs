//! A metric with its labels, and the points behind it.

use std::sync::Arc;

use super::ScriptPoint;
use crate::histogram::{Buckets, CUSTOM_BUCKETS, Histogram, ResetHint};
use crate::labels::{Labels, METRIC_NAME};
use crate::number::stale;

/// A quoted text at the beginning: its meaning, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '"' | '\'' | '`'))?;
    let mut value = String::new();
    let mut rest = text[1..].char_indices();
    while let Some((at, c)) = rest.next() {
        if c == quote {
            return Some((value, &text[at + 2..]));
        }
        if c != '\\' || quote == '`' {
            value.push(c);
            continue;
        }
        let (_, escaped) = rest.next()?;
        let mut code = |digits: usize| {
            let hexadecimal: String = rest.by_ref().take(digits).map(|(_, c)| c).collect();
            u32::from_str_radix(&hexadecimal, 16).ok().and_then(char::from_u32)
        };
        value.push(match escaped {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'x' => code(2)?,
            'u' => code(4)?,
            'U' => code(8)?,
            other => other,
        });
    }
    None
}

/// The meaning of a text that is quoted as a whole.
pub(super) fn unquote(text: &str) -> Option<String> {
    quoted(text).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

fn identifier(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c == '_' || c == ':' || c == '.' || c.is_alphanumeric()))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `name{label="value", ...}` at the beginning of a line, and what follows.
pub(super) fn metric(line: &str) -> Result<(Labels, &str), String> {
    let bad = || format!("not a metric: {line:?}");
    let (name, mut rest) = identifier(line);
    let mut pairs: Vec<(String, String)> = Vec::new();
    if !name.is_empty() {
        pairs.push((METRIC_NAME.into(), name.into()));
    }
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (name, after) = match quoted(rest) {
                Some((name, after)) => (name, after),
                None => {
                    let (name, after) = identifier(rest);
                    (name.to_owned(), after)
                }
            };
            if name.is_empty() {
                return Err(bad());
            }
            let after = after.trim_start();
            if let Some(value) = after.strip_prefix('=') {
                let (value, after) = quoted(value.trim_start()).ok_or_else(bad)?;
                pairs.push((name, value));
                rest = after.trim_start();
            } else {
                // A text alone is the metric's name.
                pairs.push((METRIC_NAME.into(), name));
                rest = after;
            }
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
    } else if name.is_empty() {
        return Err(bad());
    }
    Ok((pairs.into_iter().collect(), rest))
}

/// The points of a line.
pub(super) fn points(text: &str) -> Result<Vec<ScriptPoint>, String> {
    let mut points = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        rest = item(rest, &mut points)
            .ok_or_else(|| format!("not a point: {rest:?}"))?
            .trim_start();
    }
    Ok(points)
}

/// `xN` at the beginning: N, and what follows.
fn times(text: &str) -> Option<(usize, &str)> {
    let digits = text.strip_prefix('x')?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    Some((digits[..end].parse().ok()?, &digits[end..]))
}

fn ends(text: &str) -> bool {
    text.is_empty() || text.starts_with(char::is_whitespace)
}

fn item<'t>(text: &'t str, points: &mut Vec<ScriptPoint>) -> Option<&'t str> {
    if let Some(rest) = text.strip_prefix('_') {
        let (count, rest) = times(rest).unwrap_or((1, rest));
        points.extend(std::iter::repeat_n(ScriptPoint::Nothing, count));
        return ends(rest).then_some(rest);
    }
    if text.starts_with("{{") {
        return histograms(text, points);
    }
    let (value, rest) = match text.strip_prefix("stale") {
        Some(rest) => (stale(), rest),
        None => number(text)?,
    };
    if ends(rest) {
        points.push(ScriptPoint::Float(value));
        return Some(rest);
    }
    let (step, rest) = if rest.starts_with('x') {
        (None, rest)
    } else {
        number(rest).map(|(step, rest)| (Some(step), rest))?
    };
    let (count, rest) = times(rest)?;
    let mut value = value;
    for _ in 0..=count {
        points.push(ScriptPoint::Float(value));
        value += step.unwrap_or(0.0);
        if step.is_none() {
            // Adding nothing would still change the stale marker.
            value = match points.last() {
                Some(ScriptPoint::Float(value)) => *value,
                _ => value,
            };
        }
    }
    ends(rest).then_some(rest)
}

/// A number at the beginning, and what follows. No hexadecimal: `0x3` is zero four times.
fn number(text: &str) -> Option<(f64, &str)> {
    let bytes = text.as_bytes();
    let mut end = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    if let Some(word) = text.get(end..end + 3)
        && (word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("nan"))
    {
        end += 3;
        return Some((text[..end].parse().ok()?, &text[end..]));
    }
    let digits = |from: usize| from + bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    end = digits(end);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if digits(sign) > sign {
            end = digits(sign);
        }
    }
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// `{{...}}`, `{{...}}xN`, `{{...}}+{{...}}xN`, `{{...}}-{{...}}xN`.
fn histograms<'t>(text: &'t str, points: &mut Vec<ScriptPoint>) -> Option<&'t str> {
    let (mut current, mut hinted, rest) = histogram(text)?;
    if ends(rest) {
        points.push(ScriptPoint::Histogram(Arc::new(current), hinted));
        return Some(rest);
    }
    let mut step = None;
    let mut rest = rest;
    if let Some(after) = rest.strip_prefix(['+', '-']) {
        let (by, by_hinted, after) = histogram(after)?;
        step = Some((rest.starts_with('-'), by));
        hinted = by_hinted;
        rest = after;
    }
    let (count, rest) = times(rest)?;
    for number in 0..=count {
        if number > 0
            && let Some((negative, by)) = &step
        {
            if *negative {
                current.subtract(by).ok()?
            } else {
                current.add(by).ok()?
            };
        }
        points.push(ScriptPoint::Histogram(Arc::new(current.clone()), hinted));
    }
    ends(rest).then_some(rest)
}

/// One histogram, whether its hint is given, and what follows.
fn histogram(text: &str) -> Option<(Histogram, bool, &str)> {
    let inside = text.strip_prefix("{{")?;
    let (inside, rest) = inside.split_once("}}")?;
    let mut histogram = Histogram::default();
    let mut hinted = false;
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    let (mut offset, mut negative_offset) = (0, 0);
    let mut left = inside.trim();
    while !left.is_empty() {
        let (key, after) = left.split_once(':')?;
        let (value, after) = if let Some(list) = after.strip_prefix('[') {
            list.split_once(']')?
        } else {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            after.split_at(end)
        };
        let float = || value.parse::<f64>().ok();
        let list = || {
            value
                .split_whitespace()
                .map(|value| value.parse::<f64>().ok())
                .collect::<Option<Vec<f64>>>()
        };
        match key {
            "schema" => histogram.schema = value.parse().ok()?,
            "sum" => histogram.sum = float()?,
            "count" => histogram.count = float()?,
            "z_bucket" => histogram.zero_count = float()?,
            "z_bucket_w" => histogram.zero_threshold = float()?,
            "custom_values" => histogram.bounds = list()?.into(),
            "buckets" => positive = list()?,
            "offset" => offset = value.parse().ok()?,
            "n_buckets" => negative = list()?,
            "n_offset" => negative_offset = value.parse().ok()?,
            "counter_reset_hint" => {
                hinted = true;
                histogram.reset = match value {
                    "unknown" => ResetHint::Unknown,
                    "reset" => ResetHint::Reset,
                    "not_reset" => ResetHint::NotReset,
                    "gauge" => ResetHint::Gauge,
                    _ => return None,
                };
            }
            _ => return None,
        }
        left = after.trim_start();
    }
    let side = |counts: Vec<f64>, from: i32| -> Buckets { (from..).zip(counts).collect() };
    histogram.positive = side(positive, offset);
    histogram.negative = side(negative, negative_offset);
    debug_assert!(histogram.schema == CUSTOM_BUCKETS || (-4..=8).contains(&histogram.schema));
    Some((histogram, hinted, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::number::is_stale;

    #[test]
    fn metrics() {
        let check = |line: &str, expected: &str, rest: &str| {
            let (labels, after) = metric(line).unwrap();
            assert_eq!((labels.to_string().as_str(), after), (expected, rest), "{line}");
        };
        check("m 1", r#"{__name__="m"}"#, " 1");
        check(
            "m{a=\"b\", \"c.d\"=\"e\\\"\"} 1",
            r#"{__name__="m", a="b", "c.d"="e\""}"#,
            " 1",
        );
        check(
            "{\"my.metric\", a='1'}@st 2",
            r#"{__name__="my.metric", a="1"}"#,
            "@st 2",
        );
        check("{} 5", "{}", " 5");
        assert!(metric("m{a} 1").is_ok() && metric("m{a= 1").is_err() && metric(" 5").is_err());
    }

    #[test]
    fn point_sequences() {
        let check = |text: &str, expected: &str| {
            let shown: Vec<String> = points(text)
                .unwrap()
                .iter()
                .map(|point| match point {
                    ScriptPoint::Nothing => "_".into(),
                    ScriptPoint::Float(value) if is_stale(*value) => "stale".into(),
                    ScriptPoint::Float(value) => value.to_string(),
                    ScriptPoint::Histogram(histogram, _) => histogram.to_string(),
                })
                .collect();
            assert_eq!(shown.join(" "), expected, "{text}");
        };
        check("1 2.5 -3e2", "1 2.5 -300");
        check("2+3x2 _ 0x3", "2 5 8 _ 0 0 0 0");
        check("10-4x1 _x2 stale", "10 6 _ _ stale");
        check("NaN Inf -Inf +5", "NaN inf -inf 5");
        check("-1-1x1", "-1 -2");
        check("stalex1", "stale stale");
        check(
            "{{count:1 buckets:[1]}}+{{count:1 buckets:[1]}}x1",
            "{count:1, sum:0, (0.5,1]:1} {count:2, sum:0, (0.5,1]:2}",
        );
        assert!(points("1 2z").is_err() && points("{{x:1}}").is_err());
    }
}
