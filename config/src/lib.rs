//! Configuration: one optional YAML file and the environment, checked into values that can be trusted.
//!
//! For: `Config::load(path, environment(), overrides)` gives a [`Config`] that reads like [`settings::Settings`]
//! (`config.intake.grpc.listen`), or [`Problems`] with file, line, column and the nearest key, all at once.
//!
//! ```text
//!  file ---> yaml: tree with places --+
//!  TAILWATER_... --------------------+--> section: typed values --> check: contradictions --> Config --> limits(machine)
//!  pairs of the caller --------------+       (default: text too)                                |
//!                                                                                               +--> page: print, reference
//! ```
//!
//! Guarantees: every key has a default; unknown keys, wrong types, values out of range and limits that contradict each other are
//! problems; one definition per setting (`settings`) makes its type, reader, page and printer; secrets are never shown.
//! Assumes nothing of the machine: [`Config::limits`] takes it as an argument. [`access`] reads the file of tokens. Leaves out: reload,
//! and anything that does I/O except reading the one file.

pub mod access;
mod check;
mod limits;
mod listeners;
mod load;
mod page;
mod problem;
mod section;
pub mod settings;
mod units;
mod value;
pub mod yaml;

pub use limits::{Limits, Machine};
pub use listeners::TlsFiles;
pub use load::{Config, EXIT_CONFIG, RESERVED_VARIABLES, catalogue, environment};
pub use page::{annotated, print, reference};
pub use problem::{Origin, Problem, Problems, nearest};
pub use section::Setting;
pub use settings::{Ack, Level, LogFormat, Settings};
pub use units::{Percent, Size, format_duration, parse_duration};
pub use value::{Auto, Limit, NAMES_MAX, Names, Secret};
