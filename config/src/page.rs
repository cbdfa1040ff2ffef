//! The two pages made from the settings: the reference in Markdown, and the effective configuration as YAML with comments.

use std::fmt::Write as _;

use crate::load::{Config, catalogue};
use crate::section::Setting;
use crate::value::REDACTED;

/// `docs/configuration.md`: every setting with its type, default, range and sentence.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    let settings = catalogue();
    let top: Vec<&Setting> = settings
        .iter()
        .filter(|s| s.default.is_some() && !s.key.contains('.'))
        .collect();
    out.push_str("\n## Top level\n\n");
    table(&mut out, &top);
    for section in settings.iter().filter(|s| s.default.is_none()) {
        let inside: Vec<&Setting> = settings
            .iter()
            .filter(|s| s.default.is_some() && parent(&s.key) == section.key)
            .collect();
        let depth = "#".repeat(2 + section.key.matches('.').count());
        let _ = write!(out, "\n{depth} {}\n\n{}\n", section.key, section.doc);
        if !inside.is_empty() {
            out.push('\n');
            table(&mut out, &inside);
        }
    }
    out
}

const HEAD: &str = "\
# Configuration

<!-- Generated from config/src/settings.rs. Refresh with: UPDATE=1 cargo test -p tailwater-config reference -->

One YAML file, optional. Every key has a default, so an empty file is a whole configuration.
`tailwater config check` looks for mistakes, `tailwater config print` shows the values in effect and where each came from.

Later wins: default, file, environment, command line.

- **Environment**: the key in capitals, dots as underscores, behind `TAILWATER_`: `intake.grpc.listen` is
  `TAILWATER_INTAKE_GRPC_LISTEN`. An empty variable counts as not set.
- **Sizes**: `64MiB` (1024s), `16MB` (1000s) or plain bytes. **Durations**: `250ms`, `30s`, `15m`, `12h`, `30d`. **Shares**: `50%`.
- Unknown keys, wrong types, values out of range and settings that contradict each other are errors with file, line and
  column. All are reported at once, before any port is bound, and the exit code is 78.
- A file is one YAML document. Anchors, aliases and merge keys (`<<`) work; tags do not; a key given twice is an error.
";

fn parent(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn table(out: &mut String, settings: &[&Setting]) {
    out.push_str("| Key | Type | Default | Range | Meaning |\n| --- | --- | --- | --- | --- |\n");
    for s in settings {
        let range = s.range.map_or(String::new(), |(min, max)| format!("{min} to {max}"));
        let default = s.default.unwrap_or_default();
        let _ = writeln!(
            out,
            "| `{}` | {} | `{default}` | {range} | {} |",
            s.key,
            s.kind,
            s.doc.replace('|', "\\|")
        );
    }
}

/// The effective configuration as YAML that loads again (secrets apart), each key with its sentence and, if somebody set it, where.
#[must_use]
pub fn print(config: &Config) -> String {
    let values = config.values();
    let mut out = String::new();
    for setting in catalogue() {
        let indent = "  ".repeat(setting.key.matches('.').count());
        let name = setting.key.rsplit('.').next().unwrap_or_default();
        if !setting.key.contains('.') && !out.is_empty() {
            out.push('\n');
        }
        let _ = writeln!(out, "{indent}# {}", setting.doc);
        let Some((_, value)) = values.iter().find(|(key, _)| *key == setting.key) else {
            let _ = writeln!(out, "{indent}{name}:");
            continue;
        };
        let value = if setting.secret {
            REDACTED.to_owned()
        } else {
            quote(value, setting.nullable)
        };
        let _ = if config.is_set(&setting.key) {
            writeln!(
                out,
                "{indent}{name}: {value}  # from {}",
                one_line(&config.origin(&setting.key).to_string())
            )
        } else {
            writeln!(out, "{indent}{name}: {value}")
        };
    }
    out
}

/// Text that YAML reads back as itself: plain where that is safe, else in double quotes.
fn quote(text: &str, nullable: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "./_-+%:".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric() || "./_".contains(c));
    let null = matches!(text, "null" | "Null" | "NULL" | "~") && !nullable;
    // A colon at the end would make it a key; inside, without a space behind it, it is plain text.
    if starts && text.chars().all(plain) && !text.ends_with(':') && !null {
        return text.into();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || c == '\u{feff}' => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
