//! The client app against a real server, both as processes.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod access;
mod accounts;
mod api;
mod command_errors;
mod commands;
mod endpoints;
mod needs_browser;
mod needs_nginx;
mod processes;
mod restarts;
mod session_end;
mod startup;
mod support;
