//! Notifies clients of ended sessions (`OpenID` Connect Back-Channel Logout 1.0).
//!
//! The transaction that ends a session inserts a notice. Each server sends due notices: it
//! claims a notice by moving its next attempt ahead, sends a logout token, and deletes the
//! notice. A notice whose server dies is sent by another one, once the claim has expired. A
//! client may therefore get a notice twice: if its response was lost, or if the server died before
//! it deleted the notice.
//!
//! Each client has a queue of its own, so that a slow client does not delay others.

mod delivery;
mod retry;

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openssl::error::ErrorStack;
use openssl::ssl::SslConnector;
use tokio::sync::Notify;

use crate::clock::{self, MAX_SKEW_BETWEEN_SERVERS};
use crate::ids::ClientId;
use crate::keys::{self, KeyRing, TokenType};
use crate::metrics::Metrics;
use crate::store::logout_notices::{self, Claim, Notice};
use crate::store::{self, Conn, Store, clients};
use crate::tokens::LogoutTokenClaims;
use delivery::{Outcome, Sender};
use retry::{Next, next};

/// The longest pause between two reads of the queues: other processes end sessions, too.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The pause after a failure of the database or of the keys.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// The maximum number of clients that are notified at the same time.
const MAX_CLIENTS: usize = 32;
/// How many notices one client gets at the same time.
const BATCH: i64 = 8;
/// How long a claim lasts: longer than an attempt, whatever the clock of another server says.
const CLAIM: Duration =
    Duration::from_secs(2 * delivery::TIMEOUT.as_secs() + MAX_SKEW_BETWEEN_SERVERS.as_secs());

/// Announces new notices to the task that sends them.
#[derive(Clone)]
pub struct LogoutNotices(Arc<Notify>);

impl LogoutNotices {
    /// Wakes the task, after sessions have ended.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// A failure of this server, not of a client.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Keys(#[from] keys::Error),
}

/// The parts of [`Backchannel`].
pub struct Parts {
    pub store: Store,
    pub keys: Arc<KeyRing>,
    pub metrics: Arc<Metrics>,
    /// `iss` of logout tokens.
    pub issuer: String,
    /// CAs in PEM that are trusted besides those of the system.
    pub ca: Option<Vec<u8>>,
}

/// Sends logout tokens to clients.
pub struct Backchannel {
    parts: Parts,
    tls: SslConnector,
    woken: Arc<Notify>,
}

impl Backchannel {
    /// Returns it with the handle that announces notices.
    pub fn new(parts: Parts) -> Result<(Self, LogoutNotices), ErrorStack> {
        let tls = delivery::connector(parts.ca.as_deref())?;
        let woken = Arc::new(Notify::new());
        let notices = LogoutNotices(woken.clone());
        Ok((Self { parts, tls, woken }, notices))
    }

    /// Sends notices until the future is dropped, which is safe at any time.
    pub async fn run(self) {
        let woken = self.woken.clone();
        let queues = Rc::new(Queues {
            sender: Sender::new(self.tls),
            parts: self.parts,
            woken: self.woken,
            busy: RefCell::default(),
        });
        let mut failing = false;
        loop {
            let pause = queues.clone().start_due().await;
            match &pause {
                // The store logs that the database is unavailable.
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "logout notices not read, retrying");
                }
                Err(error) if !failing => {
                    tracing::warn!(%error, "logout notices not read, retrying");
                }
                _ => {}
            }
            failing = pause.is_err();
            match pause {
                Ok(pause) => {
                    let _ = tokio::time::timeout(pause, woken.notified()).await;
                }
                Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        }
    }
}

/// The queues of clients, as this server works on them.
struct Queues {
    parts: Parts,
    sender: Sender,
    woken: Arc<Notify>,
    /// The clients that are being notified.
    busy: RefCell<HashSet<ClientId>>,
}

impl Queues {
    /// Starts a task for each client with due notices. Returns how long to wait.
    async fn start_due(self: Rc<Self>) -> Result<Duration, store::Error> {
        let queues = self.parts.store.run(logout_notices::queues).await?;
        self.parts.metrics.set_pending_notices(queues.iter().map(|queue| queue.length).sum());
        let now = clock::now();
        let mut pause = POLL_INTERVAL;
        for queue in queues {
            if queue.due_at > now {
                pause = pause.min(queue.due_at.since(now));
                break;
            }
            if self.busy.borrow().len() >= MAX_CLIENTS {
                break;
            }
            if self.busy.borrow_mut().insert(queue.client.clone()) {
                actix_rt::spawn(self.clone().notify(queue.client));
            }
        }
        Ok(pause)
    }

    /// Sends the due notices of a client.
    async fn notify(self: Rc<Self>, client: ClientId) {
        if let Err(error) = self.send_due(&client).await {
            tracing::warn!(%error, %client, "logout notices not sent, retrying");
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        self.busy.borrow_mut().remove(&client);
        self.woken.notify_one();
    }

    /// Sends notices until none is due, or all of a batch have failed.
    async fn send_due(&self, client: &ClientId) -> Result<(), Error> {
        loop {
            let Some((uri, notices)) = self.claim(client).await? else { return Ok(()) };
            if notices.is_empty() {
                return Ok(());
            }
            let attempts = notices.iter().map(|notice| self.send(client, &uri, notice));
            let mut attempted = Vec::new();
            for attempt in join_all(attempts).await {
                attempted.push(attempt?);
            }
            let has_failed = attempted.iter().all(|outcome| *outcome != Outcome::Delivered);
            self.record(client, notices, attempted).await?;
            if has_failed {
                return Ok(());
            }
        }
    }

    /// Claims due notices. `None`: the client has no URI for them any more.
    async fn claim(&self, client: &ClientId) -> Result<Option<(String, Vec<Notice>)>, Error> {
        let client = client.clone();
        let now = clock::now();
        let claim = Claim { now, until: now.after(CLAIM), limit: BATCH };
        let work = move |conn: &mut Conn| {
            conn.write(|conn| {
                let Some(uri) = clients::backchannel_logout_uri(conn, &client)? else {
                    let dropped = logout_notices::delete_of_client(conn, &client)?;
                    tracing::info!(%client, dropped, "client has no URI for logout notices any more, notices dropped");
                    return Ok(None);
                };
                Ok(Some((uri, logout_notices::claim(conn, &client, claim)?)))
            })
        };
        Ok(self.parts.store.write(work).await?)
    }

    /// Sends a logout token, once.
    async fn send(&self, client: &ClientId, uri: &str, notice: &Notice) -> Result<Outcome, Error> {
        let now = clock::now();
        let ended = (notice.user, notice.session);
        let claims = LogoutTokenClaims::new(&self.parts.issuer, client.as_str(), ended, now);
        let token = self.parts.keys.sign_for_client(TokenType::Logout, &claims, now)?;
        Ok(self.sender.send(uri, &token).await)
    }

    /// Deletes the notices that are done, and postpones the others.
    async fn record(
        &self,
        client: &ClientId,
        notices: Vec<Notice>,
        outcomes: Vec<Outcome>,
    ) -> Result<(), Error> {
        let now = clock::now();
        let mut done = Vec::new();
        let mut postponed = Vec::new();
        for (notice, outcome) in notices.into_iter().zip(outcomes) {
            let session = notice.session;
            let problem = match &outcome {
                Outcome::Delivered => "",
                Outcome::Rejected => "the client rejects the logout token with 400",
                Outcome::Failed(problem) => problem,
            };
            match next(notice, &outcome, now) {
                Next::Delivered => {
                    self.parts.metrics.record_notice("sent");
                    tracing::info!(%client, %session, "client notified of the end of a session");
                    done.push(session);
                }
                Next::Retry { notice, at } => {
                    self.parts.metrics.record_notice("failed");
                    if notice.attempts == 1 {
                        tracing::warn!(%client, %session, problem, "client not notified, retrying");
                    } else {
                        tracing::debug!(%client, %session, problem, "client not notified, retrying");
                    }
                    postponed.push((notice, at));
                }
                Next::GiveUp => {
                    self.parts.metrics.record_notice("given_up");
                    tracing::warn!(%client, %session, problem, "client not notified, giving up");
                    done.push(session);
                }
            }
        }
        let save = move |conn: &mut Conn| {
            conn.write(|conn| {
                logout_notices::delete(conn, &done)?;
                for (notice, at) in &postponed {
                    logout_notices::postpone(conn, notice, *at)?;
                }
                Ok(())
            })
        };
        Ok(self.parts.store.write(save).await?)
    }
}
