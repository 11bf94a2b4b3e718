//! The table `events`: the audit log. Rows are inserted, and deleted when they are old. An
//! event that repeats within a minute is counted in one row.

use std::net::IpAddr;

use diesel::prelude::*;

use super::Conn;
use super::schema::events;
use super::types::IpAddress;
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::{EventId, Place, SessionId, UserId};

/// An event for the audit log. It never contains a token.
pub struct Event<'a> {
    pub id: EventId,
    pub occurred_at: Timestamp,
    pub kind: &'a str,
    pub reason: Option<&'a str>,
    pub subject: Subject,
    /// The user, if known.
    pub user: Option<UserId>,
    /// The generation of the refresh token that was presented.
    pub generation: Option<i64>,
    /// The address of the client.
    pub ip: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
}

/// What an event is about. It determines the place of the row.
#[derive(Debug, Clone, Copy)]
pub enum Subject {
    Session(SessionId),
    User(UserId),
}

impl Subject {
    fn place(self) -> Place {
        match self {
            Self::Session(session) => session.place(),
            Self::User(user) => user.place(),
        }
    }

    fn session(self) -> Option<SessionId> {
        match self {
            Self::Session(session) => Some(session),
            Self::User(_) => None,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Session(session) => session.0.as_bytes(),
            Self::User(user) => user.0.as_bytes(),
        }
    }
}

/// The columns of an event. Events with the same `$fold_key` are counted in one row.
macro_rules! row {
    ($event:expr, $fold_key:expr) => {
        (
            events::place.eq($event.subject.place().value()),
            events::id.eq($event.id),
            events::occurred_at.eq($event.occurred_at),
            events::kind.eq($event.kind),
            events::reason.eq($event.reason),
            events::session_id.eq($event.subject.session()),
            events::user_id.eq($event.user),
            events::generation.eq($event.generation),
            events::ip.eq($event.ip.map(IpAddress)),
            events::user_agent.eq($event.user_agent),
            events::fold_key.eq($fold_key),
        )
    };
}

/// [`count`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! upsert {
    ($conn:expr, $event:expr) => {
        diesel::insert_into(events::table)
            .values(row!($event, Some(fold_key($event).as_bytes())))
            .on_conflict((events::place, events::fold_key))
            .do_update()
            .set(events::count.eq(events::count + 1))
            .execute($conn)
            .map(drop)
    };
}

/// Inserts an event.
pub fn insert(conn: &mut Conn, event: &Event<'_>) -> QueryResult<()> {
    let row = row!(event, None::<&[u8]>);
    diesel::insert_into(events::table).values(row).execute(conn).map(drop)
}

/// Inserts events in one statement.
pub fn insert_all(conn: &mut Conn, logged: &[Event<'_>]) -> QueryResult<()> {
    let rows: Vec<_> = logged.iter().map(|event| row!(event, None::<&[u8]>)).collect();
    match conn {
        Conn::Postgres(conn) => diesel::insert_into(events::table).values(&rows).execute(conn)?,
        Conn::Sqlite(conn) => diesel::insert_into(events::table).values(&rows).execute(conn)?,
    };
    Ok(())
}

/// The reason of all events that a copied token causes.
const REUSE: &str = "reuse";

/// Inserts an event, or counts it in the row of the same minute, subject, kind, reason and
/// address. One statement does both, so that concurrent servers count in one row.
pub fn count(conn: &mut Conn, event: &Event<'_>) -> QueryResult<()> {
    match conn {
        Conn::Postgres(conn) => upsert!(conn, event),
        Conn::Sqlite(conn) => upsert!(conn, event),
    }
}

/// Returns the digest of the values that events counted in one row have in common.
fn fold_key(event: &Event<'_>) -> Digest {
    let minute = event.occurred_at.as_secs().div_euclid(60).to_be_bytes();
    let reason = event.reason.unwrap_or_default();
    // A copied token is one event, whichever request detects it.
    let kind = if reason == REUSE { "" } else { event.kind };
    let ip = event.ip.map(|ip| ip.to_string()).unwrap_or_default();
    // Kinds, reasons and addresses contain no zero byte.
    let text = format!("{kind}\0{reason}\0{ip}");
    Digest::of(&[event.subject.as_bytes(), &minute, text.as_bytes()])
}

/// An event that was read from the audit log.
#[derive(Queryable)]
pub struct LoggedEvent {
    pub occurred_at: Timestamp,
    pub kind: String,
    pub reason: Option<String>,
    pub generation: Option<i64>,
    pub ip: Option<IpAddress>,
    pub user_agent: Option<String>,
    /// How often it occurred within the minute.
    pub count: i64,
}

/// Selects the columns of [`LoggedEvent`].
macro_rules! logged {
    () => {
        (
            events::occurred_at,
            events::kind,
            events::reason,
            events::generation,
            events::ip,
            events::user_agent,
            events::count,
        )
    };
}

/// Returns the last `limit` events of a user, oldest first.
pub fn for_user(conn: &mut Conn, user: UserId, limit: i64) -> QueryResult<Vec<LoggedEvent>> {
    let mut logged: Vec<LoggedEvent> = events::table
        .filter(events::place.eq(user.place().value()))
        .filter(events::user_id.eq(user))
        .order(events::id.desc())
        .limit(limit)
        .select(logged!())
        .load(conn)?;
    logged.reverse();
    Ok(logged)
}

/// Returns the user of a session, also if its row has been deleted.
pub fn user_of_session(conn: &mut Conn, session: SessionId) -> QueryResult<Option<UserId>> {
    events::table
        .filter(events::place.eq(session.place().value()))
        .filter(events::session_id.eq(session))
        .filter(events::user_id.is_not_null())
        .order(events::id)
        .select(events::user_id.assume_not_null())
        .first(conn)
        .optional()
}

/// Returns the last `limit` events of a session, oldest first.
pub fn for_session(
    conn: &mut Conn,
    session: SessionId,
    limit: i64,
) -> QueryResult<Vec<LoggedEvent>> {
    let mut logged: Vec<LoggedEvent> = events::table
        .filter(events::place.eq(session.place().value()))
        .filter(events::session_id.eq(session))
        .order(events::id.desc())
        .limit(limit)
        .select(logged!())
        .load(conn)?;
    logged.reverse();
    Ok(logged)
}

/// The result of one step of the sweeper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Where the next step begins, or `None` if no place has more old events.
    pub next: Option<Place>,
    /// How many events were deleted.
    pub deleted: usize,
}

/// Deletes up to `limit` events that are older than `before`, from the place `from` on.
pub fn delete_old(
    conn: &mut Conn,
    from: Place,
    before: Timestamp,
    limit: i64,
) -> QueryResult<SweepReport> {
    let mut deleted = 0;
    for place in from.and_later() {
        let left = limit.saturating_sub(i64::try_from(deleted).unwrap_or(i64::MAX));
        if left <= 0 {
            return Ok(SweepReport { next: Some(place), deleted });
        }
        deleted += delete_old_in(conn, place, before, left)?;
    }
    Ok(SweepReport { next: None, deleted })
}

fn delete_old_in(
    conn: &mut Conn,
    place: Place,
    before: Timestamp,
    limit: i64,
) -> QueryResult<usize> {
    let ids: Vec<EventId> = events::table
        .filter(events::place.eq(place.value()))
        .filter(events::id.lt(EventId::first_at(before)))
        .order(events::id)
        .limit(limit)
        .select(events::id)
        .load(conn)?;
    if ids.is_empty() {
        return Ok(0);
    }
    let those = |ids| {
        events::table
            .filter(events::place.eq(place.value()))
            .filter(events::id.eq_any::<Vec<_>>(ids))
    };
    let old = those(ids).select(events::id);
    conn.write(|conn| {
        let ids: Vec<EventId> = match conn {
            Conn::Postgres(conn) => old.for_update().skip_locked().load(conn)?,
            Conn::Sqlite(conn) => old.load(conn)?,
        };
        diesel::delete(those(ids)).execute(conn)
    })
}
