//! The exchange of an authorization code: opens the session that the code is for. The code
//! then is the token before generation 0, and a repeated exchange is reissued or rejected
//! like a rotated refresh token.

use diesel::{Connection, QueryResult};

use super::end::end;
use super::{Context, EndReason, EventKind, InvalidGrant, Login, Revoked, TokenGrant, open};
use crate::clock::Timestamp;
use crate::crypto::{Digest, TokenKey};
use crate::ids::SessionId;
use crate::store::events::{self, Event};
use crate::store::{self, Conn, accounts, authorization_codes};

/// The outcome of an exchange.
pub enum CodeOutcome {
    Opened(TokenGrant),
    /// The code was exchanged before, by a concurrent request perhaps.
    Exchanged,
    Rejected(InvalidGrant),
}

/// Opens the session of a code. Of several concurrent calls, one opens it.
pub fn exchange_code(
    conn: &mut Conn,
    login: Login,
    token_key: &TokenKey,
    cx: &Context<'_>,
) -> QueryResult<CodeOutcome> {
    let user = login.user;
    conn.transaction(|conn| {
        // Excludes a concurrent change that disables or deletes the user.
        if !accounts::use_account(conn, user, cx.now)? {
            let reason = if accounts::exists(conn, user)? {
                InvalidGrant::Ended(EndReason::UserDisabled)
            } else {
                InvalidGrant::Unknown
            };
            return Ok(CodeOutcome::Rejected(reason));
        }
        if !authorization_codes::consume(conn, login.session, cx.now)? {
            return Ok(CodeOutcome::Exchanged);
        }
        open(conn, login, token_key, cx).map(CodeOutcome::Opened)
    })
}

/// Moves the date of an exchange that was committed late to `now`: before, no client could
/// repeat it. `secret` is that of the session that it opened; an exchange that was rolled back
/// or repeated has another one. Returns `false` while another transaction has locked the code,
/// because it may be that of the exchange.
pub fn redate_exchange(
    conn: &mut Conn,
    session: SessionId,
    secret: &Digest,
    now: Timestamp,
) -> QueryResult<bool> {
    conn.write(|conn| {
        if !authorization_codes::lock_if_free(conn, session)? {
            return Ok(false);
        }
        if store::sessions::redate(conn, &[(session, secret.as_bytes())], now)? > 0 {
            authorization_codes::redate(conn, session, now)?;
            tracing::warn!(%session, "late exchange: time in which it can be repeated moved");
        }
        Ok(true)
    })
}

/// Makes a code useless, because it was presented with a wrong verifier: it may have been
/// stolen. Ends the session that it has opened.
pub fn spend_code(conn: &mut Conn, session: SessionId, cx: &Context<'_>) -> QueryResult<Revoked> {
    conn.transaction(|conn| {
        authorization_codes::consume(conn, session, cx.now)?;
        let user = end(conn, session, EndReason::Reuse, cx)?;
        let event = Event { user, ..cx.event(EventKind::WrongVerifier, session) };
        events::count(conn, &event)?;
        Ok(Revoked { ended: usize::from(user.is_some()), to_publish: vec![session] })
    })
}
