//! What every fuzz target does with its bytes: the same checks that the tests run over generated requests.

// A target uses one of the two entry points, and none uses all of the helpers.
#![allow(dead_code, unused_imports)]

#[path = "../tests/otlp/cell.rs"]
mod cell;
#[path = "../tests/otlp/check.rs"]
mod check;
#[path = "../tests/otlp/expect.rs"]
mod expect;
#[path = "../tests/otlp/table.rs"]
mod table;
#[path = "../tests/otlp/wire.rs"]
mod wire;

pub use check::{json, pb};
