//! Rows of `events`: the security log. They are added and, when they are old,
//! deleted; what repeats within a minute is counted in its row.

use std::net::IpAddr;

use diesel::prelude::*;

use super::Conn;
use super::schema::events;
use super::types::Address;
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::{EventId, Place, SessionId, UserId};

/// Something that whoever looks into an incident wants to know of. Never holds
/// a token.
pub struct Event<'a> {
    /// Its id.
    pub id: EventId,
    /// When.
    pub occurred_at: Timestamp,
    /// What happened, in one word.
    pub kind: &'a str,
    /// Why, in one word.
    pub reason: Option<&'a str>,
    /// The session it was about.
    pub session: SessionId,
    /// Whose session that is, where it is known.
    pub user: Option<UserId>,
    /// Which generation was shown, where a refresh token was.
    pub generation: Option<i64>,
    /// Who asked: the address.
    pub ip: Option<IpAddr>,
    /// Who asked: the `User-Agent`.
    pub user_agent: Option<&'a str>,
}

/// The values of an entry, with those that are counted in the same row under this key.
macro_rules! row {
    ($event:expr, $fold_key:expr) => {
        (
            events::place.eq($event.session.place().value()),
            events::id.eq($event.id),
            events::occurred_at.eq($event.occurred_at),
            events::kind.eq($event.kind),
            events::reason.eq($event.reason),
            events::session_id.eq($event.session),
            events::user_id.eq($event.user),
            events::generation.eq($event.generation),
            events::ip.eq($event.ip.map(Address)),
            events::user_agent.eq($event.user_agent),
            events::fold_key.eq($fold_key),
        )
    };
}

/// [`count`] on one of the databases: diesel has no `ON CONFLICT` for both together.
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

/// Adds an entry.
///
/// # Errors
/// When the statement fails.
pub fn insert(conn: &mut Conn, event: &Event<'_>) -> QueryResult<()> {
    let row = row!(event, None::<&[u8]>);
    diesel::insert_into(events::table).values(row).execute(conn).map(drop)
}

/// The reason of what a copied token leads to, whichever request detects it.
const REUSE: &str = "reuse";

/// Adds an entry, or counts it with one of the same minute that differs in the time
/// alone: the same session, kind, reason and address. One statement, so that servers
/// that write at once count in one row.
///
/// # Errors
/// When the statement fails.
pub fn count(conn: &mut Conn, event: &Event<'_>) -> QueryResult<()> {
    match conn {
        Conn::Postgres(conn) => upsert!(conn, event),
        Conn::Sqlite(conn) => upsert!(conn, event),
    }
}

/// Digests what entries that are counted together have in common.
fn fold_key(event: &Event<'_>) -> Digest {
    let minute = event.occurred_at.as_secs().div_euclid(60).to_be_bytes();
    let reason = event.reason.unwrap_or_default();
    // A copied token is one entry, whichever request detects it.
    let kind = if reason == REUSE { "" } else { event.kind };
    let ip = event.ip.map(|ip| ip.to_string()).unwrap_or_default();
    // Kinds, reasons and addresses have no zero byte.
    let text = format!("{kind}\0{reason}\0{ip}");
    Digest::of(&[event.session.0.as_bytes(), &minute, text.as_bytes()])
}

/// An entry as it is read back.
#[derive(Queryable)]
pub struct LoggedEvent {
    /// When.
    pub occurred_at: Timestamp,
    /// What happened.
    pub kind: String,
    /// Why.
    pub reason: Option<String>,
    /// Which generation was shown.
    pub generation: Option<i64>,
    /// The address.
    pub ip: Option<Address>,
    /// The `User-Agent`.
    pub user_agent: Option<String>,
    /// How often, within the minute.
    pub count: i64,
}

/// The last `limit` entries about a session, oldest first.
///
/// # Errors
/// When the query fails.
pub fn for_session(
    conn: &mut Conn,
    session: SessionId,
    limit: i64,
) -> QueryResult<Vec<LoggedEvent>> {
    let mut entries: Vec<LoggedEvent> = events::table
        .filter(events::place.eq(session.place().value()))
        .filter(events::session_id.eq(session))
        .order(events::id.desc())
        .limit(limit)
        .select((
            events::occurred_at,
            events::kind,
            events::reason,
            events::generation,
            events::ip,
            events::user_agent,
            events::count,
        ))
        .load(conn)?;
    entries.reverse();
    Ok(entries)
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
