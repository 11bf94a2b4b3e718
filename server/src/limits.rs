//! Limits against abuse: so many requests a minute, at once or spread out, by
//! the client's address and by session.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::ids::SessionId;

/// How many requests a minute are granted.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// `/register`, to one address.
    pub register: NonZeroU32,
    /// `/token`, to one address.
    pub token: NonZeroU32,
    /// `/refresh`, to one address.
    pub refresh: NonZeroU32,
    /// `/refresh`, for one session.
    pub session: NonZeroU32,
    /// `/logout`, to one address.
    pub logout: NonZeroU32,
    /// `/health/ready`, to one address.
    pub ready: NonZeroU32,
    /// `/register`, to all addresses together.
    pub register_total: NonZeroU32,
    /// Connections that are open at once, from one address.
    pub connections: NonZeroU32,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `/register` by address.
    Register(IpAddr),
    /// `/token` by address.
    Token(IpAddr),
    /// `/refresh` by address.
    Refresh(IpAddr),
    /// `/refresh` by session.
    Session(SessionId),
    /// `/logout` by address.
    Logout(IpAddr),
    /// `/health/ready` by address.
    Ready(IpAddr),
    /// `/register` by all together.
    RegisterTotal,
}

impl Limit {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::Token(_) => "token",
            Self::Refresh(_) => "refresh",
            Self::Session(_) => "session",
            Self::Logout(_) => "logout",
            Self::Ready(_) => "ready",
            Self::RegisterTotal => "register_total",
        }
    }
}

/// Counts requests against their limits.
pub struct Limits(Option<Counts>);

struct Counts {
    register: Keyed<u128>,
    token: Keyed<u128>,
    refresh: Keyed<u128>,
    session: Keyed<u128>,
    logout: Keyed<u128>,
    ready: Keyed<u128>,
    register_total: Keyed<u128>,
}

impl Limits {
    /// With `None` nothing is limited.
    #[must_use]
    pub fn new(options: Option<Options>) -> Self {
        Self(options.map(|options| Counts {
            register: Keyed::new(options.register),
            token: Keyed::new(options.token),
            refresh: Keyed::new(options.refresh),
            session: Keyed::new(options.session),
            logout: Keyed::new(options.logout),
            ready: Keyed::new(options.ready),
            register_total: Keyed::new(options.register_total),
        }))
    }

    /// Counts a request.
    ///
    /// # Errors
    /// When it is one too many: how long to wait.
    pub fn check(&self, limit: Limit) -> Result<(), Duration> {
        let Some(counts) = &self.0 else { return Ok(()) };
        match limit {
            Limit::Register(ip) => counts.register.check(&network(ip)),
            Limit::Token(ip) => counts.token.check(&network(ip)),
            Limit::Refresh(ip) => counts.refresh.check(&network(ip)),
            Limit::Session(session) => counts.session.check(&session.0.as_u128()),
            Limit::Logout(ip) => counts.logout.check(&network(ip)),
            Limit::Ready(ip) => counts.ready.check(&network(ip)),
            Limit::RegisterTotal => counts.register_total.check(&0),
        }
    }
}

/// What one party holds of addresses: one of version 4, or the 64 bits of a
/// subnet (RFC 6177) of version 6.
pub(crate) fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

/// More keys than this are looked through for those that have had their minute.
const MANY: usize = 50_000;
/// How often, at most.
const LOOK_THROUGH_EVERY: Duration = Duration::from_secs(1);

struct Keyed<K: Hash + Eq + Clone> {
    counts: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    looked_through: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    fn new(a_minute: NonZeroU32) -> Self {
        Self {
            counts: RateLimiter::keyed(Quota::per_minute(a_minute)),
            clock: DefaultClock::default(),
            looked_through: Mutex::new(Instant::now()),
        }
    }

    fn check(&self, key: &K) -> Result<(), Duration> {
        if self.counts.len() > MANY {
            self.forget();
        }
        self.counts.check_key(key).map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Forgets those who may have all their requests at once again.
    fn forget(&self) {
        let Ok(mut looked_through) = self.looked_through.try_lock() else { return };
        if looked_through.elapsed() > LOOK_THROUGH_EVERY {
            self.counts.retain_recent();
            *looked_through = Instant::now();
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
            refresh: each,
            session: each,
            logout: each,
            ready: each,
            register_total: each,
            connections: each,
        }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_a_minutes_worth_and_is_told_when_there_is_more() {
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
    fn a_subnet_of_version_6_counts_as_one() {
        let limits = limits(1);
        assert_eq!(limits.check(Limit::Refresh(ip("2001:db8::1"))), Ok(()));
        assert!(limits.check(Limit::Refresh(ip("2001:db8::ffff:0:0:2"))).is_err());
        assert_eq!(limits.check(Limit::Refresh(ip("2001:db8:0:1::1"))), Ok(()));
    }
}
