//! The table `device_codes`: requests of devices (RFC 8628).

use std::time::Duration;

use diesel::prelude::*;
use uuid::Uuid;

use super::Conn;
use super::schema::device_codes as codes;
use super::sessions::{Selection, decode_list, encode_list};
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::{ClientId, LoginSessionId, SessionId, UserId};
use crate::tokens::{Scope, UserCodeMac};

/// The request of a device.
#[derive(Debug, Clone)]
pub struct DeviceRequest {
    pub client: ClientId,
    pub scope: Scope,
    /// Empty: the default audience.
    pub audiences: Vec<String>,
    pub expires_at: Timestamp,
    /// How long the device has to wait between two polls.
    pub poll_interval: Duration,
}

/// A stored request.
pub struct StoredDeviceRequest {
    pub request: DeviceRequest,
    pub polled_at: Option<Timestamp>,
    pub decision: Option<DeviceDecision>,
}

/// What the user decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceDecision {
    Approved {
        approval: Approval,
        /// The session that the request opens; `None` until the device polls.
        session: Option<SessionId>,
    },
    Denied,
}

/// The login of a user who approves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Approval {
    pub user: UserId,
    /// When the user last proved who they are.
    pub auth_time: Timestamp,
    pub login_session: LoginSessionId,
}

#[derive(Queryable)]
struct Row {
    client: String,
    scope: String,
    audiences: Option<String>,
    expires_at: Timestamp,
    poll_interval: i64,
    polled_at: Option<Timestamp>,
    user: Option<UserId>,
    auth_time: Option<Timestamp>,
    login_session: Option<LoginSessionId>,
    approved_at: Option<Timestamp>,
    denied_at: Option<Timestamp>,
    session: Option<SessionId>,
}

impl From<Row> for StoredDeviceRequest {
    fn from(row: Row) -> Self {
        let approval = match (row.approved_at, row.user, row.auth_time, row.login_session) {
            (Some(_), Some(user), Some(auth_time), Some(login_session)) => {
                Some(Approval { user, auth_time, login_session })
            }
            _ => None,
        };
        let session = row.session;
        let approved = approval.map(|approval| DeviceDecision::Approved { approval, session });
        let denied = row.denied_at.map(|_| DeviceDecision::Denied);
        Self {
            request: DeviceRequest {
                client: row.client.into(),
                scope: Scope::from_stored(&row.scope),
                audiences: row.audiences.as_deref().map(decode_list).unwrap_or_default(),
                expires_at: row.expires_at,
                poll_interval: Duration::from_secs(row.poll_interval.unsigned_abs()),
            },
            polled_at: row.polled_at,
            decision: denied.or(approved),
        }
    }
}

fn seconds(interval: Duration) -> i64 {
    i64::try_from(interval.as_secs()).unwrap_or(i64::MAX)
}

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_if_free {
    ($conn:expr, $user_code:expr, $secret:expr, $request:expr, $now:expr) => {
        diesel::insert_into(codes::table)
            .values((
                codes::user_code_mac.eq($user_code.as_bytes()),
                codes::secret_digest.eq($secret.as_bytes()),
                codes::client_id.eq($request.client.as_str()),
                codes::scope.eq($request.scope.as_str()),
                codes::audiences.eq(encode_list(&$request.audiences)),
                codes::created_at.eq($now),
                codes::expires_at.eq($request.expires_at),
                codes::poll_interval.eq(seconds($request.poll_interval)),
            ))
            .on_conflict_do_nothing()
            .execute($conn)
    };
}

/// Inserts a request whose device code has a secret with this digest. Returns `false` if
/// another request has the user code.
pub fn insert(
    conn: &mut Conn,
    user_code: UserCodeMac,
    secret: &Digest,
    request: &DeviceRequest,
    now: Timestamp,
) -> QueryResult<bool> {
    let inserted = match conn {
        Conn::Postgres(conn) => insert_if_free!(conn, user_code, secret, request, now)?,
        Conn::Sqlite(conn) => insert_if_free!(conn, user_code, secret, request, now)?,
    };
    Ok(inserted == 1)
}

/// Finds a request by its user code.
pub fn find(conn: &mut Conn, user_code: UserCodeMac) -> QueryResult<Option<StoredDeviceRequest>> {
    let row: Option<Row> = codes::table
        .find(user_code.as_bytes())
        .select((
            codes::client_id,
            codes::scope,
            codes::audiences,
            codes::expires_at,
            codes::poll_interval,
            codes::polled_at,
            codes::user_id,
            codes::auth_time,
            codes::login_session_id,
            codes::approved_at,
            codes::denied_at,
            codes::session_id,
        ))
        .first(conn)
        .optional()?;
    Ok(row.map(StoredDeviceRequest::from))
}

/// Locks a request until the end of the transaction. Returns `false` if no request has
/// this secret.
pub fn lock(conn: &mut Conn, user_code: UserCodeMac, secret: &Digest) -> QueryResult<bool> {
    let row =
        codes::table.find(user_code.as_bytes()).filter(codes::secret_digest.eq(secret.as_bytes()));
    let unchanged = codes::poll_interval.eq(codes::poll_interval);
    Ok(diesel::update(row).set(unchanged).execute(conn)? == 1)
}

/// Records a poll, and how long the device has to wait for the next.
pub fn record_poll(
    conn: &mut Conn,
    user_code: UserCodeMac,
    interval: Duration,
    now: Timestamp,
) -> QueryResult<()> {
    diesel::update(codes::table.find(user_code.as_bytes()))
        .set((codes::polled_at.eq(now), codes::poll_interval.eq(seconds(interval))))
        .execute(conn)
        .map(drop)
}

/// The request of a user code, unless it was decided before or has expired.
macro_rules! undecided {
    ($user_code:expr, $now:expr) => {
        codes::table
            .find($user_code.as_bytes())
            .filter(codes::approved_at.is_null())
            .filter(codes::denied_at.is_null())
            .filter(codes::expires_at.gt($now))
    };
}

/// Approves a request. Returns `false` if it was decided before or has expired.
pub fn approve(
    conn: &mut Conn,
    user_code: UserCodeMac,
    approval: &Approval,
    now: Timestamp,
) -> QueryResult<bool> {
    let approved = diesel::update(undecided!(user_code, now))
        .set((
            codes::user_id.eq(approval.user),
            codes::auth_time.eq(approval.auth_time),
            codes::login_session_id.eq(approval.login_session),
            codes::approved_at.eq(now),
        ))
        .execute(conn)?;
    Ok(approved == 1)
}

/// Denies a request. Returns `false` if it was decided before or has expired.
pub fn deny(
    conn: &mut Conn,
    user_code: UserCodeMac,
    user: UserId,
    now: Timestamp,
) -> QueryResult<bool> {
    let denied = diesel::update(undecided!(user_code, now))
        .set((codes::user_id.eq(user), codes::denied_at.eq(now)))
        .execute(conn)?;
    Ok(denied == 1)
}

/// Stores the session that an approved request opens. Of several concurrent calls, one
/// returns `true`.
pub fn claim(
    conn: &mut Conn,
    user_code: UserCodeMac,
    session: SessionId,
    now: Timestamp,
) -> QueryResult<bool> {
    let approved = codes::table
        .find(user_code.as_bytes())
        .filter(codes::approved_at.is_not_null())
        .filter(codes::session_id.is_null())
        .filter(codes::expires_at.gt(now));
    Ok(diesel::update(approved).set(codes::session_id.eq(session)).execute(conn)? == 1)
}

/// Deletes the requests that a user decided, or those of one client.
pub fn delete_of_user(conn: &mut Conn, user: UserId, client: Option<&ClientId>) -> QueryResult<()> {
    let own = codes::table.filter(codes::user_id.eq(user));
    match client {
        None => diesel::delete(own).execute(conn).map(drop),
        Some(client) => {
            let of_client = own.filter(codes::client_id.eq(client.as_str()));
            diesel::delete(of_client).execute(conn).map(drop)
        }
    }
}

/// Deletes the requests that a user decided in a browser.
pub fn delete_of_login_session(
    conn: &mut Conn,
    user: UserId,
    login_session: LoginSessionId,
) -> QueryResult<()> {
    let own = codes::table
        .filter(codes::user_id.eq(user))
        .filter(codes::login_session_id.eq(login_session));
    diesel::delete(own).execute(conn).map(drop)
}

/// Deletes the approved requests whose sessions would belong to a selection.
pub fn delete_selected(conn: &mut Conn, selection: &Selection) -> QueryResult<()> {
    let Selection { user, opened_before, client } = selection;
    let selected = codes::table
        .filter(codes::approved_at.lt(opened_before.unwrap_or(Timestamp::END_OF_9999)))
        .filter(codes::user_id.ge(user.unwrap_or(UserId(Uuid::nil()))))
        .filter(codes::user_id.le(user.unwrap_or(UserId(Uuid::max()))));
    match client {
        None => diesel::delete(selected).execute(conn).map(drop),
        Some(client) => {
            let of_client = selected.filter(codes::client_id.eq(client.as_str()));
            diesel::delete(of_client).execute(conn).map(drop)
        }
    }
}

/// Deletes the requests of a client.
pub fn delete_of_client(conn: &mut Conn, client: &ClientId) -> QueryResult<()> {
    let of_client = codes::table.filter(codes::client_id.eq(client.as_str()));
    diesel::delete(of_client).execute(conn).map(drop)
}

/// Deletes the requests that expired before `unused` and have opened no session, and those
/// that expired before `used`. Returns how many.
pub fn delete_expired(conn: &mut Conn, unused: Timestamp, used: Timestamp) -> QueryResult<usize> {
    let is_unused = codes::session_id.is_null().and(codes::expires_at.lt(unused));
    let expired = codes::table.filter(is_unused.or(codes::expires_at.lt(used)));
    diesel::delete(expired).execute(conn)
}
