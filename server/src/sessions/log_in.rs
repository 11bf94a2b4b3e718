//! Login: opens a session.

use diesel::QueryResult;

use super::{AccessGrant, Context, EventKind, SessionExpiry, TokenGrant};
use crate::crypto::{Digest, Salt, Secret, TokenKey};
use crate::ids::{AccessTokenId, LoginSessionId, SessionId, UserId};
use crate::store::events::{self, Event};
use crate::store::sessions::NewSession;
use crate::store::{self, Conn, accounts, users};
use crate::tokens::{ClientGrant, ExtraClaims, RefreshToken};

/// A login, with the ids and the secret of the session that it opens.
pub struct Login {
    pub user: UserId,
    pub session: SessionId,
    pub secret: Secret,
    pub access: AccessTokenId,
    /// Further claims of the session's access tokens.
    pub claims: Option<ExtraClaims>,
    /// The OAuth client that opens the session; `None` at the native endpoints.
    pub grant: Option<ClientGrant>,
    /// The authorization code that opens the session.
    pub code: Option<PresentedCode>,
}

/// The authorization code of a login. It is the token before generation 0, from which the
/// secret of generation 0 was derived.
pub struct PresentedCode {
    /// The digest of its secret.
    pub digest: Digest,
    /// The salt of the derivation, if a repeated exchange may get the same tokens.
    pub salt: Option<Salt>,
    /// The login session of the browser that got the code.
    pub login_session: Option<LoginSessionId>,
}

/// Why a guest may not log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestRejection {
    UserNotFound,
    /// The guest has a live session, which has to be refreshed instead.
    AlreadyActive,
    /// The guest has logged in before, and that session is over.
    IdUsed,
}

/// Uses the one login of a guest. The caller opens the session in the same transaction if
/// the guest may log in.
pub fn admit_guest(
    conn: &mut Conn,
    user: UserId,
    cx: &Context<'_>,
) -> QueryResult<Result<(), GuestRejection>> {
    // The write comes first: of several concurrent logins, one succeeds.
    if users::use_login(conn, user, cx.now)? {
        return Ok(Ok(()));
    }
    // The id of an account is no credential.
    if !users::exists(conn, user)? || accounts::exists(conn, user)? {
        return Ok(Err(GuestRejection::UserNotFound));
    }
    let is_active = store::sessions::has_live(conn, user, cx.now)?;
    Ok(Err(if is_active { GuestRejection::AlreadyActive } else { GuestRejection::IdUsed }))
}

/// Opens a session. Needs a transaction.
pub fn open(
    conn: &mut Conn,
    login: Login,
    token_key: &TokenKey,
    cx: &Context<'_>,
) -> QueryResult<TokenGrant> {
    let Login { user, session, secret, access, claims, grant, code } = login;
    let Context { policy, client, now, .. } = *cx;
    let expires_at = now.after(policy.absolute_lifetime);
    let idle_expires_at = now.after(policy.idle_lifetime);
    store::sessions::insert(
        conn,
        &NewSession {
            id: session,
            user,
            secret: secret.digest(),
            access,
            access_expires_at: now.after(policy.access_lifetime),
            now,
            idle_expires_at,
            expires_at,
            claims: claims.as_ref().map(ExtraClaims::as_json),
            grant: grant.as_ref(),
            code: code.as_ref().map(|code| (&code.digest, code.salt.as_ref())),
            login_session: code.as_ref().and_then(|code| code.login_session),
            user_agent: client.user_agent.as_deref(),
            ip: client.ip,
        },
    )?;
    let event = Event { user: Some(user), ..cx.event(EventKind::LoggedIn, session) };
    events::insert(conn, &event)?;
    let client = grant.as_ref().map(|grant| grant.client.clone());
    let refresh_token = RefreshToken { session, generation: 0, secret, client };
    let refresh_token = refresh_token.encode(token_key);
    let access = AccessGrant::new(access, now, policy.access_lifetime, expires_at);
    let expiry = SessionExpiry { idle: idle_expires_at, absolute: expires_at };
    Ok(TokenGrant { user, session, refresh_token, access, claims, grant, expiry })
}

/// Reverses a login whose client disconnected: a guest may log in again. Returns `false` while
/// another transaction refers to the user, because it may be that of the login.
pub fn undo_open(conn: &mut Conn, session: SessionId, user: UserId) -> QueryResult<bool> {
    conn.write(|conn| {
        if !users::lock_if_free(conn, user)? {
            return Ok(false);
        }
        if store::sessions::delete_unused(conn, session)? && !accounts::exists(conn, user)? {
            users::release_login(conn, user)?;
        }
        Ok(true)
    })
}
