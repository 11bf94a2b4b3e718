//! The logout of a browser together with the applications that it logged in to.

use std::collections::BTreeSet;

use super::events::AccountEvent;
use super::login_session::LoginCookie;
use super::{Accounts, Error};
use crate::clock;
use crate::ids::{EventId, SessionId, UserId};
use crate::sessions::{self, ClientInfo, Context, EndReason, Revoked};
use crate::store::{
    self, Conn, authorization_codes, device_codes, events, login_sessions, revocations,
};

/// What a logout ends.
pub struct LogOut {
    pub user: UserId,
    /// The cookie of the browser, if its login ends. The login of another user continues.
    pub cookie: Option<String>,
    /// A session that ends in any case.
    pub session: Option<SessionId>,
    pub client: ClientInfo,
}

impl Accounts {
    /// Ends the login of a browser, and the sessions that clients opened through it. Those of
    /// clients that keep offline access continue. When this returns, no server accepts the
    /// tokens of the sessions that have ended.
    pub async fn log_out(&self, request: LogOut) -> Result<(), Error> {
        let LogOut { user, cookie, session, client } = request;
        let cookie = cookie.as_deref().and_then(LoginCookie::parse);
        if let Some(cookie) = &cookie {
            self.end_sessions_of_login(user, cookie, client.clone()).await?;
        }
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        let end = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.write(|conn| {
                let mut ending: BTreeSet<SessionId> = session.into_iter().collect();
                if let Some(LoginCookie { id, secret }) = &cookie
                    && login_sessions::delete_of_user(conn, user, *id, &secret.digest())?
                {
                    let kind = AccountEvent::BrowserLoggedOut.as_str();
                    events::insert(conn, &cx.user_event(kind, user))?;
                    // First: if a concurrent exchange or poll has locked a row, its code or
                    // session is found.
                    device_codes::delete_of_login_session(conn, user, *id)?;
                    authorization_codes::delete_of_login_session(conn, user, *id)?;
                    ending.extend(store::sessions::ending_with(conn, user, *id)?);
                }
                let cx = Context { event: cx.event.offset(1), ..cx };
                sessions::end_each(conn, &ending, &cx).map(|revoked| ((), revoked))
            })
        };
        Ok(self.issuer.change_and_revoke(EndReason::LoggedOut, end).await?)
    }

    /// Ends the sessions that clients opened through a login session, before it is deleted. If a
    /// server has not confirmed that, the browser requests the logout again, and the login
    /// session is needed to find them.
    async fn end_sessions_of_login(
        &self,
        user: UserId,
        cookie: &LoginCookie,
        client: ClientInfo,
    ) -> Result<(), Error> {
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        let (id, secret) = (cookie.id, cookie.secret.digest());
        let end = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.write(|conn| {
                if !login_sessions::is_of_user(conn, user, id, &secret)? {
                    return Ok(((), Revoked::NOTHING));
                }
                let ending = store::sessions::ending_with(conn, user, id)?.into_iter().collect();
                let Revoked { ended, .. } = sessions::end_each(conn, &ending, &cx)?;
                // Also those that have ended: they may be unconfirmed.
                Ok(((), Revoked { ended, to_publish: revocations::for_user(conn, user)? }))
            })
        };
        Ok(self.issuer.change_and_revoke(EndReason::LoggedOut, end).await?)
    }
}
