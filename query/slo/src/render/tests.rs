#![allow(clippy::unwrap_used)]
use unicode_width::UnicodeWidthStr;

use super::*;
use crate::fixture::{NOON, as_of, days, read, ready_ratio, ready_ratios, sample, slo};
use crate::plan::{Settings, plan};
use crate::{Report, Time, evaluate};

/// A burn rate of 10 since two hours, 30 days of a thousand requests a minute before. By hand: 42,000 bad events are left, the last six hours
/// spent 1,200, so they last 210 hours.
fn small(name: &str) -> Report {
    let mut slo = slo(
        "pay",
        "0.999",
        tailwater_openslo::Budgeting::Occurrences,
        days(30),
        None,
    );
    slo.display_name = name.into();
    slo.description = format!("About {name}.");
    slo.service = name.into();
    slo.extensions.runbook = Some(format!("https://example.org/{name}"));
    let plan = plan(&slo, &Settings::default(), as_of(NOON)).unwrap().remove(0);
    let data = read(&plan, |time| {
        (1000 - if NOON.0 - time.0 <= 7200 { 10 } else { 0 }, 1000)
    });
    Report::new(NOON, vec![evaluate(&plan, data)])
}

#[test]
fn text() {
    let expected = "\
SLO report at 2026-03-10T12:00:00Z: 0 missed, 0 no data, 0 undetermined, 1 met

verdict       objective                           target         SLI      left  burn 1h  gone in
met           Pay                                  99.9%     99.997%     97.2%       10   8d 18h

Pay ──────────────────────────────────────────────────────────────────────────────────────────── met
              About Pay.
  service     Pay
  measures    share of requests without error (service=checkout)
  target      99.9% by Occurrences
  window      30d: 2026-02-08 12:00 to 2026-03-10 12:00 UTC
  SLI         99.997% (1,200 bad of 43,200,000 events; Wilson 95% 99.997% to 99.998%)
  budget      97.2% left (1,200 of 43,200 bad events spent; 42m of 43m 12s of outage left)
              ██████████████████████████████████████████████████████████████████████████████████████
  worst       2026-03-10 06:00 to 2026-03-10 12:00 UTC: 2.7% of the budget, 1,200 bad of 360,000
  gone        in 8d 18h at the pace of the last 6h
  coverage    100.0%
  burn        5m 10   30m 10   1h 10   2h 10   6h 3.33   1d 0.83   3d 0.28
  runbook     https://example.org/Pay
  definition  0000000000000000123456789abcdef0   data until 2026-03-10T12:00:00Z
";
    assert_eq!(render(&small("Pay"), Format::Text, false), expected);
}

/// At the start of the second day of a month of 31 days, after three minutes of outage; and on its tenth day, burning at exactly 1.
#[test]
fn a_part_of_a_window_is_told_from_all_of_it() {
    let month = tailwater_openslo::TimeWindow::Calendar {
        period: tailwater_openslo::Period::new(1, tailwater_openslo::Unit::Month),
        start: chrono::NaiveDate::from_ymd_opt(2026, 1, 1).unwrap().into(),
        zone: chrono_tz::UTC,
    };
    let slo = slo("s", "0.999", tailwater_openslo::Budgeting::Occurrences, month, None);
    let day = |number: i64| Time(1_772_323_200 + (number - 1) * 86_400);
    let report = |at: Time, minute: &dyn Fn(Time) -> (u64, u64)| {
        let plan = plan(&slo, &Settings::default(), as_of(at)).unwrap().remove(0);
        let data = read(&plan, minute);
        Report::new(at, vec![evaluate(&plan, data)])
    };
    let outage = report(day(2), &|time| {
        (
            if (0..180).contains(&(time.0 - day(1).0)) {
                0
            } else {
                1000
            },
            1000,
        )
    });
    let text = render(&outage, Format::Text, false)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let expected = "-108.4% left (3,000 of 1,440 bad events spent in the 1d judged; 41m 38s of 44m 38s of outage left in the whole window)";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("gone not at the pace of the last 6h"), "{text}");
    let html = render(&report(day(11), &|_| (999, 1000)), Format::Html, false);
    assert!(
        html.contains("left of the budget of the 10d judged of 1M from"),
        "{html}"
    );
    // The line and the even pace end at the same point, a third of the way.
    let end = |class: &str| {
        let (_, path) = html.split_once(&format!("class=\"{class}\" d=\"")).unwrap();
        let (path, _) = path.split_once('"').unwrap();
        path.rsplit('L').next().unwrap().to_owned()
    };
    assert_eq!((end("even"), end("left")), ("196.3 144.0".into(), "196.3 144.0".into()));
}

#[test]
fn markdown() {
    let expected = "\
# SLO report

At 2026-03-10T12:00:00Z: **0 missed**, 0 no data, 0 undetermined, 1 met.

| verdict | objective | service | target | SLI | budget left | burn 1h | burn 6h | gone in |
|---|---|---|--:|--:|--:|--:|--:|--:|
| **met** | a\\|b &lt;i&gt; | a\\|b &lt;i&gt; | 99.9% | 99.997% | 97.2% | 10 | 3.33 | 8d 18h |

## a\\|b &lt;i&gt;: met

About a\\|b &lt;i&gt;.

share of requests without error (service=checkout); target 99.9% by Occurrences.

| window | verdict | SLI | interval | events | budget | budget gone | coverage |
|---|---|--:|---|---|---|---|--:|
| 30d, 2026-02-08 12:00 to 2026-03-10 12:00 UTC | met: the whole interval is at or above the target | 99.997% | 99.997% to 99.998% (Wilson 95%) | 1,200 bad of 43,200,000 events | 97.2% left; 1,200 of 43,200 bad events spent; 42m of 43m 12s of outage left | in 8d 18h at the pace of the last 6h | 100.0% |

Worst: 2026-03-10 06:00 to 2026-03-10 12:00 UTC: 2.7% of the budget, 1,200 bad of 360,000.

| burn over | 5m | 30m | 1h | 2h | 6h | 1d | 3d |
|---|--:|--:|--:|--:|--:|--:|--:|
| rate | 10 | 10 | 10 | 10 | 3.33 | 0.83 | 0.28 |

Runbook: https://example.org/a\\|b &lt;i&gt;

Definition `0000000000000000123456789abcdef0`, data until 2026-03-10T12:00:00Z.
";
    assert_eq!(render(&small("a|b <i>"), Format::Markdown, false), expected);
}

/// 288 values of 0.95 are 14.4 bad values of 288, and no events.
#[test]
fn ready_ratios_in_every_form() {
    let plan = ready_ratio(tailwater_openslo::Budgeting::Occurrences, 0);
    let report = Report::new(NOON, vec![evaluate(&plan, ready_ratios(&plan, 288, 0.95))]);
    let [text, markdown, html] =
        [Format::Text, Format::Markdown, Format::Html].map(|format| render(&report, format, false));
    assert!(
        text.contains("(14.4 bad of 288 values; known 95.000% to 95.000%)"),
        "{text}"
    );
    assert!(text.contains("(14.4 of 28.8 bad values spent;"), "{text}");
    assert!(text.contains("0.15 bad of 3\n"), "{text}");
    assert!(
        markdown.contains("| interval | values |")
            && markdown.contains("| 14.4 bad of 288 values | 50.0% left; 14.4 of 28.8 bad values spent;"),
        "{markdown}"
    );
    assert!(
        html.contains("<dt>Values</dt><dd><b>288</b><small>14.4 bad of 288 values</small>")
            && html.contains(">Values</th></tr>"),
        "{html}"
    );
    for said in [text, markdown, html] {
        // What is measured.
        let said = said.replace("ready ratio of good events", "");
        assert!(
            !said.contains(" events") && !said.contains("Events") && !said.contains("000,000"),
            "{said}"
        );
    }
    let json: serde_json::Value = serde_json::from_str(&render(&report, Format::Json, false)).unwrap();
    let objective = &json["objectives"][0];
    assert_eq!(objective["counted"], "values");
    let expected = serde_json::json!({"good": 273.6, "good_most": 273.6, "bad": 14.4, "total": 288});
    assert_eq!(objective["windows"][0]["counts"], expected);
    let budget = &objective["windows"][0]["budget"];
    assert_eq!((&budget["unit"], &budget["spent"]), (&"values".into(), &14.4.into()));
}

#[test]
fn json_keeps_its_order_and_names_its_format() {
    let json = render(&small("Pay"), Format::Json, false);
    let at = |key: &str| json.find(&format!("\"{key}\"")).unwrap_or_else(|| panic!("no {key}"));
    let keys = [
        "format",
        "at",
        "summary",
        "objectives",
        "slo",
        "definition",
        "target",
        "watermark",
        "verdict",
        "windows",
        "counts",
        "sli",
        "interval",
        "budget",
        "exhaustion",
        "coverage",
        "burn",
        "history",
    ];
    assert!(keys.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{json}");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["format"], crate::report::FORMAT);
    let one = &value["objectives"][0];
    assert_eq!(
        (&one["verdict"], &one["target"], &one["windows"][0]["counts"]["bad"]),
        (&"met".into(), &"99.9%".into(), &1200.into())
    );
    assert_eq!(one["windows"][0]["exhaustion"]["is"], "in");
    assert_eq!(
        (&one["definition"], &one["watermark"]),
        (
            &"0000000000000000123456789abcdef0".into(),
            &"2026-03-10T12:00:00Z".into()
        )
    );
}

#[test]
fn the_same_report_gives_the_same_bytes() {
    for (_, format) in Format::ALL {
        assert_eq!(render(&sample(), format, true), render(&sample(), format, true));
    }
}

#[test]
fn text_fits_and_steers_no_terminal() {
    let hostile = format!("\x1b[2J{}\r\n\x07{}", "long ".repeat(60), "w".repeat(300));
    let mut overdrawn = small("支払いの成功率を三十日にわたって測る長い名前");
    let budget = overdrawn.objectives[0].windows[0].budget.as_mut().unwrap();
    budget.remaining = -9_999_999.0;
    overdrawn.objectives[0].target = "99.9999999999%".into();
    for report in [sample(), small(&hostile), small(&"🛒 カート ".repeat(30)), overdrawn] {
        let text = render(&report, Format::Text, false);
        for line in text.lines() {
            assert!(line.width() <= COLUMNS, "{} columns: {line}", line.width());
        }
        assert!(!text.contains(['\x1b', '\r', '\x07']));
        let painted = render(&report, Format::Text, true);
        let plain = painted.replace("\x1b[0m", "");
        let plain = [31, 32, 33, 35]
            .iter()
            .fold(plain, |text, code| text.replace(&format!("\x1b[1;{code}m"), ""));
        assert_eq!(plain, text, "colour adds nothing but colour");
    }
}

#[test]
fn text_keeps_columns_under_each_other_and_descriptions_on_their_lines() {
    let mut report = small("支払いの成功率");
    report.objectives[0].description = "Requests that succeed.\n- of people\n- not of probes\n".into();
    let text = render(&report, Format::Text, false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[2].width(), lines[3].width(), "{text}");
    assert!(lines[3].contains("支払いの成功率 "), "{text}");
    assert!(
        text.contains("\n              Requests that succeed. - of people - not of probes\n"),
        "{text}"
    );
}

#[test]
fn html_takes_names_as_text() {
    let hostile = "<script>alert('x')</script>\" onload=\"y&z";
    let html = render(&small(hostile), Format::Html, false);
    assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;y&amp;z"));
    for word in ["<script", "onload=\"", "alert('x')"] {
        assert!(!html.contains(word), "{word}");
    }
    let sample = render(&sample(), Format::Html, false);
    // An address that is none of the web stays text.
    assert!(sample.contains("Runbook: javascript:alert(1)") && !sample.contains("href=\"javascript"));
    assert!(sample.contains("href=\"https://runbooks.example/checkout\""));
}

#[test]
fn runbooks_are_links_where_they_are_of_the_web() {
    let check = |address: &str, expected: &str| {
        let mut report = small("Pay");
        report.objectives[0].runbook = Some(address.into());
        let markdown = render(&report, Format::Markdown, false);
        assert!(markdown.contains(&format!("\nRunbook: {expected}\n")), "{markdown}");
    };
    check("https://w.example/SLO_runbook*", "<https://w.example/SLO_runbook*>");
    check("http://w.example/a|b", "<http://w.example/a|b>");
    check("https://w.example/> <script>", "https://w.example/&gt; &lt;script&gt;");
    check("javascript:a_b", "javascript:a\\_b");
}

#[test]
fn the_footer_says_what_decided() {
    let mut report = small("Pay");
    let footer = |report: &Report| {
        let html = render(report, Format::Html, false);
        html.split_once("How to read this").unwrap().1.to_owned()
    };
    assert!(footer(&report).contains("the whole interval lies on one side"));
    report.objectives[0].windows[0].evidence = crate::verdict::Evidence::Counts;
    let counts = footer(&report);
    assert!(
        counts.contains("the counts reach the target") && !counts.contains("interval"),
        "{counts}"
    );
}

/// Every tag that is opened is closed in order, every attribute is quoted, nothing is loaded from elsewhere.
#[test]
fn html_is_well_formed_and_stands_alone() {
    const VOID: [&str; 2] = ["meta", "br"];
    let html = render(&sample(), Format::Html, false);
    let mut open: Vec<&str> = Vec::new();
    let body = html.strip_prefix("<!doctype html>").unwrap();
    for part in body.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap_or_else(|| panic!("unclosed <{part}"));
        assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for word in ["src=", "url(", "@import", "<link", "<script", "NaN", "inf"] {
        assert!(!html.contains(word), "{word}");
    }
    for word in [
        "prefers-color-scheme:dark",
        "0000000000000000123456789abcdef0",
        "data until <code>2026-03-10T12:00:00Z</code>",
        "role=\"img\" aria-label=\"Budget over",
        "lang=\"en\"",
    ] {
        assert!(html.contains(word), "{word}");
    }
    for (i, _) in sample().objectives.iter().enumerate() {
        assert!(html.contains(&format!("href=\"#o{}\"", i + 1)) && html.contains(&format!("id=\"o{}\"", i + 1)));
    }
}

/// Contrasts of WCAG 2.1, level AA: 4.5 for text, 3 for what is drawn.
#[test]
fn colours_can_be_told_apart_in_both_schemes() {
    const TEXT: [(&str, &str); 11] = [
        ("ink", "card"),
        ("ink", "bg"),
        ("soft", "card"),
        ("soft", "bg"),
        ("soft", "fill"),
        ("link", "card"),
        ("missed", "card"),
        ("met", "met-bg"),
        ("missed", "missed-bg"),
        ("undetermined", "undetermined-bg"),
        ("no_data", "no_data-bg"),
    ];
    const DRAWN: [(&str, &str); 5] = [
        ("met", "fill"),
        ("warn", "fill"),
        ("missed", "fill"),
        ("heat", "fill"),
        ("budget", "card"),
    ];
    let schemes = include_str!("html.css")
        .split_once("@media(prefers-color-scheme:dark)")
        .unwrap();
    for scheme in [schemes.0, schemes.1] {
        let luminance = |name: &str| {
            let (_, rest) = scheme.split_once(&format!("--{name}:#")).unwrap();
            let digits: Vec<u32> = rest.chars().map_while(|digit| digit.to_digit(16)).collect();
            let channel = |at: usize| match digits.len() {
                3 => digits[at] * 17,
                _ => digits[2 * at] * 16 + digits[2 * at + 1],
            };
            let linear = |channel: u32| {
                let part = f64::from(channel) / 255.0;
                if part <= 0.03928 {
                    part / 12.92
                } else {
                    ((part + 0.055) / 1.055).powf(2.4)
                }
            };
            0.2126 * linear(channel(0)) + 0.7152 * linear(channel(1)) + 0.0722 * linear(channel(2))
        };
        for (pairs, least) in [(&TEXT[..], 4.5), (&DRAWN[..], 3.0)] {
            for (one, other) in pairs {
                let (a, b) = (luminance(one), luminance(other));
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= least, "{one} on {other}: {contrast:.2}");
            }
        }
    }
}

#[test]
fn the_worst_comes_first() {
    let order: Vec<String> = sample().objectives.iter().map(|slo| slo.verdict.to_string()).collect();
    assert_eq!(sample().worst(), Some(crate::Verdict::Missed));
    assert_eq!(Report::new(NOON, Vec::new()).worst(), None);
    assert_eq!(order, ["missed", "missed", "no data", "undetermined", "met", "met"]);
}

#[test]
fn formats_have_names() {
    assert_eq!(Format::parse("md"), Some(Format::Markdown));
    assert_eq!(Format::parse("pdf"), None);
}

#[test]
fn composites_in_every_form() {
    let mut journey = slo(
        "journey",
        "0.99",
        tailwater_openslo::Budgeting::Occurrences,
        days(1),
        None,
    );
    journey.display_name = "Buy <it>".into();
    journey.composite = true;
    let mut second = journey.objectives[0].clone();
    journey.objectives[0].name = "Search".into();
    (second.name, second.weight) = ("Pay".into(), crate::fixture::decimal("0.5"));
    journey.objectives.push(second);
    let plans = plan(&journey, &Settings::default(), as_of(NOON)).unwrap();
    // By hand: of 1,440,000 requests each, 2 and 4 in 1,000: 20 % +- 0.73 and 40 % +- 1.03, the latter by half.
    let reports = plans.iter().zip([2, 4]);
    let reports = reports.map(|(plan, bad)| evaluate(plan, read(plan, |_| (1000 - bad, 1000))));
    let report = Report::new(NOON, reports.collect()).with_composites(&[journey]);
    let expected = "
Buy <it>, all together ───────────────────────────────────────────────────────────────────────── met
  service     checkout
  members     Search (99%, weight 1, met): 20.0% spent
              Pay (99%, weight 0.5, met): 20.0% spent
  window      1d
  verdict     met: even at the worst ends of their intervals the members leave some of the budget
  budget      60.0% left (40.0% spent, between 38.8% and 41.3%)
  burn        5m 0.4   30m 0.4   1h 0.4   2h 0.4   6h 0.4   1d 0.4   3d 0.4
  definition  0000000000000000123456789abcdef0
";
    let text = render(&report, Format::Text, false);
    assert!(text.contains(expected), "{text}");
    let json: serde_json::Value = serde_json::from_str(&render(&report, Format::Json, false)).unwrap();
    let whole = &json["composites"][0];
    assert_eq!((&whole["slo"], &whole["verdict"]), (&"journey".into(), &"met".into()));
    assert_eq!(whole["members"][1]["weight"], "0.5");
    let spent = whole["windows"][0]["consumed"].as_f64().unwrap();
    assert!((spent - 0.4).abs() < 1e-9, "{whole}");
    let markdown = render(&report, Format::Markdown, false);
    assert!(markdown.contains("## Buy &lt;it&gt;, all together: met"), "{markdown}");
    assert!(
        markdown.contains("- Pay (99%, weight 0.5, met): 20.0% spent"),
        "{markdown}"
    );
    let html = render(&report, Format::Html, false);
    assert!(html.contains("Buy &lt;it&gt;, all together</h2>"), "{html}");
    assert!(
        html.contains("<li>Pay (99%, weight 0.5, met): 20.0% spent</li>"),
        "{html}"
    );
}

#[test]
fn groups_in_every_form() {
    use crate::report::{GroupKey, GroupReport, Groups};
    let mut report = small("Pay");
    let key = |value: &str| {
        vec![GroupKey {
            key: "region".into(),
            value: value.into(),
        }]
    };
    let one = GroupReport::new(key("<eu>"), &report.objectives[0]);
    let mut other = GroupReport::new(key(""), &report.objectives[0]);
    other.verdict = crate::Verdict::Missed;
    report.objectives[0].groups = Some(Groups::new(vec!["region".into()], vec![one, other], 3));
    let figures = "99.997% (1,200 bad of 43,200,000 events), 97.2% left, burn 1h 10";
    let text = render(&report, Format::Text, false);
    let expected = format!(
        "  by          region\n              none: missed, {figures}\n              <eu>: met, {figures}\n              \
         3 more groups with fewer requests are not shown\n"
    );
    assert!(text.contains(&expected), "{text}");
    let markdown = render(&report, Format::Markdown, false);
    assert!(
        markdown.contains(&format!("By region:\n\n- none: missed, {figures}\n- &lt;eu&gt;: met,")),
        "{markdown}"
    );
    let html = render(&report, Format::Html, false);
    assert!(
        html.contains("<th scope=\"row\">&lt;eu&gt;</th>") && html.contains("By region"),
        "{html}"
    );
    let json: serde_json::Value = serde_json::from_str(&render(&report, Format::Json, false)).unwrap();
    let groups = &json["objectives"][0]["groups"];
    assert_eq!(groups["left_out"], 3);
    assert_eq!(groups["groups"][1]["keys"][0]["value"], "<eu>");
}
