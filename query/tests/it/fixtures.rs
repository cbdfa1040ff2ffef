//! A lake to ask. Options have defaults, so that each one a test sets means something.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortColumn, cast, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use tailwater_model::ids::LogId;
use tailwater_model::table::{Table, frame_schema, sort_columns};
use tailwater_query::{Engine, EngineConfig, Limits};
use tailwater_storage::lake::{Lake, app_id};
use tailwater_storage::outbox::{BatchBuilder, CONTROL, OUTBOX_KIND, Outbox, preamble};
use tailwater_wal::{Options, Wal};

pub const LOG: LogId = LogId([7; 16]);

/// 2026-11-22T00:00:00Z in microseconds, and its day.
pub const MIDNIGHT: i64 = 20_779 * 86_400_000_000;
pub const TODAY: i32 = 20_779;

/// A span to store.
#[derive(Debug, Clone)]
pub struct Span {
    pub ts: i64,
    pub ts_ns: i16,
    pub service: Option<&'static str>,
    pub name: &'static str,
    pub duration_ns: i64,
    pub status_code: i8,
    pub http_route: Option<&'static str>,
    pub http_status: Option<i32>,
    pub trace: u8,
    pub span: u8,
    pub weight: Option<f64>,
    pub attrs: Vec<(&'static str, &'static str)>,
    pub ints: Vec<(&'static str, i64)>,
    pub resource: Vec<(&'static str, &'static str)>,
}

impl Default for Span {
    fn default() -> Span {
        Span {
            ts: MIDNIGHT,
            ts_ns: 0,
            service: Some("cart"),
            name: "GET /",
            duration_ns: 1_000_000,
            status_code: 0,
            http_route: None,
            http_status: None,
            trace: 1,
            span: 1,
            weight: Some(1.0),
            attrs: Vec::new(),
            ints: Vec::new(),
            resource: Vec::new(),
        }
    }
}

pub fn trace_id(trace: u8) -> [u8; 16] {
    [trace; 16]
}

pub fn trace_hex(trace: u8) -> String {
    format!("{trace:02x}").repeat(16)
}

/// Spans as an outbox frame holds them.
pub fn span_rows(spans: &[Span]) -> RecordBatch {
    let texts = |of: &dyn Fn(&Span) -> Option<&'static str>| -> ArrayRef {
        Arc::new(spans.iter().map(of).collect::<StringArray>())
    };
    rows(Table::Spans, spans.len(), |column| {
        Some(match column {
            "date" => Arc::new(
                spans
                    .iter()
                    .map(|s| Some(s.ts.div_euclid(86_400_000_000) as i32))
                    .collect::<Date32Array>(),
            ),
            "tenant" => texts(&|_| Some("default")),
            "ts" => {
                let times = TimestampMicrosecondArray::from_iter_values(spans.iter().map(|s| s.ts));
                Arc::new(times.with_timezone("UTC")) as ArrayRef
            }
            "ts_ns" => Arc::new(Int16Array::from_iter_values(spans.iter().map(|s| s.ts_ns))),
            "duration_ns" => Arc::new(Int64Array::from_iter_values(spans.iter().map(|s| s.duration_ns))),
            "service_name" => texts(&|s| s.service),
            "name" => texts(&|s| Some(s.name)),
            "status_code" => Arc::new(Int8Array::from_iter_values(spans.iter().map(|s| s.status_code))),
            "http_route" => texts(&|s| s.http_route),
            "http_status" => Arc::new(spans.iter().map(|s| s.http_status).collect::<Int32Array>()),
            "trace_id" => Arc::new(BinaryArray::from_iter_values(spans.iter().map(|s| trace_id(s.trace)))),
            "span_id" => Arc::new(BinaryArray::from_iter_values(spans.iter().map(|s| [s.span; 8]))),
            "sample_weight" => Arc::new(spans.iter().map(|s| s.weight).collect::<Float64Array>()),
            "attrs_str" => text_map(spans.iter().map(|s| &s.attrs)),
            "resource_attrs" => text_map(spans.iter().map(|s| &s.resource)),
            "attrs_int" => {
                let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
                for span in spans {
                    for (key, value) in &span.ints {
                        map.keys().append_value(key);
                        map.values().append_value(*value);
                    }
                    map.append(true).unwrap();
                }
                Arc::new(map.finish())
            }
            _ => return None,
        })
    })
}

fn text_map<'a>(rows: impl Iterator<Item = &'a Vec<(&'static str, &'static str)>>) -> ArrayRef {
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (key, value) in row {
            map.keys().append_value(key);
            map.values().append_value(value);
        }
        map.append(true).unwrap();
    }
    Arc::new(map.finish())
}

/// Rows of a table in frame form and order: the columns that `given` knows, the others null or empty.
pub fn rows(table: Table, count: usize, given: impl Fn(&str) -> Option<ArrayRef>) -> RecordBatch {
    let schema = frame_schema(table);
    let columns = schema.fields().iter().map(|field| match given(field.name()) {
        Some(column) => as_type(&column, field.data_type()),
        None => empty(field.data_type(), count, field.is_nullable()),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    sorted(table, RecordBatch::try_new(schema.clone(), columns).unwrap())
}

/// In the order of a table.
pub fn sorted(table: Table, rows: RecordBatch) -> RecordBatch {
    let keys: Vec<_> = sort_columns(table)
        .iter()
        .map(|name| SortColumn {
            values: rows.column_by_name(name).unwrap().clone(),
            options: None,
        })
        .collect();
    take_record_batch(&rows, &lexsort_to_indices(&keys, None).unwrap()).unwrap()
}

/// `cast`, and maps by their parts: Arrow compares the names of map entries.
pub fn as_type(column: &ArrayRef, to: &DataType) -> ArrayRef {
    match (column.data_type(), to) {
        (from, to) if from == to => column.clone(),
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let DataType::Struct(fields) = entries.data_type() else {
                panic!("maps have struct entries")
            };
            let map = column.as_map();
            let parts = vec![
                cast(map.keys(), fields[0].data_type()).unwrap(),
                cast(map.values(), fields[1].data_type()).unwrap(),
            ];
            let parts = StructArray::new(fields.clone(), parts, None);
            Arc::new(MapArray::new(
                entries.clone(),
                map.offsets().clone(),
                parts,
                None,
                *sorted,
            ))
        }
        (_, to) => cast(column, to).unwrap(),
    }
}

fn empty(data_type: &DataType, count: usize, nullable: bool) -> ArrayRef {
    if nullable {
        return new_null_array(data_type, count);
    }
    let none = || OffsetBuffer::<i32>::new_zeroed(count);
    match data_type {
        DataType::List(item) => Arc::new(ListArray::new(
            item.clone(),
            none(),
            new_empty_array(item.data_type()),
            None,
        )),
        DataType::Map(entries, sorted) => {
            let parts = new_empty_array(entries.data_type()).as_struct().clone();
            Arc::new(MapArray::new(entries.clone(), none(), parts, None, *sorted))
        }
        DataType::Boolean => Arc::new(BooleanArray::from(vec![false; count])),
        DataType::Binary => Arc::new(BinaryArray::from_iter_values(vec![[0u8; 8]; count])),
        DataType::Utf8 | DataType::Dictionary(..) => cast(&StringArray::from(vec![""; count]), data_type).unwrap(),
        number => cast(&Int64Array::from(vec![0; count]), number).unwrap(),
    }
}

/// A frame's rows with the batch they came in, as the outbox hands them to a committer.
pub fn with_batch_id(rows: &RecordBatch, batch: i64) -> RecordBatch {
    let schema: SchemaRef = tailwater_model::table::schema(Table::Spans);
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.push(schema.field_with_name("batch_id").unwrap().clone().into());
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(batch, rows.num_rows())));
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap()
}

/// A directory with a lake, perhaps an outbox, and an engine over both.
pub struct Fixture {
    pub directory: tempfile::TempDir,
    pub lake: Lake,
    pub engine: Engine,
    outbox: Option<(Wal, Outbox)>,
    /// The last batch in the tables.
    committed: u64,
}

impl Fixture {
    pub async fn new() -> Fixture {
        Fixture::with_limits(Limits {
            threads: 2,
            ..Limits::default()
        })
        .await
    }

    pub async fn with_limits(limits: Limits) -> Fixture {
        Fixture::build(limits, false).await
    }

    pub async fn with_outbox() -> Fixture {
        Fixture::build(
            Limits {
                threads: 2,
                ..Limits::default()
            },
            true,
        )
        .await
    }

    async fn build(limits: Limits, outbox: bool) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(&directory.path().join("lake")).unwrap();
        lake.ensure_tables().await.unwrap();
        let temp = directory.path().join("temp");
        std::fs::create_dir(&temp).unwrap();
        let outbox_directory = directory.path().join("outbox");
        let outbox = outbox.then(|| {
            let mut options = Options::new(&outbox_directory, LOG.0, OUTBOX_KIND);
            options.segment_bytes = 256 << 10;
            options.budget_bytes = 64 << 20;
            options.reserve_bytes = 0;
            options.recycle = 0;
            options.preamble = preamble();
            options.control = Some(outbox_directory.join(CONTROL));
            options.allow_volatile = true;
            (Wal::open(options).unwrap().0, Outbox::open_readonly(&outbox_directory))
        });
        let config = EngineConfig {
            lake: lake.clone(),
            outbox: outbox.as_ref().map(|_| outbox_directory),
            temp: Some(temp),
            limits,
        };
        Fixture {
            directory,
            lake,
            engine: Engine::open(config).unwrap(),
            outbox,
            committed: 0,
        }
    }

    /// Commits spans as one batch, without an outbox.
    pub async fn commit(&mut self, spans: &[Span]) {
        let committer = self.lake.committer(Table::Spans, "collector/test/spans");
        let rows = with_batch_id(&span_rows(spans), self.committed as i64 + 1);
        committer
            .commit(self.committed, self.committed + 1, vec![rows])
            .await
            .unwrap();
        self.committed += 1;
    }

    /// Commits rows in frame form to a table, as one batch, without an outbox.
    pub async fn commit_rows(&mut self, table: Table, rows: &RecordBatch) {
        let committer = self.lake.committer(table, app_id(LOG, table));
        let rows = with_batch_id(rows, self.committed as i64 + 1);
        committer
            .commit(self.committed, self.committed + 1, vec![rows])
            .await
            .unwrap();
    }

    /// Makes rows in frame form durable in the outbox, as one batch.
    pub fn append_rows(&mut self, table: Table, rows: &RecordBatch) {
        self.append_batch(BatchBuilder::new(Bytes::new()).frame(table, rows).unwrap());
    }

    /// Makes spans durable in the outbox, as one batch.
    pub fn append(&mut self, spans: &[Span]) {
        self.append_batch(
            BatchBuilder::new(Bytes::new())
                .frame(Table::Spans, &span_rows(spans))
                .unwrap(),
        );
    }

    /// As `append`, with the part of `traces` that each trace of the batch gets.
    pub fn append_with_parts(&mut self, spans: &[Span]) {
        let traces: std::collections::BTreeSet<u8> = spans.iter().map(|span| span.trace).collect();
        let of = |trace: u8| spans.iter().filter(move |span| span.trace == trace).map(|span| span.ts);
        let times = |of: &dyn Fn(u8) -> i64| -> ArrayRef {
            let times = TimestampMicrosecondArray::from_iter_values(traces.iter().map(|trace| of(*trace)));
            Arc::new(times.with_timezone("UTC"))
        };
        let parts = rows(Table::Traces, traces.len(), |column| {
            Some(match column {
                "date" => Arc::new(Date32Array::from_iter_values(
                    traces
                        .iter()
                        .map(|trace| of(*trace).min().unwrap().div_euclid(86_400_000_000) as i32),
                )),
                "trace_id" => Arc::new(BinaryArray::from_iter_values(
                    traces.iter().map(|trace| trace_id(*trace)),
                )),
                "ts_min" => times(&|trace| of(trace).min().unwrap()),
                "ts_max" => times(&|trace| of(trace).max().unwrap()),
                _ => return None,
            })
        });
        let batch = BatchBuilder::new(Bytes::new())
            .frame(Table::Spans, &span_rows(spans))
            .unwrap();
        self.append_batch(batch.frame(Table::Traces, &parts).unwrap());
    }

    /// As `append`, with a row of `traces` in the same batch.
    pub fn append_both(&mut self, spans: &[Span]) {
        let date: ArrayRef = Arc::new(Date32Array::from(vec![TODAY]));
        let trace = rows(Table::Traces, 1, |column| (column == "date").then(|| date.clone()));
        let batch = BatchBuilder::new(Bytes::new())
            .frame(Table::Spans, &span_rows(spans))
            .unwrap();
        self.append_batch(batch.frame(Table::Traces, &trace).unwrap());
    }

    fn append_batch(&mut self, batch: BatchBuilder) {
        let encoded = batch.finish();
        self.outbox
            .as_ref()
            .unwrap()
            .0
            .append(encoded.head, encoded.body)
            .unwrap()
            .wait()
            .unwrap();
    }

    /// Commits what the outbox holds up to batch `hi`, table by table as a collector does.
    pub async fn commit_to(&mut self, hi: u64) {
        let view = self.outbox.as_ref().unwrap().1.view().unwrap();
        for table in [Table::Spans, Table::Traces] {
            let frames = view
                .frames_after(table, self.committed)
                .iter()
                .filter(|frame| frame.seq.0 <= hi);
            let rows = frames.map(|frame| frame.read().unwrap()).collect();
            self.lake
                .committer(table, app_id(LOG, table))
                .commit(self.committed, hi, rows)
                .await
                .unwrap();
        }
        self.committed = hi;
    }

    /// Lets segments go whose batches are all in the tables.
    pub fn trim(&mut self) {
        self.outbox.as_ref().unwrap().0.trim_below(self.committed + 1).unwrap();
    }

    /// The answer as lines of CSV without the header.
    pub async fn ask(&self, sql: &str) -> Result<Vec<String>, tailwater_query::Error> {
        let batches = self.engine.collect(sql).await?;
        let mut text = String::new();
        batches
            .iter()
            .for_each(|rows| tailwater_query::format::csv_rows(rows, &mut text));
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// As `ask`, for one value that must be there.
    pub async fn value(&self, sql: &str) -> String {
        let lines = self.ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(lines.len(), 1, "{sql}: {lines:?}");
        lines.into_iter().next().unwrap()
    }
}

/// The spans that most tests ask about: three services over two days, one error in ten, one very slow.
pub fn shop() -> Vec<Span> {
    let services = ["cart", "checkout", "mail"];
    let span = |at: usize| Span {
        ts: MIDNIGHT - 3_600_000_000 + at as i64 * 60_000_000,
        ts_ns: (at % 1000) as i16,
        service: Some(services[at % 3]),
        name: if at.is_multiple_of(2) {
            "GET /items"
        } else {
            "POST /items"
        },
        duration_ns: (at as i64 + 1) * 1_000_000,
        status_code: if at % 10 == 9 { 2 } else { 0 },
        http_route: (at % 4 != 3).then_some("/items"),
        http_status: Some(if at % 10 == 9 { 500 } else { 200 }),
        trace: (at / 4) as u8,
        span: at as u8,
        attrs: if at.is_multiple_of(5) {
            vec![("customer.id", "u1")]
        } else {
            Vec::new()
        },
        ..Span::default()
    };
    (0..120).map(span).collect()
}
