//! The settings of a connection to PostgreSQL.
//!
//! They are sent when the connection starts. A `SET` would be wrong behind a pooler in
//! transaction mode: it applies to a connection that other clients use as well. A pooler that
//! rejects settings at the start gets none; they must be those of the role then.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::ConnectionResult;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Array, Text};

use super::engine;

/// Makes PostgreSQL plan each prepared statement once, and find rows by an index.
///
/// By default it plans short batches again each time, and scans a young table until it is
/// analyzed. A full scan, as of `session_revocations`, must not begin with compilation. Citus
/// needs its own choice of plans.
const PLANNER_SETTINGS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// The rules lock rows and then read them. A stricter level, as the default of a database or
/// a role, would let that fail instead of wait.
const ISOLATION: (&str, &str) = ("default_transaction_isolation", "read committed");

/// The limits of a connection for requests. A request gives up after the same time, and its
/// statement must not be executed later. They include waits for locks. A transaction whose
/// client is gone, or silent for as long, is rolled back.
const TIME_LIMITS: [&str; 2] = ["statement_timeout", "idle_in_transaction_session_timeout"];

/// Whether this process has reported missing settings.
static REPORTED: AtomicBool = AtomicBool::new(false);

/// What to do after the examination of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Examination {
    Done,
    /// The engine is another one than expected, and needs other settings.
    Reconnect,
}

/// The settings of the connections of one connector.
pub(super) struct SessionSettings {
    /// The time limit of statements; zero for none.
    time_limit: Duration,
    /// Whether a connection of this connector has been examined.
    examined: AtomicBool,
    /// Whether a pooler rejected settings at the start of a connection.
    rejected: AtomicBool,
}

impl SessionSettings {
    pub(super) fn new(time_limit: Duration) -> Self {
        Self { time_limit, examined: AtomicBool::new(false), rejected: AtomicBool::new(false) }
    }

    /// Examines the first connection: detects the engine, and logs settings that have no
    /// effect.
    pub(super) fn examine(&self, conn: &mut PgConnection) -> QueryResult<Examination> {
        if self.examined.load(Ordering::Relaxed) {
            return Ok(Examination::Done);
        }
        let was_citus = engine::is_citus();
        if engine::detect(conn)? != was_citus {
            return Ok(Examination::Reconnect);
        }
        self.report_missing(conn)?;
        self.examined.store(true, Ordering::Relaxed);
        Ok(Examination::Done)
    }

    /// Connects with these settings, or without them if a pooler rejects them.
    pub(super) fn connect(&self, url: &str) -> ConnectionResult<PgConnection> {
        let settings = self.settings();
        if self.rejected.load(Ordering::Relaxed) {
            return PgConnection::establish(url);
        }
        match PgConnection::establish(&with_settings(url, &settings)) {
            Err(error) if is_rejection(&error.to_string()) => {
                self.rejected.store(true, Ordering::Relaxed);
                PgConnection::establish(url)
            }
            connected => connected,
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![(ISOLATION.0, ISOLATION.1.to_owned())];
        if !engine::is_citus() {
            let planner = PLANNER_SETTINGS.map(|(name, value)| (name, value.to_owned()));
            settings.extend(planner);
        }
        if !self.time_limit.is_zero() {
            let limit = self.time_limit.as_millis().max(1);
            settings.extend(TIME_LIMITS.map(|name| (name, limit.to_string())));
        }
        settings
    }

    /// Logs once which settings the connection does not have.
    fn report_missing(&self, conn: &mut PgConnection) -> QueryResult<()> {
        let missing = self.missing(conn)?;
        if missing.is_empty() || REPORTED.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let role: String = diesel::select(sql::<Text>("current_user::text")).get_result(conn)?;
        let mut statements = String::new();
        for (name, value) in missing {
            let _ = write!(statements, "ALTER ROLE \"{role}\" SET {name} = '{value}'; ");
        }
        tracing::warn!(
            "the pooler of the database drops settings of connections, so they must be those of \
             the role: {}",
            statements.trim_end()
        );
        Ok(())
    }

    /// Returns the settings whose values the connection does not have.
    fn missing(&self, conn: &mut PgConnection) -> QueryResult<Vec<(&'static str, String)>> {
        let mut missing = self.settings();
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        let current: Vec<Setting> =
            diesel::sql_query("SELECT name, setting FROM pg_settings WHERE name = ANY ($1)")
                .bind::<Array<Text>, _>(names)
                .load(conn)?;
        missing.retain(|(name, wanted)| {
            let current = current.iter().find(|current| current.name == *name);
            current.is_some_and(|current| !satisfies(&current.setting, wanted))
        });
        Ok(missing)
    }
}

#[derive(QueryableByName)]
struct Setting {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    setting: String,
}

/// Returns whether the value of a setting has the effect of the wanted one. A lower time limit
/// is a limit as well; 0 means that there is no limit.
fn satisfies(current: &str, wanted: &str) -> bool {
    match (current.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(current), Ok(wanted)) => (1..=wanted).contains(&current),
        _ => current == wanted,
    }
}

/// Returns whether the error of a new connection says that a pooler does not accept settings.
fn is_rejection(message: &str) -> bool {
    // PgBouncer, and the proxy of RDS.
    ["startup parameter", "command-line options"].iter().any(|part| message.contains(part))
}

/// Adds settings to the `options` of a URL. Those of the URL, or of the variable `PGOPTIONS`
/// that they replace, take precedence.
fn with_settings(url: &str, settings: &[(&'static str, String)]) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut options = String::new();
    for (name, value) in settings {
        // A backslash before a space keeps it within the value.
        let value = encode(&value.replace(' ', "\\ "));
        let _ = write!(options, "-c%20{name}%3D{value}%20");
    }
    let mut parameters: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
    let own = parameters.iter().position(|part| part.starts_with("options="));
    match own.map(|position| parameters.remove(position)) {
        Some(own) => options.push_str(own.trim_start_matches("options=")),
        None => options.extend(std::env::var("PGOPTIONS").iter().map(|own| encode(own))),
    }
    let options = format!("options={options}");
    parameters.push(&options);
    format!("{base}?{}", parameters.join("&"))
}

/// Percent-encodes a value of a URL.
fn encode(value: &str) -> String {
    value.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str) -> String {
        with_settings(url, &[("jit", "off".to_owned()), ("statement_timeout", "10".to_owned())])
    }

    #[test]
    fn settings_come_before_the_options_of_the_url() {
        let ours = "options=-c%20jit%3Doff%20-c%20statement_timeout%3D10%20";
        assert_eq!(with("postgres://db/x"), format!("postgres://db/x?{ours}"));
        assert_eq!(
            with("postgres://db/x?options=-c%20jit%3Don&sslmode=require"),
            format!("postgres://db/x?sslmode=require&{ours}-c%20jit%3Don")
        );
        assert_eq!(encode("-c a=b"), "%2Dc%20a%3Db");
        let isolation = with_settings("postgres://db/x", &[(ISOLATION.0, ISOLATION.1.to_owned())]);
        assert!(isolation.contains("isolation%3Dread%5C%20committed%20"), "{isolation}");
    }

    #[test]
    fn lower_time_limit_satisfies_and_none_does_not() {
        for (current, satisfied) in [("10", true), ("9", true), ("11", false), ("0", false)] {
            assert_eq!(satisfies(current, "10"), satisfied, "{current}");
        }
        assert!(satisfies("read committed", "read committed"));
        assert!(!satisfies("serializable", "read committed"));
    }

    #[test]
    fn rejections_by_poolers_are_recognized() {
        for message in [
            "FATAL:  unsupported startup parameter: options",
            "FATAL:  unsupported startup parameter in options: plan_cache_mode",
            "FATAL:  Feature not supported: RDS Proxy currently doesn't support command-line \
             options.",
        ] {
            assert!(is_rejection(message), "{message}");
        }
        assert!(!is_rejection("FATAL:  password authentication failed for user \"options\""));
    }
}
