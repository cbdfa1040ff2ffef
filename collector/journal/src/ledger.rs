//! The ledger's running totals, and the deltas of the batch being filled.
//!
//! `received = rejected + deduplicated + sampled_out + dropped + stored + in_flight + lost`, in items and in bytes, per tenant
//! and signal; `in_flight` is the rest. Guarantees: totals are the sum of the settled batches, nothing else, so a checkpoint and
//! a replay of batches agree to the last item; arithmetic is checked. Leaves out: when something counts (the journal says so).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tailwater_model::ledger::{Account, Amount, Key};
use tailwater_model::signal::Signal;

use crate::error::Error;
use crate::reasons::Reasons;
use crate::wire::{Reader, put_bytes, put_varint};

/// Totals of the settled batches and deltas of the open one.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    totals: HashMap<Key, Amount, ahash::RandomState>,
    open: HashMap<Key, Amount, ahash::RandomState>,
}

/// One side of the identity that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ledger of tenant {tenant} {signal}: {accounted:?} accounted for of {received:?} received")]
pub struct Imbalance {
    /// Whose data.
    pub tenant: Arc<str>,
    /// Which signal.
    pub signal: Signal,
    /// Received.
    pub received: Amount,
    /// Sum of the right side without `in_flight`.
    pub accounted: Amount,
}

/// Totals of one tenant and signal, reasons summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// Left side of the identity.
    pub received: Amount,
    /// Right side without `in_flight`.
    pub accounted: Amount,
}

impl Balance {
    /// What has arrived and is not yet settled; `None` when more ended than arrived.
    pub fn in_flight(&self) -> Option<Amount> {
        let items = self.received.items.checked_sub(self.accounted.items)?;
        let bytes = self.received.bytes.checked_sub(self.accounted.bytes)?;
        Some(Amount { items, bytes })
    }
}

impl Ledger {
    /// Adds to the open batch.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond 64 bits.
    pub fn add(&mut self, key: &Key, amount: Amount) -> Result<(), Error> {
        add(&mut self.open, key, amount)
    }

    /// Takes the open batch's deltas, sorted by key, so that equal histories give equal bytes. They return as totals when the
    /// batch settles.
    pub fn drain(&mut self) -> Vec<(Key, Amount)> {
        let mut deltas: Vec<_> = self
            .open
            .drain()
            .filter(|(_, amount)| *amount != Amount::default())
            .collect();
        deltas.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        deltas
    }

    /// Whether the open batch has no delta.
    pub fn is_drained(&self) -> bool {
        self.open.is_empty()
    }

    /// Adds the deltas of a settled batch to the totals.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond 64 bits.
    pub(crate) fn settle(&mut self, deltas: &[(Key, Amount)]) -> Result<(), Error> {
        deltas
            .iter()
            .try_for_each(|(key, amount)| add(&mut self.totals, key, *amount))
    }

    /// Totals of the settled batches, unordered.
    pub fn totals(&self) -> impl Iterator<Item = (&Key, &Amount)> {
        self.totals.iter()
    }

    /// Settled and open together, summed over reasons: what `/metrics` shows.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond 64 bits.
    pub fn balances(&self) -> Result<BTreeMap<(Arc<str>, Signal), Balance>, Error> {
        let mut balances: BTreeMap<_, Balance> = BTreeMap::new();
        for (key, amount) in self.totals.iter().chain(&self.open) {
            let balance = balances.entry((key.tenant.clone(), key.signal)).or_default();
            let side = match key.account {
                Account::Received => &mut balance.received,
                Account::Expired => continue,
                _ => &mut balance.accounted,
            };
            *side = sum(*side, *amount)?;
        }
        Ok(balances)
    }

    /// Checks the identity for every tenant and signal: never more accounted for than received.
    ///
    /// # Errors
    /// The first [`Imbalance`] in the order of tenants and signals. Sums beyond 64 bits count as one.
    pub fn check(&self) -> Result<(), Imbalance> {
        let balances = self.balances().map_err(|_| Imbalance {
            tenant: "".into(),
            signal: Signal::Traces,
            received: Amount::default(),
            accounted: Amount {
                items: u64::MAX,
                bytes: u64::MAX,
            },
        })?;
        let bad = balances.into_iter().find(|(_, balance)| balance.in_flight().is_none());
        match bad {
            None => Ok(()),
            Some(((tenant, signal), Balance { received, accounted })) => Err(Imbalance {
                tenant,
                signal,
                received,
                accounted,
            }),
        }
    }
}

fn sum(left: Amount, right: Amount) -> Result<Amount, Error> {
    let items = left.items.checked_add(right.items).ok_or(Error::Overflow)?;
    let bytes = left.bytes.checked_add(right.bytes).ok_or(Error::Overflow)?;
    Ok(Amount { items, bytes })
}

fn add(map: &mut HashMap<Key, Amount, ahash::RandomState>, key: &Key, amount: Amount) -> Result<(), Error> {
    match map.get_mut(key) {
        Some(total) => *total = sum(*total, amount)?,
        None => {
            map.insert(key.clone(), amount);
        }
    }
    Ok(())
}

/// Stable code of an account in stored form.
fn account_code(account: Account) -> u8 {
    match account {
        Account::Received => 1,
        Account::Rejected => 2,
        Account::Deduplicated => 3,
        Account::SampledOut => 4,
        Account::Dropped => 5,
        Account::Stored => 6,
        Account::Lost => 7,
        Account::Expired => 8,
    }
}

/// Entries as they stand in settlements and checkpoints: count, then {tenant, signal, account, reason, items, bytes}.
pub(crate) fn encode_entries(out: &mut Vec<u8>, entries: &[(Key, Amount)]) {
    put_varint(out, entries.len() as u64);
    for (key, amount) in entries {
        put_bytes(out, key.tenant.as_bytes());
        out.push(key.signal as u8);
        out.push(account_code(key.account));
        put_bytes(out, key.reason.as_bytes());
        put_varint(out, amount.items);
        put_varint(out, amount.bytes);
    }
}

pub(crate) fn decode_entries(reader: &mut Reader<'_>, reasons: &Reasons) -> Result<Vec<(Key, Amount)>, Error> {
    let count = reader.count(6)?;
    let mut entries: Vec<(Key, Amount)> = Vec::with_capacity(count);
    for _ in 0..count {
        let tenant = reader.text()?;
        let tenant = match entries.last() {
            Some((key, _)) if &*key.tenant == tenant => key.tenant.clone(),
            _ => tenant.into(),
        };
        let signal = Signal::from_code(reader.u8()?).ok_or_else(|| reader.malformed("unknown signal"))?;
        let code = reader.u8()?;
        let account = Account::ALL.into_iter().find(|account| account_code(*account) == code);
        let account = account.ok_or_else(|| reader.malformed("unknown account"))?;
        let reason = reasons.resolve(reader.text()?)?;
        let amount = Amount {
            items: reader.varint()?,
            bytes: reader.varint()?,
        };
        entries.push((
            Key {
                tenant,
                signal,
                account,
                reason,
            },
            amount,
        ));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(account: Account) -> Key {
        Key {
            tenant: "default".into(),
            signal: Signal::Logs,
            account,
            reason: "",
        }
    }

    fn amount(items: u64) -> Amount {
        Amount {
            items,
            bytes: items * 300,
        }
    }

    #[test]
    fn the_rest_is_in_flight() {
        let mut ledger = Ledger::default();
        ledger.add(&key(Account::Received), amount(10)).unwrap();
        ledger.add(&key(Account::Stored), amount(7)).unwrap();
        assert_eq!(ledger.check(), Ok(()));
        let balances = ledger.balances().unwrap();
        assert_eq!(balances[&("default".into(), Signal::Logs)].in_flight(), Some(amount(3)));
        ledger.add(&key(Account::SampledOut), amount(4)).unwrap();
        let imbalance = ledger.check().unwrap_err();
        assert_eq!((imbalance.received, imbalance.accounted), (amount(10), amount(11)));
    }

    #[test]
    fn expired_rows_are_outside_the_identity() {
        let mut ledger = Ledger::default();
        ledger.add(&key(Account::Received), amount(5)).unwrap();
        ledger.add(&key(Account::Stored), amount(5)).unwrap();
        ledger.add(&key(Account::Expired), amount(5)).unwrap();
        assert_eq!(ledger.check(), Ok(()));
    }

    #[test]
    fn deltas_leave_once_and_come_back_as_totals() {
        let mut ledger = Ledger::default();
        ledger.add(&key(Account::Received), amount(2)).unwrap();
        ledger.add(&key(Account::Received), amount(3)).unwrap();
        let deltas = ledger.drain();
        assert_eq!(deltas, [(key(Account::Received), amount(5))]);
        assert!(ledger.drain().is_empty());
        assert_eq!(ledger.totals().count(), 0);
        ledger.settle(&deltas).unwrap();
        assert_eq!(
            ledger.totals().collect::<Vec<_>>(),
            [(&key(Account::Received), &amount(5))]
        );
    }

    #[test]
    fn overflow_is_an_error() {
        let mut ledger = Ledger::default();
        ledger
            .add(
                &key(Account::Received),
                Amount {
                    items: u64::MAX,
                    bytes: 0,
                },
            )
            .unwrap();
        assert_eq!(ledger.add(&key(Account::Received), amount(1)), Err(Error::Overflow));
    }

    #[test]
    fn account_codes_are_distinct() {
        let mut codes: Vec<_> = Account::ALL.into_iter().map(account_code).collect();
        codes.dedup();
        assert_eq!(codes, (1..=Account::ALL.len() as u8).collect::<Vec<_>>());
    }
}
