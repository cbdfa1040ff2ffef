//! Tailwater.
fn main() {}
