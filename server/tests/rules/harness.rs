//! A database, a clock controlled by the test, and sessions under the real rules.

use std::cell::RefCell;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use matchbook_server::clock::Timestamp;
use matchbook_server::crypto::{IdempotencyKey, Secret, TokenKeys};
use matchbook_server::ids::{EventId, SessionId, UserId};
use matchbook_server::secrets::DerivedKeys;
use matchbook_server::sessions::{
    self, ClientInfo, Context, Login, Policy, PresentedToken, Refresh, RefreshOutcome,
    ReissueRules, ReuseByDate, Rules, TokenGrant,
};
use matchbook_server::store::sessions::{Session, find, redate, rotate_batch};
use matchbook_server::store::{self, Conn, Options, Page, Store, Url, users};
use matchbook_server::tokens::{RefreshToken, RotationRandomness};
use matchbook_shared::InvalidGrantReason;
use matchbook_testkit::{TcpProxy, TestEnv};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};
use secrecy::SecretString;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The OAuth client of the sessions that a code opens.
pub(crate) const CLIENT: &str = "app";

/// The time at which every test begins.
pub(crate) const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// The default settings.
pub(crate) const DEFAULT: Policy = Policy {
    access_lifetime: Duration::from_secs(15 * 60),
    idle_lifetime: Duration::from_secs(30 * 24 * 60 * 60),
    absolute_lifetime: Duration::from_secs(90 * 24 * 60 * 60),
    retention: Duration::from_secs(7 * 24 * 60 * 60),
    reissue: Some(REISSUE),
    accept_ahead_of_database: false,
};
pub(crate) const REISSUE: ReissueRules = ReissueRules {
    grace_period: Duration::from_secs(30),
    recovery_window: Duration::from_secs(24 * 60 * 60),
    same_key_only: false,
};

/// `rotation.mode = "strict"`.
pub(crate) const STRICT: Policy = Policy { reissue: None, ..DEFAULT };
/// `rotation.same_key_only = true`.
pub(crate) const SAME_KEY_ONLY: Policy =
    Policy { reissue: Some(ReissueRules { same_key_only: true, ..REISSUE }), ..DEFAULT };

/// Runs random histories, and reports the smallest one that fails.
/// `PROPTEST_CASES` sets their number.
pub(crate) fn check_histories<S: Strategy>(histories: S, play: impl Fn(&mut Harness, S::Value)) {
    let cases = std::env::var("PROPTEST_CASES").map_or(128, |cases| cases.parse().unwrap());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let harness = RefCell::new(Harness::new(DEFAULT));
    let outcome = TestRunner::new(config).run(&histories, |history| {
        play(&mut harness.borrow_mut(), history);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// The outcome of presenting a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A new pair.
    Rotated(TokenPair),
    /// The same pair as in the previous response.
    Reissued(TokenPair),
    /// Rejected.
    Rejected(InvalidGrantReason),
    /// The deadline had passed, and nothing changed.
    TimedOut,
}

/// The refresh token, and the access token's id and expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenPair {
    pub(crate) refresh: String,
    pub(crate) jti: String,
    pub(crate) expires_at: i64,
}

impl From<TokenGrant> for TokenPair {
    fn from(grant: TokenGrant) -> Self {
        Self {
            refresh: grant.refresh_token,
            jti: grant.access.id.to_string(),
            expires_at: grant.access.expires_at.as_micros(),
        }
    }
}

/// The real rules on their own database.
pub(crate) struct Harness {
    pub(crate) conn: Conn,
    pub(crate) now: Timestamp,
    pub(crate) policy: Policy,
    pub(crate) token_keys: TokenKeys,
    secrets: Vec<SecretString>,
    url: Url,
    world: TestEnv,
}

/// A pool of one connection.
fn options(url: Url) -> Options {
    Options {
        url,
        pool_size: 1,
        acquire_timeout: MINUTE,
        max_queue: 1000,
        query_timeout: MINUTE,
        start_timeout: MINUTE,
        migrate: true,
    }
}

impl Harness {
    /// Creates an empty database.
    pub(crate) fn new(policy: Policy) -> Self {
        let world = TestEnv::new();
        let url: Url = world.database_url().parse().unwrap();
        drop(Store::open(&options(url.clone())).unwrap());
        let secrets = vec![SecretString::from("the first of the secrets of this test")];
        Self {
            conn: store::connect(&url).unwrap(),
            now: START,
            policy,
            token_keys: token_keys(&secrets),
            secrets,
            url,
            world,
        }
    }

    /// Starts over under another policy.
    pub(crate) fn begin(&mut self, policy: Policy) {
        self.sql("DELETE FROM authorization_codes");
        self.sql("DELETE FROM sessions");
        self.sql("DELETE FROM events");
        self.sql("DELETE FROM session_revocations");
        self.now = START;
        self.policy = policy;
    }

    /// The store that a server uses.
    pub(crate) fn store(&self) -> Store {
        self.store_with(|_| {})
    }

    /// The store of a server with other settings, with its background task.
    pub(crate) fn store_with(&self, change: impl FnOnce(&mut Options)) -> Store {
        let mut options = options(self.url.clone());
        change(&mut options);
        let store = Store::open(&options).unwrap();
        actix_rt::spawn(store.clone().run_batches());
        store
    }

    /// A proxy to the database, and the database's URL through it.
    pub(crate) fn relay(&self) -> (TcpProxy, String) {
        self.world.database_proxy()
    }

    /// Another connection, like that of another server.
    pub(crate) fn connection(&self) -> Conn {
        store::connect(&self.url).unwrap()
    }

    /// Restarts the server with a new secret; all previous ones are listed.
    pub(crate) fn change_secret(&mut self) {
        let secret = format!("secret number {} of this long test", self.secrets.len());
        self.secrets.insert(0, secret.into());
        self.token_keys = token_keys(&self.secrets);
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    /// Logs a new guest in.
    pub(crate) fn open(&mut self) -> (SessionId, TokenPair) {
        self.open_as(UserId::random())
    }

    /// Logs a new guest with this id in.
    pub(crate) fn open_as(&mut self, user: UserId) -> (SessionId, TokenPair) {
        let session = SessionId::new(user, self.now).unwrap();
        users::insert(&mut self.conn, user, self.now).unwrap();
        let client = device();
        let RotationRandomness { access, event, .. } =
            RotationRandomness::generate(self.now).unwrap();
        let login = Login {
            user,
            session,
            secret: Secret::random().unwrap(),
            access,
            claims: None,
            grant: None,
            code: None,
        };
        let Harness { conn, token_keys, policy, now, .. } = self;
        let cx = Context { policy, client: &client, event, now: *now };
        let grant = conn.transaction(|conn| {
            sessions::admit_guest(conn, user, &cx)?.expect("a new guest logs in");
            sessions::open(conn, login, &token_keys.current, &cx)
        });
        (session, grant.unwrap().into())
    }

    /// Presents a refresh token, with or without an idempotency key.
    pub(crate) fn present(&mut self, refresh: &str, key: Option<&str>) -> Outcome {
        self.present_from(refresh, key, device())
    }

    /// Presents a refresh token from a given client.
    pub(crate) fn present_from(
        &mut self,
        refresh: &str,
        key: Option<&str>,
        from: ClientInfo,
    ) -> Outcome {
        let attempt = self.prepare(refresh, key, from);
        self.carry_out(&attempt)
    }

    /// Executes a prepared refresh, whatever the time is now.
    pub(crate) fn carry_out(&mut self, attempt: &Refresh) -> Outcome {
        let Harness { conn, token_keys, policy, now, .. } = self;
        let rules = Rules { policy, token_keys };
        // In the middle of a batch, as on a busy server.
        let others = [foreign_refresh(rules, *now), foreign_refresh(rules, *now)];
        let batch = [&*others[0].update, &*attempt.update, &*others[1].update];
        let rotation = match &rotate_batch(conn, &batch).unwrap()[..] {
            [None, Some(row), None] => attempt.rotated(row.clone(), rules),
            [None, None, None] => {
                match sessions::resolve_conflict(conn, attempt, rules, ReuseByDate::Defer).unwrap()
                {
                    RefreshOutcome::LooksLikeReuse => {
                        sessions::resolve_conflict(conn, attempt, rules, ReuseByDate::Reject)
                            .unwrap()
                    }
                    rotation => rotation,
                }
            }
            _ => panic!("no user has such a session"),
        };
        match rotation {
            RefreshOutcome::Rotated(grant) => Outcome::Rotated(grant.into()),
            RefreshOutcome::Reissued(grant) => Outcome::Reissued(grant.into()),
            RefreshOutcome::Rejected { reason, .. } => Outcome::Rejected(reason.reason()),
            RefreshOutcome::TimedOut => Outcome::TimedOut,
            RefreshOutcome::LooksLikeReuse => panic!("the date is final"),
        }
    }

    /// Prepares a refresh for a presented token.
    pub(crate) fn prepare(&self, refresh: &str, key: Option<&str>, client: ClientInfo) -> Refresh {
        let token = self.parse(refresh);
        let idempotency_key =
            key.map(|key| IdempotencyKey::parse(&format!("idempotency-key-{key:0>8}")).unwrap());
        let presented = PresentedToken { token, idempotency_key, client };
        let randomness = RotationRandomness::generate(self.now).unwrap();
        Refresh::new(presented, randomness, self.rules(), self.now)
    }

    /// Dates a rotation that was committed only now.
    pub(crate) fn redate(&mut self, attempt: &Refresh) {
        let rotation = (attempt.update.session, attempt.update.successor.as_bytes());
        redate(&mut self.conn, &[rotation], self.now).unwrap();
    }

    /// Resolves a refresh that did not rotate its session.
    pub(crate) fn resolve_conflict(&mut self, attempt: &Refresh) -> QueryResult<RefreshOutcome> {
        let rules = Rules { policy: &self.policy, token_keys: &self.token_keys };
        sessions::resolve_conflict(&mut self.conn, attempt, rules, ReuseByDate::Defer)
    }

    fn rules(&self) -> Rules<'_> {
        Rules { policy: &self.policy, token_keys: &self.token_keys }
    }

    /// Parses a token that must be genuine, of a native session or one of a client.
    pub(crate) fn parse(&self, refresh: &str) -> RefreshToken {
        let client = CLIENT.into();
        let parse = |client| RefreshToken::parse(refresh, client, &self.token_keys);
        parse(None).or_else(|| parse(Some(&client))).expect("a genuine token")
    }

    /// Logs the user out.
    pub(crate) fn log_out(&mut self, session: SessionId) -> bool {
        let event = EventId::new(self.now).unwrap();
        let client = device();
        let cx = Context { policy: &self.policy, client: &client, event, now: self.now };
        sessions::revoke(&mut self.conn, session, &cx).unwrap()
    }

    /// Clears the successor salts of tracked sessions, like the sweeper.
    pub(crate) fn clear_salts(&mut self, ids: &[SessionId]) -> usize {
        let lifetime = self.policy.reissue.map_or(Duration::ZERO, |rules| rules.grace_period);
        sessions::clear_salts(&mut self.conn, ids, lifetime, self.now).unwrap()
    }

    /// Runs a pass of the sweeper; returns the numbers of cleared salts and deleted sessions.
    pub(crate) fn sweep(&mut self) -> (usize, usize) {
        let Harness { conn, policy, now, .. } = self;
        let (mut at, mut cleared, mut deleted) = (None, 0, 0);
        loop {
            let swept =
                sessions::sweep(conn, Page { after: at, limit: 100 }, policy, *now).unwrap();
            cleared += swept.cleared;
            deleted += swept.deleted;
            match swept.last {
                Some(last) => at = Some(last),
                None => return (cleared, deleted),
            }
        }
    }

    /// Makes every session expire.
    pub(crate) fn expire(&mut self) {
        let micros = self.now.as_micros();
        let time = match self.conn {
            Conn::Postgres(_) => format!("'epoch'::timestamptz + {micros} * interval '1 us'"),
            Conn::Sqlite(_) => micros.to_string(),
        };
        self.sql(&format!("UPDATE sessions SET idle_expires_at = {time}"));
    }

    /// Reads a session.
    pub(crate) fn session(&mut self, session: SessionId) -> Option<Session> {
        find(&mut self.conn, session).unwrap()
    }

    /// Runs SQL of an operator.
    pub(crate) fn sql(&mut self, statement: &str) -> usize {
        diesel::sql_query(statement).execute(&mut self.conn).unwrap()
    }

    /// Returns the column `number` of a query.
    pub(crate) fn number(&mut self, query: &str) -> i64 {
        number(&mut self.conn, query)
    }

    /// The audit events (kind and reason), oldest first.
    pub(crate) fn events(&mut self) -> Vec<(String, String)> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            kind: String,
            #[diesel(sql_type = Text)]
            reason: String,
        }
        let query =
            "SELECT kind, coalesce(reason, '') AS reason FROM events ORDER BY occurred_at, id";
        let rows: Vec<Row> = diesel::sql_query(query).load(&mut self.conn).unwrap();
        rows.into_iter().map(|row| (row.kind, row.reason)).collect()
    }
}

/// Returns the column `number` of a query.
pub(crate) fn number(conn: &mut Conn, query: &str) -> i64 {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        number: i64,
    }
    diesel::sql_query(query).get_result::<Row>(conn).unwrap().number
}

fn token_keys(secrets: &[SecretString]) -> TokenKeys {
    DerivedKeys::from_secrets(&secrets[0], &secrets[1..]).unwrap().token_keys
}

/// Prepares a refresh with a genuine token of a session that does not exist.
fn foreign_refresh(rules: Rules<'_>, now: Timestamp) -> Refresh {
    let session = SessionId::new(UserId::random(), now).unwrap();
    let secret = Secret::random().unwrap();
    let token = RefreshToken { session, generation: 0, secret, client: None };
    let presented = PresentedToken { token, idempotency_key: None, client: device() };
    Refresh::new(presented, RotationRandomness::generate(now).unwrap(), rules, now)
}

pub(crate) fn device() -> ClientInfo {
    ClientInfo { user_agent: Some("test".to_owned()), ip: Some([192, 0, 2, 1].into()) }
}
