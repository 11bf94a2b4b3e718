//! Random histories of two accounts, compared with a model: no session is alive that the
//! model says is over, and no login is possible that the model forbids.

use std::cell::Cell;

use matchbook_testkit::TestResponse;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use uuid::Uuid;

use crate::accounts_lifecycle::Operation;
use crate::imported_tokens::sha256;
use crate::support::{Server, Tokens, binary, eventually, http};
use crate::user_import::{DJANGO, HTPASSWD};

/// The passwords of the accounts. `SetPassword` sets the second one.
const PASSWORDS: [&str; 2] = ["violet tractor seven hums", "marble lantern drifts north"];

/// Hashes of the first password by other programs.
const HASHES: [&str; 2] = [DJANGO, HTPASSWD];

/// An action on one of the two accounts.
#[derive(Debug, Clone, Copy)]
enum Action {
    Register {
        password: usize,
    },
    LogIn {
        password: usize,
    },
    /// Changes the password in one of the sessions.
    Change {
        session: usize,
        current: usize,
        new: usize,
    },
    Refresh {
        session: usize,
    },
    /// Imports the account with the hash of another program, and with two refresh tokens.
    Import {
        hash: usize,
    },
    /// Presents an imported refresh token.
    Exchange {
        token: usize,
    },
    LogOutEverywhere {
        session: usize,
    },
    /// Deletes the account in one of its sessions.
    DeleteOwn {
        session: usize,
        password: usize,
    },
    Operator(Operation),
}

fn action() -> impl Strategy<Value = Action> {
    let password = || prop_oneof![3 => Just(0usize), 1 => Just(1)];
    let session = || 0..4usize;
    prop_oneof![
        4 => password().prop_map(|password| Action::Register { password }),
        6 => password().prop_map(|password| Action::LogIn { password }),
        2 => (session(), password(), 0..2usize)
            .prop_map(|(session, current, new)| Action::Change { session, current, new }),
        3 => session().prop_map(|session| Action::Refresh { session }),
        2 => (0..HASHES.len()).prop_map(|hash| Action::Import { hash }),
        4 => (0..4usize).prop_map(|token| Action::Exchange { token }),
        1 => session().prop_map(|session| Action::LogOutEverywhere { session }),
        1 => (session(), password())
            .prop_map(|(session, password)| Action::DeleteOwn { session, password }),
        2 => Just(Action::Operator(Operation::Disable)),
        3 => Just(Action::Operator(Operation::Enable)),
        1 => Just(Action::Operator(Operation::Delete)),
        1 => Just(Action::Operator(Operation::SetPassword)),
    ]
}

/// A session as the model sees it.
struct Session {
    tokens: Tokens,
    is_alive: bool,
    /// Whether it was refreshed with a token of this server.
    is_refreshed: bool,
}

/// An imported refresh token as the model sees it.
struct ImportedToken {
    text: String,
    /// The session that it opened.
    session: Option<usize>,
    is_revoked: bool,
}

/// An account as the model sees it. Without an id it does not exist.
struct Model {
    name: String,
    id: Option<String>,
    password: usize,
    is_disabled: bool,
    sessions: Vec<Session>,
    imported: Vec<ImportedToken>,
}

impl Model {
    fn new(name: String) -> Self {
        Self {
            name,
            id: None,
            password: 0,
            is_disabled: false,
            sessions: Vec::new(),
            imported: Vec::new(),
        }
    }

    fn open(&mut self, tokens: Tokens) {
        self.sessions.push(Session { tokens, is_alive: true, is_refreshed: false });
    }

    /// Ends sessions, and revokes imported tokens that have opened none.
    fn end_all_but(&mut self, kept: Option<usize>) {
        for token in &mut self.imported {
            token.is_revoked |= token.session.is_none();
        }
        for (n, session) in self.sessions.iter_mut().enumerate() {
            session.is_alive &= Some(n) == kept;
        }
    }

    /// The expected status of a login.
    fn log_in_status(&self, password: usize) -> u16 {
        match (&self.id, self.password == password, self.is_disabled) {
            (None, ..) | (_, false, _) => 401,
            (_, true, true) => 403,
            (_, true, false) => 200,
        }
    }

    /// Carries out an action at the server, and compares the outcome.
    async fn apply(&mut self, server: &Server, action: Action) {
        match action {
            Action::Register { password } => {
                let body = json!({ "name": self.name, "password": PASSWORDS[password] });
                let response = server.post_json("/register", &body).await;
                let expected = if self.id.is_some() { 409 } else { 201 };
                assert_eq!(response.status, expected, "{}", response.text);
                if expected == 201 {
                    self.id = Some(response.field("userId"));
                    self.password = password;
                    self.is_disabled = false;
                }
            }
            Action::LogIn { password } => {
                let response = server.try_log_in_as(&self.name, PASSWORDS[password]).await;
                assert_eq!(response.status, self.log_in_status(password), "{}", response.text);
                if response.status == 200 {
                    self.open(Tokens::of(&response));
                }
            }
            Action::Change { session, current, new } => {
                let body = json!({ "current": PASSWORDS[current], "new": PASSWORDS[new] });
                let Some(response) = self.send(server, session, ("POST", "/password"), body).await
                else {
                    return;
                };
                if self.assert_proven(session, current, &response) {
                    self.password = new;
                    self.end_all_but(Some(session));
                }
            }
            Action::DeleteOwn { session, password } => {
                let body = json!({ "password": PASSWORDS[password] });
                let Some(response) = self.send(server, session, ("DELETE", "/account"), body).await
                else {
                    return;
                };
                if self.assert_proven(session, password, &response) {
                    self.id = None;
                    self.end_all_but(None);
                }
            }
            Action::LogOutEverywhere { session } => {
                let Some(response) =
                    self.send(server, session, ("DELETE", "/sessions"), json!({})).await
                else {
                    return;
                };
                if self.sessions[session].is_alive {
                    assert_eq!(response.status, 200, "{}", response.text);
                    self.end_all_but(None);
                } else {
                    assert_eq!(response.status, 401, "{}", response.text);
                }
            }
            Action::Refresh { session } => {
                let Some(session) = self.sessions.get_mut(session) else { return };
                let response = server.refresh(&session.tokens.refresh).await;
                assert_eq!(response.status, if session.is_alive { 200 } else { 401 });
                if session.is_alive {
                    session.tokens = Tokens::of(&response);
                    session.is_refreshed = true;
                }
            }
            Action::Import { hash } => self.import(server, HASHES[hash]).await,
            Action::Exchange { token } => self.exchange(server, token).await,
            Action::Operator(operation) => self.operate(server, operation).await,
        }
    }

    /// Imports the account. This fails if it exists.
    async fn import(&mut self, server: &Server, hash: &str) {
        let id = Uuid::new_v4().to_string();
        let tokens = [(); 2].map(|()| Uuid::new_v4().to_string());
        let line = json!({
            "id": id, "name": self.name, "password_hash": hash,
            "refresh_token_sha256": tokens.each_ref().map(|token| sha256(token)),
        });
        if self.id.is_some() {
            let error = server.import(&[line], &[]).unwrap_err();
            assert!(error.contains("exists"), "{error}");
            return;
        }
        import_without_waiting(server, &line, &self.name).await;
        let imported = |text| ImportedToken { text, session: None, is_revoked: false };
        self.imported.extend(tokens.map(imported));
        self.id = Some(id);
        self.password = 0;
        self.is_disabled = false;
    }

    /// Presents an imported token. Its first use opens a session, and the next ones get the
    /// same response until the session is refreshed.
    async fn exchange(&mut self, server: &Server, token: usize) {
        let Some(token) = self.imported.get_mut(token) else { return };
        let response = server.refresh(&token.text).await;
        let opened = token.session.map(|session| &self.sessions[session]);
        let is_valid = match opened {
            Some(session) => session.is_alive && !session.is_refreshed,
            None => !token.is_revoked,
        };
        assert_eq!(response.status, if is_valid { 200 } else { 401 }, "{}", response.text);
        match opened {
            Some(session) if is_valid => {
                assert_eq!(Tokens::of(&response).refresh, session.tokens.refresh);
            }
            None if is_valid => {
                token.session = Some(self.sessions.len());
                self.open(Tokens::of(&response));
            }
            _ => {}
        }
    }

    async fn operate(&mut self, server: &Server, operation: Operation) {
        let Some(id) = &self.id else { return };
        let changed = server.operate(operation, id).await;
        let expected = match operation {
            Operation::Disable => !self.is_disabled,
            Operation::Enable => self.is_disabled,
            Operation::Delete | Operation::SetPassword => true,
        };
        assert_eq!(changed, expected, "{operation:?}");
        match operation {
            Operation::Disable => self.is_disabled = true,
            Operation::Enable => {
                self.is_disabled = false;
                return;
            }
            Operation::Delete => self.id = None,
            Operation::SetPassword => self.password = 1,
        }
        self.end_all_but(None);
    }

    /// Sends a request of a session, if there is one.
    async fn send(
        &self,
        server: &Server,
        session: usize,
        request: (&str, &str),
        body: serde_json::Value,
    ) -> Option<TestResponse> {
        let session = self.sessions.get(session)?;
        Some(server.json_as(request, &body, &session.tokens.access).await)
    }

    /// Asserts the status of a request with a password. Returns whether it succeeded.
    fn assert_proven(&self, session: usize, password: usize, response: &TestResponse) -> bool {
        let is_permitted = self.sessions[session].is_alive && self.password == password;
        let expected = if is_permitted { 204 } else { 401 };
        assert_eq!(response.status, expected, "{}", response.text);
        is_permitted
    }

    /// Asserts that exactly the sessions of the model are alive.
    async fn check(&self, server: &Server) {
        for session in &self.sessions {
            let expected = if session.is_alive { 200 } else { 401 };
            assert_eq!(server.user(&session.tokens.access).await, expected);
        }
    }
}

/// Imports one user. The command waits until every server knows that there are imported
/// tokens. The server of this test knows, so this function waits for the user only.
async fn import_without_waiting(server: &Server, line: &serde_json::Value, name: &str) {
    let file = server.world.folder().join("user.jsonl");
    std::fs::write(&file, line.to_string()).unwrap();
    let mut command = server.world.server(binary()).command();
    let mut command = command.args(["users", "import"]).arg(file).spawn().unwrap();
    let imported = format!("SELECT count(*) AS number FROM identities WHERE name = '{name}'");
    eventually(1, async || server.number(&imported)).await;
    command.kill().unwrap();
    command.wait().unwrap();
}

#[test]
fn random_histories_of_accounts_match_the_model() {
    let cases = std::env::var("PROPTEST_CASES").map_or(20, |cases| cases.parse().unwrap());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    // Without Redis, an operation of the command line takes effect at once.
    let mut server = Some(Server::with(|launch| {
        launch.set("redis.url", "none").set("rotation.grace_period", "5m")
    }));
    let token = json!({ "name": "another", "refresh_token_sha256": sha256("never used") });
    server.as_ref().unwrap().import(&[token], &[]).unwrap();
    actix_rt::System::new().block_on(async {
        server.as_ref().unwrap().register("other", PASSWORDS[1]).await;
    });
    let server = std::cell::RefCell::new(server.take().unwrap());
    let history = prop::collection::vec((0..2usize, action()), 1..25);
    let case = Cell::new(0);
    let outcome = TestRunner::new(config).run(&history, |history| {
        case.set(case.get() + 1);
        let mut server = server.borrow_mut();
        actix_rt::System::new().block_on(async {
            // The connections of a client end with the system that opened them.
            server.http = http(&server.world, &server.process);
            let mut models = ["ann", "bob"].map(|name| Model::new(format!("{name}{}", case.get())));
            for (account, action) in history {
                models[account].apply(&server, action).await;
                for model in &models {
                    model.check(&server).await;
                }
            }
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
