//! Where the tables end that still grow.
//!
//! A counter cannot know by itself whether it stopped or its next slice is on its way: a table with many keys can. What counted somewhere until a moment
//! ago shows that slices until then have arrived, so that a key without one counted nothing. Assumes that all keys of a table arrive alike:
//! who sends later than the others falls at the right edge until its slices are there.

use std::collections::{BTreeSet, HashMap};

use super::super::grid::SLICE_MS;
use super::super::{Sql, table};
use super::{END, Family};
use crate::engine::Engine;
use crate::error::Result;

/// Slices that ended this long ago are taken to be complete, ms: a slice, the time a collector holds rows, and some.
const LIVE_MS: i64 = 60_000;

/// Where tables end, as of a request. Each is asked once, so that all series of a request end alike.
#[derive(Debug)]
pub(crate) struct Newest {
    now_ms: i64,
    /// By table; `None` where nothing came lately.
    ends: HashMap<&'static str, Option<i64>>,
}

impl Newest {
    /// As of a moment, ms since 1970.
    pub fn as_of(now_ms: i64) -> Newest {
        Newest {
            now_ms,
            ends: HashMap::new(),
        }
    }

    /// When the newest slice of a family ended, whatever its keys, if slices until `upto_ms` may still be on their way. `None` where they had the time to
    /// arrive, and where the family has been silent so long that nothing tells it from one that has stopped.
    ///
    /// # Errors
    /// As [`Engine::query`].
    pub(super) async fn end_ms(
        &mut self,
        engine: &Engine,
        family: &Family,
        upto_ms: i64,
        notes: &mut BTreeSet<String>,
    ) -> Result<Option<i64>> {
        if self.now_ms.saturating_sub(upto_ms) > LIVE_MS {
            return Ok(None);
        }
        if let Some(known) = self.ends.get(family.table) {
            return Ok(*known);
        }
        let mut sql = Sql::default();
        sql.push(&format!("select max({END}) / 1000 from {} where ts >= ", family.table))
            .time(self.now_ms.saturating_sub(LIVE_MS + SLICE_MS))
            // A slice that begins later is of a clock that is ahead.
            .push(" and ts <= ")
            .time(self.now_ms);
        let mut newest = None;
        for rows in table::read(engine, sql, notes).await? {
            newest = table::integers(&rows, 0)?.iter().flatten().max().max(newest);
        }
        self.ends.insert(family.table, newest);
        Ok(newest)
    }
}
