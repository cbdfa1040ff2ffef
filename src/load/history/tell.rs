//! What was written, and what happened in it: the truth that reports can be held to.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use tailwater_model::table::Table;
use tailwater_storage::lake::Committed;

use super::world::{Deployment, Incident, Trouble, World};
use crate::load::tally::align;

/// A past that was written.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// First second, s since 1970.
    pub from_s: u64,
    /// Second after the last.
    pub to_s: u64,
    /// From here on there are spans and logs.
    pub rows_from_s: u64,
    /// What decided it.
    pub seed: u64,
    /// How many services.
    pub services: usize,
    /// How many sites of the call tree.
    pub operations: usize,
    /// What went wrong.
    pub incidents: Vec<Incident>,
    /// What was deployed.
    pub deployments: Vec<Deployment>,
    /// By table.
    pub tables: Vec<Wrote>,
    /// How long it took.
    pub seconds: f64,
}

/// What a table got.
#[derive(Debug, Clone, Serialize)]
pub struct Wrote {
    /// Which.
    #[serde(serialize_with = "name")]
    pub table: Table,
    /// Rows.
    pub rows: u64,
    /// Bytes of Parquet.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

fn name<S: serde::Serializer>(table: &Table, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(table.name())
}

impl Wrote {
    pub(super) fn nothing(table: Table) -> Wrote {
        Wrote {
            table,
            rows: 0,
            bytes: 0,
            files: 0,
        }
    }

    pub(super) fn add(&mut self, committed: &Committed) {
        self.rows += committed.rows;
        self.bytes += committed.bytes;
        self.files += committed.files;
    }
}

impl Told {
    pub(super) fn new(world: &World, tables: Vec<Wrote>, took: Duration) -> Told {
        Told {
            from_s: world.from_s,
            to_s: world.to_s,
            rows_from_s: world.rows_s,
            seed: world.seed,
            services: world.services.len(),
            operations: world.sites.len(),
            incidents: world.incidents.clone(),
            deployments: world.deployments(),
            tables: tables.into_iter().filter(|table| table.rows > 0).collect(),
            seconds: took.as_secs_f64(),
        }
    }

    /// The tables and incidents, for people.
    pub fn table(&self) -> String {
        let mut cells = vec![["table", "rows", "files", "MiB", "B a row"].map(str::to_owned)];
        let sum = |of: fn(&Wrote) -> u64| self.tables.iter().map(of).sum::<u64>();
        let line = |name: &str, rows: u64, files: u64, bytes: u64| {
            [
                name.to_owned(),
                rows.to_string(),
                files.to_string(),
                format!("{:.1}", bytes as f64 / f64::from(1 << 20)),
                format!("{:.1}", bytes as f64 / rows.max(1) as f64),
            ]
        };
        cells.extend((self.tables.iter()).map(|one| line(one.table.name(), one.rows, one.files, one.bytes)));
        cells.push(line(
            "all",
            sum(|one| one.rows),
            sum(|one| one.files),
            sum(|one| one.bytes),
        ));
        let mut text = format!(
            "{} to {}: {} operations of {} services, {} deployments; rows from {}; seed {}, {:.1} s\n\n{}",
            shown(self.from_s),
            shown(self.to_s),
            self.operations,
            self.services,
            self.deployments.len(),
            shown(self.rows_from_s),
            self.seed,
            self.seconds,
            align(&cells),
        );
        if !self.incidents.is_empty() {
            let mut cells = vec![["incident", "service", "from", "minutes", "what"].map(str::to_owned)];
            cells.extend(self.incidents.iter().map(|one| {
                [
                    one.name.clone(),
                    one.service.clone(),
                    shown(one.from_s),
                    ((one.to_s - one.from_s) / 60).to_string(),
                    match one.trouble {
                        Trouble::Latency { slower } => format!("{slower} times slower"),
                        Trouble::Errors { share } => format!("{:.0} % fail", share * 100.0),
                    },
                ]
            }));
            text.push('\n');
            text.push_str(&align(&cells));
        }
        text
    }
}

fn shown(at_s: u64) -> String {
    let time = i64::try_from(at_s)
        .ok()
        .and_then(|at_s| DateTime::from_timestamp(at_s, 0));
    time.map_or_else(
        || at_s.to_string(),
        |time| time.to_rfc3339_opts(SecondsFormat::Secs, true),
    )
}
