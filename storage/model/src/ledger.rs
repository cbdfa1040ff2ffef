//! The ledger: every received item is counted once, and ends in exactly one account.
//!
//! `received = rejected + deduplicated + sampled_out + dropped + stored + in_flight + lost`, in items and bytes, per tenant
//! and signal (`design/protocol.md`, Ledger). `in_flight` is the rest and is never stored.

use crate::signal::Signal;

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
    pub tenant: std::sync::Arc<str>,
    /// Of which signal.
    pub signal: Signal,
    /// Moved where.
    pub account: Account,
    /// Why; empty where the account needs no reason.
    pub reason: &'static str,
}

/// An amount of items and of their wire bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Spans, data points or log records.
    pub items: u64,
    /// Their protobuf bytes.
    pub bytes: u64,
}
