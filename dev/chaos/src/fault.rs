//! The faults and their timings.

use std::str::FromStr;
use std::time::Duration;

/// A fault to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A server is killed and restarted.
    KillServer,
    /// A server is frozen.
    FreezeServer,
    /// PostgreSQL is restarted gracefully.
    RestartPostgres,
    /// PostgreSQL crashes and recovers.
    CrashPostgres,
    /// PostgreSQL is stopped for a while.
    StopPostgres,
    /// PostgreSQL is frozen.
    FreezePostgres,
    /// PostgreSQL executes statements but commits nothing, for longer than the grace period.
    StallCommits,
    /// PostgreSQL becomes read-only in place for a while. Its connections stay open.
    ReadOnlyPostgres,
    /// Only the first server loses its connection to PostgreSQL.
    CutPostgres,
    /// Only the first server is connected to a standby with paused replay, and back.
    StandbyInPool,
    /// Redis is killed and restarts empty.
    KillRedis,
    /// Redis is flushed.
    FlushRedis,
    /// Redis is stopped for a while and restarts empty.
    StopRedis,
    /// Redis is frozen and keeps its data.
    FreezeRedis,
    /// Only the first server loses its connection to Redis, which keeps its data.
    CutRedis,
    /// Only the first server is connected to a promoted replica of Redis, and back.
    SplitRedis,
    /// Clients disconnect after sending a request.
    CutClients,
    /// The primary PostgreSQL is killed (SIGKILL), and its synchronous standby promoted.
    KillPrimary,
    /// The primary PostgreSQL is frozen, and its standby promoted. It stays frozen until it is
    /// killed some time later.
    FreezePrimary,
    /// The primary PostgreSQL becomes read-only in place, and its standby is promoted. Its
    /// connections stay open until it is killed some time later.
    DemotePrimary,
    /// The primary PostgreSQL is killed (SIGKILL) while its asynchronous standby lags, which is
    /// promoted.
    LosePrimary,
    /// A replica of Redis is promoted while its primary runs, by Sentinel or in the cluster.
    SwitchRedis,
    /// A primary Redis is killed (SIGKILL), and its replica promoted.
    KillRedisPrimary,
    /// A server is stopped gracefully and started again.
    RestartServer,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 24] = [
        Self::KillServer,
        Self::FreezeServer,
        Self::RestartPostgres,
        Self::CrashPostgres,
        Self::StopPostgres,
        Self::FreezePostgres,
        Self::StallCommits,
        Self::ReadOnlyPostgres,
        Self::CutPostgres,
        Self::StandbyInPool,
        Self::KillRedis,
        Self::FlushRedis,
        Self::StopRedis,
        Self::FreezeRedis,
        Self::CutRedis,
        Self::SplitRedis,
        Self::CutClients,
        Self::KillPrimary,
        Self::FreezePrimary,
        Self::DemotePrimary,
        Self::LosePrimary,
        Self::SwitchRedis,
        Self::KillRedisPrimary,
        Self::RestartServer,
    ];

    /// Returns the name for the command line and the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillServer => "kill-server",
            Self::FreezeServer => "freeze-server",
            Self::RestartPostgres => "restart-postgres",
            Self::CrashPostgres => "crash-postgres",
            Self::StopPostgres => "stop-postgres",
            Self::FreezePostgres => "freeze-postgres",
            Self::StallCommits => "stall-commits",
            Self::ReadOnlyPostgres => "read-only-postgres",
            Self::CutPostgres => "cut-postgres",
            Self::StandbyInPool => "standby-in-pool",
            Self::KillRedis => "kill-redis",
            Self::FlushRedis => "flush-redis",
            Self::StopRedis => "stop-redis",
            Self::FreezeRedis => "freeze-redis",
            Self::CutRedis => "cut-redis",
            Self::SplitRedis => "split-redis",
            Self::CutClients => "cut-clients",
            Self::KillPrimary => "kill-primary",
            Self::FreezePrimary => "freeze-primary",
            Self::DemotePrimary => "demote-primary",
            Self::LosePrimary => "lose-primary",
            Self::SwitchRedis => "switch-redis",
            Self::KillRedisPrimary => "kill-redis-primary",
            Self::RestartServer => "restart-server",
        }
    }

    /// Returns the name, with the number of the server if the fault affects one.
    pub(super) fn name_at(self, server: usize) -> String {
        match self {
            Self::KillServer | Self::FreezeServer | Self::RestartServer => {
                format!("{} {}", self.name(), server + 1)
            }
            _ => self.name().to_owned(),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("unknown fault; known faults: {names}")
        })
    }
}

/// Durations of faults and pauses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timings {
    /// How long a part is stopped or disconnected.
    pub(super) stop: Duration,
    /// How long a part is frozen.
    pub(super) freeze: Duration,
    /// How long commits stall. Longer than the grace period.
    pub(super) stall: Duration,
    /// How long clients disconnect.
    pub(super) cut: Duration,
    /// Time without failure between two faults.
    pub(super) quiet: Duration,
    /// Average pause of a client.
    pub(super) pause: Duration,
}

impl Timings {
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
