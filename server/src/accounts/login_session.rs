//! The login of a browser at the pages of the server.
//!
//! The browser holds a cookie, and the database the digest of its secret. Each login opens a
//! new login session and deletes the one of the cookie that the browser presented, so that a
//! cookie that was planted in the browser before is worthless (session fixation).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel::Connection;
use uuid::Uuid;

use super::events::AccountEvent;
use super::log_in::{LogIn, LogInError, Opened, Verified, admit};
use super::{Accounts, Error};
use crate::clock::{self, Timestamp};
use crate::crypto::Secret;
use crate::ids::{EventId, LoginSessionId, UserId};
use crate::sessions::{ClientInfo, Context};
use crate::store::login_sessions::{self, NewLoginSession};
use crate::store::{Affected, Conn, FollowUp, authorization_codes, events, sessions, users};

/// How much of the idle lifetime passes before a request extends it.
const EXTEND_AFTER: Duration = Duration::from_secs(60);

const ID_LEN: usize = 16;
const SECRET_LEN: usize = 32;

/// How long a login session lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginLifetimes {
    /// Without a request.
    pub idle: Duration,
    pub absolute: Duration,
}

/// A browser that is logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginSession {
    pub id: LoginSessionId,
    pub user: UserId,
    /// When the user last proved who they are.
    pub auth_time: Timestamp,
}

/// The login of a browser.
pub struct BrowserLoggedIn {
    pub session: LoginSession,
    /// The cookie of the login session.
    pub cookie: String,
    /// The cookie by which the browser will be known.
    pub device: String,
}

/// A login session and its cookie.
pub(super) struct OpenedLoginSession {
    session: LoginSession,
    cookie: String,
}

impl OpenedLoginSession {
    /// Adds the cookie by which the browser will be known.
    pub(super) fn with_device(self, device: String) -> BrowserLoggedIn {
        BrowserLoggedIn { session: self.session, cookie: self.cookie, device }
    }
}

/// The content of a cookie, not verified.
pub(super) struct LoginCookie {
    pub(super) id: LoginSessionId,
    pub(super) secret: Secret,
}

impl LoginCookie {
    /// Parses id ‖ secret. The id carries the place of its user, as the id of a session does.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; ID_LEN + SECRET_LEN] =
            URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (id, secret) = bytes.split_at(ID_LEN);
        let id = LoginSessionId(Uuid::from_slice(id).ok()?);
        Some(Self { id, secret: Secret::from_bytes(secret.try_into().ok()?) })
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode([self.id.0.as_bytes().as_slice(), self.secret.as_bytes()].concat())
    }
}

impl Accounts {
    /// Returns the login session of a cookie, and extends its idle lifetime. `None`: the
    /// browser is not logged in.
    pub async fn login_session(&self, cookie: Option<&str>) -> Result<Option<LoginSession>, Error> {
        let Some(LoginCookie { id, secret }) = cookie.and_then(LoginCookie::parse) else {
            return Ok(None);
        };
        let now = clock::now();
        let found = self.store.run(move |conn| login_sessions::find(conn, id, now)).await?;
        let Some(found) = found.filter(|found| secret.digest().matches(&found.secret_digest))
        else {
            return Ok(None);
        };
        self.extend_login_session(id, found.idle_expires_at, now).await;
        Ok(Some(LoginSession { id, user: found.user, auth_time: found.auth_time }))
    }

    /// Extends the idle lifetime of a login session, unless that happened a moment ago.
    pub(super) async fn extend_login_session(
        &self,
        id: LoginSessionId,
        idle_expires_at: Timestamp,
        now: Timestamp,
    ) {
        let extended = now.after(self.options.login_lifetimes.idle);
        if extended.since(idle_expires_at) >= EXTEND_AFTER {
            let extend = move |conn: &mut Conn| login_sessions::extend(conn, id, extended);
            if let Err(error) = self.store.write(extend).await {
                tracing::warn!(%error, "login session not extended");
            }
        }
    }

    /// Verifies a password and logs the browser in, as [`Self::log_in`] opens a session.
    /// `replaced` is the cookie that the browser presents.
    pub async fn log_in_browser(
        &self,
        request: LogIn,
        replaced: Option<&str>,
    ) -> Result<BrowserLoggedIn, LogInError> {
        let open = async |verified: Verified, client: &ClientInfo| {
            self.open_login_session(verified, replaced, client).await
        };
        let Opened { opened, device } = self.log_in_with(request, open).await?;
        Ok(opened.with_device(device))
    }

    /// Logs a browser out. Sessions that applications opened continue.
    pub async fn log_out_browser(&self, cookie: &str, client: ClientInfo) -> Result<(), Error> {
        let Some(LoginCookie { id, secret }) = LoginCookie::parse(cookie) else { return Ok(()) };
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        let log_out = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.write(|conn| {
                let Some(found) = login_sessions::find(conn, id, now)? else { return Ok(()) };
                if login_sessions::delete(conn, id, &secret.digest())? {
                    let kind = AccountEvent::BrowserLoggedOut.as_str();
                    events::insert(conn, &cx.user_event(kind, found.user))?;
                }
                Ok(())
            })
        };
        Ok(self.store.write(log_out).await?)
    }

    /// Opens the login session of a verified login. If the request is canceled before the
    /// commit, no session remains.
    pub(super) async fn open_login_session(
        &self,
        verified: Verified,
        replaced: Option<&str>,
        client: &ClientInfo,
    ) -> Result<OpenedLoginSession, LogInError> {
        let user = verified.user;
        let now = clock::now();
        let id = LoginSessionId::new(user, now)?;
        let secret = Secret::random()?;
        let digest = secret.digest();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        let LoginLifetimes { idle, absolute } = self.options.login_lifetimes;
        let replaced = replaced.and_then(LoginCookie::parse);
        let info = client.clone();
        let open = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &info, event, now };
            conn.transaction(|conn| {
                if let Err(rejection) = admit(conn, &verified, &cx)? {
                    return Ok(Err(rejection));
                }
                if let Some(LoginCookie { id: old, secret }) = &replaced
                    && login_sessions::delete(conn, *old, &secret.digest())?
                {
                    // A later logout of this browser ends what the user opened before, too.
                    authorization_codes::reassign(conn, user, *old, id)?;
                    sessions::reassign(conn, user, *old, id)?;
                }
                let new = NewLoginSession {
                    id,
                    user,
                    secret: digest,
                    now,
                    idle_expires_at: now.after(idle),
                    expires_at: now.after(absolute),
                    user_agent: info.user_agent.as_deref(),
                    ip: info.ip,
                };
                login_sessions::insert(conn, &new)?;
                let kind = AccountEvent::BrowserLoggedIn.as_str();
                events::insert(conn, &cx.user_event(kind, user))?;
                Ok(Ok(()))
            })
        };
        let undo = move |conn: &mut Conn| {
            conn.write(|conn| {
                // The transaction of the login refers to the user.
                let is_locked = users::lock_if_free(conn, user)?;
                if is_locked {
                    login_sessions::delete(conn, id, &digest)?;
                }
                Ok(is_locked)
            })
        };
        let undo = FollowUp::new(Affected::User(user), undo);
        self.store.write_or_undo(open, undo).await??;
        tracing::info!(%user, ip = client.ip.map(tracing::field::display), "browser logged in");
        let session = LoginSession { id, user, auth_time: now };
        Ok(OpenedLoginSession { session, cookie: LoginCookie { id, secret }.encode() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_contains_the_id_with_the_place_and_the_secret() {
        let user = UserId::random();
        let id = LoginSessionId::new(user, Timestamp::from_secs(1_700_000_000)).unwrap();
        let cookie = LoginCookie { id, secret: Secret::from_bytes([7; 32]) };
        let text = cookie.encode();
        assert_eq!(text.len(), 64);
        let parsed = LoginCookie::parse(&text).unwrap();
        assert_eq!((parsed.id, parsed.id.place()), (id, user.place()));
        assert!(parsed.secret == cookie.secret);
        for other in ["", "x", "é", &text[1..], &format!("{text}A"), &text.replace('B', "=")] {
            assert!(LoginCookie::parse(other).is_none(), "{other}");
        }
    }
}
