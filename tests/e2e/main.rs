//! End-to-end tests: the real binary, real clients, real crashes. One test binary, and it links no DataFusion: whatever it
//! knows of the product it learns over the network, from the command line or from files.

#![allow(clippy::unwrap_used, missing_docs)]

mod access;
mod browser;
mod budget;
mod clients;
mod crash;
mod damage;
mod demo;
mod disk;
mod harness;
mod house;
mod injected;
mod intake;
mod processes;
mod promqltest;
mod readme;
mod recordings;
mod sample;
mod sampling;
mod slo;
mod visible;
