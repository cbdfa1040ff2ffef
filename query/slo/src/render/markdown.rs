//! The report for an issue or a wiki.

use std::fmt::Write as _;

use crate::render::words;
use crate::report::{CompositeReport, Report, SloReport, WindowReport};

pub(super) fn markdown(report: &Report) -> String {
    let mut out = String::new();
    let summary = report.summary;
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "# SLO report\n\nAt {}: **{} missed**, {} no data, {} undetermined, {} met.\n",
        report.at, summary.missed, summary.no_data, summary.undetermined, summary.met
    );
    let _ = writeln!(
        out,
        "| verdict | objective | service | target | SLI | budget left | burn 1h | burn 6h | gone in |"
    );
    let _ = writeln!(out, "|---|---|---|--:|--:|--:|--:|--:|--:|");
    for slo in &report.objectives {
        let window = &slo.windows[0];
        let _ = writeln!(
            out,
            "| **{}** | {} | {} | {} | {} | {} | {} | {} | {} |",
            slo.verdict,
            escape(&words::title(report, slo)),
            escape(&slo.service),
            slo.target,
            window.sli_text.as_deref().unwrap_or("-"),
            window
                .budget
                .as_ref()
                .map_or("-".into(), |budget| words::budget(budget.remaining)),
            words::burn(words::burn_of(slo, "1h")).replace('<', "&lt;"),
            words::burn(words::burn_of(slo, "6h")).replace('<', "&lt;"),
            words::exhaustion_short(&window.exhaustion),
        );
    }
    for one in &report.composites {
        composite(&mut out, one);
    }
    for slo in &report.objectives {
        section(&mut out, report, slo);
    }
    out
}

fn composite(out: &mut String, one: &CompositeReport) {
    let _ = writeln!(
        out,
        "\n## {}, all together: {}\n",
        escape(&one.display_name),
        one.verdict
    );
    if !one.description.is_empty() {
        let _ = writeln!(out, "{}\n", escape(&one.description));
    }
    let _ = writeln!(out, "| window | verdict | budget |\n|---|---|---|");
    for window in &one.windows {
        let _ = writeln!(
            out,
            "| {} | {}: {} | {} |",
            escape(&window.name),
            window.verdict,
            escape(&window.because),
            words::composite(window)
        );
    }
    out.push('\n');
    for member in &one.members {
        let _ = writeln!(out, "- {}", escape(&words::member(member)));
    }
    let burn = words::composite_burn(one).replace('<', "&lt;");
    let _ = writeln!(out, "\nBurn: {burn}.\n\nDefinition `{}`.", one.definition);
}

fn section(out: &mut String, report: &Report, slo: &SloReport) {
    let _ = writeln!(out, "\n## {}: {}\n", escape(&words::title(report, slo)), slo.verdict);
    if !slo.description.is_empty() {
        let _ = writeln!(out, "{}\n", escape(&slo.description));
    }
    let _ = writeln!(
        out,
        "{}; target {} by {}.\n",
        escape(&slo.measures),
        slo.target,
        escape(&slo.method)
    );
    let _ = writeln!(
        out,
        "| window | verdict | SLI | interval | {} | budget | budget gone | coverage |",
        slo.counted
    );
    let _ = writeln!(out, "|---|---|--:|---|---|---|---|--:|");
    for window in &slo.windows {
        row(out, slo, window);
    }
    if let Some(worst) = words::worst(&slo.history) {
        let _ = writeln!(out, "\nWorst: {worst}.");
    }
    if !slo.burn.is_empty() {
        let cells = |of: &dyn Fn(usize) -> String| (0..slo.burn.len()).map(of).collect::<Vec<_>>().join(" | ");
        let _ = writeln!(out, "\n| burn over | {} |", cells(&|i| slo.burn[i].window.clone()));
        let _ = writeln!(out, "|---|{}", "--:|".repeat(slo.burn.len()));
        let _ = writeln!(
            out,
            "| rate | {} |",
            cells(&|i| words::burn(slo.burn[i].burn).replace('<', "&lt;"))
        );
    }
    if let Some(latency) = &slo.latency {
        out.push('\n');
        for quantile in &latency.percentiles {
            let _ = writeln!(out, "- {} {}", words::percentile(quantile.q), words::quantile(quantile));
        }
    }
    if let Some(groups) = &slo.groups {
        let _ = writeln!(out, "\nBy {}:\n", escape(&groups.by.join(", ")));
        for group in &groups.groups {
            let (name, figures) = (escape(&words::group_name(group)), words::group(group));
            let _ = writeln!(out, "- {name}: {}", figures.replace('<', "&lt;"));
        }
        if let Some(left_out) = words::left_out(groups) {
            let _ = writeln!(out, "- {left_out}");
        }
    }
    if let Some(runbook) = &slo.runbook {
        let _ = writeln!(out, "\nRunbook: {}", link(runbook));
    }
    if !slo.notes.is_empty() {
        out.push('\n');
        for note in &slo.notes {
            let _ = writeln!(out, "- note: {}", escape(note));
        }
    }
    let _ = writeln!(
        out,
        "\nDefinition `{}`, data until {}.",
        slo.definition,
        words::watermark(slo.watermark)
    );
}

fn row(out: &mut String, slo: &SloReport, window: &WindowReport) {
    let interval = match window.interval {
        Some(interval) => format!(
            "{} ({})",
            words::interval(interval, words::digits(window)),
            words::interval_name(window)
        ),
        None => "-".into(),
    };
    let budget = window.budget.as_ref().map_or("-".into(), |budget| {
        format!(
            "{} left; {}",
            words::budget(budget.remaining),
            words::budget_words(window, budget)
        )
    });
    let _ = writeln!(
        out,
        "| {}, {} | {}: {} | {} | {interval} | {} | {budget} | {} | {} |",
        escape(&window.name),
        words::span(window.span),
        window.verdict,
        window.because,
        window.sli_text.as_deref().unwrap_or("-"),
        words::events(slo, window),
        words::exhaustion(&window.exhaustion),
        words::budget(window.coverage),
    );
}

/// A link where the address is one of the web and can stand between angle brackets, else the text.
fn link(address: &str) -> String {
    let is_web = address.starts_with("https://") || address.starts_with("http://");
    if is_web && !address.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>')) {
        format!("<{address}>")
    } else {
        escape(address)
    }
}

/// Text that Markdown and the HTML inside it take as text, in a table cell and at the beginning of a line as well.
fn escape(text: &str) -> String {
    let text = text.trim();
    let mut out = String::with_capacity(text.len());
    // What makes a list or a heading of the line that it begins: `- x`, `1. x`, `===`.
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let is_mark = match &text[digits..] {
        behind if digits == 0 => behind.starts_with(['-', '+', '=']),
        behind => behind.starts_with(['.', ')']) && !behind[1..].starts_with(|c: char| !c.is_whitespace()),
    };
    let mark = is_mark.then_some(digits);
    for (at, c) in text.char_indices() {
        if mark == Some(at) {
            out.push('\\');
        }
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '!' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_stays_text() {
        let check = |text: &str, expected: &str| assert_eq!(super::escape(text), expected);
        check("Checkout answers", "Checkout answers");
        check("a|b <i> & `c`", "a\\|b &lt;i&gt; &amp; \\`c\\`");
        check("- one", "\\- one");
        check("+ one - two", "\\+ one - two");
        check("===", "\\===");
        check("    # four", "\\# four");
        check("1. one", "1\\. one");
        check("12) one", "12\\) one");
        check("99.9% of requests", "99.9% of requests");
        check("1.", "1\\.");
        check("2026", "2026");
        check("$5 and $6", "\\$5 and \\$6");
        check("two\nlines\x07", "two lines ");
        check("", "");
    }
}
