//! The rules of sessions against real databases, with invented time: random
//! histories and a model, the sweeper, and what a rotation costs the database. Also the cache
//! of OAuth clients.
//!
//! Ignored tests need PostgreSQL; `make test` starts it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod batches;
mod clients;
mod codes;
mod commits;
mod conflicts;
mod devices;
mod failover;
mod folding;
mod harness;
mod histories;
mod honest;
mod model;
mod place;
mod postgres;
mod silence;
mod sweeping;
mod table;
mod theft;
