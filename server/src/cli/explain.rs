//! What a refresh token is and what would become of it: for whoever has to say
//! why somebody was logged out. Changes nothing.

use std::fmt::{self, Display};
use std::io::{self, BufRead, IsTerminal, Read};
use std::time::Duration;

use diesel::result::Error as QueryError;

use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::crypto::CryptoError;
use crate::data_dir::DataDir;
use crate::secrets::{self, DerivedKeys};
use crate::sessions::{Assessment, InvalidGrant, Policy, judge};
use crate::store::events::{self, LoggedEvent};
use crate::store::sessions::{self, SessionRow};
use crate::store::{self, Address, OpenError};
use crate::tokens::RefreshToken;

/// How many entries of the security log are told.
const ENTRIES: i64 = 20;

/// Why a token cannot be explained. Each is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("give the refresh token on standard input")]
    Nothing,
    /// It is none.
    #[error(
        "this is not a refresh token of this server: it was cut short or altered, or was issued \
         under a secret that is neither `secret` nor in `old_secrets`"
    )]
    NotOurs,
    /// There is no secret to recognise it by.
    #[error("{0}; run this where the server runs, with the settings that it has")]
    NoSecret(#[from] secrets::Error),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database does not answer.
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

/// What there is to say about a token.
struct Explanation {
    token: RefreshToken,
    standing: Option<SessionRow>,
    entries: Vec<LoggedEvent>,
    policy: Policy,
    now: Timestamp,
}

/// Looks a token up. Blocks.
///
/// # Errors
/// When it is no token of this server, or the database does not answer.
fn explain(config: &Config, text: &str, now: Timestamp) -> Result<Explanation, Error> {
    let text = text.trim().trim_matches('"');
    if text.is_empty() {
        return Err(Error::Nothing);
    }
    let secret = secrets::existing(config.secret.as_ref(), &DataDir::at(&config.data_dir))?;
    let derived = DerivedKeys::from_secrets(&secret, &config.old_secrets)?;
    let token = RefreshToken::parse(text, &derived.token_keys).ok_or(Error::NotOurs)?;
    let mut conn = store::connect(&config.database.url)?;
    let standing = sessions::find(&mut conn, token.session)?;
    let entries = events::for_session(&mut conn, token.session, ENTRIES)?;
    Ok(Explanation { token, standing, entries, policy: config.policy, now })
}

impl Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "session      {}", self.token.session)?;
        if let Some(standing) = &self.standing {
            self.describe(standing, f)?;
        } else {
            writeln!(f, "generation   {}", self.token.generation)?;
            writeln!(
                f,
                "verdict      it would be refused (unknown): the token is genuine, but its \
                 session is not in this database; it was deleted some time after its end, or this \
                 is another database"
            )?;
        }
        for (i, entry) in self.entries.iter().enumerate() {
            let label = if i == 0 { "events" } else { "" };
            let reason = entry.reason.as_deref().map(|reason| format!(" ({reason})"));
            let times =
                if entry.count > 1 { format!(", {} times", entry.count) } else { String::new() };
            let shown = entry.generation.map(|generation| format!(", generation {generation}"));
            writeln!(
                f,
                "{label:<12} {}  {}{}{}{times}, {}",
                self.when(entry.occurred_at),
                entry.kind,
                reason.unwrap_or_default(),
                shown.unwrap_or_default(),
                origin(entry.ip, entry.user_agent.as_deref()),
            )?;
        }
        Ok(())
    }
}

impl Explanation {
    fn describe(&self, standing: &SessionRow, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RefreshToken { generation, .. } = self.token;
        let live = standing.generation;
        let origin = origin(standing.ip, standing.user_agent.as_deref());
        writeln!(f, "user         {}", standing.user)?;
        writeln!(f, "opened       {}", self.when(standing.created_at))?;
        if generation == live {
            writeln!(f, "generation   {generation}, the newest")?;
        } else {
            writeln!(f, "generation   {generation}; the newest is {live}")?;
        }
        if let Some(rotated_at) = standing.rotated_at {
            let when = self.when(rotated_at);
            if generation.checked_add(1) == Some(live) {
                writeln!(f, "rotated      {when}, {origin}")?;
            } else if generation < live {
                writeln!(f, "rotated      before {when}; the last rotation was then, {origin}")?;
            } else {
                writeln!(f, "granted      {when}, {origin}")?;
            }
        }
        if let (Some(ended_at), Some(reason)) = (standing.ended_at, &standing.end_reason) {
            writeln!(f, "ended        {} ({reason})", self.when(ended_at))?;
        } else {
            let (idle, absolute) = (standing.idle_expires_at, standing.expires_at);
            writeln!(f, "ends         {} unless it is refreshed", self.when(idle.min(absolute)))?;
            writeln!(f, "             {} in any case", self.when(absolute))?;
        }
        writeln!(f, "verdict      {}", self.verdict(standing))
    }

    fn verdict(&self, standing: &SessionRow) -> String {
        let verdict = judge(&self.token, None, standing, &self.policy, self.now);
        let keyed = standing.idempotency_key_digest.is_some();
        let again = |how_long| match standing.rotated_at {
            Some(rotated_at) => format!("until {}", self.when(rotated_at.after(how_long))),
            None => String::new(),
        };
        // What the key is, this does not know; so it says what the key would do.
        let mine = standing.successor_salt.is_some()
            && self.token.generation.checked_add(1) == Some(standing.generation);
        let with_key = match (self.policy.reuse, standing.rotated_at, verdict) {
            (
                Some(reuse),
                Some(rotated_at),
                Assessment::Repeat | Assessment::Refused(InvalidGrant::Reuse),
            ) if keyed && mine && self.now <= rotated_at.after(reuse.recovery_window) => {
                let until = again(reuse.recovery_window);
                format!("; with the `Idempotency-Key` that rotated it, the same answer {until}")
            }
            (Some(reuse), _, Assessment::Refused(InvalidGrant::Reuse))
                if reuse.same_key_only && self.token.generation == standing.generation =>
            {
                "; with an `Idempotency-Key`, which its client always sends, it would be rotated"
                    .to_owned()
            }
            _ => String::new(),
        };
        match verdict {
            Assessment::Live => "it is good: it would be rotated".to_owned(),
            Assessment::Ahead => {
                "it is newer than this database knows, and would be taken as the live one \
                 (`rotation.accept_ahead_of_database`)"
                    .to_owned()
            }
            Assessment::Repeat => {
                let until =
                    self.policy.reuse.map(|reuse| again(reuse.grace_period)).unwrap_or_default();
                format!("it would get the same answer again {until}{with_key}")
            }
            Assessment::Refused(refusal) => {
                let why = match refusal {
                    InvalidGrant::Unknown => {
                        "it is newer than this database knows: the database was set back, as by a \
                         failover to a replica that lagged"
                    }
                    InvalidGrant::ExpiredIdle => "the session was not refreshed for too long",
                    InvalidGrant::ExpiredAbsolute => "the session reached its longest life",
                    InvalidGrant::Ended(_) => "the session had ended before",
                    InvalidGrant::Superseded => {
                        "a newer token was granted within the retry window; the session would go on"
                    }
                    InvalidGrant::Reuse => {
                        "it was rotated and is no longer to be shown; the session would end"
                    }
                };
                let reason = refusal.reason().as_str();
                format!("it would be refused ({reason}): {why}{with_key}")
            }
        }
    }

    /// A time, and how far off it is.
    fn when(&self, time: Timestamp) -> String {
        let (past, future) = (self.now.since(time), time.since(self.now));
        if future.is_zero() {
            format!("{time} ({} ago)", rounded(past))
        } else {
            format!("{time} (in {})", rounded(future))
        }
    }
}

/// A length of time in the one or two units that matter.
fn rounded(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..3600 => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
        3600..172_800 => {
            humantime::format_duration(Duration::from_secs(seconds / 60 * 60)).to_string()
        }
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Who asked, fit for a terminal, whatever they wrote into their header.
fn origin(ip: Option<Address>, user_agent: Option<&str>) -> String {
    let ip = ip.map_or("an unknown address".to_owned(), |ip| ip.0.to_string());
    match user_agent {
        Some(user_agent) => format!("from {ip}, {user_agent:?}"),
        None => format!("from {ip}"),
    }
}
