//! The entries of access tokens in Redis, and the tombstones that override them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;

use super::{EPOCH_KEY, RedisLink, Trust, set};
use crate::token_status::connection::is_out_of_memory;
use crate::token_status::identity::LinkError;
use crate::token_status::{Tombstone, access_key, ended_key};
use crate::tokens::VerifiedToken;

/// The status of an access token in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::token_status) enum CachedStatus {
    Ended,
    Active,
    Missing,
}

impl RedisLink {
    /// Returns the status of an access token, or `None` if Redis is unavailable. Takes one
    /// round trip.
    pub(in crate::token_status) async fn look_up(
        &self,
        access: &VerifiedToken,
    ) -> Option<CachedStatus> {
        let current = match self.leased_connection(access.session) {
            Trust::Ended => return Some(CachedStatus::Ended),
            Trust::Connected(current) => current,
            Trust::Unavailable => return None,
        };
        let in_cluster = self.options.is_cluster();
        let mut command = redis::cmd("MGET");
        command.arg(ended_key(access.session)).arg(access_key(access));
        if !in_cluster {
            command.arg(EPOCH_KEY);
        }
        let values = match self.options.query(current.connection, &command).await {
            Ok(Value::Array(values)) => values,
            Ok(_) => return None,
            Err(error) => {
                self.disconnect(current.generation, &error.into());
                return None;
            }
        };
        let is_epoch = |value: Option<&Value>| matches!(value, Some(Value::BulkString(text)) if *text == current.epoch.as_bytes());
        if !matches!(values.first(), Some(Value::Nil)) {
            return Some(CachedStatus::Ended);
        }
        if !in_cluster && !is_epoch(values.get(2)) {
            self.disconnect(current.generation, &LinkError::Flushed);
            return None;
        }
        // If the link was disconnected meanwhile, another Redis may have sent this response.
        if self.generation.load(Ordering::Relaxed) != current.generation {
            return None;
        }
        let active = is_epoch(values.get(1));
        Some(if active { CachedStatus::Active } else { CachedStatus::Missing })
    }

    /// Caches an access token as active, and looks for a tombstone of its session. Takes one
    /// round trip, and needs no lease: a tombstone is true whenever it is found, and the entry
    /// is trusted only where there is one. Failures are ignored: the entry only saves queries,
    /// and the database lacks the end of a session only if it has lost its last commits.
    pub(in crate::token_status) async fn cache_active(
        &self,
        access: &VerifiedToken,
        lifetime: Duration,
    ) -> Tombstone {
        let current = match self.connection(access.session) {
            Trust::Ended => return Tombstone::Found,
            Trust::Connected(current) => current,
            Trust::Unavailable => return Tombstone::NotFound,
        };
        let mut read = redis::cmd("MGET");
        read.arg(ended_key(access.session));
        let mut both = redis::Pipeline::with_capacity(2);
        both.add_command(read);
        both.add_command(set(&access_key(access), &current.epoch, lifetime.as_secs()));
        // Redis may be full and reject the second one alone.
        both.ignore_errors();
        let responses = self.options.query_pipeline(current.connection, &both).await;
        let mut tombstone = Tombstone::NotFound;
        let responses = match responses {
            Ok(responses) => responses,
            Err(error) => vec![Err(error)],
        };
        for response in responses {
            match response {
                Ok(value) if is_tombstone(&value) => tombstone = Tombstone::Found,
                Ok(_) => {}
                Err(error) if is_out_of_memory(&error) => self.problems.full(&error),
                Err(error) => self.disconnect(current.generation, &error.into()),
            }
        }
        tombstone
    }
}

/// Returns whether this is the response to an `MGET` of a tombstone that exists.
fn is_tombstone(response: &Value) -> bool {
    matches!(response, Value::Array(values) if matches!(values[..], [Value::BulkString(_)]))
}
