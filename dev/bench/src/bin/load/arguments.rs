//! The command line of the load generator.

use std::path::PathBuf;

use clap::Parser;

/// Sends requests over some connections, one at a time on each, and reports throughput and
/// latency.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// URL of the server, like `http://127.0.0.1:5001`.
    #[arg(long)]
    pub(crate) target: String,
    /// Kind of request: refresh, keyed, repeat, user, token, login, oauth, introspect, code or
    /// `get:/path`.
    #[arg(long)]
    pub(crate) work: Work,
    /// Path, instead of the usual one.
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Number of connections.
    #[arg(long, default_value_t = 16)]
    pub(crate) connections: usize,
    /// Measured time, in seconds.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
    /// Warm-up time, in seconds.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// File with a refresh token per line. It is updated at the end.
    #[arg(long)]
    pub(crate) tokens: Option<PathBuf>,
    /// Trusted CA (PEM).
    #[arg(long)]
    pub(crate) ca: Option<PathBuf>,
    /// Use the next token of the file, and so another session, for each request.
    #[arg(long)]
    pub(crate) cold: bool,
    /// Pause after each request, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pub(crate) pause: u64,
    /// Open a new connection for each request.
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// Client for oauth, introspect and code, as `ID:SECRET`.
    #[arg(long)]
    pub(crate) oauth_client: Option<String>,
    /// Wait for a line on standard input after the warm-up.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Work {
    Refresh,
    Keyed,
    Repeat,
    User,
    Token,
    /// Logins with a password: one account per connection.
    Login,
    Oauth,
    /// Introspections of one access token.
    Introspect,
    /// Authorization requests, each with the exchange of its code.
    Code,
    Get(String),
}

impl std::str::FromStr for Work {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "refresh" => Self::Refresh,
            "keyed" => Self::Keyed,
            "repeat" => Self::Repeat,
            "user" => Self::User,
            "token" => Self::Token,
            "login" => Self::Login,
            "oauth" => Self::Oauth,
            "introspect" => Self::Introspect,
            "code" => Self::Code,
            _ => Self::Get(text.strip_prefix("get:").ok_or("unknown kind of request")?.to_owned()),
        })
    }
}
