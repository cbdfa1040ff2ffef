//! x
pub mod beta;
pub mod interval;
pub mod time;
