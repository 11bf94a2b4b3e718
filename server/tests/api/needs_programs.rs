//! Tests that start PostgreSQL or Redis themselves, and so need their programs.
//! `scripts/test` selects tests by this module's name.

mod failover;
mod frozen;
mod late;
mod lossy_failover;
mod parts;
mod redis_access;
mod redis_loss;
mod redis_poll;
mod redis_split;
mod roles;
mod sentinel;
mod standby;
