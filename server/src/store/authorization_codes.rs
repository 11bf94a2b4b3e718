//! The table `authorization_codes`.

use diesel::prelude::*;
use uuid::Uuid;

use super::Conn;
use super::schema::authorization_codes as codes;
use super::sessions::{Selection, decode_list, encode_list};
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::{ClientId, LoginSessionId, SessionId, UserId};
use crate::tokens::Scope;

/// The authorization request of a code.
#[derive(Debug, Clone)]
pub struct CodeGrant {
    pub client: ClientId,
    pub user: UserId,
    pub redirect_uri: String,
    /// S256 of the verifier (RFC 7636 §4.2).
    pub code_challenge: Option<String>,
    pub scope: Scope,
    /// Empty: the default audience.
    pub audiences: Vec<String>,
    pub nonce: Option<String>,
    /// When the user last proved who they are.
    pub auth_time: Timestamp,
    /// The login session of the browser.
    pub login_session: Option<LoginSessionId>,
    pub expires_at: Timestamp,
}

/// A stored code.
pub struct StoredCode {
    pub grant: CodeGrant,
    /// When the code was exchanged, or presented with a wrong verifier.
    pub exchanged_at: Option<Timestamp>,
}

#[derive(Queryable)]
struct Row {
    client: String,
    user: UserId,
    redirect_uri: String,
    code_challenge: Option<String>,
    scope: String,
    audiences: Option<String>,
    nonce: Option<String>,
    auth_time: Timestamp,
    login_session: Option<LoginSessionId>,
    expires_at: Timestamp,
    exchanged_at: Option<Timestamp>,
}

/// The primary key of a code: the session that it opens.
fn key(session: SessionId) -> (i16, SessionId) {
    (session.place().value(), session)
}

/// Inserts a code whose secret has this digest.
pub fn insert(
    conn: &mut Conn,
    session: SessionId,
    secret: &Digest,
    grant: &CodeGrant,
    now: Timestamp,
) -> QueryResult<()> {
    diesel::insert_into(codes::table)
        .values((
            codes::place.eq(session.place().value()),
            codes::session_id.eq(session),
            codes::secret_digest.eq(secret.as_bytes()),
            codes::client_id.eq(grant.client.as_str()),
            codes::user_id.eq(grant.user),
            codes::redirect_uri.eq(&grant.redirect_uri),
            codes::code_challenge.eq(&grant.code_challenge),
            codes::scope.eq(grant.scope.as_str()),
            codes::audiences.eq(encode_list(&grant.audiences)),
            codes::nonce.eq(&grant.nonce),
            codes::auth_time.eq(grant.auth_time),
            codes::login_session_id.eq(grant.login_session),
            codes::created_at.eq(now),
            codes::expires_at.eq(grant.expires_at),
        ))
        .execute(conn)
        .map(drop)
}

/// Finds a code by its session and the digest of its secret.
pub fn find(
    conn: &mut Conn,
    session: SessionId,
    secret: &Digest,
) -> QueryResult<Option<StoredCode>> {
    let row: Option<Row> = codes::table
        .find(key(session))
        .filter(codes::secret_digest.eq(secret.as_bytes()))
        .select((
            codes::client_id,
            codes::user_id,
            codes::redirect_uri,
            codes::code_challenge,
            codes::scope,
            codes::audiences,
            codes::nonce,
            codes::auth_time,
            codes::login_session_id,
            codes::expires_at,
            codes::exchanged_at,
        ))
        .first(conn)
        .optional()?;
    Ok(row.map(|row| StoredCode {
        grant: CodeGrant {
            client: row.client.into(),
            user: row.user,
            redirect_uri: row.redirect_uri,
            code_challenge: row.code_challenge,
            scope: Scope::from_stored(&row.scope),
            audiences: row.audiences.as_deref().map(decode_list).unwrap_or_default(),
            nonce: row.nonce,
            auth_time: row.auth_time,
            login_session: row.login_session,
            expires_at: row.expires_at,
        },
        exchanged_at: row.exchanged_at,
    }))
}

/// Uses a code. Of several concurrent calls, one returns `true`. Needs a transaction.
pub fn consume(conn: &mut Conn, session: SessionId, now: Timestamp) -> QueryResult<bool> {
    let unused = codes::table
        .find(key(session))
        .filter(codes::exchanged_at.is_null())
        .filter(codes::expires_at.gt(now));
    Ok(diesel::update(unused).set(codes::exchanged_at.eq(now)).execute(conn)? == 1)
}

/// Locks a code, if there is one. Returns `false` if another transaction has locked it. On
/// SQLite the transaction excludes others.
pub fn lock_if_free(conn: &mut Conn, session: SessionId) -> QueryResult<bool> {
    let this = || codes::table.find(key(session)).select(codes::session_id);
    let Conn::Postgres(postgres) = conn else { return Ok(true) };
    if this().for_update().skip_locked().first::<SessionId>(postgres).optional()?.is_some() {
        return Ok(true);
    }
    Ok(this().first::<SessionId>(conn).optional()?.is_none())
}

/// Moves the date of an exchange to `now`.
pub fn redate(conn: &mut Conn, session: SessionId, now: Timestamp) -> QueryResult<()> {
    let earlier = codes::table.find(key(session)).filter(codes::exchanged_at.lt(now));
    diesel::update(earlier).set(codes::exchanged_at.eq(now)).execute(conn).map(drop)
}

/// Deletes the codes of a user, or those of one client.
pub fn delete_of_user(conn: &mut Conn, user: UserId, client: Option<&ClientId>) -> QueryResult<()> {
    let own =
        codes::table.filter(codes::place.eq(user.place().value())).filter(codes::user_id.eq(user));
    match client {
        None => diesel::delete(own).execute(conn).map(drop),
        Some(client) => {
            let of_client = own.filter(codes::client_id.eq(client.as_str()));
            diesel::delete(of_client).execute(conn).map(drop)
        }
    }
}

/// Deletes the codes that a login session got.
pub fn delete_of_login_session(
    conn: &mut Conn,
    user: UserId,
    login_session: LoginSessionId,
) -> QueryResult<()> {
    let own = codes::table
        .filter(codes::place.eq(user.place().value()))
        .filter(codes::user_id.eq(user))
        .filter(codes::login_session_id.eq(login_session));
    diesel::delete(own).execute(conn).map(drop)
}

/// Assigns the codes of a login session to the one that replaces it.
pub fn reassign(
    conn: &mut Conn,
    user: UserId,
    replaced: LoginSessionId,
    by: LoginSessionId,
) -> QueryResult<()> {
    let own = codes::table
        .filter(codes::place.eq(user.place().value()))
        .filter(codes::user_id.eq(user))
        .filter(codes::login_session_id.eq(replaced));
    diesel::update(own).set(codes::login_session_id.eq(by)).execute(conn).map(drop)
}

/// Deletes the codes whose sessions would belong to a selection.
pub fn delete_selected(conn: &mut Conn, selection: &Selection) -> QueryResult<()> {
    let Selection { user, opened_before, client } = selection;
    let selected = codes::table
        .filter(codes::created_at.lt(opened_before.unwrap_or(Timestamp::END_OF_9999)))
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

/// Deletes the codes that expired before `before`. Returns how many.
pub fn delete_expired(conn: &mut Conn, before: Timestamp) -> QueryResult<usize> {
    diesel::delete(codes::table.filter(codes::expires_at.lt(before))).execute(conn)
}
