//! How evaluations ended, and the page that says so: `docs/conformance/promql.md`, of which each runner writes its own part.

use std::collections::BTreeMap;
use std::fmt::Write;

/// How an evaluation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As the script expects, in all the forms in which it was asked.
    Passed,
    /// With an error that names what is not evaluated.
    Refused(String),
    /// Not asked: why its series cannot be loaded the way the runner loads them.
    Left(String),
    /// Otherwise.
    Failed(String),
}

/// Ends of the evaluations of a script.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    run: usize,
    passed: usize,
    refused: BTreeMap<String, usize>,
    left: BTreeMap<String, usize>,
    /// `line: query => what differs` of each that failed.
    pub failed: Vec<String>,
}

impl Tally {
    /// Counts the evaluation of a query in a line.
    pub fn add(&mut self, line: usize, query: &str, end: End) {
        self.run += 1;
        match end {
            End::Passed => self.passed += 1,
            End::Refused(name) => *self.refused.entry(name).or_default() += 1,
            End::Left(why) => *self.left.entry(why).or_default() += 1,
            End::Failed(error) => self.failed.push(format!("{line}: {query} => {error}")),
        }
    }

    /// In a line.
    #[must_use]
    pub fn shown(&self) -> String {
        let refused: usize = self.refused.values().sum();
        let left: usize = self.left.values().sum();
        format!(
            "{} run, {} passed, {refused} refused by name, {left} left out, {} failed",
            self.run,
            self.passed,
            self.failed.len()
        )
    }
}

/// Tables of the page: scripts, then what was refused and left out and how often.
#[must_use]
pub fn tables(scripts: &[(String, Tally)]) -> String {
    let leaves = scripts.iter().any(|(_, tally)| !tally.left.is_empty());
    let columns: &[&str] = if leaves {
        &["evaluations", "passed", "refused by name", "left out"]
    } else {
        &["evaluations", "passed", "refused by name"]
    };
    let mut page = format!(
        "| script | {} |\n|---|{}\n",
        columns.join(" | "),
        "---:|".repeat(columns.len())
    );
    let mut all = Tally::default();
    let row = |page: &mut String, name: &str, tally: &Tally| {
        let refused: usize = tally.refused.values().sum();
        let _ = write!(page, "| {name} | {} | {} | {refused} |", tally.run, tally.passed);
        if leaves {
            let _ = write!(page, " {} |", tally.left.values().sum::<usize>());
        }
        page.push('\n');
    };
    for (name, tally) in scripts {
        row(&mut page, name, tally);
        all.run += tally.run;
        all.passed += tally.passed;
        for (of_all, of_one) in [(&mut all.refused, &tally.refused), (&mut all.left, &tally.left)] {
            for (name, number) in of_one {
                *of_all.entry(name.clone()).or_default() += number;
            }
        }
    }
    row(&mut page, "all", &all);
    for (title, counts) in [("refused", &all.refused), ("left out", &all.left)] {
        if counts.is_empty() {
            continue;
        }
        let _ = write!(page, "\n| {title} | evaluations |\n|---|---:|\n");
        for (name, number) in counts {
            let _ = writeln!(page, "| {name} | {number} |");
        }
    }
    page
}

/// The page with this part of it in place of what was between `<!-- part -->` and `<!-- end of part -->`; `None` if they are not there.
#[must_use]
pub fn with_part(page: &str, part: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {part} -->\n"), format!("<!-- end of {part} -->"));
    let (head, rest) = page.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}{text}{end}{tail}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_part_of_the_page_is_replaced() {
        let mut tally = Tally::default();
        tally.add(1, "x", End::Passed);
        tally.add(2, "info(x)", End::Refused("info()".into()));
        let plain = tables(&[("a.test".into(), tally.clone())]);
        assert_eq!(
            plain,
            "| script | evaluations | passed | refused by name |\n|---|---:|---:|---:|\n| a.test | 2 | 1 | 1 |\n\
             | all | 2 | 1 | 1 |\n\n| refused | evaluations |\n|---|---:|\n| info() | 1 |\n"
        );
        tally.add(3, "y", End::Left("no name".into()));
        tally.add(4, "z", End::Failed("it differs".into()));
        assert_eq!(
            tally.shown(),
            "4 run, 1 passed, 1 refused by name, 1 left out, 1 failed"
        );
        assert_eq!(tally.failed, ["4: z => it differs"]);
        let all = tables(&[("a.test".into(), tally)]);
        assert!(
            all.contains("| all | 4 | 1 | 1 | 1 |") && all.ends_with("| no name | 1 |\n"),
            "{all}"
        );
        let page = "head\n<!-- a -->\nold\n<!-- end of a -->\ntail\n";
        assert_eq!(
            with_part(page, "a", "new\n").unwrap(),
            "head\n<!-- a -->\nnew\n<!-- end of a -->\ntail\n"
        );
        assert_eq!(with_part(page, "b", ""), None);
    }
}
