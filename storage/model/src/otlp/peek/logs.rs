//! Log records by the little that says whether they follow a trace.

use crate::otlp::envelope::{self, Visit};
use crate::otlp::item::{self, Parts};
use crate::otlp::wire::{Malformed, Wire};

/// A log record, borrowed from the request. Ids are as sent: their lengths are not checked.
#[derive(Debug, Clone, Copy)]
pub struct LogPeek<'a> {
    /// Ordinal in the request, from 0, as in [`super::Inspected::rejected`].
    pub ordinal: u32,
    /// Trace id; empty if not sent.
    pub trace_id: &'a [u8],
    /// Severity number; 0 if not sent.
    pub severity_number: i32,
}

/// Shows every record of a logs request, rejected ones too, in wire order.
///
/// Meant for requests that [`super::inspect`] has accepted.
///
/// # Errors
/// [`Malformed`], possibly after some records were shown.
pub fn logs<'a>(payload: &'a [u8], visit: impl FnMut(LogPeek<'a>)) -> Result<(), Malformed> {
    envelope::walk(payload, &mut Peeker { visit, ordinal: 0 })
}

struct Peeker<F> {
    visit: F,
    ordinal: u32,
}

impl<'a, F: FnMut(LogPeek<'a>)> Visit<'a> for Peeker<F> {
    const SCOPES: bool = false;

    fn entry(&mut self, entry: &'a [u8]) -> Wire<()> {
        let head = item::log(entry, &mut Nothing)?;
        let peek = LogPeek {
            ordinal: self.ordinal,
            trace_id: head.trace_id,
            severity_number: head.severity_number,
        };
        self.ordinal += 1;
        (self.visit)(peek);
        Ok(())
    }
}

struct Nothing;

impl<'a> Parts<'a> for Nothing {
    fn attribute(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    fn event(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }

    fn link(&mut self, _: &'a [u8]) -> Wire<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use prost::Message as _;

    #[test]
    fn records_come_in_wire_order_over_resources_and_scopes() {
        let record = |trace: u8, severity_number: i32| LogRecord {
            trace_id: vec![trace; usize::from(trace)],
            severity_number,
            ..LogRecord::default()
        };
        let scope = |log_records| ScopeLogs {
            log_records,
            ..ScopeLogs::default()
        };
        let resource = |scope_logs| ResourceLogs {
            scope_logs,
            ..ResourceLogs::default()
        };
        let request = ExportLogsServiceRequest {
            resource_logs: vec![
                resource(vec![
                    scope(vec![record(16, 9), record(0, 17)]),
                    scope(vec![record(3, 0)]),
                ]),
                resource(vec![scope(vec![record(16, 24)])]),
            ],
        };
        let payload = request.encode_to_vec();
        let mut seen = Vec::new();
        logs(&payload, |log| {
            seen.push((log.ordinal, log.trace_id.len(), log.severity_number))
        })
        .unwrap();
        assert_eq!(seen, [(0, 16, 9), (1, 0, 17), (2, 3, 0), (3, 16, 24)]);
        assert!(logs(&payload[..payload.len() - 1], |_| {}).is_err());
    }
}
