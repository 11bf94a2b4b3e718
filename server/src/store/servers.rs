//! The table `servers`: which Redis each server uses, and how far it has polled for
//! revocations.
//!
//! The table has no times, because clocks differ between servers, and between databases
//! after a failover. Each poll of a server increments its count. A server has stopped
//! if its count does not change for longer than a lease.

use diesel::prelude::*;

use super::Conn;
use super::schema::servers;

/// A server that uses a Redis.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Insertable)]
#[diesel(table_name = servers)]
pub struct Server {
    /// Identifies one run of a server.
    pub id: String,
    /// Identifies the Redis that it reads. Empty if it has lost the connection, until it has
    /// read all revocations again.
    pub redis: String,
    /// How many polls it has begun.
    pub polls: i64,
    /// The last poll whose revocations it enforces.
    pub applied: i64,
}

impl Server {
    /// Returns whether it may accept an access token because of Redis.
    #[must_use]
    pub fn reads_redis(&self) -> bool {
        !self.redis.is_empty()
    }
}

/// Writes the row of a server, unless a row with a higher count is there: a statement may reach
/// the database late. Each poll calls this before it reads revocations, and again when new ones
/// are applied.
pub fn set(conn: &mut Conn, server: &Server) -> QueryResult<()> {
    let Server { id, redis, polls, applied } = server;
    let columns =
        (servers::redis.eq(redis), servers::polls.eq(polls), servers::applied.eq(applied));
    let older = servers::table.find(id).filter(servers::polls.le(polls));
    if diesel::update(older).set(columns).execute(conn)? == 0 {
        diesel::insert_into(servers::table).values(server).execute(conn)?;
    }
    Ok(())
}

/// Returns all servers, including those that have stopped.
pub fn all(conn: &mut Conn) -> QueryResult<Vec<Server>> {
    servers::table.load(conn)
}

/// Deletes the rows of servers that have stopped. One that polls meanwhile keeps its row.
pub fn delete(conn: &mut Conn, stopped: &[Server]) -> QueryResult<()> {
    for Server { id, polls, .. } in stopped {
        let unchanged = servers::table.find(id).filter(servers::polls.eq(polls));
        diesel::delete(unchanged).execute(conn)?;
    }
    Ok(())
}
