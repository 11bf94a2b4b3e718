//! The sessions that were opened through a login session.

use diesel::prelude::*;

use crate::ids::{LoginSessionId, SessionId, UserId};
use crate::store::Conn;
use crate::store::schema::{clients, sessions};
use crate::tokens::Scope;

/// Returns the live sessions that clients opened through this login session, except those that
/// outlive it: of a client that keeps offline access, with the scope `offline_access`.
pub fn ending_with(
    conn: &mut Conn,
    user: UserId,
    login_session: LoginSessionId,
) -> QueryResult<Vec<SessionId>> {
    let opened: Vec<(SessionId, Option<String>, Option<String>)> = sessions::table
        .filter(sessions::place.eq(user.place().value()))
        .filter(sessions::user_id.eq(user))
        .filter(sessions::login_session_id.eq(login_session))
        .filter(sessions::ended_at.is_null())
        .select((sessions::id, sessions::client_id, sessions::scope))
        .load(conn)?;
    let of = opened.iter().filter_map(|(_, client, _)| client.as_deref());
    let keeping: Vec<String> = clients::table
        .filter(clients::id.eq_any(of))
        .filter(clients::keeps_offline_access)
        .select(clients::id)
        .load(conn)?;
    let is_kept = |client: Option<&String>, scope: Option<&String>| {
        client.is_some_and(|client| keeping.contains(client))
            && scope.is_some_and(|scope| Scope::from_stored(scope).contains("offline_access"))
    };
    let ending =
        opened.iter().filter(|(_, client, scope)| !is_kept(client.as_ref(), scope.as_ref()));
    Ok(ending.map(|(session, ..)| *session).collect())
}

/// Assigns the sessions of a login session to the one that replaces it.
pub fn reassign(
    conn: &mut Conn,
    user: UserId,
    replaced: LoginSessionId,
    by: LoginSessionId,
) -> QueryResult<()> {
    let opened = sessions::table
        .filter(sessions::place.eq(user.place().value()))
        .filter(sessions::user_id.eq(user))
        .filter(sessions::login_session_id.eq(replaced));
    diesel::update(opened).set(sessions::login_session_id.eq(by)).execute(conn).map(drop)
}
