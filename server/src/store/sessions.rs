//! Rows of `sessions`.

use std::collections::HashMap;
use std::net::IpAddr;

use diesel::backend::Backend;
use diesel::dsl::case_when;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{Array, BigInt, Binary, HasSqlType, Nullable, Text};

use super::Conn;
use super::schema::sessions;
use super::types::Address;
use super::types::sql::{Id, IpAddress, PointInTime};
use crate::clock::Timestamp;
use crate::token::{AccessId, Digest, Salt, SessionId, UserId};

/// `until`, or what is there already where that is later: settings may change
/// while tokens are out.
macro_rules! at_least {
    ($until:expr) => {
        case_when(sessions::access_until.gt($until), sessions::access_until)
            .otherwise(Some($until).into_sql::<Nullable<PointInTime>>())
    };
}

/// A session as it begins.
pub struct NewSession<'a> {
    /// Its id.
    pub id: SessionId,
    /// Who signed in.
    pub user: UserId,
    /// Digest of the first refresh token's secret.
    pub secret: Digest,
    /// The access token granted with it.
    pub access: AccessId,
    /// When that expires, at the latest.
    pub access_until: Timestamp,
    /// When it is opened.
    pub now: Timestamp,
    /// When it ends unless it is refreshed before.
    pub idle_expires_at: Timestamp,
    /// When it ends in any case.
    pub expires_at: Timestamp,
    /// The `User-Agent` that signed in.
    pub user_agent: Option<&'a str>,
    /// The address that signed in.
    pub ip: Option<IpAddr>,
}

/// Adds a session at generation 0.
///
/// # Errors
/// When the statement fails.
pub fn insert(conn: &mut Conn, new: &NewSession<'_>) -> QueryResult<()> {
    diesel::insert_into(sessions::table)
        .values((
            sessions::id.eq(new.id),
            sessions::user_id.eq(new.user),
            sessions::generation.eq(0),
            sessions::secret_digest.eq(new.secret.as_bytes()),
            sessions::access_jti.eq(new.access),
            sessions::access_issued_at.eq(new.now),
            sessions::access_until.eq(new.access_until),
            sessions::created_at.eq(new.now),
            sessions::idle_expires_at.eq(new.idle_expires_at),
            sessions::expires_at.eq(new.expires_at),
            sessions::user_agent.eq(new.user_agent),
            sessions::ip.eq(new.ip.map(Address)),
        ))
        .execute(conn)?;
    Ok(())
}

/// What a rotation asks for, and what it writes.
pub struct Advance {
    /// The session.
    pub session: SessionId,
    /// The generation of the token that is rotated.
    pub generation: i64,
    /// Digest of its secret.
    pub presented: Digest,
    /// Digest of its successor's secret.
    pub successor: Digest,
    /// What the successor was derived with, where it may be asked for again.
    pub salt: Option<Salt>,
    /// Digest of the attempt key, where the client sent one.
    pub attempt: Option<Digest>,
    /// The access token granted with it.
    pub access: AccessId,
    /// When that expires, at the latest.
    pub access_until: Timestamp,
    /// When it happens.
    pub now: Timestamp,
    /// When the session ends unless it is refreshed again before.
    pub idle_expires_at: Timestamp,
    /// The `User-Agent` that refreshes.
    pub user_agent: Option<String>,
    /// The address that refreshes.
    pub ip: Option<IpAddr>,
}

/// Whose session was advanced, and when it ends in any case.
pub type Advanced = (UserId, Timestamp);

/// Moves a live session from the presented token to its successor, in one
/// statement: of several at once, one gets the row.
///
/// # Errors
/// When the statement fails.
pub fn advance(conn: &mut Conn, next: &Advance) -> QueryResult<Option<Advanced>> {
    let one = AdvanceOne::<false>::new(next.generation, next.presented.as_bytes(), next);
    one.get_result(conn).optional()
}

/// Does the same for many sessions, no two the same, with one commit: in one
/// statement on PostgreSQL, which passes over rows that somebody else is at; in one
/// transaction on SQLite. The answers are in the order of `all`.
///
/// # Errors
/// When a statement fails: none of them is advanced then.
pub fn advance_all(conn: &mut Conn, all: &[&Advance]) -> QueryResult<Vec<Option<Advanced>>> {
    match (conn, all) {
        (Conn::Postgres(conn), [next]) => {
            let one = AdvanceOne::<true>::new(next.generation, next.presented.as_bytes(), next);
            Ok(vec![one.get_result(conn).optional()?])
        }
        (Conn::Postgres(conn), all) => {
            let rows: Vec<(SessionId, UserId, Timestamp)> = AdvanceAll::new(all).load(conn)?;
            let rows: HashMap<SessionId, Advanced> =
                rows.into_iter().map(|(session, user, end)| (session, (user, end))).collect();
            Ok(all.iter().map(|next| rows.get(&next.session).copied()).collect())
        }
        (conn @ Conn::Sqlite(_), [next]) => Ok(vec![advance(conn, next)?]),
        (conn @ Conn::Sqlite(_), all) => {
            conn.write(|conn| all.iter().map(|next| advance(conn, next)).collect())
        }
    }
}

/// Does the same from a row that is behind the presented token: as the row
/// was seen, and still is.
///
/// # Errors
/// When the statement fails.
pub fn adopt(conn: &mut Conn, seen: &Standing, next: &Advance) -> QueryResult<Option<Advanced>> {
    let one = AdvanceOne::<false>::new(seen.generation, &seen.secret_digest, next);
    one.get_result(conn).optional()
}

/// One session that is advanced. It is a type of its own so that diesel prepares it
/// once on each connection: it does not with updates in its own language, nor
/// with `sql_query`. With `PASS`, which only PostgreSQL knows, it passes over a row
/// that somebody else is at.
struct AdvanceOne<'a, const PASS: bool> {
    generation: i64,
    secret_digest: &'a [u8],
    next_generation: i64,
    salt: Option<&'a [u8]>,
    attempt: Option<&'a [u8]>,
    user_agent: Option<&'a str>,
    ip: Option<Address>,
    next: &'a Advance,
}

impl<'a, const PASS: bool> AdvanceOne<'a, PASS> {
    /// From the row with this generation and digest.
    fn new(generation: i64, secret_digest: &'a [u8], next: &'a Advance) -> Self {
        Self {
            generation,
            secret_digest,
            next_generation: next.generation.saturating_add(1),
            salt: next.salt.as_ref().map(Salt::as_bytes),
            attempt: next.attempt.as_ref().map(Digest::as_bytes),
            user_agent: next.user_agent.as_deref(),
            ip: next.ip.map(Address),
            next,
        }
    }
}

impl<DB, const PASS: bool> QueryFragment<DB> for AdvanceOne<'_, PASS>
where
    DB: Backend + HasSqlType<Id> + HasSqlType<IpAddress> + HasSqlType<PointInTime>,
    i64: ToSql<BigInt, DB>,
    [u8]: ToSql<Binary, DB>,
    str: ToSql<Text, DB>,
    Timestamp: ToSql<PointInTime, DB>,
    SessionId: ToSql<Id, DB>,
    AccessId: ToSql<Id, DB>,
    Address: ToSql<IpAddress, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let next = self.next;
        out.push_sql("UPDATE sessions SET generation = ");
        out.push_bind_param::<BigInt, _>(&self.next_generation)?;
        out.push_sql(", secret_digest = ");
        out.push_bind_param::<Binary, [u8]>(next.successor.as_bytes())?;
        out.push_sql(", previous_digest = ");
        out.push_bind_param::<Binary, [u8]>(next.presented.as_bytes())?;
        out.push_sql(", salt = ");
        out.push_bind_param::<Nullable<Binary>, _>(&self.salt)?;
        out.push_sql(", attempt_digest = ");
        out.push_bind_param::<Nullable<Binary>, _>(&self.attempt)?;
        out.push_sql(", rotated_at = ");
        out.push_bind_param::<PointInTime, _>(&next.now)?;
        out.push_sql(", access_jti = ");
        out.push_bind_param::<Id, _>(&next.access)?;
        out.push_sql(", access_issued_at = ");
        out.push_bind_param::<PointInTime, _>(&next.now)?;
        out.push_sql(", access_until = CASE WHEN access_until > ");
        out.push_bind_param::<PointInTime, _>(&next.access_until)?;
        out.push_sql(" THEN access_until ELSE ");
        out.push_bind_param::<PointInTime, _>(&next.access_until)?;
        out.push_sql(" END, idle_expires_at = ");
        out.push_bind_param::<PointInTime, _>(&next.idle_expires_at)?;
        out.push_sql(", user_agent = ");
        out.push_bind_param::<Nullable<Text>, _>(&self.user_agent)?;
        out.push_sql(", ip = ");
        out.push_bind_param::<Nullable<IpAddress>, _>(&self.ip)?;
        out.push_sql(" WHERE ");
        if PASS {
            out.push_sql("ctid = (SELECT ctid FROM sessions WHERE ");
        }
        out.push_sql("id = ");
        out.push_bind_param::<Id, _>(&next.session)?;
        out.push_sql(" AND generation = ");
        out.push_bind_param::<BigInt, _>(&self.generation)?;
        out.push_sql(" AND secret_digest = ");
        out.push_bind_param::<Binary, _>(&self.secret_digest)?;
        out.push_sql(" AND ended_at IS NULL AND idle_expires_at > ");
        out.push_bind_param::<PointInTime, _>(&next.now)?;
        out.push_sql(" AND expires_at > ");
        out.push_bind_param::<PointInTime, _>(&next.now)?;
        if PASS {
            out.push_sql(" FOR NO KEY UPDATE SKIP LOCKED)");
        }
        out.push_sql(" RETURNING user_id, expires_at");
        Ok(())
    }
}

impl<const PASS: bool> QueryId for AdvanceOne<'_, PASS> {
    type QueryId = AdvanceOne<'static, PASS>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const PASS: bool> Query for AdvanceOne<'_, PASS> {
    type SqlType = (Id, PointInTime);
}

impl<const PASS: bool, C> RunQueryDsl<C> for AdvanceOne<'_, PASS> {}

/// Many sessions that are advanced, as PostgreSQL does it: each parameter is a
/// column of theirs.
struct AdvanceAll<'a> {
    sessions: Vec<SessionId>,
    generations: Vec<i64>,
    presented: Vec<&'a [u8]>,
    successors: Vec<&'a [u8]>,
    salts: Vec<Option<&'a [u8]>>,
    attempts: Vec<Option<&'a [u8]>>,
    accesses: Vec<AccessId>,
    access_until: Vec<Timestamp>,
    now: Vec<Timestamp>,
    idle_expires_at: Vec<Timestamp>,
    user_agents: Vec<Option<&'a str>>,
    ips: Vec<Option<Address>>,
}

impl<'a> AdvanceAll<'a> {
    fn new(all: &[&'a Advance]) -> Self {
        fn column<'a, T>(all: &[&'a Advance], of: impl Fn(&'a Advance) -> T) -> Vec<T> {
            all.iter().map(|next| of(next)).collect()
        }
        Self {
            sessions: column(all, |next| next.session),
            generations: column(all, |next| next.generation),
            presented: column(all, |next| next.presented.as_bytes()),
            successors: column(all, |next| next.successor.as_bytes()),
            salts: column(all, |next| next.salt.as_ref().map(Salt::as_bytes)),
            attempts: column(all, |next| next.attempt.as_ref().map(Digest::as_bytes)),
            accesses: column(all, |next| next.access),
            access_until: column(all, |next| next.access_until),
            now: column(all, |next| next.now),
            idle_expires_at: column(all, |next| next.idle_expires_at),
            user_agents: column(all, |next| next.user_agent.as_deref()),
            ips: column(all, |next| next.ip.map(Address)),
        }
    }
}

impl QueryFragment<Pg> for AdvanceAll<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "UPDATE sessions SET generation = next.generation + 1, \
             secret_digest = next.successor, previous_digest = next.presented, \
             salt = next.salt, attempt_digest = next.attempt, rotated_at = next.now, \
             access_jti = next.access, access_issued_at = next.now, \
             access_until = greatest(sessions.access_until, next.access_until), \
             idle_expires_at = next.idle_expires_at, user_agent = next.user_agent, \
             ip = next.ip FROM (SELECT held.ctid AS at, next.* FROM unnest(",
        );
        out.push_bind_param::<Array<Id>, _>(&self.sessions)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.generations)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.presented)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.successors)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.salts)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.attempts)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Id>, _>(&self.accesses)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<PointInTime>, _>(&self.access_until)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<PointInTime>, _>(&self.now)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<PointInTime>, _>(&self.idle_expires_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.user_agents)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<IpAddress>>, _>(&self.ips)?;
        out.push_sql(
            ") AS next (id, generation, presented, successor, salt, attempt, access, \
             access_until, now, idle_expires_at, user_agent, ip) \
             JOIN sessions AS held ON held.id = next.id \
             WHERE held.generation = next.generation AND held.secret_digest = next.presented \
             AND held.ended_at IS NULL AND held.idle_expires_at > next.now \
             AND held.expires_at > next.now FOR NO KEY UPDATE OF held SKIP LOCKED) AS next \
             WHERE sessions.ctid = next.at RETURNING sessions.id, sessions.user_id, sessions.expires_at",
        );
        Ok(())
    }
}

impl QueryId for AdvanceAll<'_> {
    type QueryId = AdvanceAll<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for AdvanceAll<'_> {
    type SqlType = (Id, Id, PointInTime);
}

impl RunQueryDsl<PgConnection> for AdvanceAll<'_> {}

/// A session as it stands: what a refusal, or the same answer again, is judged
/// by.
#[derive(Queryable)]
pub struct Standing {
    /// Whose it is.
    pub user: UserId,
    /// How often it has been rotated.
    pub generation: i64,
    /// Digest of the live token's secret.
    pub secret_digest: Vec<u8>,
    /// Digest of the secret before it.
    pub previous_digest: Option<Vec<u8>>,
    /// What the live secret was derived with, while it may be asked for again.
    pub salt: Option<Vec<u8>>,
    /// Digest of the key of the attempt that rotated it.
    pub attempt_digest: Option<Vec<u8>>,
    /// When it was rotated last.
    pub rotated_at: Option<Timestamp>,
    /// The access token granted last.
    pub access: AccessId,
    /// When that was issued.
    pub access_issued_at: Timestamp,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it ends unless it is refreshed before.
    pub idle_expires_at: Timestamp,
    /// When it ends in any case.
    pub expires_at: Timestamp,
    /// When it ended, if it did.
    pub ended_at: Option<Timestamp>,
    /// Why it ended, if it did.
    pub end_reason: Option<String>,
    /// The `User-Agent` that signed in or refreshed last.
    pub user_agent: Option<String>,
    /// The address that signed in or refreshed last.
    pub ip: Option<Address>,
}

/// How a session stands.
///
/// # Errors
/// When the query fails.
pub fn find(conn: &mut Conn, id: SessionId) -> QueryResult<Option<Standing>> {
    sessions::table
        .find(id)
        .select((
            sessions::user_id,
            sessions::generation,
            sessions::secret_digest,
            sessions::previous_digest,
            sessions::salt,
            sessions::attempt_digest,
            sessions::rotated_at,
            sessions::access_jti,
            sessions::access_issued_at,
            sessions::created_at,
            sessions::idle_expires_at,
            sessions::expires_at,
            sessions::ended_at,
            sessions::end_reason,
            sessions::user_agent,
            sessions::ip,
        ))
        .first(conn)
        .optional()
}

/// Puts a new access token in the place of one that has expired; `false` where
/// the session is not as it was seen any more.
///
/// # Errors
/// When the statement fails.
pub fn renew_access(
    conn: &mut Conn,
    id: SessionId,
    seen: &Standing,
    access: AccessId,
    access_until: Timestamp,
    now: Timestamp,
) -> QueryResult<bool> {
    let same = sessions::table
        .find(id)
        .filter(sessions::generation.eq(seen.generation))
        .filter(sessions::access_jti.eq(seen.access))
        .filter(sessions::ended_at.is_null());
    let changed = diesel::update(same)
        .set((
            sessions::access_jti.eq(access),
            sessions::access_issued_at.eq(now),
            sessions::access_until.eq(at_least!(access_until)),
        ))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Ends a session and answers whose it is and until when access tokens of its
/// are out, where that is known; `None` where it had ended already.
///
/// # Errors
/// When the statement fails.
pub fn end(
    conn: &mut Conn,
    id: SessionId,
    reason: &str,
    now: Timestamp,
) -> QueryResult<Option<(UserId, Option<Timestamp>)>> {
    diesel::update(sessions::table.find(id).filter(sessions::ended_at.is_null()))
        .set((sessions::ended_at.eq(now), sessions::end_reason.eq(reason)))
        .returning((sessions::user_id, sessions::access_until))
        .get_result(conn)
        .optional()
}

/// Ends all sessions of a user that have not ended, but for the one to `keep`;
/// answers which those were, and until when access tokens of theirs are out.
///
/// # Errors
/// When a statement fails.
pub fn end_all(
    conn: &mut Conn,
    user: UserId,
    keep: Option<SessionId>,
    reason: &str,
    now: Timestamp,
) -> QueryResult<Vec<(SessionId, Option<Timestamp>)>> {
    let others = sessions::table
        .filter(sessions::user_id.eq(user))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::id.ne(keep.unwrap_or(SessionId::FIRST)))
        .order(sessions::id)
        .select((sessions::id, sessions::access_until));
    // In one order, so that two who do this at once wait for each other.
    let ended: Vec<(SessionId, Option<Timestamp>)> = match conn {
        Conn::Postgres(conn) => others.for_update().load(conn)?,
        Conn::Sqlite(conn) => others.load(conn)?,
    };
    let ids = ended.iter().map(|(id, _)| *id);
    diesel::update(sessions::table.filter(sessions::id.eq_any(ids)))
        .set((sessions::ended_at.eq(now), sessions::end_reason.eq(reason)))
        .execute(conn)?;
    Ok(ended)
}

/// Whose session it is.
///
/// # Errors
/// When the query fails.
pub fn owner(conn: &mut Conn, id: SessionId) -> QueryResult<Option<UserId>> {
    sessions::table.find(id).select(sessions::user_id).first(conn).optional()
}

/// A session as its user sees it.
#[derive(Queryable)]
pub struct Listed {
    /// Its id.
    pub id: SessionId,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it was refreshed last.
    pub rotated_at: Option<Timestamp>,
    /// When it ends unless it is refreshed before.
    pub idle_expires_at: Timestamp,
    /// When it ends in any case.
    pub expires_at: Timestamp,
    /// The `User-Agent` that signed in or refreshed last.
    pub user_agent: Option<String>,
    /// The address that signed in or refreshed last.
    pub ip: Option<Address>,
}

/// The most sessions that are listed.
const LISTED: i64 = 1000;

/// The live sessions of a user, those used last first.
///
/// # Errors
/// When the query fails.
pub fn live_of(conn: &mut Conn, user: UserId, now: Timestamp) -> QueryResult<Vec<Listed>> {
    let mut live: Vec<Listed> = sessions::table
        .filter(sessions::user_id.eq(user))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::idle_expires_at.gt(now))
        .filter(sessions::expires_at.gt(now))
        .order(sessions::id.desc())
        .limit(LISTED)
        .select((
            sessions::id,
            sessions::created_at,
            sessions::rotated_at,
            sessions::idle_expires_at,
            sessions::expires_at,
            sessions::user_agent,
            sessions::ip,
        ))
        .load(conn)?;
    live.sort_by_key(|listed| std::cmp::Reverse(listed.rotated_at.unwrap_or(listed.created_at)));
    Ok(live)
}

/// Whether the session is live: neither ended nor past its end.
///
/// # Errors
/// When the query fails.
pub fn is_live(conn: &mut Conn, id: SessionId, now: Timestamp) -> QueryResult<bool> {
    let found = sessions::table
        .find(id)
        .filter(sessions::ended_at.is_null())
        .filter(sessions::idle_expires_at.gt(now))
        .filter(sessions::expires_at.gt(now))
        .select(sessions::id)
        .first::<SessionId>(conn)
        .optional()?;
    Ok(found.is_some())
}

/// Whether the user has a session that can still be refreshed.
///
/// # Errors
/// When the query fails.
pub fn any_live(conn: &mut Conn, user: UserId, now: Timestamp) -> QueryResult<bool> {
    let found = sessions::table
        .filter(sessions::user_id.eq(user))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::idle_expires_at.gt(now))
        .filter(sessions::expires_at.gt(now))
        .select(sessions::id)
        .first::<SessionId>(conn)
        .optional()?;
    Ok(found.is_some())
}

/// A session as the sweeper sees it.
#[derive(Queryable)]
pub struct Dust {
    /// Its id.
    pub id: SessionId,
    /// Whether it has a salt.
    pub salted: bool,
    /// Whether it was last rotated with an attempt key.
    pub keyed: bool,
    /// When it was rotated last.
    pub rotated_at: Option<Timestamp>,
    /// When it ends unless it is refreshed before.
    pub idle_expires_at: Timestamp,
    /// When it ends in any case.
    pub expires_at: Timestamp,
    /// When it ended, if it did.
    pub ended_at: Option<Timestamp>,
}

/// What the sweeper does with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chore {
    /// Nothing.
    Leave,
    /// Take its salt.
    Clear,
    /// Delete it.
    Delete,
}

/// What a sweep has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// The last session it looked at; `None` where there was none.
    pub last: Option<SessionId>,
    /// How many salts are gone.
    pub cleared: usize,
    /// How many sessions are gone.
    pub deleted: usize,
}

/// Looks at the `limit` sessions that follow on `after` and does with each what
/// `judge` says. It goes by the primary key, which is the order in which
/// sessions were opened and, nearly, lie on the disk. Rows that are being
/// changed are passed over, so that neither a refresh nor another server's
/// sweeper is waited for.
///
/// # Errors
/// When a statement fails.
pub fn sweep(
    conn: &mut Conn,
    after: SessionId,
    limit: i64,
    judge: impl Fn(&Dust) -> Chore,
) -> QueryResult<Swept> {
    let dust = sessions::table.select((
        sessions::id,
        sessions::salt.is_not_null(),
        sessions::attempt_digest.is_not_null(),
        sessions::rotated_at,
        sessions::idle_expires_at,
        sessions::expires_at,
        sessions::ended_at,
    ));
    let seen: Vec<Dust> =
        dust.filter(sessions::id.gt(after)).order(sessions::id).limit(limit).load(conn)?;
    let mut swept = Swept { last: seen.last().map(|dust| dust.id), ..Swept::default() };
    let work = seen.iter().filter(|dust| judge(dust) != Chore::Leave);
    let work: Vec<SessionId> = work.map(|dust| dust.id).collect();
    if work.is_empty() {
        return Ok(swept);
    }
    let work = dust.filter(sessions::id.eq_any(work));
    conn.write(|conn| {
        // As they are now that nobody else can change them.
        let held: Vec<Dust> = match conn {
            Conn::Postgres(conn) => work.for_update().skip_locked().load(conn)?,
            Conn::Sqlite(conn) => work.load(conn)?,
        };
        let all = |chore| {
            let those = held.iter().filter(|dust| judge(dust) == chore);
            those.map(|dust| dust.id).collect::<Vec<_>>()
        };
        swept.cleared = clear(conn, all(Chore::Clear))?;
        swept.deleted = delete(conn, all(Chore::Delete))?;
        Ok(swept)
    })
}

/// Clears the salts of those of `ids` that were rotated before `before`, without
/// an attempt key; answers how many.
///
/// # Errors
/// When a statement fails.
pub fn clear_salts(conn: &mut Conn, ids: &[SessionId], before: Timestamp) -> QueryResult<usize> {
    let old = sessions::table
        .filter(sessions::id.eq_any(ids))
        .filter(sessions::rotated_at.lt(before))
        .filter(sessions::attempt_digest.is_null())
        .filter(sessions::salt.is_not_null())
        .select(sessions::id);
    conn.write(|conn| {
        let ids: Vec<SessionId> = match conn {
            Conn::Postgres(conn) => old.for_update().skip_locked().load(conn)?,
            Conn::Sqlite(conn) => old.load(conn)?,
        };
        clear(conn, ids)
    })
}

/// Takes away what a successor could be derived from; answers how many had it.
fn clear(conn: &mut Conn, ids: Vec<SessionId>) -> QueryResult<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    diesel::update(sessions::table.filter(sessions::id.eq_any(ids)))
        .set((sessions::salt.eq(None::<&[u8]>), sessions::attempt_digest.eq(None::<&[u8]>)))
        .execute(conn)
}

fn delete(conn: &mut Conn, ids: Vec<SessionId>) -> QueryResult<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    diesel::delete(sessions::table.filter(sessions::id.eq_any(ids))).execute(conn)
}
