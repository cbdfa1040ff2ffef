//! Reasons in stored form: why an item was rejected, and the reason part of a ledger key.

use crate::error::Error;

/// Stable code of the reason for which an item was rejected. Its names are the model's; here it is only a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode(pub u8);

/// Every reason a ledger key may carry in this program, so that stored names become `&'static str` again.
///
/// The empty reason is always known.
#[derive(Debug, Clone, Default)]
pub struct Reasons(Vec<&'static str>);

impl Reasons {
    /// The table of these names.
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Reasons {
        Reasons(names.into_iter().collect())
    }

    /// The known reason of this name.
    ///
    /// # Errors
    /// [`Error::UnknownReason`]: a newer version wrote it. Folding it into another key would move totals, so it is refused.
    pub fn resolve(&self, name: &str) -> Result<&'static str, Error> {
        if name.is_empty() {
            return Ok("");
        }
        let known = self.0.iter().copied().find(|known| *known == name);
        known.ok_or_else(|| Error::UnknownReason {
            reason: name.to_owned(),
        })
    }
}
