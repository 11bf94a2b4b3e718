//! An honest client: it keeps its tokens until it is told that they are over,
//! and asks again, with the same token and the same key, until it has an answer.

use std::time::Duration;

use actix_rt::time::sleep;
use fastrand::Rng;
use uuid::Uuid;

use crate::calls::{Call, Line, Reply};
use crate::fault::Lengths;
use crate::history::Outcome;
use crate::tokens::{AccessToken, Pair, RefreshToken};

/// The longest that a client heeds a server that wants to be left alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long the tokens of a session that was logged out of are still shown.
const SHOWN_AFTER_LOGOUT: Duration = Duration::from_secs(45);

/// How many of the newest refresh tokens of a session are kept to be shown then.
const KEPT: usize = 3;

/// One client with a session at a time.
pub(super) struct HonestClient {
    line: Line,
    rng: Rng,
    lengths: Lengths,
    /// Whether it sends an attempt key with each refresh.
    keyed: bool,
    /// Whether it refreshes only when its access token has expired.
    lazy: bool,
    session: Option<Session>,
    ended: Vec<Ended>,
}

/// A session that the client is logged in to.
struct Session {
    id: Uuid,
    live: Pair,
    /// Names the attempt to refresh with the live token.
    key: Option<String>,
    /// All it was given, the newest last.
    access: Vec<AccessToken>,
    refresh: Vec<RefreshToken>,
}

/// A session that the client has logged out of, and what it still holds of it.
struct Ended {
    id: Uuid,
    until: Duration,
    access: Vec<AccessToken>,
    refresh: Vec<RefreshToken>,
}

impl HonestClient {
    pub(super) fn new(line: Line, rng: Rng, lengths: Lengths) -> Self {
        let (keyed, lazy) = (line.client.is_multiple_of(2), line.client % 3 == 1);
        Self { line, rng, lengths, keyed, lazy, session: None, ended: Vec::new() }
    }

    /// Goes on until the run comes to its end, and makes sure then that it is
    /// still logged in.
    pub(super) async fn live(mut self) {
        while !self.line.scene.is_closing() {
            self.pause().await;
            self.show_what_has_ended().await;
            self.step().await;
        }
        if self.session.is_some() {
            self.refresh().await;
            self.ask_who_it_is().await;
        }
    }

    async fn step(&mut self) {
        match (&self.session, self.rng.u8(..100)) {
            (None, _) => self.sign_in().await,
            (Some(_), ..4) => self.log_out().await,
            (Some(_), ..8) if !self.lazy => self.refresh_at_both().await,
            (Some(_), ..40) if !self.lazy => self.refresh().await,
            (Some(_), _) => self.ask_who_it_is().await,
        }
    }

    /// A new guest each time: whether a sign-in without an answer was used up
    /// cannot be known.
    async fn sign_in(&mut self) {
        let registered = self.ask(Call::register()).await;
        if registered.outcome == Outcome::Accepted {
            let guest = registered.body.trim().trim_matches('"');
            let reply = self.ask(Call::sign_in(guest)).await;
            self.session = reply.pair.map(|pair| Session::new(pair, self.new_key()));
        }
    }

    /// Shows the access token until there is an answer; one that has expired, or
    /// is refused, is a reason to refresh.
    async fn ask_who_it_is(&mut self) {
        while let Some(session) = &self.session {
            let call = self.user(session.id, &session.live.access);
            let reply = self.ask(call).await;
            match reply.outcome {
                Outcome::Refused(_) => return self.refresh().await,
                Outcome::Accepted => return,
                _ if self.line.scene.is_over() => return,
                _ => self.pause_before_retry(&reply).await,
            }
        }
    }

    /// Shows the live refresh token until there is an answer.
    async fn refresh(&mut self) {
        while let Some(session) = &self.session {
            let reply = self.ask(session.refresh_call()).await;
            if self.has_answer(&reply) || self.line.scene.is_over() {
                return;
            }
            self.pause_before_retry(&reply).await;
        }
    }

    /// Two tabs refresh at once, one at each server; without an answer for
    /// either, the client goes on as with any other refresh.
    async fn refresh_at_both(&mut self) {
        let Some(session) = &self.session else { return };
        let (line, call) = (self.line.clone(), session.refresh_call());
        let (other, second) = (self.line.clone(), call.clone());
        let second = actix_rt::spawn(async move { other.ask(1, second).await });
        let replies = [line.ask(0, call).await, second.await.unwrap()];
        let granted = replies.iter().find(|reply| reply.pair.is_some());
        if !self.has_answer(granted.unwrap_or(&replies[0])) {
            self.refresh().await;
        }
    }

    /// Takes up what a refresh was answered, if it was.
    fn has_answer(&mut self, reply: &Reply) -> bool {
        let key = self.new_key();
        if let (Some(pair), Some(session)) = (&reply.pair, &mut self.session) {
            session.go_on_with(pair.clone(), key);
            return true;
        }
        if matches!(reply.outcome, Outcome::Refused(_)) {
            self.session = None;
            return true;
        }
        false
    }

    /// Logs out, which is not done until it is acknowledged, and at once shows
    /// what must not be good any more.
    async fn log_out(&mut self) {
        let Some(session) = self.session.take() else { return };
        while !self.line.scene.is_over() {
            let reply = self.ask(Call::logout(&session.live.refresh)).await;
            if reply.outcome == Outcome::Accepted {
                let until = self.line.scene.now() + SHOWN_AFTER_LOGOUT;
                let newest = self.user(session.id, &session.live.access);
                self.ended.push(session.end(until));
                return self.ask_both(newest).await;
            }
            self.pause_before_retry(&reply).await;
        }
    }

    /// Now and then, shows something of a session that has ended to both servers.
    async fn show_what_has_ended(&mut self) {
        if self.rng.u8(..3) > 0 {
            return;
        }
        self.forget_what_is_over();
        let Some(ended) = self.rng.choice(&self.ended) else { return };
        let access = self.rng.choice(&ended.access).filter(|_| self.rng.bool());
        let call = match access {
            Some(token) => self.user(ended.id, token),
            None => Call::refresh(self.rng.choice(&ended.refresh).unwrap(), None),
        };
        self.ask_both(call).await;
    }

    /// Access tokens are shown for as long as they live: then they are refused
    /// for that.
    fn forget_what_is_over(&mut self) {
        let scene = &self.line.scene;
        let now = scene.now();
        self.ended.retain(|ended| ended.until > now);
        for ended in &mut self.ended {
            ended.access.retain(|token| scene.since_start(token.expires) > now);
        }
    }

    fn user(&self, session: Uuid, token: &AccessToken) -> Call {
        Call::user(session, token, self.line.scene.since_start(token.expires))
    }

    /// Asks one server or the other.
    async fn ask(&mut self, call: Call) -> Reply {
        let server = self.rng.usize(0..self.line.scene.servers.len());
        self.ask_at(server, call).await
    }

    async fn ask_both(&mut self, call: Call) {
        for server in 0..self.line.scene.servers.len() {
            self.ask_at(server, call.clone()).await;
        }
    }

    async fn ask_at(&mut self, server: usize, call: Call) -> Reply {
        if self.line.scene.is_cutting() && self.rng.u8(..3) == 0 {
            return self.line.hang_up(server, call);
        }
        self.line.ask(server, call).await
    }

    fn new_key(&mut self) -> Option<String> {
        self.keyed.then(|| format!("{:032x}", self.rng.u128(..)))
    }

    async fn pause(&mut self) {
        sleep(self.lengths.pause.mul_f64(0.5 + self.rng.f64())).await;
    }

    async fn pause_before_retry(&mut self, reply: &Reply) {
        let wanted = reply.retry_after.unwrap_or(Duration::from_millis(100));
        let more = Duration::from_millis(self.rng.u64(..300));
        sleep(wanted.min(LONGEST_RETRY_AFTER) + more).await;
    }
}

impl Session {
    fn new(pair: Pair, key: Option<String>) -> Self {
        let (access, refresh) = (vec![pair.access.clone()], vec![pair.refresh.clone()]);
        Self { id: pair.refresh.session, live: pair, key, access, refresh }
    }

    fn refresh_call(&self) -> Call {
        Call::refresh(&self.live.refresh, self.key.as_deref())
    }

    fn go_on_with(&mut self, pair: Pair, key: Option<String>) {
        self.access.push(pair.access.clone());
        self.refresh.push(pair.refresh.clone());
        (self.live, self.key) = (pair, key);
    }

    fn end(mut self, until: Duration) -> Ended {
        let refresh = self.refresh.split_off(self.refresh.len().saturating_sub(KEPT));
        Ended { id: self.id, until, access: self.access, refresh }
    }
}
