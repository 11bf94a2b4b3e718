//! What every client sent and what it was answered.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::tokens::RefreshToken;

/// How long clients go on asking for an answer when the run comes to its end.
const FAREWELL: Duration = Duration::from_secs(15);

/// One request of one client. Times count from the start of the run.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) client: usize,
    /// Which of the servers it went to.
    pub(super) server: usize,
    /// Whose tokens it showed, if any.
    pub(super) session: Option<Uuid>,
    pub(super) asked: Asked,
    pub(super) sent: Duration,
    pub(super) done: Duration,
    pub(super) outcome: Outcome,
}

/// What a request was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// A new guest.
    Register,
    /// The tokens of a guest.
    SignIn,
    /// Who an access token is for, which lives until then.
    User { expires: Duration },
    /// The successor of a refresh token.
    Refresh { shown: RefreshToken },
    /// The end of a session.
    Logout,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// New tokens, of which this is the refresh token.
    Granted(RefreshToken),
    /// It was done: `200`, or `204` for a logout.
    Accepted,
    /// `401`, and why.
    Refused(String),
    /// `503` with a time to come back.
    Away,
    /// No answer that could be read to its end.
    Silent,
    /// What no client should ever see.
    Wrong(String),
}

impl Outcome {
    /// Whether the server failed the client, who has to ask again.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Away | Self::Silent | Self::Wrong(_))
    }

    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Granted(_) | Self::Accepted)
    }
}

/// One fault of a run.
#[derive(Debug, Clone)]
pub(super) struct Episode {
    pub(super) name: String,
    pub(super) began: Duration,
    pub(super) ended: Duration,
}

/// All that the judge is shown.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) requests: Vec<Request>,
    /// In their order, none overlapping another.
    pub(super) episodes: Vec<Episode>,
    /// When clients were asked to come to an end: from then on, each makes sure
    /// that its session still works.
    pub(super) closing: Duration,
    pub(super) end: Duration,
    /// The generation of each session in the database, at the end.
    pub(super) rows: HashMap<Uuid, u64>,
}

impl History {
    /// Writes what happened down, a line for each fault and each request.
    pub(super) fn write(&self, file: &Path) {
        let episodes = self.episodes.iter().map(|episode| format!("{episode:?}\n"));
        let requests = self.requests.iter().map(|request| format!("{request:?}\n"));
        fs::write(file, episodes.chain(requests).collect::<String>()).unwrap();
    }
}

/// What clients and faults share while a run goes on.
pub(super) struct Scene {
    /// Where the servers listen: `host:port`.
    pub(super) servers: Vec<String>,
    started: Instant,
    /// The same moment, counted from 1970.
    epoch: Duration,
    requests: Mutex<Vec<Request>>,
    /// For each server, when the last request was sent that failed, and the
    /// last that succeeded.
    last: Vec<Mutex<(Duration, Duration)>>,
    cutting: AtomicBool,
    closing: OnceLock<Duration>,
}

impl Scene {
    pub(super) fn new(servers: Vec<String>) -> Arc<Self> {
        #[expect(clippy::disallowed_methods, reason = "tokens expire by the clock on the wall")]
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Arc::new(Self {
            last: servers.iter().map(|_| Mutex::default()).collect(),
            servers,
            started: Instant::now(),
            epoch,
            requests: Mutex::default(),
            cutting: AtomicBool::new(false),
            closing: OnceLock::new(),
        })
    }

    /// The time of the run.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the clock on the wall says, as a time of the run.
    pub(super) fn since_start(&self, wall: Duration) -> Duration {
        wall.saturating_sub(self.epoch)
    }

    pub(super) fn note(&self, request: Request) {
        let mut last = self.last[request.server].lock().unwrap();
        if request.outcome.is_failure() {
            last.0 = last.0.max(request.sent);
        } else if request.outcome.is_success() {
            last.1 = last.1.max(request.sent);
        }
        drop(last);
        self.requests.lock().unwrap().push(request);
    }

    /// Whether every server has succeeded since its last failure, and that
    /// failure, or `since`, is at least `quiet` ago.
    pub(super) fn is_quiet(&self, since: Duration, quiet: Duration) -> bool {
        let now = self.now();
        self.last.iter().all(|last| {
            let (failed, succeeded) = *last.lock().unwrap();
            let since = since.max(failed);
            succeeded > since && now >= since + quiet
        })
    }

    pub(super) fn is_cutting(&self) -> bool {
        self.cutting.load(Ordering::SeqCst)
    }

    /// Has clients hang up now and then, or not any more.
    pub(super) fn cut(&self, cutting: bool) {
        self.cutting.store(cutting, Ordering::SeqCst);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Whether nobody waits for an answer any more.
    pub(super) fn is_over(&self) -> bool {
        self.closing.get().is_some_and(|closing| self.now() > *closing + FAREWELL)
    }

    /// Asks the clients to come to an end: since when.
    pub(super) fn close(&self) -> Duration {
        *self.closing.get_or_init(|| self.now())
    }

    /// Takes all requests so far, in the order they were sent.
    pub(super) fn requests(&self) -> Vec<Request> {
        let mut requests = std::mem::take(&mut *self.requests.lock().unwrap());
        requests.sort_by_key(|request| request.sent);
        requests
    }
}
