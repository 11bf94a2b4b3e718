//! The exchange of a refresh token that another server issued: opens the session that the
//! token continues. The token then is generation 0 of that session, and is rotated,
//! reissued and rejected like any other.

use diesel::{Connection, QueryResult};

use super::{Context, EventKind, InvalidGrant, Login, open};
use crate::crypto::{Digest, Secret, TokenKey};
use crate::ids::{AccessTokenId, SessionId, UserId};
use crate::store::events::{self, Event};
use crate::store::sessions::EndReason;
use crate::store::{Conn, accounts, imported_refresh_tokens};

/// An imported refresh token that has opened no session, and the ids of the session that it
/// opens.
pub struct Exchange {
    pub digest: Digest,
    pub user: UserId,
    pub session: SessionId,
    /// The secret of generation 0.
    pub secret: Secret,
    pub access: AccessTokenId,
}

/// The outcome of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeOutcome {
    /// The token opened its session.
    Opened,
    /// A concurrent request used or revoked the token: read it again.
    Changed,
    Rejected(InvalidGrant),
}

/// Opens the session of a token. Of several concurrent calls, one opens it.
pub fn exchange(
    conn: &mut Conn,
    request: Exchange,
    token_key: &TokenKey,
    cx: &Context<'_>,
) -> QueryResult<ExchangeOutcome> {
    let Exchange { digest, user, session, secret, access } = request;
    conn.transaction(|conn| {
        // Excludes a concurrent change that disables or deletes the user.
        if !accounts::use_account(conn, user, cx.now)? {
            let reason = if accounts::exists(conn, user)? {
                InvalidGrant::Ended(EndReason::UserDisabled)
            } else {
                InvalidGrant::Unknown
            };
            return Ok(ExchangeOutcome::Rejected(reason));
        }
        if !imported_refresh_tokens::claim(conn, digest, session, cx.now)? {
            return Ok(ExchangeOutcome::Changed);
        }
        let login = Login { user, session, secret, access, claims: None, grant: None, code: None };
        open(conn, login, token_key, cx)?;
        let cx = Context { event: cx.event.offset(1), ..*cx };
        let kind = EventKind::ImportedTokenExchanged;
        events::insert(conn, &Event { user: Some(user), ..cx.event(kind, session) })?;
        Ok(ExchangeOutcome::Opened)
    })
}
