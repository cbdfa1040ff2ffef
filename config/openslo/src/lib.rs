//! OpenSLO documents: read, checked, converted, formatted, and resolved into objectives that can be counted.
//!
//! ```text
//!  text --read--> documents --resolve--> SLOs that stand alone --> arithmetic, report      (query/slo)
//!    |    ^          |  |                        '--declared_thresholds--> exact registers (collector/red)
//!    |    |          |  '--lint--> traps
//!    |    |          '--write--> canonical YAML
//!    '-import_sloth
//! ```
//!
//! Guarantees: every mistake is found in one pass, each with file, line, column, path and what to write instead; targets and limits are
//! exact decimals; what is written reads back the same. Pure but for [`files`]. Leaves out: evaluation, alerts that are open, time.

pub mod annotation;
mod comments;
mod decimal;
pub mod document;
pub mod files;
mod hash;
mod index;
mod lint;
pub mod period;
mod place;
mod read;
mod resolve;
mod resolved;
mod sloth;
pub mod source;
pub mod template;
mod threshold;
mod write;

pub use decimal::{Decimal, TARGET_DIGITS_MAX, Target};
pub use document::{BudgetingMethod, Document, Op, Part, TimeWindow};
pub use lint::{LINTS, Lint, lint};
pub use period::{Period, Unit};
pub use place::Places;
pub use read::{BOUNDS, Reading, Reinterpreted, V1, read};
pub use resolve::{DEFAULT_WINDOW, Resolved, resolve, resolve_beside};
pub use resolved::{AlertRule, Budgeting, BurnTier, DefinitionHash, ResolvedObjective, ResolvedSlo};
pub use sloth::{VERSION as SLOTH_VERSION, import_sloth};
pub use source::{Good, Indicator, RedKey, RedSelector, Source};
pub use threshold::{Threshold, declared_thresholds};
pub use write::{fmt, write};
