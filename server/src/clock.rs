//! Points in time, and the only place that reads the clock.

use std::fmt;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// A point in time: microseconds since the Unix epoch. Both databases store this resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A time later than any other.
    pub const MAX: Self = Self(i64::MAX);

    /// The latest time that every database and every format can represent.
    pub const END_OF_9999: Self = Self::from_secs(253_402_300_799);

    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Converts seconds since the Unix epoch, as in JWTs (RFC 7519 `NumericDate`). Saturates.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Returns milliseconds since the Unix epoch, or 0 before it.
    #[must_use]
    pub fn as_unix_millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// Returns the time from `earlier` to this point, or zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Converts to the type of JSON responses.
    #[must_use]
    pub fn to_date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// Formats as RFC 3339, to the second.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds((*self).into()).fmt(f)
    }
}

/// Saturates.
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

/// The maximum difference between a server's clock and the database's. With a larger one, a
/// server changes nothing.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(30);

/// The maximum difference between the clocks of two servers, which follows from that.
pub const MAX_SKEW_BETWEEN_SERVERS: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW.as_secs());

/// Returns the current time. Handlers call this once and pass the value on.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the only place that reads the clock")]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}
