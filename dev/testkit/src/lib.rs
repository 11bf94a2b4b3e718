//! Starts the real parts of Matchbook for tests: server and client as
//! processes, a database for each test, and connections that can be cut.
//!
//! `TEST_DATABASE_URL` and `TEST_REDIS_URL` name a PostgreSQL server (any
//! database on it) and a Redis; without them tests run on SQLite alone.
//!
//! [`Postgres`] and [`Redis`] are servers of one test, from the installed
//! programs, for tests that stop, freeze or reconfigure them.

mod http;
mod installed;
mod postgres;
mod process;
mod redis;
mod relay;
mod world;

pub use self::redis::{Redis, connect};
pub use http::{Answer, Http};
pub use installed::free_port;
pub use postgres::{Postgres, Stop};
pub use process::{Launch, Process};
pub use relay::Relay;
pub use world::{World, through_relay};
