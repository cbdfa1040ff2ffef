#![no_main]

#[path = "../shared.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::pb(tailwater_model::signal::Signal::Metrics, data));
