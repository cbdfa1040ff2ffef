//! What a file is, by its content, and its requests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail};
use flate2::bufread::MultiGzDecoder;
use prost::Message;
use serde::de::IgnoredAny;
use tailwater_model::otlp::json::transcode;
use tailwater_model::signal::Signal;

use super::csv::Records;
use super::{Recorded, nezha};

/// Longest line or pretty-printed file, and largest request made of it: as large as a server takes.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// Hands the requests of a file to `each`.
///
/// # Errors
/// When the file cannot be read or understood, with its name and the line; or what `each` returns.
pub fn read(path: &Path, batch: usize, each: &mut dyn FnMut(Recorded) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let mut input = BufReader::with_capacity(1 << 20, File::open(path).with_context(named)?);
    let zipped = input.fill_buf().with_context(named)?.starts_with(&[0x1f, 0x8b]);
    let input: Box<dyn Read> = if zipped {
        Box::new(MultiGzDecoder::new(input))
    } else {
        Box::new(input)
    };
    content(BufReader::with_capacity(1 << 20, input), batch, each).with_context(named)
}

fn content(
    mut input: impl BufRead,
    batch: usize,
    each: &mut dyn FnMut(Recorded) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let head = input.fill_buf()?;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    match head {
        [] => Ok(()),
        [b'{', ..] => otlp_json(input, each),
        [b'T', ..] => nezha_csv(input, batch, each),
        _ => bail!("line 1: neither OTLP-JSON nor a CSV file of the Nezha data set"),
    }
}

fn nezha_csv(
    input: impl BufRead,
    batch: usize,
    each: &mut dyn FnMut(Recorded) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut records = Records::new(input);
    let (_, head) = records.next()?.context("line 1: no header")?;
    let head: Vec<&str> = head.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
    if head == nezha::TRACE_HEAD {
        nezha::traces(&mut records, batch, each)
    } else if head == nezha::LOG_HEAD {
        nezha::logs(&mut records, batch, each)
    } else {
        bail!("line 1: columns {head:?} are neither traces nor logs of the Nezha data set")
    }
}

/// One request a line; or, when the first line is no whole request, one request in the whole file.
fn otlp_json(mut input: impl BufRead, each: &mut dyn FnMut(Recorded) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        let read = (&mut input).take(TEXT_BYTES_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
        if text.is_empty() {
            continue;
        }
        if number == 1 && serde_json::from_slice::<IgnoredAny>(text).is_err_and(|error| error.is_eof()) {
            (&mut input).take(TEXT_BYTES_MAX).read_to_end(&mut line)?;
            return requests(&line, 0, each);
        }
        requests(text, number - 1, each)?;
    }
}

/// The requests in a JSON object: one for each signal it has. `above` is the number of lines before it.
fn requests(text: &[u8], above: u64, each: &mut dyn FnMut(Recorded) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let at = |line: usize| format!("line {}", above + line as u64);
    let keys: BTreeMap<String, IgnoredAny> =
        serde_json::from_slice(text).map_err(|error| anyhow::anyhow!("{error}").context(at(error.line())))?;
    let mut known = false;
    for (key, signal) in [
        ("resourceSpans", Signal::Traces),
        ("resourceMetrics", Signal::Metrics),
        ("resourceLogs", Signal::Logs),
    ] {
        if !keys.contains_key(key) {
            continue;
        }
        known = true;
        let bytes = transcode(signal, text, TEXT_BYTES_MAX as usize)
            .map_err(|error| anyhow::anyhow!("{error}").context(at(error.line)))?;
        each(match signal {
            Signal::Traces => Recorded::Traces(Message::decode(&bytes[..])?),
            Signal::Metrics => Recorded::Metrics(Message::decode(&bytes[..])?),
            Signal::Logs => Recorded::Logs(Message::decode(&bytes[..])?),
        })?;
    }
    if !known {
        bail!("{}: no resourceSpans, resourceMetrics or resourceLogs", at(1));
    }
    Ok(())
}
