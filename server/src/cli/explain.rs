//! `matchbook-server explain`: describes a refresh token, and how a refresh would be
//! decided. Changes nothing.

use std::fmt::{self, Display};
use std::io::{self, BufRead, IsTerminal, Read};

use diesel::result::Error as QueryError;

use super::format::{describe_client, describe_event, when};
use crate::accounts::AccountEvent;
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::crypto::CryptoError;
use crate::data_dir::DataDir;
use crate::ids::UserId;
use crate::secrets::{self, DerivedKeys};
use crate::sessions::{Assessment, InvalidGrant, Policy, Presented, PresentedKey, assess};
use crate::store::events::{self, LoggedEvent};
use crate::store::sessions::{self, Session, State};
use crate::store::{self, Conn, OpenError, accounts};
use crate::tokens::RefreshToken;

/// The maximum number of printed entries of the audit log.
const MAX_EVENTS: i64 = 20;

/// Why a token cannot be explained: a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("give the refresh token on standard input")]
    NoToken,
    #[error(
        "this is not a refresh token of this server: it was cut short or altered, or was issued \
         under a secret that is neither `secret` nor in `old_secrets`"
    )]
    Unrecognized,
    #[error("{0}; run this where the server runs, with its settings")]
    NoSecret(#[from] secrets::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database failed: {0}")]
    Query(#[from] QueryError),
    #[error("a key operation failed: {0}")]
    Crypto(#[from] CryptoError),
    #[error("cannot read the token or write the output: {0}")]
    Terminal(#[from] io::Error),
}

/// The maximum length of the input in bytes. A token is much shorter.
const MAX_INPUT_LEN: u64 = 1024;

/// Explains the token on standard input: other users can read a command line. Blocks.
pub fn run(config: &Config) -> Result<(), Error> {
    if io::stdin().is_terminal() {
        eprintln!("Paste the refresh token, then press Enter.");
    }
    let mut text = Vec::new();
    let mut input = io::stdin().lock().take(MAX_INPUT_LEN);
    // The first line that is not empty: at a terminal, the input does not end with it.
    while text.trim_ascii().is_empty() && input.read_until(b'\n', &mut text)? > 0 {}
    let explanation = explain(config, &String::from_utf8_lossy(&text), clock::now())?;
    Ok(super::print(&explanation.to_string())?)
}

/// A refresh token, its session and the decision about it.
struct Explanation {
    token: RefreshToken,
    session: Option<Session>,
    events: Vec<LoggedEvent>,
    user: Option<User>,
    policy: Policy,
    now: Timestamp,
}

/// The user of a session.
struct User {
    id: UserId,
    disabled_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
}

fn find_user(conn: &mut Conn, id: UserId) -> Result<User, QueryError> {
    let disabled_at = accounts::find(conn, id)?.and_then(|account| account.disabled_at);
    let logged = events::for_user(conn, id, MAX_EVENTS)?;
    let deleted = logged.iter().find(|event| event.kind == AccountEvent::Deleted.as_str());
    let deleted_at = deleted.map(|event| event.occurred_at);
    Ok(User { id, disabled_at, deleted_at })
}

/// Looks up a token. Blocks.
fn explain(config: &Config, text: &str, now: Timestamp) -> Result<Explanation, Error> {
    let text = text.trim().trim_matches('"');
    if text.is_empty() {
        return Err(Error::NoToken);
    }
    let secret = secrets::existing(config.secret.as_ref(), &DataDir::at(&config.data_dir))?;
    let derived = DerivedKeys::from_secrets(&secret, &config.old_secrets)?;
    let id = RefreshToken::claimed_session(text).ok_or(Error::Unrecognized)?;
    let mut conn = store::connect(&config.database.url)?;
    let session = sessions::find(&mut conn, id)?;
    // The tag of a client's token covers the id of the client.
    let client = session.as_ref().and_then(|session| session.grant.as_ref());
    let client = client.map(|grant| &grant.client);
    let token = RefreshToken::parse(text, client, &derived.token_keys);
    let token = token.ok_or(Error::Unrecognized)?;
    let events = events::for_session(&mut conn, token.session, MAX_EVENTS)?;
    let user = events::user_of_session(&mut conn, token.session)?;
    let user = user.or(session.as_ref().map(|session| session.user));
    let user = user.map(|id| find_user(&mut conn, id)).transpose()?;
    Ok(Explanation { token, session, events, user, policy: config.policy, now })
}

impl Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "session      {}", self.token.session)?;
        if let Some(User { id, disabled_at, deleted_at }) = self.user {
            write!(f, "user         {id}")?;
            if let Some(at) = deleted_at {
                write!(f, ", deleted {}", self.when(at))?;
            } else if let Some(at) = disabled_at {
                write!(f, ", disabled since {}", self.when(at))?;
            }
            writeln!(f)?;
        }
        if let Some(session) = &self.session {
            self.write_session(session, f)?;
        } else {
            writeln!(f, "generation   {}", self.token.generation)?;
            writeln!(
                f,
                "verdict      it would be rejected (unknown): this server issued the token, but \
                 its session is not in this database. The session was deleted some time after its \
                 end, or this is another database"
            )?;
        }
        for (i, event) in self.events.iter().enumerate() {
            let label = if i == 0 { "events" } else { "" };
            self.write_event(label, event, f)?;
        }
        Ok(())
    }
}

impl Explanation {
    fn write_session(&self, session: &Session, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.token.generation;
        let current = session.generation;
        let client = describe_client(session.ip, session.user_agent.as_deref());
        writeln!(f, "opened       {}", self.when(session.created_at))?;
        if generation == current {
            writeln!(f, "generation   {generation}, the newest")?;
        } else {
            writeln!(f, "generation   {generation}; the newest is {current}")?;
        }
        if let Some(rotated_at) = session.rotated_at() {
            let when = self.when(rotated_at);
            if generation.checked_add(1) == Some(current) {
                writeln!(f, "rotated      {when}, {client}")?;
            } else if generation < current {
                writeln!(f, "rotated      before {when}; the last rotation was then, {client}")?;
            } else {
                writeln!(f, "issued       {when}, {client}")?;
            }
        }
        if let State::Ended { at, reason } = session.state {
            writeln!(f, "ended        {} ({})", self.when(at), reason.as_str())?;
        } else {
            let absolute = session.expires_at;
            let idle = session.idle_expires_at.min(absolute);
            writeln!(f, "expires      {} unless it is refreshed", self.when(idle))?;
            writeln!(f, "             {} in any case", self.when(absolute))?;
        }
        writeln!(f, "verdict      {}", self.verdict(session))
    }

    fn write_event(
        &self,
        label: &str,
        event: &LoggedEvent,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        writeln!(f, "{label:<12} {}", describe_event(event, self.now))
    }

    /// Describes the decision without an idempotency key, and what a key would change.
    fn verdict(&self, session: &Session) -> String {
        let assess = |key| {
            let presented = Presented { token: &self.token, key };
            assess(presented, session, &self.policy, self.now)
        };
        let without_key = assess(PresentedKey::Missing);
        let with_key = assess(PresentedKey::OfLastRotation);
        let verdict = self.describe(without_key);
        if with_key == without_key {
            return verdict;
        }
        match with_key {
            Assessment::Reissue { until } => format!(
                "{verdict}; with the `Idempotency-Key` that rotated it, it would get the same \
                 response again until {}",
                self.when(until)
            ),
            Assessment::Current | Assessment::AheadOfDatabase => format!(
                "{verdict}; with an `Idempotency-Key`, which its client always sends, it would be \
                 rotated"
            ),
            Assessment::Rejected(_) => verdict,
        }
    }

    fn describe(&self, assessment: Assessment) -> String {
        match assessment {
            Assessment::Current => "it is valid: it would be rotated".to_owned(),
            Assessment::AheadOfDatabase => {
                "it is newer than this database, and would be accepted as the current token \
                 (`rotation.accept_ahead_of_database`)"
                    .to_owned()
            }
            Assessment::Reissue { until } => {
                format!("it would get the same response again until {}", self.when(until))
            }
            Assessment::Rejected(reason) => {
                let code = reason.reason().as_str();
                format!("it would be rejected ({code}): {}", rejection(reason))
            }
        }
    }

    fn when(&self, time: Timestamp) -> String {
        when(time, self.now)
    }
}

fn rejection(reason: InvalidGrant) -> &'static str {
    match reason {
        InvalidGrant::Unknown => {
            "it is newer than this database: the database was restored from an older state, as by \
             a failover to a replica that lagged"
        }
        InvalidGrant::ExpiredIdle => "the session was not refreshed for its idle lifetime",
        InvalidGrant::ExpiredAbsolute => "the session reached its absolute lifetime",
        InvalidGrant::Ended(_) => "the session had ended before",
        InvalidGrant::Superseded => {
            "a newer token was issued within the grace period; the session would continue"
        }
        InvalidGrant::Reuse => {
            "it was rotated and must not be presented again; the session would end"
        }
    }
}
