//! What the `tailwater` binary is made of, as a library, so that benches and end-to-end tests can use the load generator.

pub mod cli;
pub mod load;
pub mod simulate;
pub mod supervise;
