//! The lake: table writers, snapshots, the outbox as hot store, maintenance.
