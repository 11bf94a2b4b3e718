//! How to log.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

use super::{Settings, SettingsError};

/// How to log.
pub struct Log {
    json: bool,
    filters: Targets,
}

impl Log {
    /// Logs to standard error from here on, in colour where that is a terminal.
    pub fn start(&self) {
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
    /// How to log: the settings `log.format` and `log.level`.
    ///
    /// # Errors
    /// When one of them is not valid.
    pub fn log(&self) -> Result<Log, SettingsError> {
        let json = self.choice("log.format", &[("text", false), ("json", true)])?;
        let filter = self.get::<String>("log.level")?;
        let known = |level: &str| level.parse::<LevelFilter>().is_ok() && !level.is_empty();
        let module = |name: &str| {
            let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
            !name.is_empty() && name.chars().all(fit)
        };
        let good = |part: &str| match part.rsplit_once('=') {
            Some((name, level)) => module(name) && known(level),
            None => known(part),
        };
        // actix reports each of its threads at the start, and every port scan as
        // an error; whoever wants to see that says so.
        let filters = format!("actix_server=warn,actix_http=off,{filter}").parse::<Targets>();
        match filters {
            Ok(filters) if filter.split(',').all(good) => Ok(Log { json, filters }),
            _ => {
                let levels = "must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
                Err(self.invalid("log.level", levels))
            }
        }
    }
}
