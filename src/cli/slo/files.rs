//! What needs the documents alone.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use tailwater_config::{Problem, nearest};
use tailwater_openslo::files::{self, Checked};
use tailwater_openslo::template::TEMPLATES;
use tailwater_openslo::{ResolvedSlo, TimeWindow, fmt as format_text, import_sloth, write};
use tailwater_runtime::Exit;

use super::super::{print, tell};

/// Say everything that is wrong with documents.
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 valid; 2 not, or no document is there.\n\nExamples:\n  \
    tailwater slo validate slo/\n  \
    tailwater slo validate --strict checkout.yaml services.yaml")]
pub struct ValidateArgs {
    /// Files, or folders of *.yaml.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Take warnings for mistakes.
    #[arg(long)]
    strict: bool,
}

/// Write documents in their canonical form, comments kept.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 done; with --check 1 if a file would change; 2 if a document is wrong.\n\nExamples:\n  \
    tailwater slo fmt --write slo/checkout.yaml\n  \
    tailwater slo fmt --check slo/*.yaml"
)]
pub struct FmtArgs {
    /// Files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only say which files would change.
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Change the files.
    #[arg(long)]
    write: bool,
}

/// Convert from another tool's documents to OpenSLO v1.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater slo import sloth myservice.yml -o myservice.yaml")]
pub struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// Sloth's `prometheus/v1`.
    ///
    /// Its PromQL is kept and not evaluated: replace it by `type: tailwater`.
    #[command(
        after_help = "Exit code: 0 done, 2 the file is wrong.\n\nExample:\n  tailwater slo import sloth myservice.yml -o myservice.yaml"
    )]
    Sloth {
        /// The file.
        file: PathBuf,
        /// Where to write; stdout if not given.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// List the SLOs of documents; without any, the templates.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tailwater slo list\n  tailwater slo list slo/")]
pub struct ListArgs {
    /// Files, or folders of *.yaml.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Print a document to begin from: replace its service, target and link.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailwater slo template latency-p99 > checkout-latency.yaml")]
pub struct TemplateArgs {
    /// One of those that `tailwater slo list` shows.
    name: String,
}

pub fn validate(args: &ValidateArgs) -> anyhow::Result<Exit> {
    let checked = files::check(&args.files);
    for note in &checked.reinterpreted {
        tell(format_args!("note: {note}"));
    }
    skipped(&checked);
    warn(&checked);
    let wrong = say(&checked.problems);
    if !wrong && checked.documents.is_empty() {
        tell("tailwater: there is no document in the files");
        return Ok(Exit::Trouble);
    }
    if wrong || args.strict && !checked.lints.is_empty() {
        return Ok(Exit::Trouble);
    }
    print(&format!(
        "{}, {}: valid{}\n",
        many(checked.files.len(), "file"),
        many(checked.slos.len(), "SLO"),
        match checked.lints.len() {
            0 => String::new(),
            n => format!(", {}", many(n, "warning")),
        }
    ))?;
    Ok(Exit::Ok)
}

pub fn fmt(args: &FmtArgs) -> anyhow::Result<Exit> {
    let (mut wrong, mut changed, mut out) = (false, false, String::new());
    for file in &args.files {
        let text = match files::text(file) {
            Ok(text) => text,
            Err(problem) => {
                wrong |= say(&[*problem]);
                continue;
            }
        };
        match format_text(file, &text) {
            Err(problems) => {
                wrong = true;
                tell(problems);
            }
            Ok(formatted) if args.check => {
                if formatted != text {
                    changed = true;
                    out.push_str(&format!("{}\n", file.display()));
                }
            }
            Ok(formatted) if args.write => {
                if formatted != text {
                    std::fs::write(file, formatted).with_context(|| format!("write {}", file.display()))?;
                }
            }
            Ok(formatted) => {
                if !out.is_empty() && !formatted.starts_with("---") {
                    out.push_str("---\n");
                }
                out.push_str(&formatted);
            }
        }
    }
    print(&out)?;
    Ok(match (wrong, changed) {
        (true, _) => Exit::Trouble,
        (false, true) => Exit::No,
        (false, false) => Exit::Ok,
    })
}

pub fn import(args: &ImportArgs) -> anyhow::Result<Exit> {
    let From::Sloth { file, output } = &args.from;
    let text = match files::text(file) {
        Ok(text) => text,
        Err(problem) => {
            say(&[*problem]);
            return Ok(Exit::Trouble);
        }
    };
    let reading = import_sloth(file, &text);
    if say(&reading.problems) {
        return Ok(Exit::Trouble);
    }
    for note in &reading.reinterpreted {
        tell(format_args!("note: {note}"));
    }
    put(output.as_deref(), &write(&reading.documents))?;
    Ok(Exit::Ok)
}

pub fn list(args: &ListArgs) -> anyhow::Result<Exit> {
    if args.files.is_empty() {
        let rows = TEMPLATES.iter().map(|one| [one.name.to_owned(), one.doc.to_owned()]);
        print(&table(["TEMPLATE", "MEASURES"], rows))?;
        return Ok(Exit::Ok);
    }
    let checked = files::check(&args.files);
    skipped(&checked);
    let wrong = say(&checked.problems);
    let rows = checked.slos.iter().flat_map(objectives);
    print(&table(
        ["SLO", "OBJECTIVE", "SERVICE", "TARGET", "WINDOW", "METHOD"],
        rows,
    ))?;
    Ok(if wrong { Exit::Trouble } else { Exit::Ok })
}

pub fn template(args: &TemplateArgs) -> anyhow::Result<Exit> {
    let names = || TEMPLATES.iter().map(|template| template.name);
    if let Some(template) = TEMPLATES.iter().find(|template| template.name == args.name) {
        print(template.text)?;
        return Ok(Exit::Ok);
    }
    let near = nearest(&args.name, names()).map(|near| format!("; did you mean {near}?"));
    let all: Vec<&str> = names().collect();
    tell(format_args!(
        "tailwater: no template `{}`: there are {}{}",
        args.name,
        all.join(", "),
        near.unwrap_or_default()
    ));
    Ok(Exit::Trouble)
}

fn objectives(slo: &ResolvedSlo) -> Vec<[String; 6]> {
    let window = match &slo.window {
        TimeWindow::Rolling(period) => period.to_string(),
        TimeWindow::Calendar { period, zone, .. } => format!("{period} in {zone}"),
    };
    let each = slo.objectives.iter().map(|objective| {
        [
            slo.name.clone(),
            objective.name.clone(),
            slo.service.clone(),
            objective.target.to_string(),
            window.clone(),
            format!("{:?}", slo.method),
        ]
    });
    each.collect()
}

/// Columns as wide as what is in them, the last one as it is.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut all = vec![head.map(str::to_owned)];
    all.extend(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in &all {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn many(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Shows problems; whether there are any.
pub(super) fn say(problems: &[Problem]) -> bool {
    for problem in problems {
        tell(problem);
    }
    !problems.is_empty()
}

/// Shows which folders nobody looked into.
pub(super) fn skipped(checked: &Checked) {
    for folder in &checked.skipped {
        tell(format_args!(
            "note: {}: folders in a folder are not read: name it as well",
            folder.display()
        ));
    }
}

/// Shows what is no mistake but seldom meant.
fn warn(checked: &Checked) {
    for lint in &checked.lints {
        tell(format_args!(
            "{}: warning: {}: {} ({}: {})",
            lint.origin,
            lint.path,
            lint.write,
            lint.name,
            lint.explanation()
        ));
    }
}

/// Writes a text to a file, or to stdout.
pub(super) fn put(output: Option<&Path>, text: &str) -> anyhow::Result<()> {
    match output {
        Some(file) => std::fs::write(file, text).with_context(|| format!("write {}", file.display())),
        None => Ok(print(text)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [
            ["a".to_owned(), "one".to_owned()],
            ["größer".to_owned(), "two".to_owned()],
        ];
        assert_eq!(
            table(["X", "Y"], rows.into_iter()),
            "X       Y\na       one\ngrößer  two\n"
        );
        assert_eq!((many(1, "SLO"), many(0, "SLO")), ("1 SLO".into(), "0 SLOs".into()));
    }
}
