//! The ledger: every received item is counted once, and ends in exactly one account.
//!
//! `received = rejected + deduplicated + sampled_out + dropped + stored + in_flight + lost`, in items and bytes, per tenant
//! and signal (`design/protocol.md`, Ledger). `in_flight` is the rest and is never stored.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};

use crate::rows::{dates, integers, maybe_words, times, words};
use crate::signal::Signal;
use crate::table::{self, Table};

/// Where an item ended. `Received` is the left side of the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Decoded out of an accepted request.
    Received,
    /// Refused through `partial_success`; the reason says why.
    Rejected,
    /// In a request that repeats one of the last 15 minutes.
    Deduplicated,
    /// Dropped by a sampling decision that is itself logged.
    SampledOut,
    /// Dropped by a policy the operator switched on.
    Dropped,
    /// A row of a table, or of the outbox on its way there.
    Stored,
    /// In a log record that media damage made unreadable.
    Lost,
    /// Was stored and has outlived its retention; rows readable = stored - expired.
    Expired,
}

impl Account {
    /// All accounts.
    pub const ALL: [Account; 8] = [
        Account::Received,
        Account::Rejected,
        Account::Deduplicated,
        Account::SampledOut,
        Account::Dropped,
        Account::Stored,
        Account::Lost,
        Account::Expired,
    ];

    /// Those that received items end in; what is in none of them is in flight.
    pub const ENDS: [Account; 6] = [
        Account::Rejected,
        Account::Deduplicated,
        Account::SampledOut,
        Account::Dropped,
        Account::Stored,
        Account::Lost,
    ];

    /// Name in ledger rows and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Account::Received => "received",
            Account::Rejected => "rejected",
            Account::Deduplicated => "deduplicated",
            Account::SampledOut => "sampled_out",
            Account::Dropped => "dropped",
            Account::Stored => "stored",
            Account::Lost => "lost",
            Account::Expired => "expired",
        }
    }

    /// The account of this name.
    pub fn from_name(name: &str) -> Option<Account> {
        Account::ALL.into_iter().find(|account| account.name() == name)
    }
}

/// One additive entry: `items` and `bytes` moved into an account. Equal keys are summed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose data.
    pub tenant: Arc<str>,
    /// Of which signal.
    pub signal: Signal,
    /// Moved where.
    pub account: Account,
    /// Why; empty where the account needs no reason.
    pub reason: &'static str,
}

/// An amount of items and of their wire bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Amount {
    /// Spans, data points or log records.
    pub items: u64,
    /// Their protobuf bytes.
    pub bytes: u64,
}

/// Entries as a batch of table `ledger` in its frame schema, sorted. `slice_ns` is the start of the 10 s slice of arrival, ns
/// since 1970. Amounts beyond 2^63 - 1 stand as that.
pub fn ledger_batch(entries: &[(Key, Amount)], slice_ns: u64) -> RecordBatch {
    let mut entries: Vec<&(Key, Amount)> = entries.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| (&*key.tenant, key.signal.name(), key.account.name(), key.reason));
    let keys = || entries.iter().map(|(key, _)| key);
    let amounts = || entries.iter().map(|(_, amount)| amount);
    let columns: Vec<ArrayRef> = vec![
        dates(keys().map(|_| slice_ns)),
        words(keys().map(|key| &*key.tenant)),
        times(keys().map(|_| Some(slice_ns))),
        words(keys().map(|key| key.signal.name())),
        words(keys().map(|key| key.account.name())),
        maybe_words(keys().map(|key| key.reason)),
        integers(amounts().map(|amount| amount.items)),
        integers(amounts().map(|amount| amount.bytes)),
    ];
    RecordBatch::try_new(table::frame_schema(Table::Ledger), columns)
        .expect("columns stand in the order of the frame schema")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int64Type;

    #[test]
    fn a_batch_has_every_entry_sorted() {
        let key = |tenant: &str, account, reason| Key {
            tenant: tenant.into(),
            signal: Signal::Traces,
            account,
            reason,
        };
        let entries = [
            (key("b", Account::Received, ""), Amount { items: 3, bytes: 300 }),
            (
                key("a", Account::Rejected, "future"),
                Amount {
                    items: 1,
                    bytes: u64::MAX,
                },
            ),
        ];
        let batch = ledger_batch(&entries, 20_000_000_000);
        assert_eq!(batch.num_rows(), 2);
        let items = batch.column_by_name("items").unwrap().as_primitive::<Int64Type>();
        assert_eq!(items.values(), &[1, 3]);
        let bytes = batch.column_by_name("bytes").unwrap().as_primitive::<Int64Type>();
        assert_eq!(bytes.values(), &[i64::MAX, 300]);
        let reasons = batch.column_by_name("reason").unwrap();
        assert!(reasons.is_valid(0) && reasons.is_null(1));
    }

    #[test]
    fn no_entries_make_an_empty_batch() {
        assert_eq!(ledger_batch(&[], 0).num_rows(), 0);
    }

    #[test]
    fn accounts_are_found_by_name() {
        for account in Account::ALL {
            assert_eq!(Account::from_name(account.name()), Some(account));
        }
        assert_eq!(Account::from_name("x"), None);
    }
}
