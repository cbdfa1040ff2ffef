//! OpenSLO documents: read, checked, converted, formatted, and resolved into objectives that can be counted.

pub mod annotation;
mod decimal;
pub mod document;
pub mod period;
mod place;
mod resolved;
pub mod source;

pub use decimal::{Decimal, TARGET_DIGITS_MAX, Target};
pub use document::{BudgetingMethod, Document, Op, Part, TimeWindow};
pub use period::{Period, Unit};
pub use place::Places;
pub use resolved::{AlertRule, Budgeting, BurnTier, DefinitionHash, ResolvedObjective, ResolvedSlo};
pub use source::{Good, Indicator, RedKey, RedSelector, Source};
