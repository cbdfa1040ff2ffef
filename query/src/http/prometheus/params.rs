//! Parameters as Prometheus reads them: of the URL and of a form, times and durations in either of two notations.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use tailwater_promql::{Matcher, Query};

use super::reply::Failure;
use crate::engine::Engine;
use crate::http::desk::Desk;
use crate::series::Window;

/// Longest text of a time or duration, bytes.
const TEXT_MAX: usize = 64;

/// Largest time, s: what the evaluator can tell apart to the millisecond.
const SECONDS_MAX: f64 = 9e12;

/// The parameters of a request, those of the form before those of the URL.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl FromRequest<Desk> for Params {
    type Rejection = Failure;

    async fn from_request(request: Request, desk: &Desk) -> Result<Params, Failure> {
        let read = |bytes: &[u8]| -> Vec<(String, String)> {
            url::form_urlencoded::parse(bytes)
                .map(|(key, value)| (key.into_owned(), value.into_owned()))
                .collect()
        };
        let of_url = read(request.uri().query().unwrap_or_default().as_bytes());
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_form = kind
            .split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
        let mut all = Vec::new();
        if is_form {
            // Escapes triple what people write.
            let max = desk.limits().text_bytes_max.saturating_mul(4).saturating_add(64 << 10);
            let body = to_bytes(request.into_body(), max)
                .await
                .map_err(|error| Failure::bad_data(format!("reading the form: {error}")))?;
            all = read(&body);
        }
        all.extend(of_url);
        Ok(Params(all))
    }
}

impl Params {
    /// The first value of a parameter; empty ones are absent, as in Prometheus.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(key, _)| key == name);
        value.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The query text, within the limit of texts.
    pub fn query(&self, engine: &Engine) -> Result<&str, Failure> {
        let text = self
            .get("query")
            .ok_or_else(|| Failure::bad_data("invalid parameter \"query\": it is missing"))?;
        check_length(text, engine)?;
        Ok(text)
    }

    /// A time, ms.
    pub fn time(&self, name: &str) -> Result<Option<i64>, Failure> {
        self.get(name)
            .map(|text| time(text).ok_or_else(|| invalid(name, format!("cannot parse {text:?} to a valid timestamp"))))
            .transpose()
    }

    /// A time that must be given, ms.
    pub fn must_time(&self, name: &str) -> Result<i64, Failure> {
        self.time(name)?.ok_or_else(|| invalid(name, "it is missing"))
    }

    /// A duration, ms.
    pub fn duration(&self, name: &str) -> Result<Option<i64>, Failure> {
        self.get(name)
            .map(|text| {
                duration(text).ok_or_else(|| invalid(name, format!("cannot parse {text:?} to a valid duration")))
            })
            .transpose()
    }

    /// How long to work at most: what the client asks for, within what the engine allows.
    pub fn timeout(&self, engine: &Engine) -> Result<Duration, Failure> {
        let most = engine.limits().timeout;
        Ok(match self.duration("timeout")? {
            // No timer is that short, and an answer that needs no time would slip through.
            Some(ms) if ms <= 0 => return Err(Failure::timeout(Duration::ZERO)),
            Some(ms) => most.min(Duration::from_millis(u64::try_from(ms).unwrap_or_default())),
            None => most,
        })
    }

    /// Most entries of a list; `None` for all.
    pub fn limit(&self) -> Result<Option<usize>, Failure> {
        let limit = match self.get("limit") {
            Some(text) => text
                .parse::<usize>()
                .map_err(|_| invalid("limit", "limit must be a non-negative number"))?,
            None => 0,
        };
        Ok((limit > 0).then_some(limit))
    }

    /// `start` and `end`; all time without them.
    pub fn window(&self) -> Result<Window, Failure> {
        #[allow(clippy::cast_possible_truncation)] // A constant.
        let last = (SECONDS_MAX * 1000.0) as i64;
        let (start, end) = (self.time("start")?.unwrap_or(0), self.time("end")?.unwrap_or(last));
        if end < start {
            return Err(invalid("end", "end timestamp must not be before start time"));
        }
        Ok(Window {
            after_ms: start.saturating_sub(1),
            upto_ms: end,
        })
    }

    /// The selectors of `match[]`.
    pub async fn selectors(&self, engine: &Engine) -> Result<Vec<Vec<Matcher>>, Failure> {
        let given = self
            .0
            .iter()
            .filter(|(key, value)| key == "match[]" && !value.is_empty());
        let texts: Vec<String> = given.map(|(_, text)| text.clone()).collect();
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        texts.iter().try_for_each(|text| check_length(text, engine))?;
        // On the engine's threads, as queries are.
        let read = move |_: &dyn Fn() -> bool| -> Result<Vec<Vec<Matcher>>, tailwater_promql::Error> {
            let matchers = |text: &String| Query::parse(text)?.matchers().map(<[Matcher]>::to_vec);
            texts.iter().map(matchers).collect()
        };
        engine.compute(read).await?.map_err(|error| invalid("match[]", error))
    }
}

fn check_length(text: &str, engine: &Engine) -> Result<(), Failure> {
    let max = engine.limits().text_bytes_max;
    if text.len() <= max {
        return Ok(());
    }
    Err(Failure::bad_data(format!(
        "the query has {} bytes, the limit is {max}",
        text.len()
    )))
}

pub(super) fn invalid(name: &str, why: impl std::fmt::Display) -> Failure {
    Failure::bad_data(format!("invalid parameter {name:?}: {why}"))
}

/// Seconds since 1970 with a fraction, or RFC 3339; ms.
fn time(text: &str) -> Option<i64> {
    if text.len() > TEXT_MAX {
        return None;
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return to_ms(seconds);
    }
    chrono::DateTime::parse_from_rfc3339(text)
        .ok()
        .map(|time| time.timestamp_millis())
}

#[allow(clippy::cast_possible_truncation)] // Within bounds.
fn to_ms(seconds: f64) -> Option<i64> {
    (seconds.abs() <= SECONDS_MAX).then(|| (seconds * 1000.0).round() as i64)
}

/// Seconds with a fraction, or Prometheus' `1h30m`; ms. Units from large to small, each once (prometheus/common:model/time.go).
fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    if text.len() > TEXT_MAX {
        return None;
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return to_ms(seconds);
    }
    let (mut rest, mut total, mut units) = (text, 0i64, &UNITS[..]);
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|char: char| char.is_ascii_digit()).unwrap_or(rest.len());
        let at = units.iter().position(|(unit, _)| *unit == &rest[..letters])?;
        total = total.checked_add(number.checked_mul(units[at].1)?)?;
        units = &units[at + 1..];
        rest = &rest[letters..];
    }
    Some(total).filter(|_| !text.is_empty())
}

/// The label behind a name in a path: `U__service_2e_name` stands for `service.name` (prometheus/common:model/metric.go, UnescapeName).
pub(super) fn unescaped(name: &str) -> Option<String> {
    let Some(mut rest) = name.strip_prefix("U__") else {
        return Some(name.to_owned());
    };
    let mut text = String::new();
    while let Some(at) = rest.find('_') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('_') {
            text.push('_');
            rest = after;
            continue;
        }
        let end = rest.find('_')?;
        let code = u32::from_str_radix(&rest[..end], 16).ok()?;
        text.push(char::from_u32(code)?);
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_and_durations_in_either_notation() {
        for (text, ms) in [
            ("4", Some(4000)),
            ("1795388400.25", Some(1_795_388_400_250)),
            ("-1.5", Some(-1500)),
            ("2026-11-22T00:00:00Z", Some(1_795_305_600_000)),
            ("2026-11-22T01:00:00.5+01:00", Some(1_795_305_600_500)),
            // The probe of Grafana's exemplars: milliseconds.
            ("1795388400000", Some(1_795_388_400_000_000)),
            ("1e300", None),
            ("NaN", None),
            ("now", None),
        ] {
            assert_eq!(time(text), ms, "{text}");
        }
        for (text, ms) in [
            ("15", Some(15_000)),
            ("0.25", Some(250)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1m500ms", Some(60_500)),
            ("30m1h", None),
            ("1m1m", None),
            ("5x", None),
            ("m", None),
            ("99999999999999999999y", None),
            ("1", Some(1000)),
        ] {
            assert_eq!(duration(text), ms, "{text}");
        }
    }

    #[test]
    fn names_in_paths_are_unescaped() {
        for (name, label) in [
            ("service", Some("service")),
            ("__name__", Some("__name__")),
            ("U__service_2e_name", Some("service.name")),
            ("U__a__b_20ac_", Some("a_b€")),
            ("U__a_zz_", None),
            ("U__a_2e", None),
        ] {
            assert_eq!(unescaped(name).as_deref(), label, "{name}");
        }
    }
}
