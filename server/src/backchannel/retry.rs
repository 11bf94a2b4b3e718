//! When a notice is sent again.

use std::time::Duration;

use super::delivery::Outcome;
use crate::clock::Timestamp;
use crate::store::logout_notices::Notice;

/// The pause after the first failure. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60 * 60);
/// How long after the end of its session a notice is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// The number of rejections after which a notice is given up: a client that rejects a valid
/// logout token is unlikely to accept the next one.
const MAX_REJECTIONS: i64 = 5;

/// What follows an attempt.
#[derive(Debug)]
pub(super) enum Next {
    Delivered,
    Retry { notice: Notice, at: Timestamp },
    GiveUp,
}

/// Decides what follows an attempt that ended at `now`.
pub(super) fn next(notice: Notice, outcome: &Outcome, now: Timestamp) -> Next {
    let rejections = match outcome {
        Outcome::Delivered => return Next::Delivered,
        Outcome::Rejected => notice.rejections + 1,
        Outcome::Failed(_) => notice.rejections,
    };
    let attempts = notice.attempts + 1;
    if rejections >= MAX_REJECTIONS || now.since(notice.created_at) >= GIVE_UP_AFTER {
        return Next::GiveUp;
    }
    Next::Retry {
        notice: Notice { attempts, rejections, ..notice },
        at: now.after(pause(attempts)),
    }
}

fn pause(attempts: i64) -> Duration {
    let doublings = u32::try_from(attempts - 1).unwrap_or(u32::MAX).min(31);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SessionId, UserId};

    const ENDED: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn notice() -> Notice {
        let user = UserId::random();
        let session = SessionId::new(user, ENDED).unwrap();
        Notice { session, user, created_at: ENDED, attempts: 0, rejections: 0 }
    }

    #[test]
    fn pauses_double_up_to_an_hour_until_a_day_has_passed() {
        let failed = Outcome::Failed("connection refused".to_owned());
        let mut now = ENDED;
        let mut current = notice();
        let mut pauses = Vec::new();
        while let Next::Retry { notice, at } = next(current, &failed, now) {
            pauses.push(at.since(now).as_secs());
            current = notice;
            now = at;
        }
        assert_eq!(pauses[..13], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600]);
        assert!(pauses[12..].iter().all(|pause| *pause == 3600), "{pauses:?}");
        let hours = now.since(ENDED).as_secs() / 3600;
        assert_eq!(hours, 24);
    }

    #[test]
    fn rejected_notice_is_given_up_after_a_few_attempts_but_not_for_other_failures() {
        let failed = Outcome::Failed("503".to_owned());
        let mut current = notice();
        for outcome in [&failed, &failed, &failed, &failed, &failed, &failed] {
            let Next::Retry { notice, .. } = next(current, outcome, ENDED) else { panic!() };
            current = notice;
        }
        for _ in 1..MAX_REJECTIONS {
            let Next::Retry { notice, .. } = next(current, &Outcome::Rejected, ENDED) else {
                panic!("{current:?}")
            };
            current = notice;
        }
        assert!(matches!(next(current, &Outcome::Rejected, ENDED), Next::GiveUp));
        assert!(matches!(next(current, &Outcome::Delivered, ENDED), Next::Delivered));
    }
}
