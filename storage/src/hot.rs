//! One cut through lake and outbox: every row once (`design/protocol.md`, The outbox as hot store).
//!
//! ```text
//!  (1) map the live segments   (2) pin every table, read its v   (3) map newer segments, read S once
//!  (4) a table's rows = its files at the pinned version + its frames with v < batch <= S
//! ```
//!
//! Why nothing is missing: a segment is trimmed only when every table with a frame in it has committed past that frame. So
//! what was trimmed before (1) is in the tables read in (2). What was mapped in (1) stays mapped. Only a segment that was
//! both made and trimmed between (1) and (3) is seen by neither: then there is a gap between the two views, and it starts
//! over. Why nothing is there twice: `v` and the files come from one version of the table, and frames up to `v` are left out.

use std::sync::Arc;

use tailwater_model::table::Table;
use tracing::debug;

use crate::lake::{Lake, Snapshot, app_id};
use crate::outbox::{FrameRef, Outbox, View};
use crate::{Error, ErrorKind, Result};

/// Starting over this often means that segments come and go faster than tables can be read.
const TURNS_MAX: u32 = 20;

/// Tables and the frames that they lack, at one instant.
#[derive(Debug, Clone)]
pub struct HotView {
    /// S: the last outbox batch inside; 0 without an outbox.
    pub cut: u64,
    /// The tables asked for, in that order.
    pub tables: Vec<HotTable>,
    /// Outbox batches whose rows may be missing because their bytes are damaged, as ranges.
    pub missing: Vec<(u64, u64)>,
}

/// One table of a [`HotView`].
#[derive(Debug, Clone)]
pub struct HotTable {
    /// Which.
    pub table: Table,
    /// Its files; `None` if the lake has no such table yet.
    pub snapshot: Option<Arc<Snapshot>>,
    /// v: the last outbox batch that its files hold; 0 if none.
    pub committed: u64,
    /// The frames above v, in order.
    pub frames: Arc<[FrameRef]>,
}

/// Reads one cut. Without an outbox (or before the collector made one) it is the tables alone.
///
/// # Errors
/// As [`Lake::snapshot`], but a table that does not exist is empty; [`ErrorKind::Fenced`] if a table is ahead of the outbox, which
/// then belongs to another history; [`ErrorKind::Conflict`] after starting over too often.
pub async fn hot_view(lake: &Lake, outbox: Option<&Outbox>, tables: &[Table]) -> Result<HotView> {
    for _ in 0..TURNS_MAX {
        let before = view(outbox)?;
        let mut pinned = Vec::with_capacity(tables.len());
        for table in tables {
            pinned.push((*table, pin(lake, *table).await?));
        }
        let after = view(outbox)?;
        if before.log_id != after.log_id || has_gap(&before, &after) {
            debug!(
                known = before.durable,
                first = after.first,
                "outbox moved on while tables were read, starting over"
            );
            continue;
        }
        let tables = pinned
            .into_iter()
            .map(|(table, snapshot)| join(table, snapshot, &before, &after));
        let tables = tables.collect::<Result<Vec<_>>>()?;
        let least = tables
            .iter()
            .map(|table| table.committed)
            .min()
            .unwrap_or(after.durable);
        let holes = before
            .holes
            .iter()
            .filter(|hole| !after.holes.contains(hole))
            .chain(after.holes.iter());
        let missing = holes.filter(|hole| hole.1 > least).copied().collect();
        return Ok(HotView {
            cut: after.durable,
            tables,
            missing,
        });
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("the outbox was trimmed {TURNS_MAX} times while tables were read"),
    ))
}

fn view(outbox: Option<&Outbox>) -> Result<View> {
    outbox.map_or_else(|| Ok(View::default()), Outbox::view)
}

async fn pin(lake: &Lake, table: Table) -> Result<Option<Arc<Snapshot>>> {
    match lake.snapshot(table).await {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) if error.kind() == ErrorKind::MissingTable => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether batches lie between the two views that neither has.
fn has_gap(before: &View, after: &View) -> bool {
    after.durable > before.durable && after.first > before.durable + 1
}

fn join(table: Table, snapshot: Option<Arc<Snapshot>>, before: &View, after: &View) -> Result<HotTable> {
    let committed = match (&snapshot, after.log_id) {
        (Some(snapshot), Some(log_id)) => snapshot.txn(&app_id(log_id, table)).unwrap_or(0),
        _ => 0,
    };
    let committed = u64::try_from(committed).unwrap_or(0);
    if committed > after.durable {
        let text = format!(
            "table {} holds outbox batch {committed}, the outbox ends at {}",
            table.name(),
            after.durable
        );
        return Err(Error::new(ErrorKind::Fenced, text));
    }
    // Frames of segments that were trimmed since are only in `before`.
    let trimmed = before
        .frames_after(table, committed)
        .iter()
        .take_while(|frame| frame.seq.0 < after.first);
    let frames: Arc<[FrameRef]> = trimmed.chain(after.frames_after(table, committed)).cloned().collect();
    Ok(HotTable {
        table,
        snapshot,
        committed,
        frames,
    })
}

#[cfg(test)]
mod tests;
