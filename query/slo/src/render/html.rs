//! The report as one HTML file: no script, no font, no picture from elsewhere. Light and dark by the reader's preference; verdicts are
//! told by word and sign as well as by colour; every plot says in words what it shows.

use std::fmt::Write as _;

use crate::render::{svg, words};
use crate::report::{CompositeReport, Groups, Report, SloReport, WindowReport};
use crate::verdict::{Evidence, Verdict, seconds};

const STYLE: &str = include_str!("html.css");

pub(super) fn html(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>SLO report, {at}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>SLO report</h1>\n<p class=\"soft\">As of <time datetime=\"{at}\">{minute} UTC</time>. Worst first.</p>\n",
        at = report.at,
        minute = words::minute(report.at),
    );
    tiles(&mut out, report);
    out.push_str("</header>\n<main>\n");
    table(&mut out, report);
    for (i, one) in report.composites.iter().enumerate() {
        composite(&mut out, one, i + 1);
    }
    for (i, slo) in report.objectives.iter().enumerate() {
        card(&mut out, report, slo, i + 1);
    }
    let _ = write!(
        out,
        "</main>\n<footer>\n<h2>How to read this</h2>\n\
         <p><b>Met</b> and <b>missed</b> mean that {}; \
         <b>no data</b> that too little was measured to say anything, which is never good news. \
         A burn rate of 1 spends the budget in exactly the window; 14.4 spends 2% of a 30 day budget in an hour. \
         Percentages are cut off, not rounded: 100% is all of it.</p>\n",
        decided(report)
    );
    let _ = writeln!(
        out,
        "<p>Times are UTC. Format {}.</p>\n</footer>\n</body>\n</html>",
        report.format
    );
    out
}

/// What verdicts mean by the evidence that decided them.
fn decided(report: &Report) -> &'static str {
    let evidence = report.objectives.first().map(|slo| slo.windows[0].evidence);
    match evidence.unwrap_or_default() {
        Evidence::Interval => "the whole interval lies on one side of the target; <b>undetermined</b> that it does not",
        Evidence::Counts => {
            "the counts reach the target or do not, whatever chance had in them; <b>undetermined</b> that they leave it open"
        }
    }
}

/// Text that HTML takes as text, between tags and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Missed => "missed",
        Verdict::NoData => "no_data",
        Verdict::Undetermined => "undetermined",
        Verdict::Met => "met",
    }
}

const fn sign(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Missed => "\u{2717}",
        Verdict::NoData => "\u{2205}",
        Verdict::Undetermined => "?",
        Verdict::Met => "\u{2713}",
    }
}

fn badge(verdict: Verdict) -> String {
    format!(
        "<span class=\"badge {}\"><span aria-hidden=\"true\">{}</span> {verdict}</span>",
        class(verdict),
        sign(verdict)
    )
}

fn tiles(out: &mut String, report: &Report) {
    out.push_str("<div class=\"tiles\">\n");
    for verdict in Verdict::ALL {
        let summary = report.summary;
        let n = match verdict {
            Verdict::Missed => summary.missed,
            Verdict::NoData => summary.no_data,
            Verdict::Undetermined => summary.undetermined,
            Verdict::Met => summary.met,
        };
        let zero = if n == 0 { " zero" } else { "" };
        let _ = writeln!(
            out,
            "<div class=\"tile {}{zero}\"><b>{n}</b><span aria-hidden=\"true\">{}</span> {verdict}</div>",
            class(verdict),
            sign(verdict)
        );
    }
    out.push_str("</div>\n");
}

/// A small bar of what is left.
fn gauge(remaining: f64) -> String {
    let wide = 90.0 * remaining.clamp(0.0, 1.0);
    let class = if remaining >= 0.5 {
        "ok"
    } else if remaining > 0.0 {
        "hot"
    } else {
        "fire"
    };
    // An overdrawn budget is a full bar of the worst colour: an empty one would look like no news.
    let wide = if remaining <= 0.0 { 90.0 } else { wide };
    format!(
        "<svg class=\"gauge\" viewBox=\"0 0 90 8\" aria-hidden=\"true\"><rect class=\"track\" width=\"90\" height=\"8\" rx=\"2\"/>\
         <rect class=\"{class}\" width=\"{wide:.1}\" height=\"8\" rx=\"2\"/></svg>"
    )
}

fn table(out: &mut String, report: &Report) {
    out.push_str(
        "<section aria-labelledby=\"all\">\n<h2 id=\"all\">All objectives</h2>\n<div class=\"scroll all\" tabindex=\"0\" role=\"region\" aria-labelledby=\"all\">\n<table>\n<thead><tr>\
         <th scope=\"col\">Verdict</th><th scope=\"col\">Objective</th><th scope=\"col\" class=\"num\">Target</th>\
         <th scope=\"col\" class=\"num\">SLI</th><th scope=\"col\" class=\"num\">Budget left</th>\
         <th scope=\"col\" class=\"num\">Burn 1h</th><th scope=\"col\" class=\"num\">Burn 6h</th>\
         <th scope=\"col\" class=\"num\">Gone in</th><th scope=\"col\" class=\"num\">P99</th></tr></thead>\n<tbody>\n",
    );
    for (i, slo) in report.objectives.iter().enumerate() {
        let window = &slo.windows[0];
        let left = match &window.budget {
            Some(budget) => format!(
                "{}<span class=\"pct\">{}</span>",
                gauge(budget.remaining),
                words::budget(budget.remaining)
            ),
            None => "-".into(),
        };
        let p99 = slo
            .latency
            .as_ref()
            .and_then(|latency| latency.percentiles.iter().find(|quantile| quantile.q == 0.99));
        let _ = writeln!(
            out,
            "<tr><td>{}</td><th scope=\"row\"><a href=\"#o{}\">{}</a><small>{}</small></th><td class=\"num\">{}</td><td class=\"num\">{}</td>\
             <td class=\"num\">{left}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
            badge(slo.verdict),
            i + 1,
            escape(&words::title(report, slo)),
            escape(&slo.service),
            slo.target,
            window.sli_text.as_deref().unwrap_or("-"),
            escape(&words::burn(words::burn_of(slo, "1h"))),
            escape(&words::burn(words::burn_of(slo, "6h"))),
            words::exhaustion_short(&window.exhaustion),
            p99.and_then(|quantile| quantile.value_ns)
                .map_or("-".into(), words::latency),
        );
    }
    out.push_str("</tbody>\n</table>\n</div>\n</section>\n");
}

fn composite(out: &mut String, one: &CompositeReport, number: usize) {
    let _ = writeln!(
        out,
        "<article class=\"card {}\" aria-labelledby=\"c{number}\">\n<div class=\"head\">{}<h2 id=\"c{number}\">{}, all together</h2><span class=\"soft\">{}</span></div>",
        class(one.verdict),
        badge(one.verdict),
        escape(&one.display_name),
        escape(&one.service),
    );
    if !one.description.is_empty() {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(&one.description));
    }
    out.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Windows\"><table>\n<thead><tr><th scope=\"col\">Window</th><th scope=\"col\">Verdict</th>\
         <th scope=\"col\">Budget</th></tr></thead>\n<tbody>\n",
    );
    for window in &one.windows {
        let left = window.remaining.map(gauge).unwrap_or_default();
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}<br><span class=\"soft\">{}</span></td><td>{left}{}</td></tr>",
            escape(&window.name),
            badge(window.verdict),
            escape(&window.because),
            words::composite(window),
        );
    }
    out.push_str("</tbody>\n</table></div>\n<ul class=\"notes\">\n");
    for member in &one.members {
        let _ = writeln!(out, "<li>{}</li>", escape(&words::member(member)));
    }
    let _ = writeln!(
        out,
        "</ul>\n<p class=\"soft\">Burn: {}. Definition <code>{}</code>.</p>\n</article>",
        escape(&words::composite_burn(one)),
        one.definition
    );
}

fn card(out: &mut String, report: &Report, slo: &SloReport, number: usize) {
    let window = &slo.windows[0];
    let _ = writeln!(
        out,
        "<article class=\"card {}\" aria-labelledby=\"o{number}\">\n<div class=\"head\">{}<h2 id=\"o{number}\">{}</h2><span class=\"soft\">{}</span></div>\n\
         <p class=\"why\">{}. <span class=\"soft\">Target {} by {}: {}.</span></p>",
        class(slo.verdict),
        badge(slo.verdict),
        escape(&words::title(report, slo)),
        escape(&slo.service),
        escape(&sentence(&window.because)),
        slo.target,
        escape(&slo.method),
        escape(&slo.measures),
    );
    if !slo.description.is_empty() {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(&slo.description));
    }
    if let Some(runbook) = &slo.runbook {
        let _ = writeln!(out, "<p>Runbook: {}</p>", link(runbook));
    }
    facts(out, slo, window);
    plots(out, slo, window);
    if !slo.notes.is_empty() {
        out.push_str("<ul class=\"notes\">\n");
        for note in &slo.notes {
            let _ = writeln!(out, "<li>{}</li>", escape(&sentence(note)));
        }
        out.push_str("</ul>\n");
    }
    if slo.windows.len() > 1 {
        windows(out, slo);
    }
    if let Some(of_slo) = &slo.groups {
        groups(out, of_slo);
    }
    rates(out, slo);
    let _ = writeln!(
        out,
        "<p class=\"soft\">Definition <code>{}</code>, data until <code>{}</code>, {} of the time measured.</p>\n</article>",
        slo.definition,
        words::watermark(slo.watermark),
        words::budget(window.coverage),
    );
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A link where the address is one of the web, else the text: a `javascript:` address must not be clicked.
fn link(address: &str) -> String {
    let text = escape(address);
    if address.starts_with("https://") || address.starts_with("http://") {
        format!("<a href=\"{text}\" rel=\"noreferrer\">{text}</a>")
    } else {
        text
    }
}

fn facts(out: &mut String, slo: &SloReport, window: &WindowReport) {
    out.push_str("<dl class=\"facts\">\n");
    let mut fact = |name: &str, class: &str, value: &str, small: &str| {
        let _ = writeln!(
            out,
            "<div{class}><dt>{}</dt><dd><b>{}</b><small>{}</small></dd></div>",
            escape(name),
            escape(value),
            escape(small)
        );
    };
    let interval = match window.interval {
        Some(interval) => format!(
            "over {}; {}: {}",
            window.name,
            words::interval_name(window),
            words::interval(interval, words::digits(window))
        ),
        None => format!("over {}", window.name),
    };
    fact("SLI", "", window.sli_text.as_deref().unwrap_or("-"), &interval);
    fact(
        &sentence(slo.counted),
        "",
        &words::count(window.counts.total),
        &words::events(slo, window),
    );
    if let Some(budget) = &window.budget {
        let class = if budget.remaining < 0.0 { " class=\"bad\"" } else { "" };
        fact(
            "Budget left",
            class,
            &words::budget(budget.remaining),
            &words::budget_words(window, budget),
        );
    }
    fact(
        "Budget gone",
        "",
        &words::exhaustion_short(&window.exhaustion),
        &words::exhaustion(&window.exhaustion),
    );
    for quantile in slo
        .latency
        .iter()
        .flat_map(|latency| &latency.percentiles)
        .filter(|quantile| quantile.q >= 0.99)
    {
        let value = quantile.value_ns.map_or("-".into(), words::latency);
        let small = match (quantile.lo_ns, quantile.hi_ns) {
            (Some(lo), Some(hi)) => format!(
                "{} to {}, of {} requests",
                words::latency(lo),
                words::latency(hi),
                words::count(quantile.n)
            ),
            _ => words::quantile(quantile),
        };
        fact(&words::percentile(quantile.q), "", &value, &small);
    }
    if let Some(raw) = &window.raw {
        let planned = seconds(i64::try_from(window.excluded_seconds).unwrap_or(i64::MAX));
        let left = raw
            .consumed
            .map_or("-".into(), |consumed| words::budget(1.0 - consumed));
        fact(
            "Planned work",
            "",
            &planned,
            &format!("with it {left} of the budget would be left"),
        );
    }
    out.push_str("</dl>\n");
}

fn plots(out: &mut String, slo: &SloReport, window: &WindowReport) {
    out.push_str("<div class=\"plots\">\n");
    if !slo.history.is_empty() {
        let deeper = slo.history.iter().any(|point| point.remaining < svg::DEEPEST);
        let _ = writeln!(
            out,
            "<figure><h3>Budget left</h3>{}<figcaption>Line: left of the budget of {}{}{}; dashed: an even pace. Bars: spent per bin{}.</figcaption></figure>",
            svg::budget(slo, window),
            words::part(window)
                .map(|part| format!("{part} of "))
                .unwrap_or_default(),
            escape(&window.name),
            if deeper { ", drawn down to -100%" } else { "" },
            words::worst(&slo.history)
                .map(|worst| format!("; most in {worst}"))
                .unwrap_or_default(),
        );
    }
    if slo.burn.iter().any(|burn| burn.burn.is_some()) {
        let _ = writeln!(
            out,
            "<figure><h3>Burn rate by window</h3>{}<figcaption>Logarithmic. The upright mark is the least it is at {} confidence.</figcaption></figure>",
            svg::burn(slo),
            window.confidence.name(),
        );
    }
    if let Some(latency) = slo.latency.as_ref().filter(|latency| latency.heat.edges_ns.len() > 1) {
        let limit = latency
            .threshold_ns
            .map(|ns| format!(" Dashed: {}.", words::latency(ns as f64)))
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "<figure class=\"wide\"><h3>Latency</h3><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Latency\">{}</div><figcaption>Share of each column by duration, from one in 10,000 to all.{limit}</figcaption></figure>",
            svg::heat(latency, window),
        );
    }
    out.push_str("</div>\n");
}

fn windows(out: &mut String, slo: &SloReport) {
    out.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Windows\"><table>\n<thead><tr><th scope=\"col\">Window</th><th scope=\"col\">Verdict</th><th scope=\"col\" class=\"num\">SLI</th>\
         <th scope=\"col\" class=\"num\">Interval</th><th scope=\"col\" class=\"num\">Budget left</th><th scope=\"col\" class=\"num\">Gone in</th><th scope=\"col\" class=\"num\">Measured</th></tr></thead>\n<tbody>\n",
    );
    for window in &slo.windows {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}<small>{}</small></th><td>{}<br><span class=\"soft\">{}</span></td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
            escape(&window.name),
            words::span(window.span),
            badge(window.verdict),
            escape(&window.because),
            window.sli_text.as_deref().unwrap_or("-"),
            window
                .interval
                .map_or("-".into(), |interval| words::interval(interval, words::digits(window))),
            window
                .budget
                .as_ref()
                .map_or("-".into(), |budget| words::budget(budget.remaining)),
            words::exhaustion_short(&window.exhaustion),
            words::budget(window.coverage),
        );
    }
    out.push_str("</tbody>\n</table></div>\n");
}

fn groups(out: &mut String, of_slo: &Groups) {
    let _ = writeln!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Groups\"><table>\n<thead><tr><th scope=\"col\">By {}</th><th scope=\"col\">Verdict</th>\
         <th scope=\"col\" class=\"num\">SLI</th><th scope=\"col\" class=\"num\">Bad</th><th scope=\"col\" class=\"num\">Events</th>\
         <th scope=\"col\" class=\"num\">Budget left</th><th scope=\"col\" class=\"num\">Burn 1h</th></tr></thead>\n<tbody>",
        escape(&of_slo.by.join(", "))
    );
    for group in &of_slo.groups {
        let rate = group.burn.iter().find(|rate| rate.window == "1h");
        let left = group.remaining.map_or("-".into(), |left| {
            format!("{}<span class=\"pct\">{}</span>", gauge(left), words::budget(left))
        });
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{left}</td><td class=\"num\">{}</td></tr>",
            escape(&words::group_name(group)),
            badge(group.verdict),
            group.sli_text.as_deref().unwrap_or("-"),
            words::amount(group.counts.bad),
            words::count(group.counts.total),
            escape(&words::burn(rate.and_then(|rate| rate.burn))),
        );
    }
    out.push_str("</tbody>\n</table></div>\n");
    if let Some(left_out) = words::left_out(of_slo) {
        let _ = writeln!(out, "<p class=\"soft\">{left_out}.</p>");
    }
}

/// The numbers behind the burn plot, for those who cannot see it or want to copy them.
fn rates(out: &mut String, slo: &SloReport) {
    if slo.burn.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<details><summary>Burn rates as numbers</summary><div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Over</th><th scope=\"col\" class=\"num\">Burn</th>\
         <th scope=\"col\" class=\"num\">At least</th><th scope=\"col\" class=\"num\">Bad</th><th scope=\"col\" class=\"num\">{}</th></tr></thead>\n<tbody>",
        sentence(slo.counted)
    );
    for burn in &slo.burn {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
            escape(&burn.window),
            escape(&words::burn(burn.burn)),
            escape(&words::burn(burn.burn_at_least)),
            words::amount(burn.counts.bad),
            words::count(burn.counts.total),
        );
    }
    out.push_str("</tbody>\n</table></div></details>\n");
}
