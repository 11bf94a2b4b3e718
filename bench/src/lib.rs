//! Starts the real parts of Matchbook for tests: server and client as
//! processes, a database of its own for each test, and connections that can be
//! cut.
//!
//! `TEST_DATABASE_URL` and `TEST_REDIS_URL` name a PostgreSQL server (any
//! database on it) and a Redis; without them tests run on SQLite alone.
//!
//! [`Postgres`] and [`Redis`] are servers of a test's own, from the installed
//! programs, for what cannot be done to one that others use. [`faults`] ends and
//! freezes them, and judges what clients saw meanwhile.

pub mod faults;
mod http;
mod installed;
pub mod load;
mod postgres;
mod process;
mod redis;
mod relay;
mod world;

pub use self::redis::Redis;
pub use http::{Answer, Http};
pub use installed::free_port;
pub use postgres::{Postgres, Stop};
pub use process::{Launch, Process};
pub use relay::Relay;
pub use world::World;
