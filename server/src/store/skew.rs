//! How far this server's clock is from the database's.
//!
//! Servers compare the times in rows with their own clocks. One wrong clock among
//! several would expire or delete live sessions, so each server measures its own
//! every second, and one that is far off changes nothing.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use diesel::dsl::sql;
use diesel::sql_types::BigInt;
use diesel::{QueryResult, RunQueryDsl};

use super::{Conn, Error, Store};
use crate::clock::{self, MAX_CLOCK_SKEW, Timestamp};

/// How often the clocks are compared.
const EVERY: Duration = Duration::from_secs(1);
/// A difference beyond this is reported.
const SUSPICIOUS: Duration = Duration::from_secs(5);
/// What takes longer to compare says little, and replaces nothing.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);

/// What this server's clock is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockState {
    /// Near enough to the database's.
    Good,
    /// Further off than clocks that are kept in step.
    Suspicious,
    /// So far off that this server changes nothing.
    Wrong,
}

/// The comparison of the two clocks at one moment.
#[derive(Clone, Copy)]
struct Measured {
    /// What has to be added to this server's clock, in microseconds: at least, most
    /// likely and at most. The database read its clock some time during a round trip.
    least: i64,
    likely: i64,
    most: i64,
    /// When: by this server's clock, and by the one that nobody can set.
    time: Timestamp,
    at: Instant,
}

impl Measured {
    /// The same at this moment: the clock may have been set since.
    fn now(self) -> Self {
        let (time, at) = (clock::now(), Instant::now());
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

    /// By how much the clocks differ at least.
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

/// The last comparison; none on SQLite, which has no clock of its own.
#[derive(Default)]
pub(super) struct Skew(RwLock<Option<Measured>>);

impl Skew {
    fn last(&self) -> Option<Measured> {
        let measured = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        measured.map(Measured::now)
    }

    /// Compares the clocks.
    pub(super) fn measure(&self, conn: &mut Conn) -> QueryResult<()> {
        let Some(measured) = measure(conn)? else { return Ok(()) };
        let round_trip = measured.most.saturating_sub(measured.least);
        let mut last = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if last.is_none() || Duration::from_micros(round_trip.unsigned_abs()) < LONGEST_ROUND_TRIP {
            *last = Some(measured);
        }
        Ok(())
    }
}

fn measure(conn: &mut Conn) -> QueryResult<Option<Measured>> {
    let Conn::Postgres(conn) = conn else { return Ok(None) };
    let micros = sql::<BigInt>("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    let (before, started) = (clock::now().as_micros(), Instant::now());
    let theirs: i64 = diesel::select(micros).get_result(conn)?;
    let at = Instant::now();
    let round_trip = i64::try_from(at.duration_since(started).as_micros()).unwrap_or(i64::MAX);
    let most = theirs.saturating_sub(before);
    let least = most.saturating_sub(round_trip);
    let likely = most.saturating_sub(round_trip / 2);
    let time = Timestamp::from_micros(before.saturating_add(round_trip));
    Ok(Some(Measured { least, likely, most, time, at }))
}

/// Returns a sentence about this server's clock where it is `Wrong`, for a command
/// that would write times.
///
/// # Errors
/// When the query fails.
pub(super) fn wrong_clock(conn: &mut Conn) -> QueryResult<Option<String>> {
    let measured = measure(conn)?.filter(|measured| measured.state() == ClockState::Wrong);
    Ok(measured.map(sentence))
}

fn sentence(measured: Measured) -> String {
    let seconds = Duration::from_secs(measured.apart().as_secs());
    let direction = if measured.likely > 0 { "behind" } else { "ahead of" };
    format!(
        "this machine's clock is {} {direction} the database's: set one of them right",
        humantime::format_duration(seconds)
    )
}

impl Store {
    /// Compares this server's clock with the database's every second, until it is
    /// dropped, which may be at any time. Reports each change once.
    pub async fn watch_clock(self) {
        let mut before = ClockState::Good;
        loop {
            let skew = self.skew.clone();
            // One that fails is no news of the clock.
            let _ = self.run_reserved(move |conn| skew.measure(conn)).await;
            let (state, problem) = self.clock();
            if state != before {
                match problem {
                    Some(problem) if state == ClockState::Wrong => {
                        tracing::error!("{problem}; nothing is changed until then");
                    }
                    Some(problem) => tracing::warn!("{problem}"),
                    None => tracing::info!("clock in step with the database's"),
                }
                before = state;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// What this server's clock is worth, and a sentence where it is not good.
    #[must_use]
    pub fn clock(&self) -> (ClockState, Option<String>) {
        let Some(measured) = self.skew.last() else { return (ClockState::Good, None) };
        let state = measured.state();
        (state, (state != ClockState::Good).then(|| sentence(measured)))
    }

    /// What has to be added to this server's clock to get the database's, in seconds.
    #[must_use]
    pub fn clock_offset(&self) -> f64 {
        let micros = self.skew.last().map_or(0, |measured| measured.likely);
        #[expect(clippy::cast_precision_loss, reason = "for a chart")]
        let seconds = micros as f64 / 1e6;
        seconds
    }

    /// Checks that this server's clock may decide what is over.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn check_clock(&self) -> Result<(), Error> {
        match self.skew.last().map(Measured::state) {
            Some(ClockState::Wrong) => Err(Error::WrongClock),
            _ => Ok(()),
        }
    }

    /// A time of this server by the database's clock.
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
    fn measured(least: i64, most: i64) -> Measured {
        let (least, most) = (least * SECOND, most * SECOND);
        let (time, at) = (clock::now(), Instant::now());
        Measured { least, likely: i64::midpoint(least, most), most, time, at }
    }

    #[test]
    fn a_round_trip_is_allowed_for_in_both_directions() {
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
    fn a_clock_that_was_set_since_is_noticed_at_once() {
        let then =
            Measured { time: clock::now().before(Duration::from_secs(40)), ..measured(0, 0) };
        assert_eq!(then.now().state(), ClockState::Wrong);
        assert!(sentence(then.now()).contains("40s ahead"), "{}", sentence(then.now()));
        let then = Measured { time: clock::now().after(Duration::from_secs(40)), ..measured(0, 0) };
        assert_eq!(then.now().state(), ClockState::Wrong);
    }
}
