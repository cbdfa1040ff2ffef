//! The tables of the lake: names, Arrow schemas, sort orders. `storage/FORMAT.md` says the same for outsiders.

/// A table of the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// One row a kept span.
    Spans = 1,
    /// Additive parts of traces; part 0 carries the count of one.
    Traces = 2,
    /// One row a log record.
    Logs = 3,
    /// One row a gauge or sum data point.
    MetricPoints = 4,
    /// One row a histogram, exponential histogram or summary data point.
    MetricDists = 5,
    /// First sight of a series, per day and collector.
    MetricSeries = 6,
    /// Where every received item ended.
    Ledger = 7,
}

impl Table {
    /// All tables.
    pub const ALL: [Table; 7] = [
        Table::Spans,
        Table::Traces,
        Table::Logs,
        Table::MetricPoints,
        Table::MetricDists,
        Table::MetricSeries,
        Table::Ledger,
    ];

    /// Name in SQL and on disk.
    pub fn name(self) -> &'static str {
        match self {
            Table::Spans => "spans",
            Table::Traces => "traces",
            Table::Logs => "logs",
            Table::MetricPoints => "metric_points",
            Table::MetricDists => "metric_dists",
            Table::MetricSeries => "metric_series",
            Table::Ledger => "ledger",
        }
    }

    /// The table with this stored code.
    pub fn from_code(code: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|table| *table as u8 == code)
    }

    /// The table of this name.
    pub fn from_name(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }
}
