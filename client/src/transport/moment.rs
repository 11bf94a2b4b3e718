//! Detects that the machine was suspended.

use std::time::{Duration, Instant, SystemTime};

/// The smallest difference of the clocks that shows a suspension: the monotonic clock stops.
const SUSPENDED: Duration = Duration::from_secs(5);

/// A point in time on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Moment {
    #[expect(clippy::disallowed_methods, reason = "only compared with the monotonic clock")]
    pub(super) fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// Returns whether the machine was suspended between this moment and a later one.
    pub(super) fn suspended_until(self, later: Self) -> bool {
        let wall = later.wall.duration_since(self.wall).unwrap_or_default();
        wall > later.monotonic.saturating_duration_since(self.monotonic) + SUSPENDED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspension_is_a_wall_clock_that_runs_ahead() {
        let before = Moment::now();
        let later = |monotonic, wall| Moment {
            monotonic: before.monotonic + Duration::from_secs(monotonic),
            wall: before.wall + Duration::from_secs(wall),
        };
        assert!(!before.suspended_until(later(0, 0)));
        assert!(!before.suspended_until(later(60, 64)));
        assert!(before.suspended_until(later(1, 3600)));
        // The wall clock was set back.
        assert!(!later(0, 60).suspended_until(later(1, 0)));
    }
}
