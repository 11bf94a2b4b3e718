//! Starts the real parts of Matchbook for tests: server and client as
//! processes, a database of its own for each test, and connections that can be
//! cut.
//!
//! `TEST_DATABASE_URL` and `TEST_REDIS_URL` name a PostgreSQL server (any
//! database on it) and a Redis; without them tests run on SQLite alone.

mod http;
mod process;
mod relay;
mod world;

pub use http::{Answer, Http};
pub use process::{Launch, Process};
pub use relay::Relay;
pub use world::World;
