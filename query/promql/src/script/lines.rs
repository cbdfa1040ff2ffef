//! The lines of a script.

use regex::Regex;

use super::points::{metric, points};
use super::{Command, Eval, Load, ScriptError, Wanted, When};
use crate::labels::Labels;

/// Reads a script.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse(script: &str) -> Result<Vec<Command>, ScriptError> {
    let lines: Vec<&str> = script
        .lines()
        .map(|line| {
            let line = line.trim();
            if line.starts_with('#') { "" } else { line }
        })
        .collect();
    let mut commands = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (line, number) = (lines[at], at + 1);
        at += 1;
        if line.is_empty() {
            continue;
        }
        let block: Vec<&str> = lines[at..]
            .iter()
            .take_while(|line| !line.is_empty())
            .copied()
            .collect();
        let word = line.split_whitespace().next().unwrap_or("").to_ascii_lowercase();
        let error = |(offset, message): (usize, String)| ScriptError {
            line: number + offset,
            message,
        };
        if word == "clear" {
            commands.push(Command::Clear);
            continue;
        } else if word.starts_with("load") {
            commands.push(Command::Load(load(line, number, &block).map_err(error)?));
            at += block.len();
        } else if word.starts_with("eval") {
            let (eval, used) = eval(line, number, &block).map_err(error)?;
            commands.push(Command::Eval(Box::new(eval)));
            at += used;
        } else {
            return Err(error((0, format!("unknown command {line:?}"))));
        }
    }
    Ok(commands)
}

/// The line after the command's that is wrong, and what is wrong with it.
type LineError = (usize, String);

/// A duration as Prometheus writes it: `1h30m`, `5s`, `0`. Milliseconds.
pub(super) fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut total = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |end| digits + end);
        let unit = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        total += rest[..digits].parse::<i64>().ok()?.checked_mul(unit)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(if negative { -total } else { total })
}

fn wanted_duration(text: &str) -> Result<i64, LineError> {
    duration(text).ok_or_else(|| (0, format!("not a duration: {text:?}")))
}

fn load(line: &str, number: usize, block: &[&str]) -> Result<Load, LineError> {
    let mut words = line.split_whitespace();
    let with_custom_buckets = match words.next() {
        Some("load") => false,
        Some("load_with_nhcb") => true,
        _ => return Err((0, "expected load or load_with_nhcb".into())),
    };
    let step_ms = wanted_duration(words.next().unwrap_or(""))?;
    let mut load = Load {
        line: number,
        step_ms,
        with_custom_buckets,
        start_timestamps: false,
        series: Vec::new(),
    };
    for (offset, line) in block.iter().enumerate() {
        let error = |message| (offset + 1, message);
        let (labels, rest) = metric(line).map_err(error)?;
        if rest.starts_with("@st") {
            load.start_timestamps = true;
            continue;
        }
        let points = points(rest).map_err(error)?;
        // A series that is given twice: the last one counts.
        load.series.retain(|(other, _)| *other != labels);
        load.series.push((labels, points));
    }
    Ok(load)
}

/// Splits off the first word.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_once(char::is_whitespace)
        .map_or((text, ""), |(word, rest)| (word, rest.trim_start()))
}

/// The command, and how many lines of the block belong to it.
fn eval(line: &str, number: usize, block: &[&str]) -> Result<(Eval, usize), LineError> {
    let (command, rest) = word(line);
    let (kind, mut rest) = word(rest);
    let mut named = |name: &str| -> Result<i64, LineError> {
        let (keyword, after) = word(rest);
        if keyword != name {
            return Err((0, format!("expected {name:?} before {rest:?}")));
        }
        let (value, after) = word(after);
        rest = after;
        wanted_duration(value)
    };
    let when = match kind {
        "instant" => When::Instant(named("at")?),
        "range" => When::Range(named("from")?, named("to")?, named("step")?),
        _ => return Err((0, "expected eval instant or eval range".into())),
    };
    let mut eval = Eval {
        line: number,
        query: rest.to_owned(),
        when,
        fail: None,
        ordered: false,
        warnings: Vec::new(),
        infos: Vec::new(),
        no_warning: false,
        no_info: false,
        scalar: None,
        text: None,
        range_vector: None,
        series: Vec::new(),
    };
    match command {
        "eval" => {}
        "eval_fail" => eval.fail = Some(Wanted::Any),
        "eval_warn" => eval.warnings.push(Wanted::Any),
        "eval_info" => eval.infos.push(Wanted::Any),
        "eval_ordered" => eval.ordered = true,
        _ => return Err((0, format!("unknown command {command:?}"))),
    }
    for (offset, line) in block.iter().enumerate() {
        let error = |message| (offset + 1, message);
        let used = offset + 1;
        if let Some(text) = line.strip_prefix("expected_fail_message") {
            eval.fail = Some(Wanted::Exactly(text.trim().to_owned()));
            return Ok((eval, used));
        }
        if let Some(text) = line.strip_prefix("expected_fail_regexp") {
            eval.fail = Some(Wanted::Matching(regex(text.trim()).map_err(error)?));
            return Ok((eval, used));
        }
        if word(line).0 == "expect" {
            expect(&mut eval, word(line).1).map_err(error)?;
            continue;
        }
        if let Some(value) = number_line(line) {
            eval.scalar = Some(value);
            return Ok((eval, used));
        }
        let (labels, rest) = metric(line).map_err(error)?;
        let points = points(rest).map_err(error)?;
        eval.series.retain(|(other, _): &(Labels, _)| *other != labels);
        eval.series.push((labels, points));
    }
    Ok((eval, block.len()))
}

fn number_line(line: &str) -> Option<f64> {
    if let Some(hexadecimal) = line.strip_prefix("0x") {
        #[allow(clippy::cast_precision_loss)]
        return i64::from_str_radix(hexadecimal, 16).ok().map(|value| value as f64);
    }
    line.parse().ok()
}

fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("bad regular expression: {error}"))
}

fn expect(eval: &mut Eval, text: &str) -> Result<(), String> {
    let (what, rest) = word(text);
    if what == "string" {
        eval.text = Some(super::points::unquote(rest).ok_or("expect string needs a quoted text")?);
        return Ok(());
    }
    if what == "range" {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let ["vector", "from", from, "to", to, "step", step] = words[..] else {
            return Err("expected: expect range vector from A to B step S".into());
        };
        let read = |text| duration(text).ok_or_else(|| format!("not a duration: {text:?}"));
        eval.range_vector = Some((read(from)?, read(to)?, read(step)?));
        return Ok(());
    }
    let wanted = if rest.is_empty() {
        Wanted::Any
    } else if let Some(text) = rest.strip_prefix("msg:") {
        Wanted::Exactly(text.trim().to_owned())
    } else if let Some(text) = rest.strip_prefix("regex:") {
        Wanted::Matching(regex(text.trim())?)
    } else {
        return Err(format!("expected msg: or regex: in {rest:?}"));
    };
    match what {
        "fail" => eval.fail = Some(wanted),
        "ordered" => eval.ordered = true,
        "warn" => eval.warnings.push(wanted),
        "info" => eval.infos.push(wanted),
        "no_warn" => eval.no_warning = true,
        "no_info" => eval.no_info = true,
        _ => return Err(format!("cannot expect {what:?}")),
    }
    Ok(())
}
