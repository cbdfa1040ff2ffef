//! The three plots as inline SVG. Colours come from the page's style by class, so that they follow its light and dark.
//!
//! Coordinates are written with one digit; nothing here depends on anything but the report.

use std::fmt::Write as _;

use crate::evaluate::Heat;
use crate::render::html::escape;
use crate::render::words;
use crate::report::{LatencyReport, SloReport, WindowReport};
use crate::time::{Span, Time};

const WIDTH: f64 = 520.0;
/// The heat strip takes the whole card.
const WIDE: f64 = 1080.0;
/// Room for the labels of the vertical axis.
const LEFT: f64 = 46.0;
const RIGHT: f64 = 8.0;

/// Overdrawn budgets are drawn down to here.
pub(super) const DEEPEST: f64 = -1.0;

/// Where a moment lies across a plot of this width.
fn across(width: f64, span: Span, time: Time) -> f64 {
    let length = span.seconds().max(1) as f64;
    LEFT + (width - LEFT - RIGHT) * (time.0 - span.from.0) as f64 / length
}

/// A moment for an axis: the day, and the minute where the whole plot is short.
fn tick(span: Span, time: Time) -> String {
    let text = words::minute(time);
    let part = if span.seconds() > 3 * 86_400 {
        text.get(5..10)
    } else {
        text.get(5..16)
    };
    part.unwrap_or(&text).to_owned()
}

/// First, middle and last moment under a plot.
fn ticks(out: &mut String, width: f64, span: Span, y: f64) {
    let middle = span.from.plus(i64::try_from(span.seconds() / 2).unwrap_or(0));
    for (time, anchor) in [(span.from, "start"), (middle, "middle"), (span.to, "end")] {
        let _ = write!(
            out,
            r#"<text x="{:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            across(width, span, time),
            tick(span, time)
        );
    }
}

/// What is left of the budget over the window, above what each bin spent of it.
pub(super) fn budget(slo: &SloReport, window: &WindowReport) -> String {
    const TOP: f64 = 12.0;
    const LINE: f64 = 132.0;
    const BARS: f64 = 34.0;
    let points = &slo.history;
    let least = points.iter().map(|point| point.remaining).fold(0.0_f64, f64::min);
    // A service that burnt its budget ten times over would flatten everything that is above zero.
    let floor = least.max(DEEPEST);
    let y = |remaining: f64| TOP + (1.0 - remaining.max(floor)) / (1.0 - floor) * LINE;
    let base = TOP + LINE + 10.0 + BARS;
    let height = base + 18.0;
    let left = points.last().map_or(1.0, |point| point.remaining);
    let label = format!(
        "Budget over {}: {} left at the end",
        words::span(window.span),
        words::budget(left)
    );
    let mut out = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#,
        escape(&label)
    );
    for (share, class) in [
        (1.0, "grid"),
        (0.5, "grid"),
        (0.0, "zero"),
        (-0.5, "grid"),
        (-1.0, "grid"),
    ] {
        if share >= floor {
            let at = y(share);
            let _ = write!(
                out,
                r#"<path class="{class}" d="M{LEFT} {at:.1}H{:.1}"/>"#,
                WIDTH - RIGHT
            );
            let _ = write!(
                out,
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}%</text>"#,
                LEFT - 6.0,
                at + 4.0,
                share * 100.0
            );
        }
    }
    // The budget that the line shows is that of what was judged, so an even pace spends it from there to there.
    let (from, even, to) = (
        across(WIDTH, window.whole, window.span.from),
        across(WIDTH, window.whole, window.judged().from),
        across(WIDTH, window.whole, window.judged().to),
    );
    let _ = write!(
        out,
        r#"<path class="even" d="M{even:.1} {:.1}L{to:.1} {:.1}"/>"#,
        y(1.0),
        y(0.0)
    );
    let mut line = format!("M{from:.1} {:.1}", y(1.0));
    // What is left and what is overdrawn are two areas, each cut at zero.
    let (mut above, mut below) = (
        format!("M{from:.1} {:.1}V{:.1}", y(0.0), y(1.0)),
        format!("M{from:.1} {:.1}", y(0.0)),
    );
    for point in points {
        let x = across(WIDTH, window.whole, point.span.to);
        let _ = write!(line, "L{x:.1} {:.1}", y(point.remaining));
        let _ = write!(above, "L{x:.1} {:.1}", y(point.remaining.max(0.0)));
        let _ = write!(below, "L{x:.1} {:.1}", y(point.remaining.min(0.0)));
    }
    let _ = write!(out, r#"<path class="area" d="{above}V{:.1}z"/>"#, y(0.0));
    if least < 0.0 {
        let _ = write!(out, r#"<path class="over" d="{below}V{:.1}z"/>"#, y(0.0));
    }
    let _ = write!(out, r#"<path class="left" d="{line}"/>"#);
    let most = points.iter().map(|point| point.spent).fold(0.0_f64, f64::max);
    let _ = write!(
        out,
        r#"<path class="grid" d="M{LEFT} {base:.1}H{:.1}"/>"#,
        WIDTH - RIGHT
    );
    let mut bars = String::new();
    for point in points {
        let (x, to) = (
            across(WIDTH, window.whole, point.span.from),
            across(WIDTH, window.whole, point.span.to),
        );
        if point.spent > 0.0 && most > 0.0 {
            let tall = (point.spent / most * BARS).max(1.0);
            let _ = write!(
                bars,
                "M{x:.1} {base:.1}v-{tall:.1}h{:.1}v{tall:.1}z",
                (to - x - 0.6).max(0.6)
            );
        }
        let _ = write!(
            out,
            r#"<rect class="hit" x="{x:.1}" y="{TOP}" width="{:.1}" height="{:.1}"><title>{}: {} bad of {}, spent {}, left {}</title></rect>"#,
            to - x,
            base - TOP,
            words::span(point.span),
            words::amount(point.counts.bad),
            words::count(point.counts.total),
            words::budget(point.spent),
            words::budget(point.remaining),
        );
    }
    if !bars.is_empty() {
        let _ = write!(out, r#"<path class="spent" pointer-events="none" d="{bars}"/>"#);
    }
    ticks(&mut out, WIDTH, window.whole, base + 14.0);
    out.push_str("</svg>");
    out
}

/// One bar per burn window on a logarithmic scale, with the line at 1.
pub(super) fn burn(slo: &SloReport) -> String {
    const ROW: f64 = 24.0;
    const LOW: f64 = 0.1;
    let most = slo.burn.iter().filter_map(|burn| burn.burn).fold(10.0_f64, f64::max);
    let end = WIDTH - 64.0;
    let x = |rate: f64| LEFT + (end - LEFT) * ((rate.max(LOW) / LOW).log10() / (most / LOW).log10());
    let height = ROW * slo.burn.len() as f64 + 22.0;
    let said: Vec<String> = slo
        .burn
        .iter()
        .map(|burn| format!("{} over {}", words::burn(burn.burn), burn.window))
        .collect();
    let label = format!("Burn rates: {}", said.join(", "));
    let mut out = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#,
        escape(&label)
    );
    for (i, burn) in slo.burn.iter().enumerate() {
        let y = i as f64 * ROW;
        let (middle, name) = (y + 16.0, escape(&burn.window));
        let _ = write!(
            out,
            r#"<text x="{:.1}" y="{middle:.1}" text-anchor="end">{name}</text>"#,
            LEFT - 6.0
        );
        let _ = write!(
            out,
            r#"<rect class="track" x="{LEFT}" y="{:.1}" width="{:.1}" height="14" rx="2"/>"#,
            y + 5.0,
            end - LEFT
        );
        if let Some(rate) = burn.burn {
            let class = if rate <= 1.0 {
                "ok"
            } else if rate < 6.0 {
                "hot"
            } else {
                "fire"
            };
            let wide = if rate > 0.0 { (x(rate) - LEFT).max(2.0) } else { 0.0 };
            let _ = write!(
                out,
                r#"<rect class="{class}" x="{LEFT}" y="{:.1}" width="{wide:.1}" height="14" rx="2"><title>{name}: {} bad of {}</title></rect>"#,
                y + 5.0,
                words::amount(burn.counts.bad),
                words::count(burn.counts.total),
            );
        }
        if let Some(sure) = burn.burn_at_least.filter(|sure| *sure > LOW) {
            let _ = write!(out, r#"<path class="sure" d="M{:.1} {:.1}v18"/>"#, x(sure), y + 3.0);
        }
        let _ = write!(
            out,
            r#"<text class="v" x="{:.1}" y="{middle:.1}">{}</text>"#,
            end + 8.0,
            escape(&words::burn(burn.burn))
        );
    }
    let base = height - 18.0;
    let _ = write!(out, r#"<path class="one" d="M{:.1} 0V{base:.1}"/>"#, x(1.0));
    for (rate, text) in [(LOW, "0.1"), (1.0, "1: even pace"), (10.0, "10"), (100.0, "100")] {
        if rate <= most {
            let _ = write!(
                out,
                r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
                x(rate),
                height - 4.0
            );
        }
    }
    out.push_str("</svg>");
    out
}

/// Counts by time and duration: darker is more of its column.
pub(super) fn heat(latency: &LatencyReport, window: &WindowReport) -> String {
    const ROW: f64 = 15.0;
    const TOP: f64 = 6.0;
    const LEVELS: u32 = 8;
    let Heat { edges_ns, columns } = &latency.heat;
    let rows = edges_ns.len().saturating_sub(1);
    let base = TOP + rows as f64 * ROW;
    let height = base + 18.0;
    let said: Vec<String> = latency
        .percentiles
        .iter()
        .map(|quantile| format!("{} {}", words::percentile(quantile.q), words::quantile(quantile)))
        .collect();
    let label = format!("Latency over {}: {}", words::span(window.span), said.join(", "));
    let mut out = format!(
        r#"<svg viewBox="0 0 {WIDE} {height}" role="img" aria-label="{}">"#,
        escape(&label)
    );
    let mut levels = vec![String::new(); LEVELS as usize + 1];
    for column in columns {
        let (x, to) = (
            across(WIDE, window.span, column.span.from),
            across(WIDE, window.span, column.span.to.min(window.span.to)),
        );
        let all: u64 = column.counts.iter().sum();
        for (row, count) in column.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // By the logarithm: a thousandth of all requests is what a P99.9 is about, and has to be seen.
            let share = *count as f64 / all as f64;
            let level = f64::from(LEVELS) * (1.0 + share.log10() / 4.0).clamp(0.0, 1.0);
            let y = base - (row + 1) as f64 * ROW;
            let _ = write!(
                levels[level.ceil() as usize],
                "M{x:.1} {y:.1}h{:.1}v{ROW}h-{:.1}z",
                to - x,
                to - x
            );
        }
    }
    let _ = write!(
        out,
        r#"<rect class="track" x="{LEFT}" y="{TOP}" width="{:.1}" height="{:.1}"/>"#,
        WIDE - LEFT - RIGHT,
        base - TOP
    );
    for (level, path) in levels.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let opacity = 0.06 + 0.94 * level as f64 / f64::from(LEVELS);
        let _ = write!(out, r#"<path class="heat" fill-opacity="{opacity:.2}" d="{path}"/>"#);
    }
    // As many labels as have room.
    let each = rows.div_ceil(7).max(1);
    for (row, edge) in edges_ns.iter().enumerate().filter(|(row, _)| row % each == 0) {
        let y = base - row as f64 * ROW + 4.0;
        let _ = write!(
            out,
            r#"<text x="{:.1}" y="{y:.1}" text-anchor="end">{}</text>"#,
            LEFT - 6.0,
            words::latency(*edge)
        );
    }
    if let (Some(threshold), Some((first, last))) = (latency.threshold_ns, edges_ns.first().zip(edges_ns.last())) {
        let threshold = threshold as f64;
        // Between two edges by proportion of logarithms, as the bands are.
        let above = edges_ns
            .partition_point(|edge| *edge <= threshold)
            .clamp(1, rows.max(1));
        if (*first..=*last).contains(&threshold) {
            let (low, high) = (edges_ns[above - 1], edges_ns[above]);
            let at = above as f64 - 1.0 + (threshold / low).log10() / (high / low).log10();
            let _ = write!(
                out,
                r#"<path class="limit" d="M{LEFT} {:.1}H{:.1}"/>"#,
                base - at * ROW,
                WIDE - RIGHT
            );
        }
    }
    ticks(&mut out, WIDE, window.span, height - 4.0);
    out.push_str("</svg>");
    out
}
