//! The login rate limit. Every guest login creates a user at the server.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::error::AppError;

/// Above this number of addresses, those without a recent login are removed.
const EVICT_ABOVE: usize = 10_000;

/// Limits logins per client address.
pub(crate) struct LoginLimiter {
    limiter: Option<DefaultKeyedRateLimiter<u128>>,
    clock: DefaultClock,
}

impl LoginLimiter {
    /// Creates a limiter. `None` means no limit.
    pub(crate) fn new(per_minute: Option<NonZeroU32>) -> Self {
        let limiter = per_minute.map(|limit| RateLimiter::keyed(Quota::per_minute(limit)));
        Self { limiter, clock: DefaultClock::default() }
    }

    /// Counts a login.
    ///
    /// # Errors
    /// When the address has used up its quota.
    pub(crate) fn check(&self, peer: Option<SocketAddr>) -> Result<(), AppError> {
        let (Some(limiter), Some(peer)) = (&self.limiter, peer) else { return Ok(()) };
        if limiter.len() > EVICT_ABOVE {
            limiter.retain_recent();
        }
        let wait = |until: governor::NotUntil<_>| until.wait_time_from(self.clock.now());
        limiter.check_key(&subnet_key(peer.ip())).map_err(wait).map_err(AppError::LoginRateLimited)
    }
}

/// Returns the address range that one visitor controls: an IPv4 address, or an IPv6 /64
/// (RFC 6177).
fn subnet_key(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_limited_per_ipv4_address_and_per_ipv6_subnet() {
        let limiter = LoginLimiter::new(NonZeroU32::new(2));
        let allows =
            |ip: &str| limiter.check(Some(SocketAddr::new(ip.parse().unwrap(), 1))).is_ok();
        assert!(allows("192.0.2.1") && allows("::ffff:192.0.2.1") && !allows("192.0.2.1"));
        assert!(allows("192.0.2.2"), "another address");
        assert!(allows("2001:db8::1") && allows("2001:db8::2") && !allows("2001:db8::3"));
        let unlimited = LoginLimiter::new(None);
        let peer = Some(SocketAddr::from(([192, 0, 2, 1], 1)));
        assert!((0..1000).all(|_| unlimited.check(peer).is_ok()));
    }
}
