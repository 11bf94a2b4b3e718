//! The rules of the device authorization grant (RFC 8628): polls, the decision of the user, and
//! the authorization code that an approved request gets at the first poll after it. The
//! exchange of that code opens the session.

use std::time::Duration;

use diesel::{Connection, QueryResult};

use crate::clock::Timestamp;
use crate::ids::{ClientId, SessionId, UserId};
use crate::store::authorization_codes::{self, CodeGrant};
use crate::store::consents::{self, Consent};
use crate::store::device_codes::{self, Approval, DeviceDecision, StoredDeviceRequest};
use crate::store::{Conn, login_sessions};
use crate::tokens::{DeviceCode, UserCodeMac};

/// How long a device first has to wait between two polls (RFC 8628 §3.2).
pub const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How much longer it has to wait after each poll that comes too early (RFC 8628 §3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// How much earlier a poll may come: its way to the server may take less time than that of the
/// poll before.
const EARLY: Duration = Duration::from_secs(1);

/// The outcome of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DevicePoll {
    /// The user has not decided.
    Pending,
    /// The user has not decided, and the poll came too early. The interval is longer now.
    TooEarly,
    Denied,
    Expired,
    Approved {
        user: UserId,
        /// The session of the authorization code, if a poll has inserted one.
        session: Option<SessionId>,
    },
}

/// Handles a poll with a device code whose tag is valid.
pub fn poll_device(conn: &mut Conn, code: &DeviceCode, now: Timestamp) -> QueryResult<DevicePoll> {
    let user_code = code.user_code;
    let secret = code.secret.digest();
    conn.transaction(|conn| {
        // The row is deleted some time after it expired, or because the client or the user
        // was deleted.
        if !device_codes::lock(conn, user_code, &secret)? {
            return Ok(DevicePoll::Expired);
        }
        let Some(stored) = device_codes::find(conn, user_code)? else {
            return Ok(DevicePoll::Expired);
        };
        let is_expired = stored.request.expires_at <= now;
        match stored.decision {
            // An expired one as well: its code decides whether this is a repetition.
            Some(DeviceDecision::Approved { approval, session: session @ Some(_) }) => {
                return Ok(DevicePoll::Approved { user: approval.user, session });
            }
            Some(DeviceDecision::Denied) => return Ok(DevicePoll::Denied),
            _ if is_expired => return Ok(DevicePoll::Expired),
            Some(DeviceDecision::Approved { approval, session }) => {
                return Ok(DevicePoll::Approved { user: approval.user, session });
            }
            None => {}
        }
        let interval = stored.request.poll_interval;
        let is_early = is_too_early(&stored, now);
        let next = if is_early { interval.saturating_add(SLOW_DOWN) } else { interval };
        device_codes::record_poll(conn, user_code, next, now)?;
        Ok(if is_early { DevicePoll::TooEarly } else { DevicePoll::Pending })
    })
}

fn is_too_early(stored: &StoredDeviceRequest, now: Timestamp) -> bool {
    let shortest = stored.request.poll_interval.saturating_sub(EARLY);
    stored.polled_at.is_some_and(|polled_at| now < polled_at.after(shortest))
}

/// Inserts the authorization code of an approved request, for this session. Returns its
/// session, or that of a concurrent or earlier call. `None`: the request has expired, or was
/// deleted.
pub fn issue_code_of_device(
    conn: &mut Conn,
    code: &DeviceCode,
    session: SessionId,
    now: Timestamp,
) -> QueryResult<Option<SessionId>> {
    let user_code = code.user_code;
    conn.transaction(|conn| {
        let is_first = device_codes::claim(conn, user_code, session, now)?;
        let Some(stored) = device_codes::find(conn, user_code)? else { return Ok(None) };
        let Some(DeviceDecision::Approved { approval, session: claimed }) = stored.decision else {
            return Ok(None);
        };
        if is_first {
            let digest = code.secret.of_approved_device().digest();
            let grant = grant_of(stored, approval);
            authorization_codes::insert(conn, session, &digest, &grant, now)?;
        }
        Ok(claimed)
    })
}

fn grant_of(stored: StoredDeviceRequest, approval: Approval) -> CodeGrant {
    let request = stored.request;
    CodeGrant {
        client: request.client,
        user: approval.user,
        // No request with a redirect URI can present this code.
        redirect_uri: String::new(),
        code_challenge: None,
        scope: request.scope,
        audiences: request.audiences,
        nonce: None,
        auth_time: approval.auth_time,
        login_session: Some(approval.login_session),
        expires_at: request.expires_at,
    }
}

/// The outcome of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceDecided {
    Done,
    /// The login session of the user has ended.
    LoggedOut,
    /// The request was decided before, has expired, or was deleted.
    TooLate,
}

/// Approves a request. `remember`: stores the consent of the user as well, besides the scope
/// of before.
pub fn approve_device(
    conn: &mut Conn,
    user_code: UserCodeMac,
    approval: Approval,
    remember: bool,
    now: Timestamp,
) -> QueryResult<DeviceDecided> {
    conn.transaction(|conn| {
        // Excludes a concurrent logout everywhere, which deletes approved requests as well.
        if !login_sessions::lock(conn, approval.login_session)? {
            return Ok(DeviceDecided::LoggedOut);
        }
        if !device_codes::approve(conn, user_code, &approval, now)? {
            return Ok(DeviceDecided::TooLate);
        }
        if remember && let Some(stored) = device_codes::find(conn, user_code)? {
            remember_consent(conn, approval.user, stored, now)?;
        }
        Ok(DeviceDecided::Done)
    })
}

fn remember_consent(
    conn: &mut Conn,
    user: UserId,
    stored: StoredDeviceRequest,
    now: Timestamp,
) -> QueryResult<()> {
    let client: ClientId = stored.request.client;
    let requested = stored.request.scope;
    let before = consents::find(conn, user, &client)?;
    let scope = before.map_or(requested.clone(), |before| before.scope.union(&requested));
    consents::save(conn, user, &Consent { client, scope, granted_at: now })
}

/// Denies a request.
pub fn deny_device(
    conn: &mut Conn,
    user_code: UserCodeMac,
    user: UserId,
    now: Timestamp,
) -> QueryResult<DeviceDecided> {
    let is_denied = device_codes::deny(conn, user_code, user, now)?;
    Ok(if is_denied { DeviceDecided::Done } else { DeviceDecided::TooLate })
}
