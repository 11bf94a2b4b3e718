//! The table `logout_notices`: ended sessions of which their client has not been notified.

use diesel::prelude::*;

use super::Conn;
use super::engine::is_citus;
use super::schema::{clients, logout_notices, sessions};
use super::types::sql::SqlTimestamp;
use crate::clock::Timestamp;
use crate::ids::{ClientId, SessionId, UserId};

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_for {
    ($conn:expr, $session:expr, $now:expr) => {
        diesel::insert_into(logout_notices::table)
            .values(
                sessions::table
                    .inner_join(clients::table.on(sessions::client_id.eq(clients::id.nullable())))
                    .filter(sessions::place.eq($session.place().value()))
                    .filter(sessions::id.eq($session))
                    // A client that acts for itself has logged no user in.
                    .filter(sessions::auth_time.is_not_null())
                    .filter(clients::backchannel_logout_uri.is_not_null())
                    .select((
                        sessions::place,
                        sessions::id,
                        sessions::user_id,
                        clients::id,
                        $now.into_sql::<SqlTimestamp>(),
                        $now.into_sql::<SqlTimestamp>(),
                    )),
            )
            .into_columns((
                logout_notices::place,
                logout_notices::session_id,
                logout_notices::user_id,
                logout_notices::client_id,
                logout_notices::created_at,
                logout_notices::next_attempt_at,
            ))
            .on_conflict_do_nothing()
            .execute($conn)
    };
}

/// Inserts the notice of a session that has just ended, if its client wants notices. In the
/// transaction that ends the session.
pub fn insert(conn: &mut Conn, session: SessionId, now: Timestamp) -> QueryResult<()> {
    match conn {
        Conn::Postgres(conn) => insert_for!(conn, session, now).map(drop),
        Conn::Sqlite(conn) => insert_for!(conn, session, now).map(drop),
    }
}

/// The notices of one client.
#[derive(Debug, Clone)]
pub struct Queue {
    pub client: ClientId,
    pub length: i64,
    /// When the first of them is due.
    pub due_at: Timestamp,
}

/// Returns the queue of each client that has one. The queue that is due first comes first.
pub fn queues(conn: &mut Conn) -> QueryResult<Vec<Queue>> {
    let rows: Vec<(String, i64, Option<Timestamp>)> = logout_notices::table
        .group_by(logout_notices::client_id)
        .select((
            logout_notices::client_id,
            diesel::dsl::count_star(),
            diesel::dsl::min(logout_notices::next_attempt_at),
        ))
        .load(conn)?;
    let queue = |(client, length, due_at): (String, i64, Option<Timestamp>)| {
        Some(Queue { client: client.into(), length, due_at: due_at? })
    };
    let mut queues: Vec<Queue> = rows.into_iter().filter_map(queue).collect();
    queues.sort_by_key(|queue| queue.due_at);
    Ok(queues)
}

/// A notice that this server sends now.
#[derive(Debug, Clone, Copy, Queryable)]
pub struct Notice {
    pub session: SessionId,
    pub user: UserId,
    /// When the session ended.
    pub created_at: Timestamp,
    /// How many attempts have failed.
    pub attempts: i64,
    /// How many of them the client has rejected.
    pub rejections: i64,
}

/// How notices are claimed.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    pub now: Timestamp,
    /// Until when no other server sends them.
    pub until: Timestamp,
    pub limit: i64,
}

/// Claims due notices of a client. Of several concurrent calls, one gets each notice. Needs a
/// transaction.
pub fn claim(conn: &mut Conn, client: &ClientId, claim: Claim) -> QueryResult<Vec<Notice>> {
    let due = logout_notices::table
        .filter(logout_notices::client_id.eq(client.as_str()))
        .filter(logout_notices::next_attempt_at.le(claim.now))
        .order(logout_notices::next_attempt_at)
        .limit(claim.limit)
        .select(logout_notices::session_id);
    let due: Vec<SessionId> = match conn {
        // Citus locks rows of one place alone.
        Conn::Postgres(conn) if is_citus() => due.load(conn)?,
        Conn::Postgres(conn) => due.for_update().skip_locked().load(conn)?,
        Conn::Sqlite(conn) => due.load(conn)?,
    };
    let places = due.iter().map(|session| session.place().value());
    let claimed = logout_notices::table
        .filter(logout_notices::place.eq_any(places))
        .filter(logout_notices::session_id.eq_any(&due))
        .filter(logout_notices::next_attempt_at.le(claim.now));
    diesel::update(claimed)
        .set(logout_notices::next_attempt_at.eq(claim.until))
        .returning((
            logout_notices::session_id,
            logout_notices::user_id,
            logout_notices::created_at,
            logout_notices::attempts,
            logout_notices::rejections,
        ))
        .load(conn)
}

/// Deletes notices.
pub fn delete(conn: &mut Conn, sessions: &[SessionId]) -> QueryResult<()> {
    let places = sessions.iter().map(|session| session.place().value());
    let those = logout_notices::table
        .filter(logout_notices::place.eq_any(places))
        .filter(logout_notices::session_id.eq_any(sessions));
    diesel::delete(those).execute(conn).map(drop)
}

/// Deletes the notices of a client that wants none.
pub fn delete_of_client(conn: &mut Conn, client: &ClientId) -> QueryResult<usize> {
    let own = logout_notices::table.filter(logout_notices::client_id.eq(client.as_str()));
    diesel::delete(own).execute(conn)
}

/// Stores the number of failures of a notice, and when it is due again.
pub fn postpone(conn: &mut Conn, notice: &Notice, until: Timestamp) -> QueryResult<()> {
    let row = logout_notices::table.find((notice.session.place().value(), notice.session));
    diesel::update(row)
        .set((
            logout_notices::attempts.eq(notice.attempts),
            logout_notices::rejections.eq(notice.rejections),
            logout_notices::next_attempt_at.eq(until),
        ))
        .execute(conn)
        .map(drop)
}
