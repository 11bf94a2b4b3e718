//! Slows down the guessing of passwords and codes, without locking an account.
//!
//! After some failures, further attempts at a name are delayed. A browser that has logged in
//! to the account before is not delayed: it has a bound of its own. Failures are counted in
//! the memory of each server, and forgotten with time.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::crypto::Digest;
use crate::ids::UserId;
use crate::limits::{Bound, Failures, Guess, Guesses, subnet_key};
use crate::metrics::{GUESSED_CODES, GUESSED_PASSWORDS, Metrics};

/// How many failures of each kind are remembered: of names, codes and known browsers.
const CACHE_SIZE: usize = 64 * 1024;

/// The failures after which an attempt at a name is delayed.
const NAME: Bound = Bound { failures: 5, interval: Duration::from_secs(3 * 60) };
/// More failures than this are not counted, so that they are forgotten within 36 minutes.
const MAX_NAME_FAILURES: u32 = 12;
/// Concurrent attempts above this number count as failures until they end.
const FREE_IN_FLIGHT: u32 = 16;

/// The delay of the first attempt that is delayed. Each further failure doubles it.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(8);

/// The failures after which a known browser is treated as an unknown one.
const DEVICE: Bound = Bound { failures: 10, interval: Duration::from_secs(6 * 60) };

/// Wrong codes of an account after which no code is verified, for a short and for a long
/// time. A code has six digits, so guesses have to be rare even with the right password.
const CODES: &[Bound] = &[
    Bound { failures: 10, interval: Duration::from_secs(90) },
    Bound { failures: 50, interval: Duration::from_secs(15 * 60) },
];

/// The attempts at a name.
#[derive(Default)]
struct Attempts {
    failures: Failures,
    in_flight: u32,
}

/// What a password is guessed for: a digest, so that each key has the same size.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// Returns the key of a login name. Unknown names have one as well.
    pub(super) fn name(name: &str) -> Self {
        Self(Digest::of(&[b"name", name.as_bytes()]).to_bytes())
    }

    /// Returns the key for requests with an access token. Logins do not count here.
    pub(super) fn user(user: UserId) -> Self {
        Self(Digest::of(&[b"user", user.0.as_bytes()]).to_bytes())
    }
}

/// Counts failures.
pub(super) struct Throttle {
    names: Cache<Key, Arc<Mutex<Attempts>>>,
    devices: Cache<u128, Arc<Mutex<Failures>>>,
    codes: Guesses<UserId>,
    /// The delayed attempts: the key and the subnet of each.
    delayed: Mutex<HashSet<(Key, u128)>>,
    metrics: Arc<Metrics>,
}

/// No attempt is possible now. The time after which one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyFailures(pub Duration);

impl Throttle {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            names: Cache::new(CACHE_SIZE),
            devices: Cache::new(CACHE_SIZE),
            codes: Guesses::new(CODES, CACHE_SIZE),
            delayed: Mutex::default(),
        }
    }

    /// Admits an attempt, after a delay if there were failures. `device` is the number of a
    /// browser that has logged in to the account before. Of the attempts of one subnet at one
    /// key, one is delayed at a time.
    pub(super) async fn admit(
        &self,
        key: Key,
        device: Option<u128>,
        ip: Option<IpAddr>,
    ) -> Result<Attempt<'_>, TooManyFailures> {
        if let Some(attempt) = device.and_then(|device| self.admit_device(device)) {
            return Ok(attempt);
        }
        let attempts = entry(&self.names, &key);
        let failures = {
            let mut attempts = lock(&attempts);
            let concurrent = attempts.in_flight.saturating_sub(FREE_IN_FLIGHT);
            attempts.in_flight += 1;
            attempts.failures.count(&NAME, Instant::now()).saturating_add(concurrent)
        };
        // From here on, dropping the attempt ends it.
        let mut attempt =
            Attempt { counted: Counted::Name(attempts), has_failed: false, slot: None };
        if let Some(delay) = delay_after(failures) {
            let place = (key, ip.map_or(0, subnet_key));
            if !lock(&self.delayed).insert(place) {
                self.metrics.record_rate_limit(GUESSED_PASSWORDS);
                return Err(TooManyFailures(delay));
            }
            attempt.slot = Some(Slot { delayed: &self.delayed, place });
            tokio::time::sleep(delay).await;
        }
        Ok(attempt)
    }

    /// Admits an attempt of a known browser. Returns `None` if it had too many failures.
    fn admit_device(&self, device: u128) -> Option<Attempt<'_>> {
        let failures = entry(&self.devices, &device);
        let now = Instant::now();
        {
            let mut failures = lock(&failures);
            if failures.count(&DEVICE, now) >= DEVICE.failures {
                return None;
            }
            // Counts concurrent attempts as well.
            failures.add(&DEVICE, now);
        }
        Some(Attempt { counted: Counted::Device(failures), has_failed: false, slot: None })
    }

    /// Admits the verification of a code of this user.
    pub(super) fn admit_code(&self, user: UserId) -> Result<Guess, TooManyFailures> {
        self.codes.admit(&user).map_err(|wait| {
            self.metrics.record_rate_limit(GUESSED_CODES);
            TooManyFailures(wait)
        })
    }
}

/// Returns the failures of a key, at first none.
fn entry<K: Hash + Eq + Clone, V: Default>(cache: &Cache<K, Arc<V>>, key: &K) -> Arc<V> {
    cache.get_or_insert_with(key, || Ok::<_, Infallible>(Arc::default())).unwrap_or_default()
}

/// Returns the delay of an attempt after this many failures.
fn delay_after(failures: u32) -> Option<Duration> {
    let further = failures.checked_sub(NAME.failures)?;
    Some(MAX_DELAY.min(FIRST_DELAY * 2_u32.pow(further.min(8))))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where an attempt is counted.
enum Counted {
    Name(Arc<Mutex<Attempts>>),
    Device(Arc<Mutex<Failures>>),
}

/// An attempt with a password. Dropping it ends it without a failure.
pub(super) struct Attempt<'a> {
    counted: Counted,
    has_failed: bool,
    slot: Option<Slot<'a>>,
}

impl Attempt<'_> {
    /// Records that the password or the code is wrong.
    pub(super) fn fail(mut self) {
        self.has_failed = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        match &self.counted {
            Counted::Name(attempts) => {
                let mut attempts = lock(attempts);
                attempts.in_flight = attempts.in_flight.saturating_sub(1);
                if self.has_failed && attempts.failures.count(&NAME, now) < MAX_NAME_FAILURES {
                    attempts.failures.add(&NAME, now);
                }
            }
            Counted::Device(failures) if !self.has_failed => lock(failures).remove(&DEVICE, now),
            Counted::Device(_) => {}
        }
        drop(self.slot.take());
    }
}

/// The place of a delayed attempt.
struct Slot<'a> {
    delayed: &'a Mutex<HashSet<(Key, u128)>>,
    place: (Key, u128),
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        lock(self.delayed).remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_after_five_failures_up_to_eight_seconds() {
        let millis = |failures| delay_after(failures).map(|delay| delay.as_millis());
        assert_eq!(
            [0, 4, 5, 6, 9, 10, 11, 4000].map(millis),
            [None, None, Some(250), Some(500), Some(4000), Some(8000), Some(8000), Some(8000)]
        );
    }

    #[actix_rt::test]
    async fn only_one_attempt_of_a_subnet_is_delayed_at_a_time() {
        let throttle = Throttle::new(Arc::default());
        let key = Key::name("ann");
        for _ in 0..5 {
            throttle.admit(key, None, None).await.unwrap().fail();
        }
        let here = Some([192, 0, 2, 1].into());
        let elsewhere = Some([192, 0, 2, 2].into());
        let delayed = throttle.admit(key, None, here);
        let (first, second, other) = futures_util::future::join3(
            delayed,
            async { throttle.admit(key, None, here).await.is_err() },
            throttle.admit(key, None, elsewhere),
        )
        .await;
        assert!(second);
        drop((first.unwrap(), other.unwrap()));
        assert!(throttle.admit(key, None, here).await.is_ok(), "a delayed attempt ends");
        assert!(lock(&throttle.delayed).is_empty());
    }

    #[actix_rt::test]
    async fn known_browser_is_admitted_at_once_until_it_has_failed_ten_times() {
        let throttle = Throttle::new(Arc::default());
        let key = Key::name("ann");
        for _ in 0..10 {
            let attempt = throttle.admit(key, Some(7), None).await.unwrap();
            assert!(matches!(attempt.counted, Counted::Device(_)));
            attempt.fail();
        }
        let attempt = throttle.admit(key, Some(7), None).await.unwrap();
        assert!(matches!(attempt.counted, Counted::Name(_)));
        let attempt = throttle.admit(key, Some(8), None).await.unwrap();
        assert!(matches!(attempt.counted, Counted::Device(_)), "another browser");
        drop(attempt);
    }
}
