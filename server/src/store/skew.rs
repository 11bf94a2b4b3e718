//! The difference between this server's clock and the database's.
//!
//! Servers compare the times in rows with their own clocks. One server with a wrong clock
//! would expire or delete live sessions. So each server measures the difference every
//! second, and writes nothing while it is too large.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use diesel::dsl::sql;
use diesel::sql_types::BigInt;
use diesel::{QueryResult, RunQueryDsl};

use super::pool::PermitKind;
use super::{Conn, Error, Store};
use crate::clock::{self, MAX_CLOCK_SKEW, Timestamp};

/// How often the clocks are compared.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// A larger difference is logged.
const SUSPICIOUS: Duration = Duration::from_secs(5);
/// A slower measurement is too inexact to replace an earlier one.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);

/// How far this server's clock can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockState {
    /// Close to the database's.
    Good,
    /// Further off than synchronized clocks are.
    Suspicious,
    /// So far off that this server writes nothing.
    Wrong,
}

/// One comparison of the two clocks.
#[derive(Clone, Copy)]
struct Measurement {
    /// The correction of this server's clock, in microseconds: lowest, most likely and
    /// highest value. The database reads its clock at some time during a round trip.
    least: i64,
    likely: i64,
    most: i64,
    /// When the clocks were compared, by this server's clock and by its monotonic clock.
    time: Timestamp,
    at: Instant,
}

impl Measurement {
    /// Returns the comparison as of now: the clock may have been set since.
    fn now(self) -> Self {
        let time = clock::now();
        let at = Instant::now();
        let passed = i64::try_from(at.duration_since(self.at).as_micros()).unwrap_or(i64::MAX);
        let set_forward = (time.as_micros() - self.time.as_micros()).saturating_sub(passed);
        Self {
            least: self.least.saturating_sub(set_forward),
            likely: self.likely.saturating_sub(set_forward),
            most: self.most.saturating_sub(set_forward),
            time,
            at,
        }
    }

    /// Returns the smallest possible difference of the clocks.
    fn apart(self) -> Duration {
        let micros = self.least.max(self.most.saturating_neg()).max(0);
        Duration::from_micros(micros.unsigned_abs())
    }

    fn state(self) -> ClockState {
        match self.apart() {
            apart if apart > MAX_CLOCK_SKEW => ClockState::Wrong,
            apart if apart > SUSPICIOUS => ClockState::Suspicious,
            _ => ClockState::Good,
        }
    }
}

/// The last comparison. SQLite has no clock of its own, and so no comparison.
#[derive(Default)]
pub(super) struct Skew(RwLock<Option<Measurement>>);

impl Skew {
    fn last(&self) -> Option<Measurement> {
        let measured = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        measured.map(Measurement::now)
    }

    /// Compares the clocks.
    pub(super) fn measure(&self, conn: &mut Conn) -> QueryResult<()> {
        let Some(measured) = measure(conn)? else { return Ok(()) };
        let round_trip = measured.most.saturating_sub(measured.least);
        let mut last = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if last.is_none() || Duration::from_micros(round_trip.unsigned_abs()) < MAX_ROUND_TRIP {
            *last = Some(measured);
        }
        Ok(())
    }
}

fn measure(conn: &mut Conn) -> QueryResult<Option<Measurement>> {
    let Conn::Postgres(conn) = conn else { return Ok(None) };
    let micros = sql::<BigInt>("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    let before = clock::now().as_micros();
    let started = Instant::now();
    let theirs: i64 = diesel::select(micros).get_result(conn)?;
    let at = Instant::now();
    let round_trip = i64::try_from(at.duration_since(started).as_micros()).unwrap_or(i64::MAX);
    let most = theirs.saturating_sub(before);
    let least = most.saturating_sub(round_trip);
    let likely = most.saturating_sub(round_trip / 2);
    let time = Timestamp::from_micros(before.saturating_add(round_trip));
    Ok(Some(Measurement { least, likely, most, time, at }))
}

/// Returns a sentence for the operator if this machine's clock is wrong.
pub(super) fn wrong_clock(conn: &mut Conn) -> QueryResult<Option<String>> {
    let measured = measure(conn)?.filter(|measured| measured.state() == ClockState::Wrong);
    Ok(measured.map(sentence))
}

fn sentence(measured: Measurement) -> String {
    let seconds = Duration::from_secs(measured.apart().as_secs());
    let direction = if measured.likely > 0 { "behind" } else { "ahead of" };
    format!(
        "this machine's clock is {} {direction} the database's: set one of them right",
        humantime::format_duration(seconds)
    )
}

impl Store {
    /// Compares the clocks every second, until the future is dropped, which is safe at any time.
    /// Logs each change of the state once.
    pub async fn watch_clock(self) {
        let mut before = ClockState::Good;
        loop {
            let skew = self.skew.clone();
            // A failed measurement says nothing about the clock.
            let _ = self.pool.run(PermitKind::Reserved, move |conn| skew.measure(conn)).await;
            let (state, problem) = self.clock();
            if state != before {
                match problem {
                    Some(problem) if state == ClockState::Wrong => {
                        tracing::error!("{problem}; nothing is written until then");
                    }
                    Some(problem) => tracing::warn!("{problem}"),
                    None => tracing::info!("clock in step with the database's"),
                }
                before = state;
            }
            tokio::time::sleep(MEASURE_INTERVAL).await;
        }
    }

    /// Returns the state of this server's clock, and a sentence if it is not good.
    #[must_use]
    pub fn clock(&self) -> (ClockState, Option<String>) {
        let Some(measured) = self.skew.last() else { return (ClockState::Good, None) };
        let state = measured.state();
        (state, (state != ClockState::Good).then(|| sentence(measured)))
    }

    /// Returns the database's time minus this server's, in seconds.
    #[must_use]
    pub fn clock_offset(&self) -> f64 {
        let micros = self.skew.last().map_or(0, |measured| measured.likely);
        #[expect(clippy::cast_precision_loss, reason = "for a chart")]
        let seconds = micros as f64 / 1e6;
        seconds
    }

    /// Fails if this server's clock is too wrong to decide about expiry.
    pub fn check_clock(&self) -> Result<(), Error> {
        match self.skew.last() {
            Some(measured) if measured.state() == ClockState::Wrong => {
                Err(Error::WrongClock(sentence(measured)))
            }
            _ => Ok(()),
        }
    }

    /// Converts a time of this server to the database's clock.
    pub(super) fn by_database_clock(&self, time: Timestamp) -> Timestamp {
        let offset = self.skew.last().map_or(0, |measured| measured.likely);
        Timestamp::from_micros(time.as_micros().saturating_add(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// The database is ahead by `least` to `most` seconds.
    fn measured(least: i64, most: i64) -> Measurement {
        let least = least * SECOND;
        let most = most * SECOND;
        let time = clock::now();
        let at = Instant::now();
        Measurement { least, likely: i64::midpoint(least, most), most, time, at }
    }

    #[test]
    fn comparison_allows_for_the_round_trip_in_both_directions() {
        for (least, most, expected) in [
            (0, 0, ClockState::Good),
            (-40, 40, ClockState::Good),
            (4, 60, ClockState::Good),
            (6, 60, ClockState::Suspicious),
            (31, 60, ClockState::Wrong),
            (-60, -4, ClockState::Good),
            (-60, -6, ClockState::Suspicious),
            (-60, -31, ClockState::Wrong),
        ] {
            assert_eq!(measured(least, most).state(), expected, "{least} to {most}");
        }
    }

    #[test]
    fn clock_that_was_set_since_the_comparison_is_detected() {
        let then =
            Measurement { time: clock::now().before(Duration::from_secs(40)), ..measured(0, 0) };
        assert_eq!(then.now().state(), ClockState::Wrong);
        assert!(sentence(then.now()).contains("40s ahead"), "{}", sentence(then.now()));
        let then =
            Measurement { time: clock::now().after(Duration::from_secs(40)), ..measured(0, 0) };
        assert_eq!(then.now().state(), ClockState::Wrong);
    }
}
