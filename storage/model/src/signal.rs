//! The three signals and what their items are called.

use std::fmt;

/// Which kind of telemetry a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Signal {
    /// Items are spans.
    Traces = 1,
    /// Items are data points.
    Metrics = 2,
    /// Items are log records.
    Logs = 3,
}

impl Signal {
    /// All signals, in the order of their codes.
    pub const ALL: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    /// The signal with this stored code.
    pub fn from_code(code: u8) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| *signal as u8 == code)
    }

    /// Lower-case name as it stands in labels, ledger rows and paths.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
