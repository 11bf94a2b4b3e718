//! Breaks what the judge must notice: a judge who never finds anything proves
//! nothing.

use std::error::Error;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use redis::RedisResult;

use crate::history::Scene;
use crate::stage::Stage;
use matchbook_testkit::connect;

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Redis forgets that sessions ended, as soon as it was told.
    Tombstones,
    /// The database forgets rotations.
    Rows,
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tombstones" => Ok(Self::Tombstones),
            "rows" => Ok(Self::Rows),
            _ => Err("there are: tombstones, rows".to_owned()),
        }
    }
}

impl Sabotage {
    /// Breaks it again and again until the clients have gone.
    pub(super) fn start(self, stage: &Stage, scene: &Arc<Scene>) -> JoinHandle<()> {
        let (redis, database) = (stage.redis_url(), stage.database_url().to_owned());
        let scene = scene.clone();
        thread::spawn(move || {
            while !scene.is_closing() {
                // What is away now cannot be broken now.
                let _ = match self {
                    Self::Tombstones => delete_tombstones(&redis).is_ok(),
                    Self::Rows => set_rows_back(&database).is_ok(),
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

/// Some sessions lose their last two rotations.
fn set_rows_back(url: &str) -> Result<(), Box<dyn Error>> {
    let mut conn = PgConnection::establish(url)?;
    let set_back = "UPDATE sessions SET generation = generation - 2 WHERE id IN (
        SELECT id FROM sessions WHERE generation > 2 AND ended_at IS NULL ORDER BY random() LIMIT 2
    )";
    Ok(conn.batch_execute(set_back)?)
}
