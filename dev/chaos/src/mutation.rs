//! Defects introduced on purpose. They prove that the checker detects them.

use std::error::Error;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use redis::RedisResult;

use crate::cluster::Cluster;
use crate::history::RunContext;
use matchbook_testkit::connect;

/// A defect introduced on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Tombstones of ended sessions are deleted from Redis.
    Tombstones,
    /// Rotations are rolled back in the database.
    Rows,
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tombstones" => Ok(Self::Tombstones),
            "rows" => Ok(Self::Rows),
            _ => Err("unknown mutation; known mutations: tombstones, rows".to_owned()),
        }
    }
}

impl Mutation {
    /// Starts a thread that applies the mutation repeatedly until the run ends.
    pub(super) fn spawn(self, cluster: &Cluster, context: &Arc<RunContext>) -> JoinHandle<()> {
        let redis = cluster.redis_url();
        let database = cluster.database_url();
        let context = context.clone();
        thread::spawn(move || {
            while !context.is_closing() {
                // Fails while the part is unavailable.
                let _ = match self {
                    Self::Tombstones => delete_tombstones(&redis).is_ok(),
                    Self::Rows => roll_back_rows(&database).is_ok(),
                };
                thread::sleep(self.pause());
            }
        })
    }

    fn pause(self) -> Duration {
        match self {
            Self::Tombstones => Duration::from_millis(10),
            Self::Rows => Duration::from_secs(1),
        }
    }
}

fn delete_tombstones(url: &str) -> RedisResult<()> {
    let mut conn = connect(url)?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("ended:*").query(&mut conn)?;
    if keys.is_empty() {
        return Ok(());
    }
    redis::cmd("DEL").arg(keys).exec(&mut conn)
}

/// Rolls back the last two rotations of some sessions.
fn roll_back_rows(url: &str) -> Result<(), Box<dyn Error>> {
    let mut conn = PgConnection::establish(url)?;
    let statement = "UPDATE sessions SET generation = generation - 2 WHERE id IN (
        SELECT id FROM sessions WHERE generation > 2 AND ended_at IS NULL ORDER BY random() LIMIT 2
    )";
    Ok(conn.batch_execute(statement)?)
}
