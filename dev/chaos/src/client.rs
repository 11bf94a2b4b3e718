//! An honest client. It keeps its tokens until they are rejected, and retries with the same
//! token and key until it gets a response.

use std::time::Duration;

use actix_rt::time::sleep;
use fastrand::Rng;
use uuid::Uuid;

use crate::calls::{Account, Call, Connection, Reply};
use crate::fault::Timings;
use crate::history::Outcome;
use crate::tokens::{AccessToken, RefreshToken, TokenPair};

/// Maximum `Retry-After` that a client waits.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long tokens are presented after their session was logged out.
const PRESENTED_AFTER_LOGOUT: Duration = Duration::from_secs(45);

/// Number of the newest refresh tokens that are kept for this.
const MAX_KEPT_TOKENS: usize = 3;

/// The users that a client logs in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    Guests,
    Accounts,
    /// Users of another server, whose refresh tokens are imported.
    Imported,
}

/// A client with at most one live session.
pub(super) struct HonestClient {
    connection: Connection,
    rng: Rng,
    timings: Timings,
    /// Whether it sends an idempotency key with each refresh.
    sends_key: bool,
    /// Whether it only refreshes expired access tokens.
    lazy: bool,
    users: Users,
    account: Option<Account>,
    session: Option<Session>,
    ended: Vec<Ended>,
}

/// A live session.
struct Session {
    id: Uuid,
    current: TokenPair,
    /// The idempotency key for the current token.
    key: Option<String>,
    /// All issued tokens, the newest last.
    access: Vec<AccessToken>,
    refresh: Vec<RefreshToken>,
}

/// A logged-out session and its kept tokens.
struct Ended {
    id: Uuid,
    until: Duration,
    access: Vec<AccessToken>,
    refresh: Vec<RefreshToken>,
}

impl HonestClient {
    pub(super) fn new(connection: Connection, rng: Rng, timings: Timings) -> Self {
        Self {
            sends_key: connection.client.is_multiple_of(2),
            lazy: connection.client % 3 == 1,
            users: match connection.client % 10 {
                _ if connection.context.loses_writes => Users::Guests,
                3 => Users::Imported,
                4 | 9 => Users::Accounts,
                _ => Users::Guests,
            },
            account: None,
            connection,
            rng,
            timings,
            session: None,
            ended: Vec::new(),
        }
    }

    /// Runs until the end of the run, then checks that it is still logged in.
    pub(super) async fn run(mut self) {
        while !self.connection.context.is_closing() {
            self.pause().await;
            self.present_ended_tokens().await;
            self.step().await;
        }
        if self.session.is_some() {
            self.refresh().await;
            self.get_user().await;
        }
    }

    async fn step(&mut self) {
        let uses_accounts = self.users == Users::Accounts;
        match (&self.session, self.rng.u8(..100)) {
            (None, _) => match self.users {
                Users::Guests => self.log_in().await,
                Users::Accounts => self.log_in_account().await,
                Users::Imported => self.move_here().await,
            },
            (Some(_), ..2) if uses_accounts => self.change_password().await,
            (Some(_), ..4) if uses_accounts => self.delete_account().await,
            (Some(_), ..6) if uses_accounts => self.disable_account().await,
            (Some(_), ..4) => self.log_out().await,
            (Some(_), ..8) if !self.lazy && !self.connection.context.loses_writes => {
                self.refresh_at_both().await;
            }
            (Some(_), ..40) if !self.lazy => self.refresh().await,
            (Some(_), _) => self.get_user().await,
        }
    }

    /// Logs in as a new guest. A guest whose login got no response cannot be reused, because
    /// the login may have succeeded.
    async fn log_in(&mut self) {
        let registered = self.send(Call::register()).await;
        if registered.outcome == Outcome::Accepted {
            let guest = registered.body.trim().trim_matches('"');
            let reply = self.send(Call::log_in(guest)).await;
            self.session = reply.pair.map(|pair| Session::new(pair, self.new_key()));
        }
    }

    /// Logs in with an account, which it registers first if it has none.
    async fn log_in_account(&mut self) {
        let Some(account) = self.account.clone() else {
            // Each attempt has a name of its own, because the one before may have succeeded.
            let name = format!("chaos-{:016x}", self.rng.u64(..));
            let account = Account { name, password: self.new_password() };
            let registered = self.send(Call::register_account(&account)).await;
            self.account = (registered.outcome == Outcome::Accepted).then_some(account);
            return;
        };
        let reply = self.send(Call::log_in_account(&account)).await;
        self.session = reply.pair.map(|pair| Session::new(pair, self.new_key()));
    }

    /// Has a refresh token of another server imported, and presents it until there is a
    /// response.
    async fn move_here(&mut self) {
        // Each attempt has a name of its own, because the one before may have succeeded.
        let name = format!("moved-{:016x}", self.rng.u64(..));
        let token = format!("elsewhere-{:032x}", self.rng.u128(..));
        if !self.connection.context.operator.import(&name, &token).await {
            return;
        }
        let key = self.new_key();
        while !self.connection.context.is_drained() {
            let reply = self.send(Call::exchange(&token, key.as_deref())).await;
            if let Some(pair) = reply.pair {
                self.session = Some(Session::new(pair, self.new_key()));
                return;
            }
            if matches!(reply.outcome, Outcome::Rejected(_)) {
                return;
            }
            self.pause_before_retry(&reply).await;
        }
    }

    /// Has the account disabled, and enabled again. The session ends.
    async fn disable_account(&mut self) {
        let (Some(account), Some(session)) = (self.account.clone(), self.session.take()) else {
            return;
        };
        if self.connection.disable(session.id, &account).await {
            self.check_end(session).await;
        }
        let context = self.connection.context.clone();
        while !context.is_drained() && !context.operator.enable(&account.name).await {}
    }

    /// Logs in a second time, and changes the password from there: the first session ends.
    async fn change_password(&mut self) {
        let Some(mut account) = self.account.take() else { return };
        let second = self.send(Call::log_in_account(&account)).await;
        let Some(pair) = second.pair else {
            self.account = Some(account);
            return;
        };
        let Some(first) = self.session.take() else { return };
        self.session = Some(Session::new(pair, self.new_key()));
        let new = self.new_password();
        while let Some(session) = &self.session
            && !self.connection.context.is_drained()
        {
            let access = session.current.access.clone();
            let call = Call::change_password(first.id, &access, &account, &new);
            let reply = self.send(call).await;
            match &reply.outcome {
                Outcome::Accepted => {
                    account.password = new;
                    self.account = Some(account);
                    return self.check_end(first).await;
                }
                // An attempt without a response has changed it.
                Outcome::Rejected(reason) if reason == "invalid_credentials" => {
                    account.password = new;
                    self.account = Some(account);
                    return;
                }
                Outcome::Rejected(_) => self.refresh().await,
                _ => self.pause_before_retry(&reply).await,
            }
        }
    }

    /// Deletes the account, retrying until it is acknowledged or the session has ended.
    async fn delete_account(&mut self) {
        let Some(account) = self.account.take() else { return };
        while let Some(session) = &self.session
            && !self.connection.context.is_drained()
        {
            let access = session.current.access.clone();
            let call = Call::delete_account(session.id, &access, &account);
            let reply = self.send(call).await;
            match &reply.outcome {
                Outcome::Accepted => {
                    let Some(session) = self.session.take() else { return };
                    return self.check_end(session).await;
                }
                Outcome::Rejected(_) => self.refresh().await,
                _ => self.pause_before_retry(&reply).await,
            }
        }
    }

    /// Presents the newest access token of a session that has ended at once, and its other
    /// tokens later.
    async fn check_end(&mut self, session: Session) {
        let until = self.connection.context.now() + PRESENTED_AFTER_LOGOUT;
        let newest = self.user(session.id, &session.current.access);
        self.ended.push(session.end(until));
        self.send_to_all(newest).await;
    }

    /// Presents the access token until there is a response. Refreshes if it is rejected.
    async fn get_user(&mut self) {
        while let Some(session) = &self.session {
            let call = self.user(session.id, &session.current.access);
            let reply = self.send(call).await;
            match reply.outcome {
                Outcome::Rejected(_) => return self.refresh().await,
                Outcome::Accepted => return,
                _ if self.connection.context.is_drained() => return,
                _ => self.pause_before_retry(&reply).await,
            }
        }
    }

    /// Presents the refresh token until there is a response.
    async fn refresh(&mut self) {
        while let Some(session) = &self.session {
            let reply = self.send(session.refresh_call()).await;
            if self.apply_reply(&reply) || self.connection.context.is_drained() {
                return;
            }
            self.pause_before_retry(&reply).await;
        }
    }

    /// Refreshes at both servers at once, like two tabs. Retries if neither responds.
    async fn refresh_at_both(&mut self) {
        let Some(session) = &self.session else { return };
        let call = session.refresh_call();
        let connection = self.connection.clone();
        let other = self.connection.clone();
        let second = call.clone();
        let second = actix_rt::spawn(async move { other.send(1, second).await });
        let replies = [connection.send(0, call).await, second.await.unwrap()];
        let granted = replies.iter().find(|reply| reply.pair.is_some());
        if !self.apply_reply(granted.unwrap_or(&replies[0])) {
            self.refresh().await;
        }
    }

    /// Applies the reply to a refresh. Returns whether it was a response.
    fn apply_reply(&mut self, reply: &Reply) -> bool {
        let key = self.new_key();
        if let (Some(pair), Some(session)) = (&reply.pair, &mut self.session) {
            session.replace_tokens(pair.clone(), key);
            return true;
        }
        if matches!(reply.outcome, Outcome::Rejected(_)) {
            self.session = None;
            return true;
        }
        false
    }

    /// Logs out, retrying until it is acknowledged, and at once presents the newest access
    /// token.
    async fn log_out(&mut self) {
        let Some(session) = self.session.take() else { return };
        while !self.connection.context.is_drained() {
            let reply = self.send(Call::logout(&session.current.refresh)).await;
            if reply.outcome == Outcome::Accepted {
                return self.check_end(session).await;
            }
            self.pause_before_retry(&reply).await;
        }
    }

    /// Sometimes presents a token of an ended session to both servers.
    async fn present_ended_tokens(&mut self) {
        if self.rng.u8(..3) > 0 {
            return;
        }
        self.forget_expired();
        let Some(ended) = self.rng.choice(&self.ended) else { return };
        let access = self.rng.choice(&ended.access).filter(|_| self.rng.bool());
        let call = match access {
            Some(token) => self.user(ended.id, token),
            None => Call::refresh(self.rng.choice(&ended.refresh).unwrap(), None),
        };
        self.send_to_all(call).await;
    }

    /// Drops expired access tokens, which would be rejected anyway.
    fn forget_expired(&mut self) {
        let context = &self.connection.context;
        let now = context.now();
        self.ended.retain(|ended| ended.until > now);
        for ended in &mut self.ended {
            ended.access.retain(|token| context.since_start(token.expires) > now);
        }
    }

    fn user(&self, session: Uuid, token: &AccessToken) -> Call {
        Call::user(session, token, self.connection.context.since_start(token.expires))
    }

    /// Sends a request to a random server.
    async fn send(&mut self, call: Call) -> Reply {
        let server = self.rng.usize(0..self.connection.context.servers.len());
        self.send_to(server, call).await
    }

    async fn send_to_all(&mut self, call: Call) {
        for server in 0..self.connection.context.servers.len() {
            self.send_to(server, call.clone()).await;
        }
    }

    async fn send_to(&mut self, server: usize, call: Call) -> Reply {
        if self.connection.context.is_disconnecting() && self.rng.u8(..3) == 0 {
            return self.connection.send_and_disconnect(server, call);
        }
        self.connection.send(server, call).await
    }

    fn new_key(&mut self) -> Option<String> {
        self.sends_key.then(|| format!("{:032x}", self.rng.u128(..)))
    }

    fn new_password(&mut self) -> String {
        format!("{:032x}", self.rng.u128(..))
    }

    async fn pause(&mut self) {
        sleep(self.timings.pause.mul_f64(0.5 + self.rng.f64())).await;
    }

    async fn pause_before_retry(&mut self, reply: &Reply) {
        let wanted = reply.retry_after.unwrap_or(Duration::from_millis(100));
        let more = Duration::from_millis(self.rng.u64(..300));
        sleep(wanted.min(MAX_RETRY_AFTER) + more).await;
    }
}

impl Session {
    fn new(pair: TokenPair, key: Option<String>) -> Self {
        Self {
            id: pair.refresh.session,
            access: vec![pair.access.clone()],
            refresh: vec![pair.refresh.clone()],
            current: pair,
            key,
        }
    }

    fn refresh_call(&self) -> Call {
        Call::refresh(&self.current.refresh, self.key.as_deref())
    }

    fn replace_tokens(&mut self, pair: TokenPair, key: Option<String>) {
        self.access.push(pair.access.clone());
        self.refresh.push(pair.refresh.clone());
        self.current = pair;
        self.key = key;
    }

    fn end(mut self, until: Duration) -> Ended {
        let refresh = self.refresh.split_off(self.refresh.len().saturating_sub(MAX_KEPT_TOKENS));
        Ended { id: self.id, until, access: self.access, refresh }
    }
}
