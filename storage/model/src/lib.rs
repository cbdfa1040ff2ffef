//! The nouns of Tailwater and the shapes they take.
//!
//! What is here: ids, signals, tables with their Arrow schemas, the OTLP wire walker with its two readers (peek and full
//! decode), the JSON transcoder, the ledger's accounts, the rows of RED and edges, the one sketch (a base-2 exponential histogram). What is absent and must
//! stay so: I/O, clocks, threads, async, and owned prost trees.

pub mod clock;
pub mod exphist;
pub mod ids;
pub mod ledger;
pub mod otlp;
pub mod red;
pub mod rows;
pub mod signal;
pub mod table;
