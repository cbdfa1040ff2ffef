//! `POST /api/v1/sql`.
//!
//! Body: the SQL text, or with `Content-Type: application/json` an object `{"sql": "...", "params": [...]}` whose values stand for `$1`, `$2`, ...
//! (text, number, boolean or null: values, never SQL; they count towards the limit of the text). Format: `?format=json|csv|arrow`, else by `Accept` (`text/csv`,
//! `application/vnd.apache.arrow.stream`), else JSON; [`crate::format`] says how values are written.
//!
//! An answer up to [`HELD_BYTES`] is complete before its status is sent, so every error has its status. A longer one is streamed; an
//! error then breaks the body off, which a client sees as a failed transfer, never as a short answer. The header `tailwater-notes` says what
//! is known to be missing and which estimates rest on too little, as [`super::notes`] writes it; of a streamed answer, as far as that was known when it began.

use std::io;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Query as Params};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use datafusion::common::ScalarValue;
use futures::stream;
use serde::Deserialize;

use super::desk::Asked;
use crate::engine::{Answer, Query};
use crate::error::{Error, ErrorKind, Result};
use crate::format;

/// Answers up to this many bytes are held back until they are complete.
const HELD_BYTES: usize = 4 << 20;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
    Arrow,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    format: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    sql: String,
    #[serde(default)]
    params: Vec<serde_json::Value>,
}

impl<S: Send + Sync> FromRequestParts<S> for Format {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Format> {
        let wanted = Params::<Wanted>::from_request_parts(parts, state).await;
        let wanted = wanted.map_err(|error| Error::new(ErrorKind::BadQuery, error.body_text()))?;
        match wanted.0.format.as_deref() {
            Some("json") => Ok(Format::Json),
            Some("csv") => Ok(Format::Csv),
            Some("arrow") => Ok(Format::Arrow),
            Some(other) => Err(Error::new(
                ErrorKind::BadQuery,
                format!("no format {other:?}: there are json, csv and arrow"),
            )),
            None => Ok(accepted(&parts.headers)),
        }
    }
}

fn accepted(headers: &HeaderMap) -> Format {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut kinds = accept
        .split(',')
        .map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds
        .find_map(|kind| match kind {
            "text/csv" => Some(Format::Csv),
            "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
            "application/json" | "*/*" | "application/*" => Some(Format::Json),
            _ => None,
        })
        .unwrap_or(Format::Json)
}

pub(super) async fn run(
    Asked(engine): Asked,
    format: Format,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response> {
    let body = body.map_err(|error| match error.status().as_u16() {
        413 => Error::new(ErrorKind::TextTooLong, "the request is longer than any query may be"),
        _ => Error::new(ErrorKind::BadQuery, error.body_text()),
    })?;
    let question = question(&headers, &body)?;
    check_length(&question, engine.limits().text_bytes_max)?;
    let mut answer = engine.query(question).await?;
    let mut writer = Writer::new(format, answer.schema().clone())?;
    while writer.out.len() < HELD_BYTES {
        match answer.next().await {
            Some(rows) => writer.rows(&rows?)?,
            None => {
                writer.finish()?;
                return Ok(respond(format, notes(&answer), Body::from(writer.out)));
            }
        }
    }
    Ok(respond(format, notes(&answer), Body::from_stream(rest(answer, writer))))
}

fn question(headers: &HeaderMap, body: &[u8]) -> Result<Query> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if kind
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    {
        let request: Request = serde_json::from_slice(body).map_err(|error| {
            Error::new(
                ErrorKind::BadQuery,
                format!("the body is not {{\"sql\": ...}}: {error}"),
            )
        })?;
        let params = request.params.into_iter().map(param).collect::<Result<_>>()?;
        return Ok(Query {
            text: request.sql,
            params,
        });
    }
    let text = std::str::from_utf8(body).map_err(|_| Error::new(ErrorKind::BadQuery, "the query is not UTF-8"))?;
    Ok(Query::from(text))
}

/// What a query can be made to do with a text does not depend on where the text stands.
fn check_length(query: &Query, most: usize) -> Result<()> {
    let texts = query.params.iter().filter_map(|value| value.try_as_str().flatten());
    let bytes = query.text.len() + texts.map(str::len).sum::<usize>();
    if query.params.is_empty() || bytes <= most {
        return Ok(());
    }
    let message = format!("the query and its parameters have {bytes} bytes, the limit is {most}");
    Err(Error::new(ErrorKind::TextTooLong, message))
}

fn param(value: serde_json::Value) -> Result<ScalarValue> {
    use serde_json::Value;
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(value)),
        Value::String(text) => ScalarValue::Utf8(Some(text)),
        Value::Number(number) => match number.as_i64() {
            Some(value) => ScalarValue::Int64(Some(value)),
            None => ScalarValue::Float64(number.as_f64()),
        },
        Value::Array(_) | Value::Object(_) => {
            return Err(Error::new(
                ErrorKind::BadQuery,
                "a parameter is a text, a number, a boolean or null",
            ));
        }
    })
}

/// Notes of an answer in a header, because every format has room for it there.
fn notes(answer: &Answer) -> Option<HeaderValue> {
    super::notes::header(&answer.notes())
}

fn respond(format: Format, notes: Option<HeaderValue>, body: Body) -> Response {
    let kind = match format {
        Format::Json => "application/json",
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Arrow => "application/vnd.apache.arrow.stream",
    };
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(notes) = notes {
        response.headers_mut().insert("tailwater-notes", notes);
    }
    response
}

/// What is left of an answer whose beginning is already written.
fn rest(answer: Answer, writer: Writer) -> impl futures::Stream<Item = io::Result<Bytes>> {
    stream::unfold(Some((answer, writer)), |state| async move {
        let (mut answer, mut writer) = state?;
        if !writer.out.is_empty() {
            let chunk = Bytes::from(std::mem::take(&mut writer.out));
            return Some((Ok(chunk), Some((answer, writer))));
        }
        let written = match answer.next().await {
            Some(Ok(rows)) => writer.rows(&rows).map(|()| false),
            Some(Err(error)) => Err(error),
            None => writer.finish().map(|()| true),
        };
        match written {
            Ok(last) => {
                let chunk = Bytes::from(std::mem::take(&mut writer.out));
                Some((Ok(chunk), (!last).then_some((answer, writer))))
            }
            Err(error) => {
                tracing::warn!(kind = error.kind().name(), %error, "an answer broke off while it was sent");
                Some((Err(io::Error::other(error)), None))
            }
        }
    })
}

/// Writes rows in one of the formats.
struct Writer {
    format: Format,
    out: Vec<u8>,
    text: String,
    written: usize,
    arrow: Option<StreamWriter<Vec<u8>>>,
}

impl Writer {
    fn new(format: Format, schema: SchemaRef) -> Result<Writer> {
        let mut writer = Writer {
            format,
            out: Vec::new(),
            text: String::new(),
            written: 0,
            arrow: None,
        };
        match format {
            Format::Json => format::json_head(&schema, &mut writer.text),
            Format::Csv => format::csv_head(&schema, &mut writer.text),
            Format::Arrow => writer.arrow = Some(StreamWriter::try_new(Vec::new(), &schema).map_err(unwritable)?),
        }
        writer.take();
        Ok(writer)
    }

    fn rows(&mut self, rows: &RecordBatch) -> Result<()> {
        match self.format {
            Format::Json => format::json_rows(rows, &mut self.written, &mut self.text),
            Format::Csv => format::csv_rows(rows, &mut self.text),
            Format::Arrow => {
                if let Some(arrow) = &mut self.arrow {
                    arrow.write(rows).map_err(unwritable)?;
                }
            }
        }
        self.take();
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        match self.format {
            Format::Json => format::json_tail(self.written, &mut self.text),
            Format::Csv => {}
            Format::Arrow => {
                if let Some(arrow) = &mut self.arrow {
                    arrow.finish().map_err(unwritable)?;
                }
            }
        }
        self.take();
        Ok(())
    }

    /// Moves what was written to `out`.
    fn take(&mut self) {
        match &mut self.arrow {
            Some(arrow) => self.out.append(arrow.get_mut()),
            None => {
                self.out.extend_from_slice(self.text.as_bytes());
                self.text.clear();
            }
        }
    }
}

fn unwritable(error: arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Internal, format!("writing the answer: {error}"))
}
