//! The protocol in its smallest form: a chain of generations of which the last
//! is live, and what is remembered of the last rotation.

use matchbook_server::clock::Timestamp;
use matchbook_server::sessions::Policy;
use matchbook_shared::Reason;

/// What the protocol answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The next generation.
    Rotated,
    /// The live generation again, with the same access token.
    Repeated,
    /// The live generation again, with a new access token.
    RepeatedAfresh,
    /// Nothing.
    Refused(Reason),
}

/// A session.
pub(crate) struct Model {
    policy: Policy,
    live: usize,
    last: Option<Last>,
    access_issued_at: Timestamp,
    idle_end: Timestamp,
    end: Timestamp,
    ended: Option<(Timestamp, Reason)>,
    deleted: bool,
}

/// The last rotation.
struct Last {
    at: Timestamp,
    key: Option<u8>,
    repeatable: bool,
}

impl Model {
    pub(crate) fn open(policy: Policy, now: Timestamp) -> Self {
        Self {
            policy,
            live: 0,
            last: None,
            access_issued_at: now,
            idle_end: now.after(policy.idle_lifetime),
            end: now.after(policy.absolute_lifetime),
            ended: None,
            deleted: false,
        }
    }

    /// Somebody shows the token of a generation.
    pub(crate) fn show(&mut self, generation: usize, key: Option<u8>, now: Timestamp) -> Expected {
        if self.deleted {
            return Expected::Refused(Reason::Unknown);
        }
        let at = self.ended.map_or(now, |(at, _)| at);
        if self.end <= at {
            return Expected::Refused(Reason::ExpiredAbsolute);
        }
        if self.idle_end <= at {
            return Expected::Refused(Reason::ExpiredIdle);
        }
        if let Some((_, reason)) = self.ended {
            return Expected::Refused(reason);
        }
        if generation == self.live {
            self.live += 1;
            self.last = Some(Last { at: now, key, repeatable: self.policy.retry.is_some() });
            self.access_issued_at = now;
            self.idle_end = now.after(self.policy.idle_lifetime);
            return Expected::Rotated;
        }
        let expected = self.show_old(generation, key, now);
        match expected {
            Expected::Refused(Reason::Reuse) => self.ended = Some((now, Reason::Reuse)),
            Expected::RepeatedAfresh => self.access_issued_at = now,
            _ => {}
        }
        expected
    }

    fn show_old(&self, generation: usize, key: Option<u8>, now: Timestamp) -> Expected {
        let last = self.last.as_ref().expect("there is no old one without a rotation");
        let reuse = Expected::Refused(Reason::Reuse);
        let Some(retry) = self.policy.retry else { return reuse };
        let age = now.since(last.at);
        let is_parent = generation + 1 == self.live;
        let is_attempt = is_parent && key.is_some() && key == last.key;
        let patience = if is_attempt { retry.recovery } else { retry.window };
        if age > patience || (retry.exclusive && last.key.is_some() && !is_attempt) {
            return reuse;
        }
        if !is_parent || !last.repeatable {
            return Expected::Refused(Reason::Superseded);
        }
        let issued_at = Timestamp::from_secs(self.access_issued_at.as_secs());
        let access_end = issued_at.after(self.policy.access_lifetime).min(self.end);
        if access_end > now { Expected::Repeated } else { Expected::RepeatedAfresh }
    }

    pub(crate) fn log_out(&mut self, now: Timestamp) {
        if !self.deleted && self.ended.is_none() {
            self.ended = Some((now, Reason::LoggedOut));
        }
    }

    /// The operator has erased what the successor was derived with.
    pub(crate) fn erase_salt(&mut self) {
        if let Some(last) = &mut self.last {
            last.repeatable = false;
        }
    }

    /// The operator has the session expire.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        self.idle_end = now;
    }

    /// The sweeper, told of a rotation.
    pub(crate) fn clear_salt(&mut self, now: Timestamp) {
        let Some(retry) = self.policy.retry else { return };
        if let Some(last) = &mut self.last
            && last.key.is_none()
            && now.since(last.at) > retry.window
        {
            last.repeatable = false;
        }
    }

    /// The sweeper, on its round.
    pub(crate) fn sweep(&mut self, now: Timestamp) {
        let mut over_at = self.idle_end.min(self.end);
        if let Some((ended_at, _)) = self.ended {
            over_at = over_at.min(ended_at);
        }
        if over_at.after(self.policy.retention) <= now {
            self.deleted = true;
        }
        let (Some(retry), Some(last)) = (self.policy.retry, &mut self.last) else { return };
        let patience = if last.key.is_some() { retry.recovery } else { retry.window };
        if last.repeatable && (over_at <= now || now.since(last.at) > patience) {
            *last = Last { at: last.at, key: None, repeatable: false };
        }
    }

    /// How many rows there are, and the live generation.
    pub(crate) fn state(&self) -> (bool, usize) {
        (!self.deleted, self.live)
    }
}
