//! The history of a run: all requests and their outcomes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::operator::Operator;
use crate::tokens::RefreshToken;

/// How long clients keep retrying at the end of the run.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// One request of one client. Times count from the start of the run.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) client: usize,
    /// Index of the server.
    pub(super) server: usize,
    /// The session of the presented token, if any.
    pub(super) session: Option<Uuid>,
    pub(super) operation: Operation,
    pub(super) sent: Duration,
    pub(super) done: Duration,
    pub(super) outcome: Outcome,
}

/// The operation of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// Creates a guest.
    Register,
    /// Logs in a guest.
    LogIn,
    /// Presents a refresh token that was imported, which opens a session.
    Exchange { presented: String },
    /// Presents an access token that expires at this time.
    User { expires: Duration },
    /// Presents a refresh token.
    Refresh { presented: RefreshToken },
    /// Ends a session.
    Logout,
    /// Creates an account.
    RegisterAccount,
    /// Changes the password of an account, which ends another session of it.
    ChangePassword,
    /// Deletes an account, which ends its session.
    DeleteAccount,
    /// Disables an account by the command line, which ends its session.
    Disable,
}

impl Operation {
    /// Returns whether the request ends its session.
    pub(super) fn ends_session(&self) -> bool {
        matches!(self, Self::Logout | Self::ChangePassword | Self::DeleteAccount | Self::Disable)
    }

    /// Returns whether the operation opens a session.
    pub(super) fn opens_session(&self) -> bool {
        matches!(self, Self::LogIn | Self::Exchange { .. })
    }

    /// Returns whether the operation is a command of the operator, and no request to a server.
    pub(super) fn is_command(&self) -> bool {
        *self == Self::Disable
    }
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// New tokens. Holds the refresh token.
    Granted(RefreshToken),
    /// `200`, `201` or `204`, whichever is documented.
    Accepted,
    /// `401`. Holds the reason.
    Rejected(String),
    /// `503` with `Retry-After`.
    Unavailable,
    /// No complete response.
    NoResponse,
    /// Any other response.
    Unexpected(String),
}

impl Outcome {
    /// Returns whether the client has to retry.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Unavailable | Self::NoResponse | Self::Unexpected(_))
    }

    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Granted(_) | Self::Accepted)
    }
}

/// The time of one fault.
#[derive(Debug, Clone)]
pub(super) struct FaultWindow {
    pub(super) name: String,
    pub(super) began: Duration,
    pub(super) ended: Duration,
    /// Whether writes that were acknowledged during the fault may be lost.
    pub(super) loses_writes: bool,
}

/// The input of the checker.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) requests: Vec<Request>,
    /// In order, without overlap.
    pub(super) windows: Vec<FaultWindow>,
    /// When the clients were asked to finish. Each then checks that its session works.
    pub(super) closing: Duration,
    pub(super) end: Duration,
    /// How long servers may fail after a fault.
    pub(super) max_recovery: Duration,
    /// The generation of each session in the database, at the end.
    pub(super) rows: HashMap<Uuid, u64>,
}

impl History {
    /// Writes one line per fault and request.
    pub(super) fn write(&self, file: &Path) {
        let windows = self.windows.iter().map(|window| format!("{window:?}\n"));
        let requests = self.requests.iter().map(|request| format!("{request:?}\n"));
        fs::write(file, windows.chain(requests).collect::<String>()).unwrap();
    }
}

/// State shared by clients and faults during a run.
pub(super) struct RunContext {
    /// Addresses of the servers: `host:port`.
    pub(super) servers: Vec<String>,
    pub(super) operator: Operator,
    /// Whether a fault may lose writes that were acknowledged. Then the clients are guests, and
    /// present no token twice at once, because the result would depend on the lost writes.
    pub(super) loses_writes: bool,
    started: Instant,
    /// `started` in Unix time.
    epoch: Duration,
    requests: Mutex<Vec<Request>>,
    /// For each server, when the last failed and the last successful request was sent.
    last: Vec<Mutex<(Duration, Duration)>>,
    disconnecting: AtomicBool,
    closing: OnceLock<Duration>,
}

impl RunContext {
    pub(super) fn new(servers: Vec<String>, operator: Operator, loses_writes: bool) -> Arc<Self> {
        #[expect(clippy::disallowed_methods, reason = "tokens expire by wall clock time")]
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Arc::new(Self {
            last: servers.iter().map(|_| Mutex::default()).collect(),
            servers,
            operator,
            loses_writes,
            started: Instant::now(),
            epoch,
            requests: Mutex::default(),
            disconnecting: AtomicBool::new(false),
            closing: OnceLock::new(),
        })
    }

    /// Returns the time since the start of the run.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Converts Unix time to time since the start of the run.
    pub(super) fn since_start(&self, unix_time: Duration) -> Duration {
        unix_time.saturating_sub(self.epoch)
    }

    pub(super) fn record(&self, request: Request) {
        if !request.operation.is_command() {
            let mut last = self.last[request.server].lock().unwrap();
            if request.outcome.is_failure() {
                last.0 = last.0.max(request.sent);
            } else if request.outcome.is_success() {
                last.1 = last.1.max(request.sent);
            }
        }
        self.requests.lock().unwrap().push(request);
    }

    /// Returns whether every server has succeeded since its last failure, and has not failed
    /// for at least `quiet` since `since`.
    pub(super) fn is_quiet(&self, since: Duration, quiet: Duration) -> bool {
        let now = self.now();
        self.last.iter().all(|last| {
            let (failed, succeeded) = *last.lock().unwrap();
            let since = since.max(failed);
            succeeded > since && now >= since + quiet
        })
    }

    pub(super) fn is_disconnecting(&self) -> bool {
        self.disconnecting.load(Ordering::SeqCst)
    }

    /// Turns random disconnects of clients on or off.
    pub(super) fn cut(&self, disconnecting: bool) {
        self.disconnecting.store(disconnecting, Ordering::SeqCst);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Returns whether clients must stop retrying.
    pub(super) fn is_drained(&self) -> bool {
        self.closing.get().is_some_and(|closing| self.now() > *closing + DRAIN_TIMEOUT)
    }

    /// Asks the clients to finish. Returns the time.
    pub(super) fn close(&self) -> Duration {
        *self.closing.get_or_init(|| self.now())
    }

    /// Takes all requests, ordered by the time they were sent.
    pub(super) fn requests(&self) -> Vec<Request> {
        let mut requests = std::mem::take(&mut *self.requests.lock().unwrap());
        requests.sort_by_key(|request| request.sent);
        requests
    }
}
