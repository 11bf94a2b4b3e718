//! Rate limits against abuse: requests per minute, by client address and by session.

mod guesses;

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::crypto::Digest;
use crate::ids::SessionId;

pub(crate) use guesses::{Bound, Failures, Guess, Guesses};

/// The number of requests per minute. All of them may arrive at once.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// `/register`, for each address.
    pub register: NonZeroU32,
    /// `/token`, for each address.
    pub token: NonZeroU32,
    /// `/login` and `/password`, for each address.
    pub login: NonZeroU32,
    /// `/refresh`, for each address.
    pub refresh: NonZeroU32,
    /// `/refresh`, for each session.
    pub session: NonZeroU32,
    /// `/logout`, for each address.
    pub logout: NonZeroU32,
    /// `/health/ready`, for each address.
    pub ready: NonZeroU32,
    /// Mails, for each email address or other login name.
    pub mail: NonZeroU32,
    /// `/register`, for all addresses together.
    pub register_total: NonZeroU32,
    /// Open connections, for each address.
    pub connections: NonZeroU32,
}

/// A limit, with the key that it counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Register(IpAddr),
    Token(IpAddr),
    Login(IpAddr),
    Refresh(IpAddr),
    /// `/refresh` by session.
    Session(SessionId),
    Logout(IpAddr),
    Ready(IpAddr),
    /// Mails, by the digest of the login name.
    Mail(u128),
    /// `/register` for all addresses together.
    RegisterTotal,
}

impl Limit {
    /// All values of [`Self::as_str`].
    pub const LABELS: [&'static str; 9] = [
        "register",
        "token",
        "login",
        "refresh",
        "session",
        "logout",
        "ready",
        "mail",
        "register_total",
    ];

    /// Returns the limit of mails to a login name.
    #[must_use]
    pub fn mail_to(name: &str) -> Self {
        let digest = Digest::of(&[name.as_bytes()]).to_bytes();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self::Mail(u128::from_be_bytes(key))
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::Token(_) => "token",
            Self::Login(_) => "login",
            Self::Refresh(_) => "refresh",
            Self::Session(_) => "session",
            Self::Logout(_) => "logout",
            Self::Ready(_) => "ready",
            Self::Mail(_) => "mail",
            Self::RegisterTotal => "register_total",
        }
    }
}

/// Counts requests against their limits.
pub struct Limits(Option<Limiters>);

struct Limiters {
    register: KeyedLimiter<u128>,
    token: KeyedLimiter<u128>,
    login: KeyedLimiter<u128>,
    refresh: KeyedLimiter<u128>,
    session: KeyedLimiter<u128>,
    logout: KeyedLimiter<u128>,
    ready: KeyedLimiter<u128>,
    mail: KeyedLimiter<u128>,
    register_total: KeyedLimiter<u128>,
}

impl Limits {
    /// With `None`, all requests are permitted.
    #[must_use]
    pub fn new(options: Option<Options>) -> Self {
        Self(options.map(|options| Limiters {
            register: KeyedLimiter::new(options.register),
            token: KeyedLimiter::new(options.token),
            login: KeyedLimiter::new(options.login),
            refresh: KeyedLimiter::new(options.refresh),
            session: KeyedLimiter::new(options.session),
            logout: KeyedLimiter::new(options.logout),
            ready: KeyedLimiter::new(options.ready),
            mail: KeyedLimiter::new(options.mail),
            register_total: KeyedLimiter::new(options.register_total),
        }))
    }

    /// Counts a request. The error is the time after which the limit permits one again.
    pub fn check(&self, limit: Limit) -> Result<(), Duration> {
        let Some(limiters) = &self.0 else { return Ok(()) };
        match limit {
            Limit::Register(ip) => limiters.register.check(&subnet_key(ip)),
            Limit::Token(ip) => limiters.token.check(&subnet_key(ip)),
            Limit::Login(ip) => limiters.login.check(&subnet_key(ip)),
            Limit::Refresh(ip) => limiters.refresh.check(&subnet_key(ip)),
            Limit::Session(session) => limiters.session.check(&session.0.as_u128()),
            Limit::Logout(ip) => limiters.logout.check(&subnet_key(ip)),
            Limit::Ready(ip) => limiters.ready.check(&subnet_key(ip)),
            Limit::Mail(name) => limiters.mail.check(&name),
            Limit::RegisterTotal => limiters.register_total.check(&0),
        }
    }
}

/// Returns the key that a client is counted by: its IPv4 address, or the /64 subnet of its
/// IPv6 address. A client controls a whole subnet (RFC 6177).
pub(crate) fn subnet_key(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

/// The number of keys above which idle ones are evicted.
const EVICT_ABOVE: usize = 50_000;
/// The minimum time between two evictions.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);

struct KeyedLimiter<K: Hash + Eq + Clone> {
    counts: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    last_eviction: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    fn new(per_minute: NonZeroU32) -> Self {
        Self {
            counts: RateLimiter::keyed(Quota::per_minute(per_minute)),
            clock: DefaultClock::default(),
            last_eviction: Mutex::new(Instant::now()),
        }
    }

    fn check(&self, key: &K) -> Result<(), Duration> {
        if self.counts.len() > EVICT_ABOVE {
            self.evict_idle();
        }
        self.counts.check_key(key).map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Evicts the keys that have their whole quota again. Does nothing while another thread
    /// does so.
    fn evict_idle(&self) {
        let Ok(mut last_eviction) = self.last_eviction.try_lock() else { return };
        if last_eviction.elapsed() > EVICTION_INTERVAL {
            self.counts.retain_recent();
            *last_eviction = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(each: u32) -> Limits {
        let each = NonZeroU32::new(each).unwrap();
        Limits::new(Some(Options {
            register: each,
            token: each,
            login: each,
            refresh: each,
            session: each,
            logout: each,
            ready: each,
            mail: each,
            register_total: each,
            connections: each,
        }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_quota_and_gets_the_time_to_wait() {
        let limits = limits(3);
        for _ in 0..3 {
            assert_eq!(limits.check(Limit::Token(ip("192.0.2.1"))), Ok(()));
        }
        let wait = limits.check(Limit::Token(ip("192.0.2.1"))).unwrap_err();
        assert!(wait > Duration::from_secs(19) && wait <= Duration::from_secs(20), "{wait:?}");
        assert!(limits.check(Limit::Token(ip("::ffff:192.0.2.1"))).is_err(), "the same address");
        assert_eq!(limits.check(Limit::Token(ip("192.0.2.2"))), Ok(()));
        assert_eq!(limits.check(Limit::Register(ip("192.0.2.1"))), Ok(()));
    }

    #[test]
    fn addresses_of_one_ipv6_subnet_share_a_quota() {
        let limits = limits(1);
        assert_eq!(limits.check(Limit::Refresh(ip("2001:db8::1"))), Ok(()));
        assert!(limits.check(Limit::Refresh(ip("2001:db8::ffff:0:0:2"))).is_err());
        assert_eq!(limits.check(Limit::Refresh(ip("2001:db8:0:1::1"))), Ok(()));
    }
}
