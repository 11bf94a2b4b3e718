//! Logging configuration.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

use super::{Settings, SettingsError};

/// The logging configuration.
pub struct Logging {
    json: bool,
    filters: Targets,
}

impl Logging {
    /// Installs the global subscriber, which logs to standard error. On a terminal the
    /// output is colored.
    pub fn init(&self) {
        let lines = fmt::layer().with_writer(io::stderr);
        let log = registry().with(self.filters.clone());
        if self.json {
            log.with(lines.json()).init();
        } else {
            log.with(lines.with_target(false).with_ansi(io::stderr().is_terminal())).init();
        }
    }
}

impl Settings {
    /// Reads the settings `log.format` and `log.level`.
    ///
    /// # Errors
    /// When one of them is invalid.
    pub fn logging(&self) -> Result<Logging, SettingsError> {
        let json = self.one_of("log.format", &[("text", false), ("json", true)])?;
        let filter = self.get::<String>("log.level")?;
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
            Ok(filters) if filter.split(',').all(is_filter) => Ok(Logging { json, filters }),
            _ => {
                let levels = "must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
                Err(self.invalid("log.level", levels))
            }
        }
    }
}
