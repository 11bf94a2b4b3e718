//! What is measured, against what, and for how long.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::Arguments;

/// What access tokens are signed with, as the setting has it.
pub(crate) type Algorithm = &'static str;

/// The server's surroundings: for each other one it is started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Setup {
    pub(crate) algorithm: Algorithm,
    pub(crate) base: Base,
    /// Whether the server speaks TLS, under a CA of its own.
    pub(crate) tls: bool,
}

/// Where sessions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Base {
    /// PostgreSQL with so many of them, and Redis.
    Postgres(u64),
    /// SQLite alone.
    Sqlite,
}

impl Base {
    /// How many sessions are filled in.
    pub(crate) fn sessions(self) -> Option<u64> {
        match self {
            Self::Postgres(sessions) => Some(sessions),
            Self::Sqlite => None,
        }
    }
}

/// What a number of connections ask of the server and of those it is compared
/// with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    pub(crate) setup: Setup,
    /// What the program `load` is told to do.
    pub(crate) work: &'static str,
    pub(crate) connections: usize,
    /// Whether each request is for another session.
    pub(crate) cold: bool,
    /// Whether each request opens a connection.
    pub(crate) reconnect: bool,
    pub(crate) rivals: &'static [Rival],
}

impl Case {
    /// Whether there is nothing to it without the peer.
    pub(crate) fn is_beside_peer(&self) -> bool {
        self.rivals == PEER
    }
}

/// Whom the server is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Rival {
    /// The floor, asked by this path for the same work.
    Floor(&'static str),
    /// A part of that work, which the floor answers to `GET` of this path.
    Part(&'static str),
    /// The peer, over its OAuth endpoint, with sessions of this kind.
    Peer(Login),
}

/// How the peer's users have logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Login {
    /// For an access token alone: a refresh signs one token, as Matchbook's does.
    OAuth,
    /// With `OpenID` Connect: a refresh signs an ID token too.
    OpenId,
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Floor(path) | Self::Part(path) => write!(f, "floor {path}"),
            Self::Peer(Login::OAuth) => write!(f, "oidc-provider"),
            Self::Peer(Login::OpenId) => write!(f, "oidc-provider, OpenID"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.work.trim_start_matches("get:"), self.setup.algorithm)?;
        if self.setup.tls {
            write!(f, ", TLS")?;
        }
        match self.setup.base {
            Base::Sqlite => write!(f, ", SQLite")?,
            Base::Postgres(sessions) if self.name == "size" => {
                write!(f, ", of {sessions}")?;
            }
            Base::Postgres(_) => {}
        }
        if self.reconnect {
            write!(f, ", each on a new connection")?;
        }
        if self.cold { write!(f, ", each another") } else { Ok(()) }
    }
}

/// The path of the keys, which asks nothing of anybody.
pub(crate) const KEYS: &str = "get:/.well-known/jwks.json";

/// How many connections a smoke run has.
pub(crate) const QUICK: usize = 16;

const REFRESH: &[Rival] = &[Rival::Floor("/refresh")];
const REFRESH_ALONE: &[Rival] = &[Rival::Floor("/refresh"), Rival::Floor("/single")];
const REFRESH_AND_PARTS: &[Rival] = &[Rival::Floor("/refresh"), Rival::Part("/sign")];
const PEER: &[Rival] = &[Rival::Peer(Login::OAuth), Rival::Peer(Login::OpenId)];
const USER: &[Rival] = &[Rival::Floor("/user"), Rival::Floor("/cached")];
const USER_AND_PARTS: &[Rival] =
    &[Rival::Floor("/user"), Rival::Floor("/cached"), Rival::Part("/mget")];
const EMPTY: &[Rival] = &[Rival::Part("/empty")];

/// All cases that the arguments ask for; those of one setup follow each other.
pub(crate) fn cases(arguments: &Arguments) -> Vec<Case> {
    let case = |name, setup, work, rivals| {
        move |connections| Case {
            name,
            setup,
            work,
            connections,
            cold: false,
            reconnect: false,
            rivals,
        }
    };
    let at = |connections| [if arguments.quick { QUICK } else { connections }].into_iter();
    let all = arguments.connections();
    let usual = arguments.sessions()[0];
    let with = |algorithm| Setup { algorithm, base: Base::Postgres(usual), tls: false };

    let mut cases = Vec::new();
    for algorithm in ["ES256", "EdDSA", "RS256"] {
        let setup = with(algorithm);
        cases.extend(all.iter().map(|connections| {
            let rivals = match connections {
                1 => REFRESH_ALONE,
                16 => REFRESH_AND_PARTS,
                _ => REFRESH,
            };
            case("refresh", setup, "refresh", rivals)(*connections)
        }));
        match algorithm {
            "ES256" => {
                cases.extend(at(16).map(case("keyed", setup, "keyed", &[])));
                cases.extend(at(16).map(case("repeat", setup, "repeat", &[])));
                cases.extend(at(16).map(case("user", setup, "user", USER)));
                cases.extend(all.iter().copied().map(case("token", setup, "token", &[])));
                cases.extend(all.iter().copied().map(case("jwks", setup, KEYS, EMPTY)));
                cases.extend(at(16).map(case("peer", setup, "refresh", PEER)));
                if !arguments.quick {
                    cases.extend(at(64).map(case("peer", setup, "refresh", PEER)));
                }
            }
            "RS256" => {
                cases.extend(all.iter().map(|connections| {
                    let rivals = if *connections == 16 { USER_AND_PARTS } else { USER };
                    case("user", setup, "user", rivals)(*connections)
                }));
                cases.extend(at(16).map(case("peer", setup, "refresh", PEER)));
            }
            _ => {}
        }
    }
    for sessions in arguments.sessions() {
        let setup = Setup { base: Base::Postgres(sessions), ..with("ES256") };
        for cold in [false, true] {
            let chains = at(64).map(case("size", setup, "refresh", &[]));
            cases.extend(chains.map(|chains| Case { cold, ..chains }));
        }
    }
    let tls = Setup { tls: true, ..with("ES256") };
    let sqlite = Setup { base: Base::Sqlite, ..with("ES256") };
    for work in ["refresh", "user"] {
        cases.extend(at(16).map(case("tls", tls, work, &[])));
        let connections = if arguments.quick { vec![QUICK] } else { vec![1, 16, 64] };
        cases.extend(connections.into_iter().map(case("sqlite", sqlite, work, &[])));
    }
    for setup in [with("ES256"), tls] {
        let connect = at(1).map(case("connect", setup, KEYS, &[]));
        cases.extend(connect.map(|connect| Case { reconnect: true, ..connect }));
    }
    cases.retain(|case| arguments.wants(case.name));
    let mut setups = Vec::new();
    for case in &cases {
        if !setups.contains(&case.setup) {
            setups.push(case.setup);
        }
    }
    cases.sort_by_key(|case| setups.iter().position(|setup| *setup == case.setup));
    cases
}

/// How long all of them take, about.
pub(crate) fn duration(cases: &[Case], arguments: &Arguments) -> Duration {
    let runs: usize = cases.iter().map(|case| 1 + case.rivals.len()).sum();
    arguments.run_time() * u32::try_from(runs * arguments.rounds()).unwrap()
}
