//! The report for a terminal: a table of all objectives, then a block for each.

use unicode_width::UnicodeWidthChar;

use crate::render::{COLUMNS, words};
use crate::report::{CompositeReport, Point, Report, SloReport, WindowReport};
use crate::verdict::Verdict;

/// Width of the names in front of a block's lines.
const LABEL: usize = 12;
/// Width of an objective's name in the table.
const NAME: usize = 32;

pub(super) fn text(report: &Report, colour: bool) -> String {
    let mut out = Page {
        text: String::new(),
        colour,
    };
    let summary = report.summary;
    out.line(&format!(
        "SLO report at {}: {} missed, {} no data, {} undetermined, {} met",
        report.at, summary.missed, summary.no_data, summary.undetermined, summary.met
    ));
    out.text.push('\n');
    table(&mut out, report);
    for one in &report.composites {
        composite(&mut out, one);
    }
    for slo in &report.objectives {
        block(&mut out, report, slo);
    }
    out.text
}

struct Page {
    text: String,
    colour: bool,
}

impl Page {
    /// A line, its words wrapped.
    fn line(&mut self, line: &str) {
        self.wrapped("", line);
    }

    /// A labelled line: what is too long goes on below, behind the label's width.
    fn entry(&mut self, label: &str, text: &str) {
        let label = format!("  {label:<LABEL$}");
        self.wrapped(&label, text);
    }

    fn wrapped(&mut self, label: &str, text: &str) {
        let indent = width(label);
        let room = COLUMNS - indent;
        let mut first = true;
        for line in wrap(&clean(text), room) {
            if first {
                self.text.push_str(label);
            } else {
                self.text.extend(std::iter::repeat_n(' ', indent));
            }
            self.text.push_str(line.trim_end());
            self.text.push('\n');
            first = false;
        }
    }

    fn paint(&self, verdict: Verdict, text: &str) -> String {
        if !self.colour {
            return text.into();
        }
        let code = match verdict {
            Verdict::Met => 32,
            Verdict::Missed => 31,
            Verdict::Undetermined => 33,
            Verdict::NoData => 35,
        };
        format!("\x1b[1;{code}m{text}\x1b[0m")
    }
}

/// Names come from files of others: line breaks and tabs are spaces, and what else would steer a terminal is shown as a replacement character.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match (c.is_control(), c.is_whitespace()) {
            (true, true) if clean.ends_with(' ') => {}
            (true, true) => clean.push(' '),
            (true, false) => clean.push('\u{fffd}'),
            (false, _) => clean.push(c),
        }
    }
    clean
}

/// Columns of a terminal that a character takes. Behind a character that makes an emoji of the one before it, that takes one more.
fn width_of(c: char) -> usize {
    match c {
        '\u{fe0f}' => 1,
        c => c.width().unwrap_or(0),
    }
}

fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

/// The longest beginning that takes no more columns than these.
fn beginning(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let over = text.char_indices().find(|(_, c)| {
        used += width_of(*c);
        used > columns
    });
    over.map_or(text, |(at, _)| &text[..at])
}

/// Cut to a number of columns, the last of them an ellipsis where something is missing.
fn cut(text: &str, columns: usize) -> String {
    let text = clean(text);
    if width(&text) <= columns {
        return text;
    }
    format!("{}…", beginning(&text, columns - 1))
}

/// A figure in a field: of a large number its size, of a time its days, of anything else what there is room for.
fn figure(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number, "%"),
        None => (text, ""),
    };
    match number.replace(',', "").parse::<f64>() {
        Ok(number) if number.abs() >= 1e4 => format!("{number:.1e}{unit}"),
        Ok(_) => cut(text, columns),
        Err(_) => cut(text.split(' ').next().unwrap_or(text), columns),
    }
}

/// Lines of at most so many columns, broken at spaces, and inside words that are longer.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() {
            if width(&line) + 1 + width(word) <= columns {
                line.push(' ');
            } else {
                lines.push(std::mem::take(&mut line));
            }
        }
        let mut rest = word;
        while width(&line) + width(rest) > columns {
            let (head, tail) = rest.split_at(beginning(rest, columns - width(&line)).len());
            line.push_str(head);
            lines.push(std::mem::take(&mut line));
            rest = tail;
        }
        line.push_str(rest);
    }
    lines.push(line);
    lines
}

fn table(out: &mut Page, report: &Report) {
    let row = |cells: [&str; 7]| {
        let [verdict, name, target, sli, left, burn, gone] = cells;
        let name = cut(name, NAME);
        let beside = " ".repeat(NAME - width(&name));
        let (target, sli, left) = (figure(target, 9), figure(sli, 11), figure(left, 9));
        let (burn, gone) = (figure(burn, 8), figure(gone, 8));
        format!("{verdict:<13} {name}{beside} {target:>9} {sli:>11} {left:>9} {burn:>8} {gone:>8}")
    };
    let titles = row(["verdict", "objective", "target", "SLI", "left", "burn 1h", "gone in"]);
    out.text.push_str(titles.trim_end());
    out.text.push('\n');
    for slo in &report.objectives {
        let window = &slo.windows[0];
        let left = window
            .budget
            .as_ref()
            .map_or("-".into(), |budget| words::budget(budget.remaining));
        let line = row([
            "",
            &words::title(report, slo),
            &slo.target,
            window.sli_text.as_deref().unwrap_or("-"),
            &left,
            &words::burn(words::burn_of(slo, "1h")),
            &words::exhaustion_short(&window.exhaustion),
        ]);
        // Painted last: escape sequences have no width.
        let verdict = out.paint(slo.verdict, &format!("{:<13}", slo.verdict.name()));
        out.text.push_str(&verdict);
        out.text.push_str(line[13..].trim_end());
        out.text.push('\n');
    }
}

/// The line above a block.
fn head(out: &mut Page, title: &str, verdict: Verdict) {
    out.text.push('\n');
    let title = cut(title, COLUMNS - 20);
    let rule = COLUMNS - width(&title) - width(verdict.name()) - 2;
    let verdict = out.paint(verdict, verdict.name());
    out.text.push_str(&format!("{title} {} {verdict}\n", "─".repeat(rule)));
}

fn composite(out: &mut Page, one: &CompositeReport) {
    head(out, &format!("{}, all together", one.display_name), one.verdict);
    if !one.description.is_empty() {
        out.entry("", &one.description);
    }
    out.entry("service", &one.service);
    let mut label = "members";
    for member in &one.members {
        out.entry(label, &words::member(member));
        label = "";
    }
    for window in &one.windows {
        out.entry("window", &window.name);
        out.entry("verdict", &format!("{}: {}", window.verdict, window.because));
        out.entry("budget", &words::composite(window));
    }
    out.entry("burn", &words::composite_burn(one));
    out.entry("definition", &one.definition);
}

fn block(out: &mut Page, report: &Report, slo: &SloReport) {
    head(out, &words::title(report, slo), slo.verdict);
    if !slo.description.is_empty() {
        out.entry("", &slo.description);
    }
    out.entry("service", &slo.service);
    out.entry("measures", &slo.measures);
    out.entry("target", &format!("{} by {}", slo.target, slo.method));
    for (i, window) in slo.windows.iter().enumerate() {
        let history = if i == 0 { slo.history.as_slice() } else { &[] };
        figures(out, slo, window, history);
    }
    let burn: Vec<String> = slo
        .burn
        .iter()
        .map(|burn| format!("{} {}", burn.window, words::burn(burn.burn)))
        .collect();
    if !burn.is_empty() {
        out.entry("burn", &burn.join("   "));
    }
    if let Some(latency) = &slo.latency {
        let mut label = "latency";
        for quantile in &latency.percentiles {
            out.entry(
                label,
                &format!("{} {}", words::percentile(quantile.q), words::quantile(quantile)),
            );
            label = "";
        }
    }
    if let Some(groups) = &slo.groups {
        out.entry("by", &groups.by.join(", "));
        for group in &groups.groups {
            out.entry("", &format!("{}: {}", words::group_name(group), words::group(group)));
        }
        if let Some(left_out) = words::left_out(groups) {
            out.entry("", &left_out);
        }
    }
    if let Some(runbook) = &slo.runbook {
        out.entry("runbook", runbook);
    }
    for note in &slo.notes {
        out.entry("note", note);
    }
    out.entry(
        "definition",
        &format!("{}   data until {}", slo.definition, words::watermark(slo.watermark)),
    );
}

fn figures(out: &mut Page, slo: &SloReport, window: &WindowReport, history: &[Point]) {
    out.entry("window", &format!("{}: {}", window.name, words::span(window.span)));
    if slo.windows.len() > 1 || window.verdict != Verdict::Met {
        out.entry("verdict", &format!("{}: {}", window.verdict, window.because));
    }
    if let Some(sli) = &window.sli_text {
        let interval = window
            .interval
            .map(|interval| {
                format!(
                    "; {} {}",
                    words::interval_name(window),
                    words::interval(interval, words::digits(window))
                )
            })
            .unwrap_or_default();
        out.entry("SLI", &format!("{sli} ({}{interval})", words::events(slo, window)));
    }
    if let Some(budget) = &window.budget {
        out.entry(
            "budget",
            &format!(
                "{} left ({})",
                words::budget(budget.remaining),
                words::budget_words(window, budget)
            ),
        );
        if !history.is_empty() {
            out.entry("", &sparkline(history));
        }
        if let Some(worst) = words::worst(history) {
            out.entry("worst", &worst);
        }
        out.entry("gone", &words::exhaustion(&window.exhaustion));
    }
    if let Some(raw) = &window.raw {
        let consumed = raw
            .consumed
            .map_or("-".into(), |consumed| words::budget(1.0 - consumed));
        out.entry(
            "planned",
            &format!(
                "{} left out; with it {consumed} of the budget would be left",
                crate::verdict::seconds(i64::try_from(window.excluded_seconds).unwrap_or(i64::MAX))
            ),
        );
    }
    out.entry("coverage", &words::budget(window.coverage));
}

/// Budget over time: full to empty in eighths, `!` where it is overdrawn.
fn sparkline(points: &[Point]) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = (COLUMNS - LABEL - 2).min(points.len());
    let line = (0..width).map(|i| {
        // The last point of each share of the line: the line ends where the budget does.
        let at = ((i + 1) * points.len()).div_ceil(width) - 1;
        let remaining = points[at].remaining;
        if remaining < 0.0 {
            '!'
        } else {
            STEPS[((remaining * 8.0) as usize).min(7)]
        }
    });
    line.collect()
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;

    #[test]
    fn breaks_and_tabs_are_spaces_and_other_controls_are_shown() {
        let check = |text: &str, expected: &str| assert_eq!(clean(text), expected, "{text:?}");
        check("One.\nTwo.\n", "One. Two.");
        check("\t a\r\n\tb   c \n", "a b   c");
        check("red\u{1b}[31m\u{7}", "red\u{fffd}[31m\u{fffd}");
        check("", "");
    }

    #[test]
    fn names_are_cut_by_columns() {
        let check = |text: &str, columns: usize, expected: &str| {
            assert_eq!(cut(text, columns), expected);
            assert!(cut(text, columns).width() <= columns);
        };
        check("checkout", 8, "checkout");
        check("checkouts", 8, "checkou…");
        check("支払い", 6, "支払い");
        check("支払いの成功率", 8, "支払い…");
        check("支払いの成功率", 9, "支払いの…");
        check("❤️❤️❤️", 5, "❤️❤️…");
    }

    #[test]
    fn lines_are_broken_by_columns() {
        let check = |text: &str, columns: usize, expected: &[&str]| assert_eq!(wrap(text, columns), expected, "{text}");
        check("a bc def", 4, &["a bc", "def"]);
        check("abcdefghij k", 4, &["abcd", "efgh", "ij k"]);
        check("ab cdefgh", 4, &["ab", "cdef", "gh"]);
        check("支払いの成功", 5, &["支払", "いの", "成功"]);
        check("a   b", 9, &["a   b"]);
        check("", 4, &[""]);
    }

    #[test]
    fn figures_keep_to_their_field() {
        let check = |text: &str, columns: usize, expected: &str| {
            assert_eq!(figure(text, columns), expected);
            assert!(figure(text, columns).width() <= columns);
        };
        check("-9999.9%", 9, "-9999.9%");
        check("-999999900.0%", 9, "-1.0e9%");
        check("1,234,567", 8, "1.2e6");
        check("99.9999999999%", 11, "99.9999999…");
        check("4242d 13h", 8, "4242d");
        check("beyond all", 4, "bey…");
    }
}
