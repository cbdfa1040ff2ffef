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
  `on` and `off` are `true` and `false`.
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
    annotated(config, &[])
}

/// As [`print`], with notes beside some keys.
#[must_use]
pub fn annotated(config: &Config, notes: &[(&str, String)]) -> String {
    let remark = |key: &str| {
        let origin = config.is_set(key).then(|| format!("from {}", config.origin(key)));
        let notes = notes
            .iter()
            .filter(|(noted, _)| *noted == key)
            .map(|(_, note)| note.clone());
        let remarks: Vec<String> = origin.into_iter().chain(notes).collect();
        (!remarks.is_empty()).then(|| remarks.join("; "))
    };
    yaml(&catalogue(), &config.values(), &remark)
}

fn yaml(settings: &[Setting], values: &[(String, String)], remark: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    for setting in settings {
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
        // Secrets show themselves redacted; this is the second lock on the same door.
        let value = if setting.secret && value != "null" {
            REDACTED
        } else {
            value
        };
        let value = quote(value, setting.nullable);
        let _ = match remark(&setting.key) {
            Some(remark) => writeln!(out, "{indent}{name}: {value}  # {}", one_line(&remark)),
            None => writeln!(out, "{indent}{name}: {value}"),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load::ROOT;
    use crate::section::{Field, Reader, section};
    use crate::value::Secret;
    use std::collections::BTreeMap;

    section! {
        /// Something with a secret.
        pub struct Login {
            /// Who.
            user: String = "nobody",
            /// Proof.
            token: Option<Secret> = "null",
        }
    }

    /// A text setting, which no real setting needs so far.
    impl crate::value::Value for String {
        fn kind() -> String {
            "text".into()
        }
        fn parse(text: &str) -> Result<Self, String> {
            Ok(text.into())
        }
        fn show(&self) -> String {
            self.clone()
        }
    }

    fn read(text: &str, env: &[(&str, &str)]) -> (Login, Vec<crate::Problem>) {
        let env: BTreeMap<_, _> = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (format!("VAR_{k}"), (*v).to_owned())))
            .collect();
        let mut reader = Reader {
            file: Default::default(),
            env: &env,
            overrides: &BTreeMap::new(),
            catalogue: &[],
            problems: Vec::new(),
            origins: BTreeMap::new(),
            broken: Default::default(),
        };
        let (node, _) = crate::yaml::parse(text);
        let login = Login::read(&ROOT, "", node.as_ref(), &mut reader);
        (login, reader.problems)
    }

    fn printed(login: &Login) -> String {
        let (mut settings, mut values) = (Vec::new(), Vec::new());
        Login::describe(&ROOT, "", &mut settings);
        login.show(&ROOT, "", &mut values);
        yaml(&settings, &values, &|_| None)
    }

    #[test]
    fn secrets_are_redacted() {
        let (login, problems) = read("user: me\ntoken: hunter2\n", &[]);
        assert_eq!(problems, []);
        assert_eq!(login.token.as_ref().map(Secret::reveal), Some("hunter2"));
        let page = printed(&login);
        assert!(page.contains("token: \"<redacted>\"\n"), "{page}");
        assert!(!page.contains("hunter2") && !format!("{login:?}").contains("hunter2"));
        // Nor by a problem with it.
        let (_, problems) = read("token: {hunter2: hunter2}\n", &[("token", "")]);
        assert_eq!(problems.len(), 2);
        assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
    }

    #[test]
    fn any_text_is_read_back() {
        use proptest::prelude::*;
        proptest!(|(user in prop_oneof!["\\PC{0,20}", "[-:#\"'\\\\ \n\t\r\u{0}\u{85}\u{2028}\u{feff}~a1&*!%@`,\\[{]{0,12}", "null|~|Null|on|1|---"])| {
            let login = Login { user, token: None };
            let page = printed(&login);
            let (again, problems) = read(&page, &[]);
            prop_assert!(problems.is_empty(), "{page}\n{problems:?}");
            prop_assert_eq!(again, login, "{}", page);
        });
    }
}
