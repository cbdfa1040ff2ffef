//! What every role shares: logs, the metrics registry, tokens and TLS, connections, admin endpoints, listeners, signals and drain.
//!
//! ```text
//!  main: logs::init -> machine::probe -> listen::Inherited -> Shutdown::install -> role -> drain -> Exit
//!                                              |                    ^
//!            supervisor: listen::hand_down ----+-- pipe closes -----+
//!  role: Metrics, Readiness -> Admin::spawn (/metrics /healthz /readyz /status)    RunFile -> <data>/run/<role>.json
//! ```
//!
//! Guarantees: a bind error names the key; nothing here panics on what a client sends; a child ends when its supervisor does.
//! Assumes Linux (`/proc`, cgroups) for machine and process figures; elsewhere they are absent or fall back to the host's. Leaves out: exporting
//! its own telemetry.

pub mod access;
pub mod admin;
pub mod descriptors;
pub mod exit;
#[allow(unsafe_code)]
mod fds;
pub mod health;
pub mod listen;
pub mod logs;
pub mod machine;
pub mod metrics;
mod process;
pub mod reload;
pub mod run_dir;
pub mod serve;
pub mod shutdown;
pub mod tls;

pub use access::Access;
pub use admin::Admin;
pub use exit::Exit;
pub use health::Readiness;
pub use metrics::Metrics;
pub use shutdown::Shutdown;
