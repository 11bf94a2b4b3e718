//! Points in time, and the one place that asks what time it is.

use std::fmt;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// A point in time: microseconds since the Unix epoch, the resolution that
/// both databases keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Later than any time that is ever asked about.
    pub const MAX: Self = Self(i64::MAX);

    /// The latest time that every database and every format can write.
    pub const END_OF_9999: Self = Self::from_secs(253_402_300_799);

    /// The point that many microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The point that many seconds after the Unix epoch, as JWTs count
    /// (RFC 7519 `NumericDate`); the far ends of the scale are cut off.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Milliseconds since the Unix epoch; none before it.
    #[must_use]
    pub fn as_unix_millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// This point, later by `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// This point, earlier by `duration`.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// How long after `earlier` this is; none where it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// For an answer that a person or a program reads.
    #[must_use]
    pub fn to_date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// To the second (RFC 3339): for people.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds((*self).into()).fmt(f)
    }
}

/// The far ends of the scale are cut off.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        let micros = u64::try_from(timestamp.0).unwrap_or(0);
        Self::UNIX_EPOCH + Duration::from_micros(micros)
    }
}

/// By how much a server's clock may differ from the database's. Beyond that the
/// server changes nothing.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(30);

/// By how much the clocks of two servers may differ then.
pub const MAX_SKEW_BETWEEN_SERVERS: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW.as_secs());

/// The present. Handlers call this once and hand the value down.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one clock")]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}
