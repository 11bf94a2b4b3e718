//! The topologies: which parts a run has, and which faults apply to them.

use std::str::FromStr;

use crate::fault::Fault;

/// The parts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One PostgreSQL, one Redis, two servers.
    Single,
    /// A PostgreSQL with a synchronous standby, and a Redis primary with a replica and Sentinel.
    Synchronous,
    /// A PostgreSQL with an asynchronous standby, and a Redis Cluster. A failover of PostgreSQL
    /// loses the last writes, which `rotation.accept_ahead_of_database` permits.
    Asynchronous,
    /// One PostgreSQL, one Redis, and `haproxy` in front of two servers.
    Balanced,
}

impl Topology {
    /// All topologies.
    pub const ALL: [Self; 4] =
        [Self::Single, Self::Synchronous, Self::Asynchronous, Self::Balanced];

    /// Returns the name for the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Synchronous => "synchronous",
            Self::Asynchronous => "asynchronous",
            Self::Balanced => "balanced",
        }
    }

    /// Returns the faults that can be injected.
    pub fn faults(self) -> &'static [Fault] {
        match self {
            Self::Single => &[
                Fault::KillServer,
                Fault::FreezeServer,
                Fault::RestartPostgres,
                Fault::CrashPostgres,
                Fault::StopPostgres,
                Fault::FreezePostgres,
                Fault::StallCommits,
                Fault::ReadOnlyPostgres,
                Fault::CutPostgres,
                Fault::StandbyInPool,
                Fault::KillRedis,
                Fault::FlushRedis,
                Fault::StopRedis,
                Fault::FreezeRedis,
                Fault::CutRedis,
                Fault::SplitRedis,
                Fault::CutClients,
            ],
            Self::Synchronous => &[
                Fault::KillPrimary,
                Fault::FreezePrimary,
                Fault::DemotePrimary,
                Fault::SwitchRedis,
                Fault::KillRedisPrimary,
            ],
            Self::Asynchronous => {
                &[Fault::LosePrimary, Fault::SwitchRedis, Fault::KillRedisPrimary]
            }
            Self::Balanced => &[Fault::RestartServer, Fault::KillServer, Fault::FreezeServer],
        }
    }

    /// Returns whether a fault may lose writes that were acknowledged.
    pub(super) fn loses_writes(self) -> bool {
        self == Self::Asynchronous
    }
}

impl FromStr for Topology {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|topology| topology.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("unknown topology; known topologies: {names}")
        })
    }
}
