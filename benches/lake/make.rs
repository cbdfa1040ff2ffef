//! A lake of S-spans, written as a collector writes it and then compacted as `maintain` does.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use chrono::Utc;
use tailwater::load::stamp::{Form, Moment};
use tailwater::load::workload::{Fill, Shape, Workload};
use tailwater_model::otlp::caps::Caps;
use tailwater_model::otlp::columns::{Choice, RequestInfo, Sampling, SpanColumns};
use tailwater_model::signal::Signal;
use tailwater_model::table::Table;
use tailwater_storage::lake::Lake;
use tailwater_storage::maintain::{Keeper, Policy};
use tokio::sync::Semaphore;

/// 2026-11-20T06:00:00Z. With less than 18 hours of spans all of them are of one day.
const START_NS: u64 = 1_795_154_400_000_000_000;
const HOUR_NS: u64 = 3_600_000_000_000;
/// Rows of a frame, and of a commit: what a collector has gathered after a second, and after its commit interval.
const FRAME_ROWS: usize = 16_384;
const COMMIT_ROWS: usize = 500_000;
const REQUEST_SPANS: usize = 512;
const SEED: u64 = 7;
/// Bytes and rows of these are counted: a span has a share of its trace's row.
pub const TABLES: [Table; 2] = [Table::Spans, Table::Traces];

/// Makes the lake in this directory: so many spans, evenly over so many hours.
pub async fn lake(directory: &Path, spans: usize, hours: u64) -> Lake {
    let lake = Lake::open(directory).unwrap();
    lake.ensure_tables().await.unwrap();
    let workload = Workload {
        shape: Shape::Sspan,
        form: Form::Binary,
        services: 10,
        fill: Fill::Items(REQUEST_SPANS),
        errors: 0.01,
        latency: Default::default(),
        series: 1,
        templates: 400,
        incident: None,
        seed: SEED,
    };
    let templates = workload.templates(Signal::Traces);
    let requests = spans.div_ceil(REQUEST_SPANS) as u64;
    let started = Instant::now();
    let mut writer = Writer::new(&lake);
    // A few commits even of a small lake: one file alone is not compacted.
    let (frame_rows, commit_rows) = (FRAME_ROWS.min(spans / 8), COMMIT_ROWS.min(spans / 4));
    let mut columns = SpanColumns::new(Caps::default());
    let mut body = Vec::new();
    for request in 0..requests {
        let now_ns = START_NS + hours * HOUR_NS / requests * request;
        let moment = Moment {
            seed: SEED,
            request,
            link: request,
            now_ns,
            run_start_ns: START_NS,
        };
        body.clear();
        templates[request as usize % templates.len()].write(&moment, &mut body);
        let info = RequestInfo {
            tenant: "default",
            arrival_ns: now_ns + 2_000_000 + request.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000,
            rejected: &[],
        };
        columns.push_request(&body, &info, Choice::All(Sampling::ALL)).unwrap();
        if columns.len() >= frame_rows || request + 1 == requests {
            let batches = columns.finish_sorted(|_, _| 0);
            writer.frame([batches.spans, batches.traces]);
            if writer.rows >= commit_rows || request + 1 == requests {
                writer.commit().await;
            }
        }
    }
    let written = started.elapsed();
    for table in TABLES {
        compact(&lake, table).await;
    }
    println!(
        "made: {:.1} s to decode and write, {:.1} s to compact",
        written.as_secs_f64(),
        (started.elapsed() - written).as_secs_f64()
    );
    lake
}

struct Writer<'a> {
    lake: &'a Lake,
    frames: [Vec<RecordBatch>; 2],
    rows: usize,
    /// Batches in the tables, and made so far.
    committed: u64,
    batches: u64,
}

impl Writer<'_> {
    fn new(lake: &Lake) -> Writer<'_> {
        Writer {
            lake,
            frames: Default::default(),
            rows: 0,
            committed: 0,
            batches: 0,
        }
    }

    fn frame(&mut self, frames: [RecordBatch; 2]) {
        self.batches += 1;
        self.rows += frames[0].num_rows();
        for (all, frame) in self.frames.iter_mut().zip(frames) {
            all.push(with_batch_id(&frame, self.batches as i64));
        }
    }

    async fn commit(&mut self) {
        for (table, frames) in TABLES.into_iter().zip(&mut self.frames) {
            let committer = self.lake.committer(table, format!("collector/bench/{}", table.name()));
            let frames = std::mem::take(frames);
            committer.commit(self.committed, self.batches, frames).await.unwrap();
        }
        (self.committed, self.rows) = (self.batches, 0);
    }
}

/// A frame's rows as the outbox hands them to a committer.
fn with_batch_id(rows: &RecordBatch, batch: i64) -> RecordBatch {
    let mut fields: Vec<Arc<Field>> = rows.schema_ref().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("batch_id", DataType::Int64, false)));
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(batch, rows.num_rows())));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Merges until there is nothing to merge, as if the day had been over for long.
async fn compact(lake: &Lake, table: Table) {
    let policy = Policy {
        retention_days: None,
        ..Policy::of(table)
    };
    let mut keeper = Keeper::new(lake.clone(), table, policy, Arc::new(Semaphore::new(1)));
    let now_ms = Utc::now().timestamp_millis() + 3_600_000;
    while keeper.run_once(now_ms).await.unwrap().merges > 0 {}
}
