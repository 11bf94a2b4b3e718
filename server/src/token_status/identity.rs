//! Identifies the Redis of a connection by what it reports about itself.
//!
//! A Redis that was replaced, restarted, demoted or failed over may have lost revocations,
//! although the connection still works. Each of these events changes its identity.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::{InfoDict, RedisError};

use crate::crypto::Digest;

use super::connection::{Connection, Options, redis_message};

/// What Redis reports about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RedisInfo {
    /// A digest of every primary's run id, replication id and configuration epoch, and of the
    /// number of the database. Servers with equal identities read the same keys.
    pub(super) identity: Arc<str>,
    /// The `maxmemory-policy`, if it permits eviction.
    pub(super) evicting: Option<String>,
}

/// The reasons why a Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{}", redis_message(.0))]
    Redis(#[from] RedisError),
    #[error("Sentinel: {}", redis_message(.0))]
    Sentinel(RedisError),
    #[error("Sentinel names another primary")]
    AnotherPrimary,
    #[error("it is a replica, not a primary")]
    Replica,
    #[error("it is a node of a cluster: set redis.url to redis-cluster://…")]
    ClusterNode,
    #[error("its response to INFO lacks `{0}`")]
    MissingField(&'static str),
    #[error("it was restarted, failed over or replaced")]
    Replaced,
    #[error("it was flushed or replaced: its epoch key has changed")]
    Flushed,
    #[error("the revocations that it may have missed cannot be read: {0}")]
    Database(String),
}

/// Queries Redis for its identity.
pub(super) async fn query(
    options: &Options,
    connection: &Connection,
) -> Result<RedisInfo, LinkError> {
    let primaries = options.query_primaries(connection, redis::cmd("INFO")).await?;
    let mut primaries: Vec<Primary> = primaries
        .iter()
        .map(|info| primary(info, options.is_cluster()))
        .collect::<Result<_, _>>()?;
    let evicting = primaries.iter_mut().find_map(|primary| primary.evicting.take());
    let mut parts: Vec<String> = primaries.into_iter().map(|primary| primary.run).collect();
    if options.is_cluster() {
        let mut command = redis::cmd("CLUSTER");
        command.arg("INFO");
        for info in options.query_primaries(connection, command).await? {
            parts.push(field(&InfoDict::new(&info), "cluster_my_epoch")?);
        }
    }
    // The nodes respond in any order.
    parts.sort_unstable();
    parts.push(options.database().to_string());
    let digest = Digest::of(&[parts.join(" ").as_bytes()]);
    let identity = URL_SAFE_NO_PAD.encode(digest.as_bytes());
    Ok(RedisInfo { identity: identity.into(), evicting })
}

struct Primary {
    run: String,
    evicting: Option<String>,
}

fn primary(info: &str, in_cluster: bool) -> Result<Primary, LinkError> {
    let info = InfoDict::new(info);
    let role = field(&info, "role")?;
    if role != "master" {
        return Err(LinkError::Replica);
    }
    if !in_cluster && info.get("redis_mode") == Some("cluster".to_owned()) {
        return Err(LinkError::ClusterNode);
    }
    let run = format!("{}/{}", field(&info, "run_id")?, field(&info, "master_replid")?);
    let policy: Option<String> = info.get("maxmemory_policy");
    Ok(Primary { run, evicting: policy.filter(|policy| policy != "noeviction") })
}

fn field(info: &InfoDict, name: &'static str) -> Result<String, LinkError> {
    info.get(name).ok_or(LinkError::MissingField(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_mode:standalone\r\nrun_id:a\r\n\
                        # Memory\r\nmaxmemory_policy:noeviction\r\n\
                        # Replication\r\nrole:master\r\nmaster_replid:b\r\n";

    fn read(info: &str) -> Result<(String, Option<String>), String> {
        let primary = primary(info, false).map_err(|error| error.to_string())?;
        Ok((primary.run, primary.evicting))
    }

    #[test]
    fn primary_is_identified_by_run_id_and_replication_id() {
        assert_eq!(read(INFO), Ok(("a/b".to_owned(), None)));
        let lru = INFO.replace("noeviction", "allkeys-lru");
        assert_eq!(read(&lru), Ok(("a/b".to_owned(), Some("allkeys-lru".to_owned()))));
    }

    #[test]
    fn redis_that_is_not_a_primary_is_rejected() {
        for (from, to, problem) in [
            ("role:master", "role:slave", "it is a replica, not a primary"),
            ("standalone", "cluster", "it is a node of a cluster"),
            ("run_id:a\r\n", "", "its response to INFO lacks `run_id`"),
            ("master_replid:b\r\n", "", "its response to INFO lacks `master_replid`"),
            ("role:master\r\n", "", "its response to INFO lacks `role`"),
        ] {
            let error = read(&INFO.replace(from, to)).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
