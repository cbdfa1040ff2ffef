//! `POST /api/v1/slo/report`.
//!
//! Body: OpenSLO documents as YAML, at most [`tailwater_openslo::BOUNDS`] with [`crate::slo::OBJECTIVES_MAX`] objectives. Parameters, all optional:
//! `window=30d,90d` instead of the windows of the documents, at most [`tailwater_slo::plan::WINDOWS_MAX`], `at=2026-11-22T20:00:00Z` (now), `interval=wilson|clopper-pearson` (wilson), `evidence=interval|counts` (interval: what decides a
//! verdict), `format=json|text|md|html` (json), `colour=true` for text.
//!
//! The answer is the report. Header `tailwater-verdict` is the worst verdict (`missed`, `no_data`, `undetermined`, `met`; objectives that
//! cannot be evaluated here count as `no_data`), `tailwater-notes` says which those are, as [`notes`] writes it. Documents with mistakes are 400 with
//! `{"error": "...", "kind": "bad_document", "problems": ["line 3, column 5: ..."]}`.

use std::path::Path;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tailwater_config::Problem;
use tailwater_openslo::{BOUNDS, Document, Period, ResolvedSlo, read, resolve_beside};
use tailwater_slo::interval::IntervalMethod;
use tailwater_slo::plan::windows_asked;
use tailwater_slo::verdict::Evidence;
use tailwater_slo::{Format, Settings, Time, Verdict, render};

use super::desk::{Now, Seated};
use super::notes;
use crate::error::{Error, ErrorKind, Result};
use crate::slo::{Reported, fit, parse_time};

/// What documents are called in problems.
const BODY: &str = "body";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    window: Option<String>,
    at: Option<String>,
    interval: Option<String>,
    evidence: Option<String>,
    format: Option<String>,
    #[serde(default)]
    colour: bool,
}

pub(super) fn body_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(BOUNDS.text_bytes)
}

pub(super) async fn report(
    Seated(engine): Seated,
    Now(now): Now,
    wanted: Result<Query<Wanted>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response> {
    let bad = |message: String| Error::new(ErrorKind::BadQuery, message);
    let Query(wanted) = wanted.map_err(|error| bad(error.body_text()))?;
    let format = wanted.format.as_deref().unwrap_or("json");
    let format =
        Format::parse(format).ok_or_else(|| bad(format!("no format {format:?}: there are text, json, md and html")))?;
    let at = match wanted.at.as_deref() {
        Some(at) => parse_time(at).map_err(|message| bad(format!("at: {message}")))?,
        None => Time(now.div_euclid(1000)),
    };
    let windows = wanted.window.iter().flat_map(|windows| windows.split(','));
    let windows: Result<Vec<Period>, String> = windows.map(|window| Period::parse(window.trim())).collect();
    let windows = windows.and_then(windows_asked);
    let windows = windows.map_err(|message| bad(format!("window: {message}")))?;
    let interval = match wanted.interval.as_deref() {
        Some(name) => IntervalMethod::parse(name)
            .ok_or_else(|| bad(format!("no interval {name:?}: there are wilson and clopper-pearson")))?,
        None => IntervalMethod::default(),
    };
    let evidence = match wanted.evidence.as_deref() {
        Some(name) => {
            Evidence::parse(name).ok_or_else(|| bad(format!("no evidence {name:?}: there are interval and counts")))?
        }
        None => Evidence::default(),
    };
    let settings = Settings {
        windows,
        interval,
        evidence,
        ..Settings::default()
    };
    let body = body.map_err(|error| match error.status().as_u16() {
        413 => Error::new(
            ErrorKind::TextTooLong,
            format!("the documents have more than {} bytes", BOUNDS.text_bytes),
        ),
        _ => bad(error.body_text()),
    })?;
    // A stranger's documents are read, and a long report is drawn, on the engine's threads.
    let slos = match engine.compute(move |_| slos(&body)).await?? {
        Ok(slos) => slos,
        Err(problems) => return Ok(bad_documents(&problems)),
    };
    let reported = crate::slo::report(&engine, &slos, &settings, at).await?;
    let worst = reported.worst();
    let Reported { report, skipped } = reported;
    let drawn = engine.compute(move |_| render(&report, format, wanted.colour)).await?;
    let mut response = Response::new(drawn.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(format)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("tailwater-verdict", HeaderValue::from_static(word(worst)));
    if let Some(notes) = notes::header(&skipped) {
        headers.insert("tailwater-notes", notes);
    }
    Ok(response)
}

/// The SLOs of some documents, or what is wrong with them.
fn slos(body: &[u8]) -> Result<std::result::Result<Vec<ResolvedSlo>, Vec<Problem>>> {
    let bad = |message: &str| Error::new(ErrorKind::BadQuery, message);
    let text = std::str::from_utf8(body).map_err(|_| bad("the documents are not UTF-8"))?;
    let reading = read(Path::new(BODY), text);
    fit(reading.documents.iter().map(Document::objectives).sum())?;
    let resolved = resolve_beside(&reading.documents, &reading.broken);
    let mut problems = reading.problems;
    problems.extend(resolved.problems);
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    if resolved.slos.is_empty() {
        return Err(bad("there is no SLO among the documents"));
    }
    Ok(Ok(resolved.slos))
}

fn bad_documents(problems: &[Problem]) -> Response {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let body = json!({ "error": problems.join("\n"), "kind": "bad_document", "problems": problems });
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

const fn content_type(format: Format) -> &'static str {
    match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Json => "application/json",
        Format::Markdown => "text/markdown; charset=utf-8",
        Format::Html => "text/html; charset=utf-8",
    }
}

/// As in the JSON of a report.
const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Missed => "missed",
        Verdict::NoData => "no_data",
        Verdict::Undetermined => "undetermined",
        Verdict::Met => "met",
    }
}
