//! The limit of log-ins: each makes an account at the server.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::error::Failure;

/// With more addresses than this, those without a recent log-in are removed.
const MANY: usize = 10_000;

/// Counts log-ins by the address of the visitor.
pub(crate) struct Logins {
    counts: Option<DefaultKeyedRateLimiter<u128>>,
    clock: DefaultClock,
}

impl Logins {
    /// `None`: no limit.
    pub(crate) fn new(a_minute: Option<NonZeroU32>) -> Self {
        let counts = a_minute.map(|number| RateLimiter::keyed(Quota::per_minute(number)));
        Self { counts, clock: DefaultClock::default() }
    }

    /// Counts a log-in.
    ///
    /// # Errors
    /// When it is one too many of this address.
    pub(crate) fn admit(&self, peer: Option<SocketAddr>) -> Result<(), Failure> {
        let (Some(counts), Some(peer)) = (&self.counts, peer) else { return Ok(()) };
        if counts.len() > MANY {
            counts.retain_recent();
        }
        let too_many = |until: governor::NotUntil<_>| until.wait_time_from(self.clock.now());
        counts.check_key(&network(peer.ip())).map_err(too_many).map_err(Failure::TooManyLogins)
    }
}

/// What one visitor holds of addresses: one of version 4, or the 64 bits of a subnet
/// (RFC 6177) of version 6.
fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_ins_are_limited_for_each_address_and_for_a_whole_subnet_of_version_6() {
        let logins = Logins::new(NonZeroU32::new(2));
        let admits = |ip: &str| logins.admit(Some(SocketAddr::new(ip.parse().unwrap(), 1))).is_ok();
        assert!(admits("192.0.2.1") && admits("::ffff:192.0.2.1") && !admits("192.0.2.1"));
        assert!(admits("192.0.2.2"), "another address");
        assert!(admits("2001:db8::1") && admits("2001:db8::2") && !admits("2001:db8::3"));
        let unlimited = Logins::new(None);
        let peer = Some(SocketAddr::from(([192, 0, 2, 1], 1)));
        assert!((0..1000).all(|_| unlimited.admit(peer).is_ok()));
    }
}
