//! What goes wrong, and for how long.

use std::str::FromStr;
use std::time::Duration;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A server is killed and started again.
    KillServer,
    /// A server stands still.
    FreezeServer,
    /// PostgreSQL is restarted in good order.
    RestartPostgres,
    /// PostgreSQL crashes and recovers.
    CrashPostgres,
    /// PostgreSQL is away for a while.
    StopPostgres,
    /// PostgreSQL stands still.
    FreezePostgres,
    /// PostgreSQL carries statements out and commits none, for longer than the grace
    /// period.
    StallCommits,
    /// The first server alone cannot reach PostgreSQL.
    CutPostgres,
    /// The first server alone is led to a standby that follows no more, and back.
    StandbyInPool,
    /// Redis is killed and comes back empty.
    KillRedis,
    /// Redis forgets everything.
    FlushRedis,
    /// Redis is away for a while, and comes back empty.
    StopRedis,
    /// Redis stands still, and remembers everything.
    FreezeRedis,
    /// The first server alone cannot reach Redis, which remembers everything.
    CutRedis,
    /// The first server is led to another Redis, a replica promoted by mistake that
    /// remembers everything so far, and back.
    SplitRedis,
    /// Clients hang up after they sent a request.
    CutClients,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::KillServer,
        Self::FreezeServer,
        Self::RestartPostgres,
        Self::CrashPostgres,
        Self::StopPostgres,
        Self::FreezePostgres,
        Self::StallCommits,
        Self::CutPostgres,
        Self::StandbyInPool,
        Self::KillRedis,
        Self::FlushRedis,
        Self::StopRedis,
        Self::FreezeRedis,
        Self::CutRedis,
        Self::SplitRedis,
        Self::CutClients,
    ];

    /// As the command line and the report call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillServer => "kill-server",
            Self::FreezeServer => "freeze-server",
            Self::RestartPostgres => "restart-postgres",
            Self::CrashPostgres => "crash-postgres",
            Self::StopPostgres => "stop-postgres",
            Self::FreezePostgres => "freeze-postgres",
            Self::StallCommits => "stall-commits",
            Self::CutPostgres => "cut-postgres",
            Self::StandbyInPool => "standby-in-pool",
            Self::KillRedis => "kill-redis",
            Self::FlushRedis => "flush-redis",
            Self::StopRedis => "stop-redis",
            Self::FreezeRedis => "freeze-redis",
            Self::CutRedis => "cut-redis",
            Self::SplitRedis => "split-redis",
            Self::CutClients => "cut-clients",
        }
    }

    /// Its name, with the server that it happened to, where it did to one.
    pub(super) fn name_at(self, server: usize) -> String {
        match self {
            Self::KillServer | Self::FreezeServer => format!("{} {}", self.name(), server + 1),
            _ => self.name().to_owned(),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no such fault; there are: {names}")
        })
    }
}

/// How long things last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    /// A part is away.
    pub(super) stop: Duration,
    /// A part stands still.
    pub(super) freeze: Duration,
    /// Nothing is committed. Longer than the grace period.
    pub(super) stall: Duration,
    /// Clients hang up.
    pub(super) cut: Duration,
    /// Nothing goes wrong between two faults.
    pub(super) quiet: Duration,
    /// A client does nothing, on average.
    pub(super) pause: Duration,
}

impl Lengths {
    pub(super) const FULL: Self = Self {
        stop: Duration::from_secs(10),
        freeze: Duration::from_secs(5),
        stall: Duration::from_secs(34),
        cut: Duration::from_secs(5),
        quiet: Duration::from_secs(5),
        pause: Duration::from_millis(600),
    };

    pub(super) const SHORT: Self = Self {
        stop: Duration::from_secs(3),
        freeze: Duration::from_secs(3),
        stall: Duration::from_secs(34),
        cut: Duration::from_secs(2),
        quiet: Duration::from_millis(1500),
        pause: Duration::from_millis(300),
    };
}
