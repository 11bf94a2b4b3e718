//! The cases: requests, environment, connections and comparisons.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::arguments::{Arguments, QUICK_CONNECTIONS};

/// The value of the setting `tokens.algorithm`.
pub(crate) type Algorithm = &'static str;

/// The environment of the server. Each environment has its own server process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Environment {
    pub(crate) algorithm: Algorithm,
    pub(crate) base: Base,
    /// Whether the server uses TLS with its development CA.
    pub(crate) tls: bool,
}

/// The storage of the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Base {
    /// PostgreSQL with this number of sessions, and Redis.
    Postgres(u64),
    /// SQLite without Redis.
    Sqlite,
}

impl Base {
    /// Returns the number of seeded sessions.
    pub(crate) fn sessions(self) -> Option<u64> {
        match self {
            Self::Postgres(sessions) => Some(sessions),
            Self::Sqlite => None,
        }
    }
}

/// A kind of request, sent on a number of connections to the server and its comparisons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    /// The name for `--only`.
    pub(crate) name: &'static str,
    pub(crate) environment: Environment,
    /// The argument `--work` of `load`.
    pub(crate) work: &'static str,
    pub(crate) connections: usize,
    /// Whether each request uses another session.
    pub(crate) cold: bool,
    /// Whether each request opens a new connection.
    pub(crate) reconnect: bool,
    pub(crate) comparisons: &'static [Comparison],
}

impl Case {
    /// Whether an OAuth client sends the requests.
    pub(crate) fn uses_oauth(&self) -> bool {
        matches!(self.work, "oauth" | "introspect" | "code")
    }

    /// Whether the case is only useful with the competitor.
    pub(crate) fn needs_competitor(&self) -> bool {
        self.comparisons == COMPETITOR
    }
}

/// A program or component that the server is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Comparison {
    /// The baseline doing the same work, at this path.
    Baseline(&'static str),
    /// A component of that work, at `GET` of this path of the baseline.
    Component(&'static str),
    /// The competitor with sessions of this kind.
    Competitor(Login),
    /// The server itself with another argument `--work`.
    Own(&'static str),
}

/// The kind of login at the competitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Login {
    /// OAuth: a refresh signs one token, like Matchbook's.
    OAuth,
    /// `OpenID` Connect: a refresh also signs an ID token.
    OpenId,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Baseline(path) | Self::Component(path) => write!(f, "baseline {path}"),
            Self::Competitor(Login::OAuth) => write!(f, "oidc-provider"),
            Self::Competitor(Login::OpenId) => write!(f, "oidc-provider, OpenID"),
            Self::Own(work) => write!(f, "matchbook {work}"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.work.trim_start_matches("get:"), self.environment.algorithm)?;
        if self.environment.tls {
            write!(f, ", TLS")?;
        }
        match self.environment.base {
            Base::Sqlite => write!(f, ", SQLite")?,
            Base::Postgres(sessions) if self.name == "size" => {
                write!(f, ", {sessions} sessions")?;
            }
            Base::Postgres(_) => {}
        }
        if self.reconnect {
            write!(f, ", new connection each")?;
        }
        if self.cold { write!(f, ", another session each") } else { Ok(()) }
    }
}

/// The key set, which needs no database and no Redis.
pub(crate) const KEYS: &str = "get:/.well-known/jwks.json";

/// The login page.
const LOGIN_PAGE: &str = "get:/login";

const REFRESH: &[Comparison] = &[Comparison::Baseline("/refresh")];
const REFRESH_ALONE: &[Comparison] =
    &[Comparison::Baseline("/refresh"), Comparison::Baseline("/single")];
const REFRESH_AND_PARTS: &[Comparison] =
    &[Comparison::Baseline("/refresh"), Comparison::Component("/sign")];
const COMPETITOR: &[Comparison] =
    &[Comparison::Competitor(Login::OAuth), Comparison::Competitor(Login::OpenId)];
const USER: &[Comparison] = &[Comparison::Baseline("/user"), Comparison::Baseline("/cached")];
const USER_AND_PARTS: &[Comparison] = &[
    Comparison::Baseline("/user"),
    Comparison::Baseline("/cached"),
    Comparison::Component("/mget"),
];
const OWN_REFRESH: &[Comparison] = &[Comparison::Own("refresh")];
const OWN_USER: &[Comparison] = &[Comparison::Own("user")];
const EMPTY: &[Comparison] = &[Comparison::Component("/empty")];

/// Returns the selected cases, grouped by environment.
pub(crate) fn cases(arguments: &Arguments) -> Vec<Case> {
    let case = |name, environment, work, comparisons| {
        move |connections| Case {
            name,
            environment,
            work,
            connections,
            cold: false,
            reconnect: false,
            comparisons,
        }
    };
    let at =
        |connections| [if arguments.quick { QUICK_CONNECTIONS } else { connections }].into_iter();
    let all = arguments.connections();
    let usual = arguments.sessions()[0];
    let with = |algorithm| Environment { algorithm, base: Base::Postgres(usual), tls: false };

    let mut cases = Vec::new();
    for algorithm in ["ES256", "EdDSA", "RS256"] {
        let environment = with(algorithm);
        cases.extend(all.iter().map(|connections| {
            let comparisons = match connections {
                1 => REFRESH_ALONE,
                16 => REFRESH_AND_PARTS,
                _ => REFRESH,
            };
            case("refresh", environment, "refresh", comparisons)(*connections)
        }));
        match algorithm {
            "ES256" => {
                cases.extend(at(16).map(case("keyed", environment, "keyed", &[])));
                cases.extend(at(16).map(case("repeat", environment, "repeat", &[])));
                cases.extend(at(16).map(case("user", environment, "user", USER)));
                cases.extend(all.iter().copied().map(case("token", environment, "token", &[])));
                cases.extend(all.iter().copied().map(case("jwks", environment, KEYS, EMPTY)));
                cases.extend(at(16).map(case("competitor", environment, "refresh", COMPETITOR)));
                cases.extend(at(16).map(case("oauth", environment, "oauth", OWN_REFRESH)));
                cases.extend(at(16).map(case("introspect", environment, "introspect", OWN_USER)));
                cases.extend(at(16).map(case("code", environment, "code", &[])));
                cases.extend(at(16).map(case("page", environment, LOGIN_PAGE, EMPTY)));
                if !arguments.quick {
                    cases.extend(at(64).map(case(
                        "competitor",
                        environment,
                        "refresh",
                        COMPETITOR,
                    )));
                }
            }
            "RS256" => {
                cases.extend(all.iter().map(|connections| {
                    let comparisons = if *connections == 16 { USER_AND_PARTS } else { USER };
                    case("user", environment, "user", comparisons)(*connections)
                }));
                cases.extend(at(16).map(case("competitor", environment, "refresh", COMPETITOR)));
            }
            _ => {}
        }
    }
    for sessions in arguments.sessions() {
        let environment = Environment { base: Base::Postgres(sessions), ..with("ES256") };
        for cold in [false, true] {
            let chains = at(64).map(case("size", environment, "refresh", &[]));
            cases.extend(chains.map(|chains| Case { cold, ..chains }));
        }
    }
    let tls = Environment { tls: true, ..with("ES256") };
    let sqlite = Environment { base: Base::Sqlite, ..with("ES256") };
    for work in ["refresh", "user"] {
        cases.extend(at(16).map(case("tls", tls, work, &[])));
        let connections = if arguments.quick { vec![QUICK_CONNECTIONS] } else { vec![1, 16, 64] };
        cases.extend(connections.into_iter().map(case("sqlite", sqlite, work, &[])));
    }
    for environment in [with("ES256"), tls] {
        let connect = at(1).map(case("connect", environment, KEYS, &[]));
        cases.extend(connect.map(|connect| Case { reconnect: true, ..connect }));
    }
    cases.retain(|case| arguments.wants(case.name));
    let mut environments = Vec::new();
    for case in &cases {
        if !environments.contains(&case.environment) {
            environments.push(case.environment);
        }
    }
    cases.sort_by_key(|case| {
        environments.iter().position(|environment| *environment == case.environment)
    });
    cases
}

/// Estimates the duration of cases.
pub(crate) fn duration(cases: &[Case], arguments: &Arguments) -> Duration {
    let runs: usize = cases.iter().map(|case| 1 + case.comparisons.len()).sum();
    arguments.run_time() * u32::try_from(runs * arguments.rounds()).unwrap()
}
