//! The rules of sessions: log in, refresh, end, delete.
//!
//! The rules use no HTTP, no async and no clock: time and randomness are arguments. A
//! rejection is a value, because what it writes has to be committed.
//!
//! A rotated token that is presented again gets the same successor for as long as
//! [`ReissueRules`] permit, and only its bearer can compute that successor. Any other use
//! of a rotated token means that it was copied.

mod assess;
mod code;
mod device;
mod end;
mod end_selected;
mod exchange;
mod log_in;
mod refresh;
mod retention;

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::crypto::TokenKeys;
use crate::ids::{AccessTokenId, EventId, SessionId, UserId};
use crate::store::events::{Event, Subject};
use crate::tokens::{ClientGrant, ExtraClaims};

pub use crate::store::sessions::EndReason;
pub use assess::{Assessment, InvalidGrant, Presented, PresentedKey, assess};
pub use code::{CodeOutcome, exchange_code, redate_exchange, spend_code};
pub use device::{
    DeviceDecided, DevicePoll, POLL_INTERVAL, approve_device, deny_device, issue_code_of_device,
    poll_device,
};
pub use end::{
    Keep, Revoked, UserSessions, end_again, end_all, end_each, end_of_client, revoke, revoke_all,
};
pub use end_selected::end_selected;
pub use exchange::{Exchange, ExchangeOutcome, exchange};
pub use log_in::{GuestRejection, Login, PresentedCode, admit_guest, open, undo_open};
pub use refresh::{PresentedToken, Refresh, RefreshOutcome, ReuseByDate, resolve_conflict};
pub use retention::{SALT_MARGIN, clear_salts, sweep};

/// The lifetimes of tokens and sessions, and the rules for rotated tokens.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub access_lifetime: Duration,
    /// The lifetime of a session that is not refreshed.
    pub idle_lifetime: Duration,
    /// The lifetime of a session, however often it is refreshed.
    pub absolute_lifetime: Duration,
    /// How long the row of a session is kept after its end.
    pub retention: Duration,
    /// When a rotated token may be exchanged again; `None`: never.
    pub reissue: Option<ReissueRules>,
    /// Whether a token of this server that is newer than the database is accepted as
    /// the current one: the database has lost its last commits.
    pub accept_ahead_of_database: bool,
}

/// When a rotated token may be exchanged again, for the same successor.
#[derive(Debug, Clone, Copy)]
pub struct ReissueRules {
    /// How long after its rotation, for any bearer.
    pub grace_period: Duration,
    /// How long after its rotation, with the idempotency key that rotated it.
    pub recovery_window: Duration,
    /// Whether a token that was rotated with an idempotency key is reissued to that key
    /// only. A session that has used a key then always needs one.
    pub same_key_only: bool,
}

impl Policy {
    /// Returns the policy with another grace period; `None`: a rotated token is never
    /// accepted again. A policy without reissue stays strict.
    #[must_use]
    pub fn with_grace_period(self, grace_period: Option<Duration>) -> Self {
        let reissue = self.reissue.zip(grace_period).map(|(rules, grace_period)| {
            let recovery_window = rules.recovery_window.max(grace_period);
            ReissueRules { grace_period, recovery_window, ..rules }
        });
        Self { reissue, ..self }
    }

    /// Returns how long the salt of a successor is needed after a rotation.
    pub(crate) fn salt_lifetime(&self, keyed: bool) -> Duration {
        match self.reissue {
            None => Duration::ZERO,
            Some(rules) if keyed => rules.recovery_window.max(rules.grace_period),
            Some(rules) => rules.grace_period,
        }
    }

    fn grace_period(&self) -> Duration {
        self.reissue.map_or(Duration::ZERO, |rules| rules.grace_period)
    }

    fn same_key_only(&self) -> bool {
        self.reissue.is_some_and(|rules| rules.same_key_only)
    }
}

/// The longest grace period that an OAuth client may have.
pub const MAX_GRACE_PERIOD: Duration = Duration::from_secs(10 * 60);

/// The policy and the keys of a refresh.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub policy: &'a Policy,
    pub token_keys: &'a TokenKeys,
}

/// The client of a request.
#[derive(Clone)]
pub struct ClientInfo {
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    pub ip: Option<IpAddr>,
}

impl ClientInfo {
    /// Returns the client of the command line, for the audit log.
    #[must_use]
    pub fn command_line() -> Self {
        Self { user_agent: Some("matchbook-server".to_owned()), ip: None }
    }
}

/// The circumstances of a request, as a rule needs them.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub policy: &'a Policy,
    pub client: &'a ClientInfo,
    /// The id of the audit log entry, if the rule writes one.
    pub event: EventId,
    pub now: Timestamp,
}

impl<'a> Context<'a> {
    /// Returns an entry of the audit log about a user.
    #[must_use]
    pub fn user_event(&self, kind: &'a str, user: UserId) -> Event<'a> {
        Event {
            id: self.event,
            occurred_at: self.now,
            kind,
            reason: None,
            subject: Subject::User(user),
            user: Some(user),
            generation: None,
            ip: self.client.ip,
            user_agent: self.client.user_agent.as_deref(),
        }
    }

    /// Returns an entry of the audit log about a session.
    fn event(&self, kind: EventKind, session: SessionId) -> Event<'a> {
        Event {
            id: self.event,
            occurred_at: self.now,
            kind: kind.as_str(),
            reason: None,
            subject: Subject::Session(session),
            user: None,
            generation: None,
            ip: self.client.ip,
            user_agent: self.client.user_agent.as_deref(),
        }
    }
}

/// A refresh token and an access token that is not signed yet.
pub struct TokenGrant {
    pub user: UserId,
    pub session: SessionId,
    /// The current refresh token, encoded.
    pub refresh_token: String,
    pub access: AccessGrant,
    /// Further claims of the access token.
    pub claims: Option<ExtraClaims>,
    /// What an OAuth client may use the tokens for; `None` at the native endpoints.
    pub grant: Option<ClientGrant>,
    pub expiry: SessionExpiry,
}

/// When a session expires.
#[derive(Debug, Clone, Copy)]
pub struct SessionExpiry {
    /// If it is not refreshed.
    pub idle: Timestamp,
    /// However often it is refreshed.
    pub absolute: Timestamp,
}

/// The id and the lifetime of an access token.
#[derive(Debug, Clone, Copy)]
pub struct AccessGrant {
    pub id: AccessTokenId,
    /// A whole second, as JWTs count.
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

impl AccessGrant {
    /// Returns a grant for `lifetime`, which ends at `not_after` at the latest.
    fn new(
        id: AccessTokenId,
        issued_at: Timestamp,
        lifetime: Duration,
        not_after: Timestamp,
    ) -> Self {
        let issued_at = Timestamp::from_secs(issued_at.as_secs());
        Self { id, issued_at, expires_at: issued_at.after(lifetime).min(not_after) }
    }
}

/// The kinds of entries in the audit log.
#[derive(Debug, Clone, Copy)]
enum EventKind {
    LoggedIn,
    RefreshRejected,
    ReuseDetected,
    LoggedOut,
    /// An old token came from another address or device than the last rotation.
    SupersededElsewhere,
    /// The successor was reissued to another address than the rotation's.
    ReissuedElsewhere,
    /// The successor was reissued by its idempotency key after the grace period.
    Recovered,
    /// The session was opened by a refresh token of another server.
    ImportedTokenExchanged,
    /// An authorization code was presented with a wrong verifier.
    WrongVerifier,
}

impl EventKind {
    /// Returns the kind as the database stores it.
    ///
    /// NEVER CHANGE these values once a version is released: rows of the audit log and
    /// the operators' queries have them.
    fn as_str(self) -> &'static str {
        match self {
            Self::LoggedIn => "logged_in",
            Self::RefreshRejected => "refresh_rejected",
            Self::ReuseDetected => "reuse_detected",
            Self::LoggedOut => "logged_out",
            Self::SupersededElsewhere => "superseded_elsewhere",
            Self::ReissuedElsewhere => "reissued_elsewhere",
            Self::Recovered => "refresh_recovered",
            Self::ImportedTokenExchanged => "imported_token_exchanged",
            Self::WrongVerifier => "wrong_code_verifier",
        }
    }
}
