//! Random histories of two accounts, compared with a model: no session is alive that the
//! model says is over, and no login is possible that the model forbids.

use std::cell::Cell;

use matchbook_testkit::TestResponse;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::accounts_lifecycle::Operation;
use crate::support::{Server, Tokens, http};

/// The passwords of the accounts. `SetPassword` sets the second one.
const PASSWORDS: [&str; 2] = ["violet tractor seven hums", "marble lantern drifts north"];

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
}

/// An account as the model sees it. Without an id it does not exist.
struct Model {
    name: String,
    id: Option<String>,
    password: usize,
    is_disabled: bool,
    sessions: Vec<Session>,
}

impl Model {
    fn new(name: String) -> Self {
        Self { name, id: None, password: 0, is_disabled: false, sessions: Vec::new() }
    }

    fn end_all_but(&mut self, kept: Option<usize>) {
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
                    let tokens = Tokens::of(&response);
                    self.sessions.push(Session { tokens, is_alive: true });
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
                }
            }
            Action::Operator(operation) => self.operate(server, operation).await,
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

#[test]
fn random_histories_of_accounts_match_the_model() {
    let cases = std::env::var("PROPTEST_CASES").map_or(20, |cases| cases.parse().unwrap());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    // Without Redis, an operation of the command line takes effect at once.
    let mut server = Some(Server::with(|launch| launch.set("redis.url", "none")));
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
