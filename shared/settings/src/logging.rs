//! Logging configuration.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

use super::OneOf;

/// The section `[log]`.
#[derive(Deserialize)]
pub struct Logging {
    format: OneOf<LogFormat>,
    level: LogLevel,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogFormat {
    Text,
    Json,
}

/// The minimum level of log lines, by module.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct LogLevel(Targets);

impl Logging {
    /// Installs the global subscriber, which logs to standard error. On a terminal the
    /// output is colored.
    pub fn init(&self) {
        let lines = fmt::layer().with_writer(io::stderr);
        let log = registry().with(self.level.0.clone());
        match self.format.0 {
            LogFormat::Json => log.with(lines.json()).init(),
            LogFormat::Text => {
                log.with(lines.with_target(false).with_ansi(io::stderr().is_terminal())).init();
            }
        }
    }
}

impl TryFrom<String> for LogLevel {
    type Error = &'static str;

    fn try_from(filter: String) -> Result<Self, Self::Error> {
        let is_level = |level: &str| level.parse::<LevelFilter>().is_ok() && !level.is_empty();
        let is_module = |name: &str| {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
            !name.is_empty() && name.chars().all(is_allowed)
        };
        let is_filter = |part: &str| match part.rsplit_once('=') {
            Some((name, level)) => is_module(name) && is_level(level),
            None => is_level(part),
        };
        // actix logs every worker thread at the start, and every malformed request as an
        // error. `log.level` can override this.
        let filters = format!("actix_server=warn,actix_http=off,{filter}").parse::<Targets>();
        match filters {
            Ok(filters) if filter.split(',').all(is_filter) => Ok(Self(filters)),
            _ => Err("must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\""),
        }
    }
}
