//! Black-box tests: HTTP requests to real servers, each with its own database.
//!
//! Ignored tests need PostgreSQL and Redis; `make test` starts them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod account;
mod account_pages;
mod accounts;
mod accounts_histories;
mod accounts_lifecycle;
mod accounts_links;
mod accounts_pages;
mod accounts_races;
mod apply;
mod backends;
mod bad_input;
mod bearer;
mod browser;
mod clients;
mod clients_declared;
mod configuration;
mod conformance;
mod connections;
mod consent_pages;
mod device_pages;
mod disk;
mod end_sessions;
mod faults_of_database;
mod guessing;
mod guests;
mod health;
mod id_token_keys;
mod imported_tokens;
mod key_rotation;
mod key_time;
mod keys;
mod limits;
mod login_pages;
mod login_sessions;
mod logout;
mod logs;
mod needs_aiosmtpd;
mod needs_browser;
mod needs_faketime;
mod needs_htpasswd;
mod needs_programs;
mod needs_python;
mod oauth;
mod observing;
mod openapi;
mod races;
mod refresh;
mod second_factor;
mod secrets;
mod security_log;
mod sessions;
mod snapshots;
mod starting;
mod stopping;
mod storage;
mod story;
mod support;
mod tls;
mod user_import;
mod users;
mod with_redis;
