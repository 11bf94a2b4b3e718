//! Test support: server and client as processes, a database per test, and connections that
//! can be disconnected.
//!
//! `TEST_DATABASE_URL` and `TEST_REDIS_URL` name a PostgreSQL server (any database on it) and
//! a Redis. Without them tests use SQLite only. `TEST_CITUS_URL` names the coordinator of a Citus
//! cluster, which tests use instead of the PostgreSQL server.
//!
//! [`Postgres`] and [`Redis`] start servers for one test from the installed programs, for
//! tests that stop, pause or reconfigure them. [`ScriptedServer`] is a token server that
//! follows a script, for tests of the client.

mod balancer;
mod browser;
mod http;
mod patroni;
mod pgbouncer;
mod postgres;
mod process;
mod programs;
mod redis;
mod scripted_server;
mod sentinel;
mod smtp_server;
mod tcp_proxy;
mod test_env;

pub use self::redis::{Redis, RedisCluster, RedisSentinel, connect};
pub use balancer::Balancer;
pub use browser::{BrowserDriver, BrowserWindow, is_root};
pub use http::{Http, TestResponse};
pub use patroni::Patroni;
pub use pgbouncer::PgBouncer;
pub use postgres::{Postgres, Stop};
pub use process::{Process, ProcessBuilder};
pub use programs::free_port;
pub use scripted_server::{Reaction, Received, ScriptedResponse, ScriptedServer};
pub use sentinel::Sentinels;
pub use smtp_server::{SmtpServer, TestMail};
pub use tcp_proxy::TcpProxy;
pub use test_env::{TestEnv, through_proxy};
