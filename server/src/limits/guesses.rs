//! Slows down guessing: wrong values are counted by a key, right ones are not. The counts are in
//! the memory of each server, and are forgotten with time.

use std::convert::Infallible;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

/// A number of failures, of which one is forgotten per interval.
pub(crate) struct Bound {
    pub(crate) failures: u32,
    pub(crate) interval: Duration,
}

/// The failures that are not forgotten yet.
#[derive(Default)]
pub(crate) struct Failures {
    /// When all of them are forgotten.
    until: Option<Instant>,
}

impl Failures {
    fn debt(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    pub(crate) fn count(&self, bound: &Bound, now: Instant) -> u32 {
        let count = self.debt(now).as_millis().div_ceil(bound.interval.as_millis());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    pub(crate) fn add(&mut self, bound: &Bound, now: Instant) {
        self.until = Some(now + self.debt(now) + bound.interval);
    }

    pub(crate) fn remove(&mut self, bound: &Bound, now: Instant) {
        self.until = Some(now + self.debt(now).saturating_sub(bound.interval));
    }

    /// Returns the time until the bound permits an attempt, if it does not now.
    fn wait(&self, bound: &Bound, now: Instant) -> Option<Duration> {
        let wait = self.debt(now).checked_sub(bound.interval * (bound.failures - 1))?;
        (!wait.is_zero()).then_some(wait)
    }
}

/// The wrong guesses of each key, within several bounds.
pub(crate) struct Guesses<K> {
    bounds: &'static [Bound],
    counted: Cache<K, Arc<Mutex<Vec<Failures>>>>,
}

/// A guess. Dropping it makes it a right one.
pub(crate) struct Guess {
    bounds: &'static [Bound],
    failures: Arc<Mutex<Vec<Failures>>>,
    has_failed: bool,
}

impl<K: Hash + Eq + Clone> Guesses<K> {
    /// Remembers the guesses of `capacity` keys.
    pub(crate) fn new(bounds: &'static [Bound], capacity: usize) -> Self {
        Self { bounds, counted: Cache::new(capacity) }
    }

    /// Admits a guess. Concurrent guesses count as wrong ones. The error is the time after
    /// which the bounds permit one again.
    pub(crate) fn admit(&self, key: &K) -> Result<Guess, Duration> {
        let none = || {
            Ok::<_, Infallible>(Arc::new(Mutex::new(
                self.bounds.iter().map(|_| Failures::default()).collect(),
            )))
        };
        let Ok(failures) = self.counted.get_or_insert_with(key, none);
        let now = Instant::now();
        {
            let mut failures = lock(&failures);
            let counted = failures.iter().zip(self.bounds);
            if let Some(wait) =
                counted.filter_map(|(failures, bound)| failures.wait(bound, now)).max()
            {
                return Err(wait);
            }
            for (failures, bound) in failures.iter_mut().zip(self.bounds) {
                failures.add(bound, now);
            }
        }
        Ok(Guess { bounds: self.bounds, failures, has_failed: false })
    }
}

impl Guess {
    /// Records that the value was wrong.
    pub(crate) fn fail(mut self) {
        self.has_failed = true;
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        if self.has_failed {
            return;
        }
        for (failures, bound) in lock(&self.failures).iter_mut().zip(self.bounds) {
            failures.remove(bound, Instant::now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[Bound] = &[
        Bound { failures: 10, interval: Duration::from_secs(90) },
        Bound { failures: 50, interval: Duration::from_secs(15 * 60) },
    ];

    #[test]
    fn failures_are_forgotten_one_per_interval() {
        let bound = &BOUNDS[0];
        let start = Instant::now();
        let mut failures = Failures::default();
        for _ in 0..10 {
            assert_eq!(failures.wait(bound, start), None);
            failures.add(bound, start);
        }
        let wait = failures.wait(bound, start).unwrap();
        assert_eq!(wait, bound.interval, "the eleventh");
        assert_eq!(failures.wait(bound, start + wait), None);
        assert_eq!(failures.count(bound, start + wait), 9);
        failures.remove(bound, start);
        assert_eq!(failures.count(bound, start), 9);
        assert_eq!(failures.count(bound, start + 20 * bound.interval), 0);
    }

    #[test]
    fn wrong_guesses_are_bounded_and_right_ones_are_not() {
        let guesses = Guesses::new(BOUNDS, 100);
        for _ in 0..100 {
            drop(guesses.admit(&1).unwrap());
        }
        for _ in 0..10 {
            guesses.admit(&1).unwrap().fail();
        }
        let wait = guesses.admit(&1).err().unwrap();
        assert!(wait <= BOUNDS[0].interval, "{wait:?}");
        assert!(guesses.admit(&2).is_ok(), "another key");
    }

    #[test]
    fn concurrent_guesses_are_bounded_as_well() {
        let guesses = Guesses::new(BOUNDS, 100);
        let concurrent: Vec<_> = (0..10).map(|_| guesses.admit(&1).unwrap()).collect();
        assert!(guesses.admit(&1).is_err());
        drop(concurrent);
        assert!(guesses.admit(&1).is_ok());
    }
}
