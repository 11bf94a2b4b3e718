//! Login: opens the one session of a guest.

use diesel::{Connection, QueryResult};

use super::{AccessGrant, Context, EventKind, TokenGrant};
use crate::crypto::{Secret, TokenKey};
use crate::ids::{AccessTokenId, SessionId, UserId};
use crate::store::events::{self, Event};
use crate::store::sessions::NewSession;
use crate::store::{self, Conn, users};
use crate::tokens::RefreshToken;

/// A login, with the ids and the secret of the session that it opens.
pub struct Login {
    pub user: UserId,
    pub session: SessionId,
    pub secret: Secret,
    pub access: AccessTokenId,
}

/// The outcome of a login.
pub enum LoginOutcome {
    /// The session was opened.
    Granted(TokenGrant),
    UserNotFound,
    /// The guest has a live session, which has to be refreshed instead.
    AlreadyActive,
    /// The guest has logged in before, and that session is over.
    GuestIdUsed,
}

/// Opens the one session of a guest.
pub fn log_in(
    conn: &mut Conn,
    login: Login,
    token_key: &TokenKey,
    cx: &Context<'_>,
) -> QueryResult<LoginOutcome> {
    let Login { user, session, secret, access } = login;
    let Context { policy, client, now, .. } = *cx;
    conn.transaction(|conn| {
        // The write comes first: of several concurrent logins, one succeeds.
        if !users::use_login(conn, user, now)? {
            return Ok(match users::exists(conn, user)? {
                false => LoginOutcome::UserNotFound,
                true if store::sessions::has_live(conn, user, now)? => LoginOutcome::AlreadyActive,
                true => LoginOutcome::GuestIdUsed,
            });
        }
        let expires_at = now.after(policy.absolute_lifetime);
        store::sessions::insert(
            conn,
            &NewSession {
                id: session,
                user,
                secret: secret.digest(),
                access,
                access_expires_at: now.after(policy.access_lifetime),
                now,
                idle_expires_at: now.after(policy.idle_lifetime),
                expires_at,
                user_agent: client.user_agent.as_deref(),
                ip: client.ip,
            },
        )?;
        let event = Event { user: Some(user), ..cx.event(EventKind::LoggedIn, session) };
        events::insert(conn, &event)?;
        let refresh_token = RefreshToken { session, generation: 0, secret }.encode(token_key);
        let access = AccessGrant::new(access, now, policy.access_lifetime, expires_at);
        Ok(LoginOutcome::Granted(TokenGrant { user, session, refresh_token, access }))
    })
}

/// Reverses a login whose client disconnected: the guest may log in again.
pub fn undo_log_in(conn: &mut Conn, session: SessionId, user: UserId) -> QueryResult<()> {
    conn.transaction(|conn| {
        if store::sessions::delete_unused(conn, session)? {
            users::release_login(conn, user)?;
        }
        Ok(())
    })
}
