//! Authorization codes: a code is the token before generation 0 of the session that it opens.

use std::time::Duration;

use matchbook_server::crypto::Secret;
use matchbook_server::ids::{EventId, SessionId, UserId};
use matchbook_server::sessions::{
    self, ClientInfo, CodeOutcome, Context, Login, Policy, PresentedCode, PresentedToken, Refresh,
    RefreshOutcome, ReuseByDate, Rules,
};
use matchbook_server::store::accounts::{self, NewAccount};
use matchbook_server::store::authorization_codes::{self, CodeGrant, StoredCode};
use matchbook_server::store::users;
use matchbook_server::tokens::{ClientGrant, RefreshToken, RotationRandomness, Scope};
use matchbook_shared::InvalidGrantReason::{self, Reuse, Superseded, UserDisabled};
use proptest::prelude::*;

use crate::harness::{
    CLIENT, DAY, DEFAULT, Harness, MINUTE, Outcome, SAME_KEY_ONLY, SECOND, START, STRICT,
    TokenPair, check_histories, device,
};
use crate::model::{Expected, Model};

const RETRY: Duration = Duration::from_secs(10);
const MICRO: Duration = Duration::from_micros(1);

impl Harness {
    /// Issues a code of a new account, which is valid for a minute.
    fn issue_code(&mut self) -> RefreshToken {
        let user = UserId::random();
        users::insert(&mut self.conn, user, self.now).unwrap();
        let account = NewAccount { user, display_name: None, password_hash: None, is_admin: false };
        assert!(accounts::insert(&mut self.conn, account, self.now).unwrap());
        let session = SessionId::new(user, self.now).unwrap();
        let secret = Secret::random().unwrap();
        let grant = CodeGrant {
            client: CLIENT.into(),
            user,
            redirect_uri: "https://app.example/cb".to_owned(),
            code_challenge: None,
            scope: Scope::parse("read").unwrap(),
            audiences: Vec::new(),
            nonce: None,
            auth_time: self.now,
            login_session: None,
            expires_at: self.now.after(MINUTE),
        };
        let digest = secret.digest();
        authorization_codes::insert(&mut self.conn, session, &digest, &grant, self.now).unwrap();
        let generation = RefreshToken::CODE_GENERATION;
        RefreshToken { session, generation, secret, client: Some(CLIENT.into()) }
    }

    /// Exchanges a code as its client, for the first time or again.
    fn exchange(&mut self, code: &RefreshToken, retry: Option<Duration>) -> Outcome {
        self.exchange_from(code, retry, device())
    }

    fn exchange_from(
        &mut self,
        code: &RefreshToken,
        retry: Option<Duration>,
        client: ClientInfo,
    ) -> Outcome {
        let digest = code.secret.digest();
        let found = authorization_codes::find(&mut self.conn, code.session, &digest).unwrap();
        let Some(StoredCode { grant, exchanged_at }) = found else {
            return self.exchange_again(code, None, client);
        };
        if let Some(exchanged_at) = exchanged_at {
            let retry = retry.filter(|retry| self.now <= exchanged_at.after(*retry));
            return self.exchange_again(code, retry, client);
        }
        let policy = self.policy.with_grace_period(retry);
        let RotationRandomness { salt, access, event } =
            RotationRandomness::generate(self.now).unwrap();
        let login = Login {
            user: grant.user,
            session: code.session,
            secret: code.secret.successor(&salt, &self.token_keys.current),
            access,
            claims: None,
            grant: Some(ClientGrant {
                client: grant.client,
                scope: grant.scope,
                audiences: grant.audiences,
                auth_time: Some(grant.auth_time),
            }),
            code: Some(PresentedCode {
                digest,
                salt: policy.reissue.map(|_| salt),
                login_session: None,
            }),
        };
        let Harness { conn, token_keys, now, .. } = self;
        let cx = Context { policy: &policy, client: &client, event, now: *now };
        match sessions::exchange_code(conn, login, &token_keys.current, &cx).unwrap() {
            CodeOutcome::Opened(grant) => Outcome::Rotated(grant.into()),
            CodeOutcome::Exchanged => self.exchange_again(code, retry, client),
            CodeOutcome::Rejected(reason) => Outcome::Rejected(reason.reason()),
        }
    }

    fn exchange_again(
        &mut self,
        code: &RefreshToken,
        retry: Option<Duration>,
        client: ClientInfo,
    ) -> Outcome {
        let policy = self.policy.with_grace_period(retry);
        let Harness { conn, token_keys, now, .. } = self;
        let rules = Rules { policy: &policy, token_keys };
        let presented = PresentedToken { token: code.clone(), idempotency_key: None, client };
        let randomness = RotationRandomness::generate(*now).unwrap();
        let refresh = Refresh::new(presented, randomness, rules, *now);
        match sessions::resolve_conflict(conn, &refresh, rules, ReuseByDate::Reject).unwrap() {
            RefreshOutcome::Reissued(grant) => Outcome::Reissued(grant.into()),
            RefreshOutcome::Rejected { reason, .. } => Outcome::Rejected(reason.reason()),
            RefreshOutcome::Rotated(_) => panic!("a code is never current"),
            RefreshOutcome::TimedOut | RefreshOutcome::LooksLikeReuse => panic!("no deadline"),
        }
    }

    /// Presents a code with a wrong verifier.
    fn spend(&mut self, code: &RefreshToken) {
        let event = EventId::new(self.now).unwrap();
        let client = device();
        let cx = Context { policy: &self.policy, client: &client, event, now: self.now };
        sessions::spend_code(&mut self.conn, code.session, &cx).unwrap();
    }

    /// Issues and exchanges a code.
    fn open_by_code(&mut self, retry: Option<Duration>) -> (RefreshToken, TokenPair) {
        let code = self.issue_code();
        let Outcome::Rotated(pair) = self.exchange(&code, retry) else { panic!("not opened") };
        (code, pair)
    }
}

#[test]
fn repeated_exchange_gets_the_same_tokens_until_the_retry_time_is_over() {
    let mut harness = Harness::new(DEFAULT);
    let (code, pair) = harness.open_by_code(Some(RETRY));
    for _ in 0..3 {
        assert_eq!(harness.exchange(&code, Some(RETRY)), Outcome::Reissued(pair.clone()));
    }
    harness.wait(RETRY);
    assert_eq!(harness.exchange(&code, Some(RETRY)), Outcome::Reissued(pair.clone()));
    harness.wait(MICRO);
    assert_eq!(harness.exchange(&code, Some(RETRY)), Outcome::Rejected(Reuse));
    assert_eq!(harness.present(&pair.refresh, None), Outcome::Rejected(Reuse));
    let kinds: Vec<_> = harness.events().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["logged_in", "reuse_detected"]);
}

#[test]
fn strict_exchange_ends_the_session_at_the_first_repetition() {
    for policy in [DEFAULT, STRICT] {
        let mut harness = Harness::new(policy);
        let (code, pair) = harness.open_by_code(None);
        assert_eq!(harness.exchange(&code, None), Outcome::Rejected(Reuse));
        assert_eq!(harness.present(&pair.refresh, None), Outcome::Rejected(Reuse));
    }
}

#[test]
fn exchange_repeated_after_a_refresh_is_superseded_within_the_retry_time_only() {
    let mut harness = Harness::new(DEFAULT);
    let (code, pair) = harness.open_by_code(Some(RETRY));
    harness.wait(9 * SECOND);
    let Outcome::Rotated(second) = harness.present(&pair.refresh, None) else { panic!() };
    harness.wait(SECOND);
    assert_eq!(harness.exchange(&code, Some(RETRY)), Outcome::Rejected(Superseded));
    harness.wait(MICRO);
    assert_eq!(harness.exchange(&code, Some(RETRY)), Outcome::Rejected(Reuse));
    assert_eq!(harness.present(&second.refresh, None), Outcome::Rejected(Reuse));
}

#[test]
fn code_is_recognized_after_its_row_was_deleted() {
    let mut harness = Harness::new(DEFAULT);
    let (code, pair) = harness.open_by_code(Some(RETRY));
    harness.sql("DELETE FROM authorization_codes");
    assert_eq!(harness.exchange(&code, Some(RETRY)), Outcome::Rejected(Reuse));
    assert_eq!(harness.present(&pair.refresh, None), Outcome::Rejected(Reuse));
}

#[test]
fn code_can_be_exchanged_until_it_expires() {
    let mut harness = Harness::new(DEFAULT);
    let code = harness.issue_code();
    harness.wait(Duration::from_micros(59_999_999));
    assert!(matches!(harness.exchange(&code, None), Outcome::Rotated(_)));
    let late = harness.issue_code();
    harness.wait(MINUTE);
    let unknown = Outcome::Rejected(InvalidGrantReason::Unknown);
    assert_eq!(harness.exchange(&late, Some(RETRY)), unknown);
    assert!(harness.session(late.session).is_none());
}

#[test]
fn wrong_verifier_spends_an_unused_code_and_ends_the_session_of_a_used_one() {
    let mut harness = Harness::new(DEFAULT);
    let unused = harness.issue_code();
    harness.spend(&unused);
    let unknown = Outcome::Rejected(InvalidGrantReason::Unknown);
    assert_eq!(harness.exchange(&unused, Some(RETRY)), unknown);
    let (code, pair) = harness.open_by_code(Some(RETRY));
    harness.spend(&code);
    assert_eq!(harness.exchange(&code, Some(RETRY)), Outcome::Rejected(Reuse));
    assert_eq!(harness.present(&pair.refresh, None), Outcome::Rejected(Reuse));
}

#[test]
fn code_of_a_disabled_user_opens_no_session_and_is_not_spent() {
    let mut harness = Harness::new(DEFAULT);
    let code = harness.issue_code();
    harness.sql("UPDATE accounts SET disabled_at = created_at");
    assert_eq!(harness.exchange(&code, Some(RETRY)), Outcome::Rejected(UserDisabled));
    harness.sql("UPDATE accounts SET disabled_at = NULL");
    assert!(matches!(harness.exchange(&code, Some(RETRY)), Outcome::Rotated(_)));
}

#[test]
fn reissue_to_another_address_is_recorded() {
    let mut harness = Harness::new(DEFAULT);
    let (code, pair) = harness.open_by_code(Some(RETRY));
    harness.wait(SECOND);
    let elsewhere = ClientInfo { ip: Some([198, 51, 100, 1].into()), ..device() };
    let again = harness.exchange_from(&code, Some(RETRY), elsewhere);
    assert_eq!(again, Outcome::Reissued(pair));
    assert_eq!(harness.events()[1].0, "reissued_elsewhere");
}

/// An action of the client or of a thief. The rules do not distinguish them: both present tokens
/// that they have seen.
#[derive(Debug, Clone)]
enum Action {
    /// The client or a thief exchanges the code.
    Exchange,
    /// The client or a thief presents the code with a wrong verifier.
    WrongVerifier,
    /// The client or a thief presents a refresh token, `n` generations before the newest.
    Show {
        age: usize,
        key: Option<u8>,
    },
    Wait(Duration),
    LogOut,
    /// The sweeper handles the tracked rotation.
    ClearSalt,
    /// The sweeper visits the row in its pass.
    Sweep,
    /// The sweeper deletes the code.
    DeleteCode,
    ChangeSecret,
}

fn action() -> impl Strategy<Value = Action> {
    let wait = prop_oneof![
        4 => (0..5_000_000u64).prop_map(Duration::from_micros),
        2 => Just(RETRY),
        1 => Just(RETRY + MICRO),
        2 => Just(Duration::from_secs(30)),
        1 => (0..700u64).prop_map(Duration::from_secs),
        1 => Just(DAY),
    ];
    let age = prop_oneof![6 => Just(0usize), 5 => Just(1), 2 => 2..5usize];
    let key = prop_oneof![2 => Just(None), 1 => (0..2u8).prop_map(Some)];
    prop_oneof![
        6 => Just(Action::Exchange),
        1 => Just(Action::WrongVerifier),
        8 => (age, key).prop_map(|(age, key)| Action::Show { age, key }),
        6 => wait.prop_map(Action::Wait),
        1 => Just(Action::LogOut),
        2 => Just(Action::ClearSalt),
        2 => Just(Action::Sweep),
        1 => Just(Action::DeleteCode),
        1 => Just(Action::ChangeSecret),
    ]
}

#[test]
fn random_histories_of_codes_match_the_model() {
    let policies = prop_oneof![3 => Just(DEFAULT), 1 => Just(SAME_KEY_ONLY), 1 => Just(STRICT)];
    let retry = prop_oneof![3 => Just(Some(RETRY)), 1 => Just(None)];
    let histories = (policies, retry, prop::collection::vec(action(), 1..50));
    check_histories(histories, |harness, (policy, retry, actions)| {
        harness.begin(policy);
        let code = harness.issue_code();
        let history = History { code, retry, chain: Vec::new(), model: None, deleted: false };
        history.play(harness, policy, &actions);
    });
}

struct History {
    code: RefreshToken,
    retry: Option<Duration>,
    /// The tokens by generation.
    chain: Vec<TokenPair>,
    /// The session, once the code was exchanged.
    model: Option<Model>,
    /// Whether the row of the code was deleted or spent.
    deleted: bool,
}

impl History {
    fn play(mut self, harness: &mut Harness, policy: Policy, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Wait(duration) => harness.wait(*duration),
                Action::ChangeSecret => harness.change_secret(),
                Action::Exchange => self.exchange(harness, policy),
                Action::WrongVerifier => {
                    harness.spend(&self.code);
                    match &mut self.model {
                        Some(model) => model.spend_code(harness.now),
                        None => self.deleted = true,
                    }
                }
                Action::DeleteCode => {
                    harness.sql("DELETE FROM authorization_codes");
                    self.deleted = true;
                    if let Some(model) = &mut self.model {
                        model.forget_code();
                    }
                }
                Action::LogOut if self.model.is_some() => {
                    harness.log_out(self.code.session);
                    self.model.as_mut().unwrap().log_out(harness.now);
                }
                Action::Sweep => {
                    harness.sweep();
                    if let Some(model) = &mut self.model {
                        model.sweep(harness.now);
                    }
                }
                Action::ClearSalt => self.clear_salt(harness),
                Action::Show { age, key } if !self.chain.is_empty() => {
                    let generation = (self.chain.len() - 1).saturating_sub(*age);
                    let model = self.model.as_mut().unwrap();
                    let expected = model.present(generation + 1, *key, harness.now);
                    let token = self.chain[generation].refresh.clone();
                    let key = key.map(|key| key.to_string());
                    let response = harness.present(&token, key.as_deref());
                    self.check(&response, expected);
                }
                Action::LogOut | Action::Show { .. } => {}
            }
        }
        let opened = harness.number("SELECT count(*) AS number FROM sessions");
        assert!(opened <= 1, "one session for a code");
    }

    fn exchange(&mut self, harness: &mut Harness, policy: Policy) {
        let response = harness.exchange(&self.code, self.retry);
        if let Some(model) = &mut self.model {
            let expected = model.present(0, None, harness.now);
            return self.check(&response, expected);
        }
        let is_valid = !self.deleted && harness.now < START.after(MINUTE);
        match response {
            Outcome::Rotated(pair) if is_valid => {
                self.chain.push(pair);
                let code = policy.with_grace_period(self.retry);
                self.model = Some(Model::open_by_code(policy, code, harness.now));
            }
            Outcome::Rejected(InvalidGrantReason::Unknown) if !is_valid => {}
            response => panic!("{response:?} to a code, valid: {is_valid}"),
        }
    }

    /// The server that has rotated the session clears its salt. That of a code is kept for the
    /// longest grace period of a client.
    fn clear_salt(&mut self, harness: &mut Harness) {
        let Some(model) = &mut self.model else { return };
        if self.chain.len() > 1 {
            harness.clear_salts(&[self.code.session]);
            model.clear_salt(harness.now);
        }
    }

    fn check(&mut self, response: &Outcome, expected: Expected) {
        let newest = self.chain.last().unwrap().clone();
        match (response, expected) {
            (Outcome::Rotated(pair), Expected::Rotated) => self.chain.push(pair.clone()),
            (Outcome::Reissued(pair), Expected::Reissued) => assert_eq!(*pair, newest),
            (Outcome::Reissued(pair), Expected::ReissuedWithNewAccess) => {
                assert_eq!(pair.refresh, newest.refresh);
                *self.chain.last_mut().unwrap() = pair.clone();
            }
            (Outcome::Rejected(reason), Expected::Rejected(expected)) => {
                assert_eq!(*reason, expected);
            }
            _ => panic!("{response:?} where the model says {expected:?}"),
        }
    }
}
