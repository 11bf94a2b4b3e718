//! Links that work once: invitations and resets of a password.

use std::time::Duration;

use matchbook_server::accounts::{self, Invitation, LinkToken, LoginName, ResetLink};
use matchbook_server::clock;
use matchbook_server::ids::{EventId, UserId};
use matchbook_server::sessions::{ClientInfo, Context, Policy};
use matchbook_testkit::TestResponse;
use serde_json::json;

use crate::support::Server;

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

/// The rules of links use none of these.
const POLICY: Policy = Policy {
    access_lifetime: Duration::ZERO,
    idle_lifetime: Duration::ZERO,
    absolute_lifetime: Duration::ZERO,
    retention: Duration::ZERO,
    reissue: None,
    accept_ahead_of_database: false,
};

impl Server {
    /// Runs a rule as the command line does.
    pub(crate) fn by_command_line<T>(
        &self,
        rule: impl FnOnce(&mut matchbook_server::store::Conn, &LinkToken, &Context<'_>) -> T,
    ) -> (T, String) {
        let now = clock::now();
        let client = ClientInfo::command_line();
        let event = EventId::new(now).unwrap();
        let cx = Context { policy: &POLICY, client: &client, event, now };
        let token = LinkToken::random().unwrap();
        let done = rule(&mut self.database(), &token, &cx);
        (done, token.encode())
    }

    /// Invites a user and returns the token of the link.
    pub(crate) fn invite(&self, name: Option<&str>, is_admin: bool) -> String {
        let name = name.map(|name| LoginName::parse(name).unwrap());
        let invitation =
            Invitation { user: UserId::random(), name: name.as_ref(), is_admin, is_mailed: false };
        let (invited, token) =
            self.by_command_line(|conn, token, cx| accounts::invite(conn, token, invitation, cx));
        assert!(invited.unwrap(), "the name is free");
        token
    }

    pub(crate) async fn accept(
        &self,
        token: &str,
        name: Option<&str>,
        password: &str,
    ) -> TestResponse {
        let mut body = json!({ "token": token, "password": password });
        if let Some(name) = name {
            body["name"] = name.into();
        }
        self.post_json("/invitations/accept", &body).await
    }

    /// Creates a reset link of an account and returns its token.
    pub(crate) fn reset_link(&self, user: &str) -> String {
        let user = UserId(user.parse().unwrap());
        let link = ResetLink { user, mailed_to: None };
        let (created, token) =
            self.by_command_line(|conn, token, cx| accounts::reset_link(conn, token, link, cx));
        assert!(created.unwrap(), "the account exists");
        token
    }

    pub(crate) async fn reset(&self, token: &str, new: &str) -> TestResponse {
        self.post_json("/password/reset", &json!({ "token": token, "new": new })).await
    }

    /// Lets all links expire.
    pub(crate) fn expire_links(&self) {
        let past =
            if self.world.database_url().starts_with("sqlite") { "1" } else { "to_timestamp(1)" };
        self.sql(&format!("UPDATE one_time_links SET expires_at = {past}"));
    }
}

pub(crate) fn outcome(response: &TestResponse) -> (u16, String) {
    (response.status, response.field("error"))
}

const INVALID: (u16, &str) = (400, "invalid_link");

pub(crate) fn assert_invalid(response: &TestResponse) {
    let (status, error) = outcome(response);
    assert_eq!((status, error.as_str()), INVALID);
}

#[actix_rt::test]
async fn invited_user_registers_once_where_registration_needs_an_invitation() {
    let server = Server::with(|launch| launch.set("accounts.registration", "invite"));
    let token = server.invite(Some("Ann@example.com"), true);
    // Rejected requests do not use the link.
    let weak = server.accept(&token, None, "password1234").await;
    assert_eq!(outcome(&weak), (400, "unacceptable_password".into()));
    let other = server.accept(&token, Some("bob"), PASSWORD).await;
    assert_eq!(outcome(&other), (400, "invalid_request".into()));

    let accepted = server.accept(&token, Some("ANN@example.com"), PASSWORD).await;
    assert_eq!(accepted.status, 201, "{}", accepted.text);
    let tokens = server.log_in_as("ann@example.com", PASSWORD).await;
    assert_eq!(tokens.claims()["sub"], *accepted.field("userId"));
    let user = server.http.get_as("/user", &tokens.access).await.json();
    assert_eq!(user["emailVerified"], false, "the link was not mailed");
    assert_eq!(server.number("SELECT count(*) AS number FROM accounts WHERE is_admin"), 1);
    for password in [PASSWORD, OTHER] {
        assert_invalid(&server.accept(&token, None, password).await);
    }
}

#[actix_rt::test]
async fn invitation_without_a_name_lets_the_user_choose_one_that_is_free() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let token = server.invite(None, false);
    let missing = server.accept(&token, None, PASSWORD).await;
    assert_eq!(outcome(&missing), (400, "invalid_request".into()));
    let taken = server.accept(&token, Some("ann"), PASSWORD).await;
    assert_eq!(outcome(&taken), (409, "name_taken".into()));
    let invalid = server.accept(&token, Some("a b"), PASSWORD).await;
    assert_eq!(outcome(&invalid), (400, "invalid_name".into()));
    assert_eq!(server.accept(&token, Some("bob"), PASSWORD).await.status, 201);
    assert_eq!(server.number("SELECT count(*) AS number FROM accounts WHERE is_admin"), 0);
}

#[actix_rt::test]
async fn concurrent_uses_of_an_invitation_create_one_account() {
    let server = Server::start();
    let token = server.invite(None, false);
    let names = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"];
    let requests = names.iter().map(|name| server.accept(&token, Some(name), PASSWORD));
    let responses = futures_util::future::join_all(requests).await;
    let (accepted, rejected): (Vec<_>, Vec<_>) =
        responses.iter().partition(|response| response.status == 201);
    assert_eq!(accepted.len(), 1);
    rejected.into_iter().for_each(assert_invalid);
    for table in ["accounts", "users", "identities"] {
        assert_eq!(server.number(&format!("SELECT count(*) AS number FROM {table}")), 1, "{table}");
    }
}

#[actix_rt::test]
async fn expired_unknown_and_replaced_invitations_get_one_error() {
    let server = Server::start();
    let replaced = server.invite(Some("ann"), false);
    let current = server.invite(Some("ann"), false);
    let unknown = LinkToken::random().unwrap().encode();
    let mut texts = Vec::new();
    for token in [&replaced, &unknown, "mb_ln_", "x"] {
        let response = server.accept(token, None, PASSWORD).await;
        assert_invalid(&response);
        texts.push(response.text);
    }
    server.expire_links();
    let expired = server.accept(&current, None, PASSWORD).await;
    assert_invalid(&expired);
    texts.push(expired.text);
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[actix_rt::test]
async fn name_of_an_account_cannot_be_invited() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let name = LoginName::parse("ann").unwrap();
    let invitation =
        Invitation { user: UserId::random(), name: Some(&name), is_admin: true, is_mailed: false };
    let (invited, token) =
        server.by_command_line(|conn, token, cx| accounts::invite(conn, token, invitation, cx));
    assert!(!invited.unwrap());
    assert_invalid(&server.accept(&token, None, PASSWORD).await);
}

#[actix_rt::test]
async fn reset_link_sets_a_password_once_and_ends_all_sessions() {
    let server = Server::start();
    let id = server.register("ann@example.com", PASSWORD).await;
    let here = server.log_in_as("ann@example.com", PASSWORD).await;
    let replaced = server.reset_link(&id);
    let token = server.reset_link(&id);
    assert_invalid(&server.reset(&replaced, OTHER).await);
    let weak = server.reset(&token, "ann@example.com").await;
    assert_eq!(outcome(&weak), (400, "unacceptable_password".into()));

    let requests = [OTHER, "quiet harbour nine lamps"].map(|new| server.reset(&token, new));
    let responses = futures_util::future::join_all(requests).await;
    let (done, rejected): (Vec<_>, Vec<_>) =
        responses.iter().partition(|response| response.status == 204);
    assert_eq!(done.len(), 1, "{responses:?}");
    rejected.into_iter().for_each(assert_invalid);
    assert_eq!(server.user(&here.access).await, 401);
    assert_eq!(server.refresh(&here.refresh).await.field("reason"), "password_changed");
    assert_eq!(server.try_log_in_as("ann@example.com", PASSWORD).await.status, 401);
    let verified = "SELECT count(*) AS number FROM identities WHERE verified_at IS NOT NULL";
    assert_eq!(server.number(verified), 0, "the link was not mailed");
    assert_invalid(&server.reset(&token, PASSWORD).await);
}

#[actix_rt::test]
async fn change_of_the_password_disabling_and_expiry_void_a_reset_link() {
    let server = Server::start();
    let id = server.register("ann", PASSWORD).await;
    let here = server.log_in_as("ann", PASSWORD).await;
    let token = server.reset_link(&id);
    let change = json!({ "current": PASSWORD, "new": OTHER });
    assert_eq!(server.post_json_as("/password", &change, &here.access).await.status, 204);
    assert_invalid(&server.reset(&token, PASSWORD).await);

    let token = server.reset_link(&id);
    server.expire_links();
    assert_invalid(&server.reset(&token, PASSWORD).await);

    let token = server.reset_link(&id);
    let user = UserId(id.parse().unwrap());
    let (disabled, _) = server.by_command_line(|conn, _, cx| accounts::disable(conn, user, cx));
    assert!(disabled.unwrap().is_some());
    assert_invalid(&server.reset(&token, PASSWORD).await);
}

#[actix_rt::test]
async fn forgotten_password_without_mail_points_the_operator_to_the_command() {
    let server = Server::start();
    let id = server.register("ann", PASSWORD).await;
    for name in ["bob", "ann"] {
        let response = server.post_json("/password/forgot", &json!({ "name": name })).await;
        assert_eq!((response.status, response.text.as_str()), (202, ""), "{name}");
    }
    let logged = server.process.await_log("users reset-password");
    assert!(logged.contains(&id), "{logged}");
    assert_eq!(server.process.logged("users reset-password"), 1);
    assert_eq!(server.number("SELECT count(*) AS number FROM one_time_links"), 0);
}

#[actix_rt::test]
async fn steps_of_links_are_in_the_audit_log() {
    let server = Server::start();
    let token = server.invite(Some("ann"), false);
    let id = server.accept(&token, None, PASSWORD).await.field("userId");
    let token = server.reset_link(&id);
    server.reset(&token, OTHER).await;
    for kind in ["invited", "account_registered", "reset_link_created", "password_reset"] {
        let query = format!("SELECT count(*) AS number FROM events WHERE kind = '{kind}'");
        assert_eq!(server.number(&query), 1, "{kind}");
    }
}
