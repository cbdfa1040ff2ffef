//! A report as text for a terminal, JSON, Markdown, or one HTML file. The same report gives the same bytes.

mod html;
mod markdown;
mod svg;
mod text;
mod words;

use crate::report::Report;

/// What to make of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For a terminal, at most [`COLUMNS`] wide.
    #[default]
    Text,
    /// For programs; see [`crate::report`] for its fields.
    Json,
    /// For an issue or a wiki.
    Markdown,
    /// For a browser: one file that needs no other.
    Html,
}

/// Widest line of the text form.
pub const COLUMNS: usize = 100;

impl Format {
    /// All of them, with the names they are asked for by.
    pub const ALL: [(&'static str, Self); 4] = [
        ("text", Self::Text),
        ("json", Self::Json),
        ("md", Self::Markdown),
        ("html", Self::Html),
    ];

    /// By name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, format)| format)
    }
}

/// Draws a report. `colour` concerns the text form only.
#[must_use]
pub fn render(report: &Report, format: Format, colour: bool) -> String {
    match format {
        Format::Text => text::text(report, colour),
        Format::Json => {
            let mut json = serde_json::to_string(report).expect("a report is made of strings, numbers and lists");
            json.push('\n');
            json
        }
        Format::Markdown => markdown::markdown(report),
        Format::Html => html::html(report),
    }
}

#[cfg(test)]
mod tests;
