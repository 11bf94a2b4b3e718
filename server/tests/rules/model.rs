//! A minimal model of the protocol: a chain of generations of which the last
//! is current, and the state of the last rotation. In a session that a code has opened, the
//! code is the first of the chain.

use matchbook_server::clock::Timestamp;
use matchbook_server::sessions::{MAX_GRACE_PERIOD, Policy, SALT_MARGIN};
use matchbook_shared::InvalidGrantReason;

/// The expected outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The next generation.
    Rotated,
    /// The current generation again, with the same access token.
    Reissued,
    /// The current generation again, with a new access token.
    ReissuedWithNewAccess,
    /// Rejected.
    Rejected(InvalidGrantReason),
}

/// A session.
pub(crate) struct Model {
    policy: Policy,
    live: usize,
    last: Option<Last>,
    access_issued_at: Timestamp,
    /// When all access tokens have expired.
    access_expires_at: Timestamp,
    /// Whether it has been rotated with an idempotency key.
    keyed: bool,
    /// The oldest generation that is not reuse, the next such one, and since when.
    floors: (usize, usize, Option<Timestamp>),
    idle_end: Timestamp,
    end: Timestamp,
    ended: Option<(Timestamp, InvalidGrantReason)>,
    deleted: bool,
    /// The rules for the code that has opened the session, and when.
    code: Option<(Policy, Timestamp)>,
}

/// The last rotation.
struct Last {
    at: Timestamp,
    key: Option<u8>,
    reissuable: bool,
}

impl Model {
    pub(crate) fn open(policy: Policy, now: Timestamp) -> Self {
        Self {
            policy,
            live: 0,
            last: None,
            access_issued_at: now,
            access_expires_at: now.after(policy.access_lifetime),
            keyed: false,
            floors: (0, 0, None),
            idle_end: now.after(policy.idle_lifetime),
            end: now.after(policy.absolute_lifetime),
            ended: None,
            deleted: false,
            code: None,
        }
    }

    /// A client exchanges a code, which can be exchanged again as `code` permits.
    pub(crate) fn open_by_code(policy: Policy, code: Policy, now: Timestamp) -> Self {
        Self {
            live: 1,
            last: Some(Last { at: now, key: None, reissuable: code.reissue.is_some() }),
            code: Some((code, now)),
            ..Self::open(policy, now)
        }
    }

    /// Why every token of the session is rejected, if it has ended. Changes nothing.
    pub(crate) fn is_over(&self, now: Timestamp) -> Option<InvalidGrantReason> {
        if self.deleted {
            return Some(InvalidGrantReason::Unknown);
        }
        let at = self.ended.map_or(now, |(at, _)| at);
        if self.end <= at {
            return Some(InvalidGrantReason::ExpiredAbsolute);
        }
        if self.idle_end <= at {
            return Some(InvalidGrantReason::ExpiredIdle);
        }
        self.ended.map(|(_, reason)| reason)
    }

    /// A client presents the token of a generation.
    pub(crate) fn present(
        &mut self,
        generation: usize,
        key: Option<u8>,
        now: Timestamp,
    ) -> Expected {
        if let Some(reason) = self.is_over(now) {
            return Expected::Rejected(reason);
        }
        let same_key_only = self.policy.reissue.is_some_and(|rules| rules.same_key_only);
        if generation == self.live && !(same_key_only && self.keyed && key.is_none()) {
            self.rotate(key, now);
            return Expected::Rotated;
        }
        let expected = if generation == self.live {
            Expected::Rejected(InvalidGrantReason::Reuse)
        } else {
            self.present_superseded(generation, key, now)
        };
        match expected {
            Expected::Rejected(InvalidGrantReason::Reuse) => {
                self.ended = Some((now, InvalidGrantReason::Reuse));
            }
            Expected::ReissuedWithNewAccess => self.issue_access(now),
            _ => {}
        }
        expected
    }

    fn rotate(&mut self, key: Option<u8>, now: Timestamp) {
        let window =
            self.policy.reissue.map_or(std::time::Duration::ZERO, |rules| rules.grace_period);
        let within = |time: Option<Timestamp>| time.is_some_and(|time| time.after(window) >= now);
        let (_, next, since) = self.floors;
        let rotated_at = self.last.as_ref().map(|last| last.at);
        self.floors = match (within(rotated_at), within(since)) {
            (true, true) => self.floors,
            (true, false) => (next, self.live, Some(now)),
            (false, true) => (self.live, next, since),
            (false, false) => (self.live, self.live, Some(now)),
        };
        self.live += 1;
        self.keyed |= key.is_some() && self.policy.reissue.is_some();
        self.last = Some(Last { at: now, key, reissuable: self.policy.reissue.is_some() });
        self.issue_access(now);
        self.idle_end = self.idle_end.max(now.after(self.policy.idle_lifetime));
    }

    fn issue_access(&mut self, now: Timestamp) {
        self.access_issued_at = now;
        self.access_expires_at = self.access_expires_at.max(now.after(self.policy.access_lifetime));
    }

    /// The server restarts with another lifetime of access tokens.
    pub(crate) fn set_access_lifetime(&mut self, lifetime: std::time::Duration) {
        self.policy.access_lifetime = lifetime;
    }

    fn present_superseded(&self, generation: usize, key: Option<u8>, now: Timestamp) -> Expected {
        let last = self.last.as_ref().expect("there is no old one without a rotation");
        let reuse = Expected::Rejected(InvalidGrantReason::Reuse);
        let policy = match self.code {
            Some((code, exchanged_at)) if generation == 0 => {
                let is_in_time =
                    code.reissue.is_some_and(|it| exchanged_at.after(it.grace_period) >= now);
                Policy { reissue: code.reissue.filter(|_| is_in_time), ..code }
            }
            _ => self.policy,
        };
        let Some(window) = policy.reissue else { return reuse };
        let age = now.since(last.at);
        let is_previous = generation + 1 == self.live;
        let has_same_key = is_previous && key.is_some() && key == last.key;
        let max_wait = if has_same_key { window.recovery_window } else { window.grace_period };
        if age > max_wait || (window.same_key_only && self.keyed && !has_same_key) {
            return reuse;
        }
        if !is_previous && generation < self.floors.0 {
            return reuse;
        }
        if !is_previous || !last.reissuable {
            return Expected::Rejected(InvalidGrantReason::Superseded);
        }
        let issued_at = Timestamp::from_secs(self.access_issued_at.as_secs());
        let access_end = issued_at.after(self.policy.access_lifetime);
        let access_end = access_end.min(self.end).min(self.access_expires_at);
        if access_end > now { Expected::Reissued } else { Expected::ReissuedWithNewAccess }
    }

    /// The sweeper deletes the row of the code, which from then on counts as reused.
    pub(crate) fn forget_code(&mut self) {
        if let Some((policy, _)) = &mut self.code {
            policy.reissue = None;
        }
    }

    /// A client presents the code with a wrong verifier.
    pub(crate) fn spend_code(&mut self, now: Timestamp) {
        if !self.deleted && self.ended.is_none() {
            self.ended = Some((now, InvalidGrantReason::Reuse));
        }
    }

    pub(crate) fn log_out(&mut self, now: Timestamp) {
        if !self.deleted && self.ended.is_none() {
            self.ended = Some((now, InvalidGrantReason::LoggedOut));
        }
    }

    /// An operator has erased the successor salt.
    pub(crate) fn erase_salt(&mut self) {
        if let Some(last) = &mut self.last {
            last.reissuable = false;
        }
    }

    /// An operator makes the session expire.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        self.idle_end = now;
    }

    /// The sweeper handles a tracked rotation.
    pub(crate) fn clear_salt(&mut self, now: Timestamp) {
        let Some(rules) = self.policy.reissue else { return };
        if let Some(last) = &mut self.last
            && last.key.is_none()
            && now.since(last.at) > rules.grace_period
        {
            last.reissuable = false;
        }
    }

    /// The sweeper runs its pass.
    pub(crate) fn sweep(&mut self, now: Timestamp) {
        let mut over_at = self.idle_end.min(self.end);
        if let Some((ended_at, _)) = self.ended {
            over_at = over_at.min(ended_at);
        }
        if over_at.after(self.policy.retention) <= now {
            self.deleted = true;
        }
        let Some(last) = &mut self.last else { return };
        let max_wait = match self.policy.reissue {
            _ if self.code.is_some() => {
                let window = self.policy.reissue.map(|rules| rules.recovery_window);
                window.unwrap_or_default().max(MAX_GRACE_PERIOD)
            }
            Some(rules) if last.key.is_some() => rules.recovery_window,
            Some(rules) => rules.grace_period,
            None => return,
        };
        let max_wait = max_wait + SALT_MARGIN;
        if last.reissuable && (over_at <= now || now.since(last.at) > max_wait) {
            *last = Last { at: last.at, key: None, reissuable: false };
        }
    }

    /// The number of rows, and the current generation.
    pub(crate) fn state(&self) -> (bool, usize) {
        (!self.deleted, self.live)
    }
}
