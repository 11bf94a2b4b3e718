//! Which ends of sessions clients are notified of.

use super::*;
use crate::browser::between;
use crate::oauth::{VERIFIER, exchange_of, set, tokens};
use crate::support::Tokens;

/// A user with a session of a client.
struct User {
    name: &'static str,
    id: String,
    browser: Browser,
    session: Value,
}

impl Server {
    /// Registers a user, who logs in at a client.
    async fn user_at(&self, name: &'static str, client: &Client) -> User {
        self.register(name, PASSWORD).await;
        let browser = Browser::at(self);
        browser.log_in(name, PASSWORD).await;
        let session = self.open_id(&browser, client, "openid").await;
        let id = text(&claims(&session), "sub");
        User { name, id, browser, session }
    }

    /// Submits an action of the page of the account.
    async fn act(&self, user: &User, action: &str, fields: &[(&str, &str)]) {
        let page = user.browser.get("/account").await;
        let csrf = between(&page.text, "name=\"csrf\" value=\"", "\"");
        let mut form = vec![("csrf".to_owned(), csrf), ("action".to_owned(), action.to_owned())];
        form.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let response = user.browser.post("/account", &form).await;
        assert!(matches!(response.status, 200 | 303), "{action}: {}", response.text);
    }
}

#[actix_rt::test]
async fn client_is_notified_of_every_end_by_its_user() {
    let (server, _) = server_with(|launch| launch).await;
    let receiver = Receiver::start(Script::default());
    let client = server.add_notified("App", &receiver.uri("/logout"));
    let jwks = server.http.get("/.well-known/jwks.json").await.json();
    let mut count = 0;
    let mut check = async |end: &str, user: &User| {
        count += 1;
        receiver.await_count(count).await;
        let (_, token) = receiver.received()[count - 1].verified(&jwks);
        assert_eq!(
            (text(&token, "sid"), text(&token, "sub")),
            (sid(&user.session), user.id.clone()),
            "{end}"
        );
    };

    let user = server.user_at("u1", &client).await;
    server.revoke_by(&client, &user.session).await;
    check("revocation of the refresh token", &user).await;

    let user = server.user_at("u2", &client).await;
    let access = text(&user.session, "access_token");
    server.as_client("/oauth/revoke", &client, &vec![("token", access.into())]).await;
    check("revocation of the access token", &user).await;

    let user = server.user_at("u3", &client).await;
    let hint = text(&user.session, "id_token");
    user.browser.end_session(&[("id_token_hint", &hint)]).await;
    check("logout that the client initiates", &user).await;

    let user = server.user_at("u4", &client).await;
    server.act(&user, "end-session", &[("id", &sid(&user.session))]).await;
    check("end of one session on the page of the account", &user).await;

    let user = server.user_at("u5", &client).await;
    server.act(&user, "end-all", &[]).await;
    check("logout everywhere on the page of the account", &user).await;

    let user = server.user_at("u6", &client).await;
    server.act(&user, "revoke-consent", &[("id", &client.id)]).await;
    check("revocation of the consent", &user).await;

    let new = "marble lantern drifts north";
    let user = server.user_at("u7", &client).await;
    let fields = [("current", PASSWORD), ("password", new), ("repeated", new)];
    server.act(&user, "change-password", &fields).await;
    check("change of the password", &user).await;

    let user = server.user_at("u8", &client).await;
    server.reset(&server.reset_link(&user.id), new).await;
    check("reset of the password", &user).await;

    let user = server.user_at("u9", &client).await;
    let native = server.log_in_as(user.name, PASSWORD).await;
    let all = server.http.request("DELETE", "/sessions?keep=current").bearer_auth(&native.access);
    assert_eq!(matchbook_testkit::TestResponse::of(all.send()).await.status, 200);
    check("logout everywhere by a token", &user).await;
    Tokens::of(&server.refresh(&native.refresh).await);

    let user = server.user_at("u10", &client).await;
    server.act(&user, "delete", &[("current", PASSWORD)]).await;
    check("deletion of the account", &user).await;
    assert_eq!(server.pending(), 0);
}

#[actix_rt::test]
async fn client_is_notified_of_every_end_by_an_operator_or_a_thief() {
    let (server, _) = server_with(|launch| {
        launch.set("oauth.grace_period", "none").set("oauth.code_retry", "none")
    })
    .await;
    let receiver = Receiver::start(Script::default());
    let client = server.add_notified("App", &receiver.uri("/logout"));
    let jwks = server.http.get("/.well-known/jwks.json").await.json();
    let mut count = 0;
    let mut check = async |end: &str, expected: &str| {
        count += 1;
        receiver.await_count(count).await;
        let (_, token) = receiver.received()[count - 1].verified(&jwks);
        assert_eq!(text(&token, "sid"), expected, "{end}");
    };
    let run = |arguments: &[&str]| {
        let output = server.world.server(binary()).run(arguments);
        assert!(output.status.success(), "{output:?}");
    };

    let user = server.user_at("u1", &client).await;
    run(&["users", "disable", user.name]);
    check("disabled user", &sid(&user.session)).await;

    let user = server.user_at("u2", &client).await;
    run(&["users", "delete", user.name]);
    check("deleted user", &sid(&user.session)).await;

    let user = server.user_at("u3", &client).await;
    run(&["users", "sessions", user.name, "--end"]);
    check("sessions of a user", &sid(&user.session)).await;

    let user = server.user_at("u4", &client).await;
    run(&["sessions", "end", "--user", &user.id]);
    check("selected sessions", &sid(&user.session)).await;

    let user = server.user_at("u5", &client).await;
    let old = text(&user.session, "refresh_token");
    tokens(&server.refresh_by(&client, &old).await);
    assert_eq!(server.refresh_by(&client, &old).await.status, 400);
    check("reuse of a refresh token", &sid(&user.session)).await;

    let mut request = client.request();
    set(&mut request, "scope", "openid");
    let code = user.browser.code(&request).await;
    let session = tokens(&server.token(&client, &exchange_of(&code)).await);
    assert_eq!(server.token(&client, &exchange_of(&code)).await.status, 400);
    check("reuse of a code", &sid(&session)).await;

    let code = user.browser.code(&request).await;
    let session = tokens(&server.token(&client, &exchange_of(&code)).await);
    let mut wrong = exchange_of(&code);
    let verifier = VERIFIER.replace('d', "e");
    set(&mut wrong, "code_verifier", &verifier);
    assert_eq!(server.token(&client, &wrong).await.status, 400);
    check("wrong verifier", &sid(&session)).await;
    eventually(0, async || server.pending()).await;
}

#[actix_rt::test]
async fn clients_are_notified_only_of_their_own_sessions_with_a_user() {
    let (server, browser) = server_with(|launch| launch).await;
    let receiver = Receiver::start(Script::default());
    let uri = receiver.uri("/logout");
    let client = server.add_notified("App", &uri);
    let silent = server.add_spa();
    let options = ["--confidential", "--machine", "--backchannel-logout-uri", &uri];
    let machine = server.register_client("Machine", &options);
    let other = server.open_id(&browser, &silent, "openid").await;
    server.revoke_by(&silent, &other).await;
    let native = server.log_in_as("ann", PASSWORD).await;
    let form = format!("refresh_token={}", native.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    let grant = vec![("grant_type", "client_credentials".into())];
    let token = text(&tokens(&server.token(&machine, &grant).await), "access_token");
    server.as_client("/oauth/revoke", &machine, &vec![("token", token.into())]).await;
    assert_eq!(server.pending(), 0);
    let own = server.open_id(&browser, &client, "email").await;
    server.revoke_by(&client, &own).await;
    receiver.await_count(1).await;
    let jwks = server.http.get("/.well-known/jwks.json").await.json();
    assert_eq!(receiver.received()[0].verified(&jwks).1["sid"], sid(&own));
    // A refresh token that was revoked before is revoked again.
    server.revoke_by(&client, &own).await;
    eventually(0, async || server.pending()).await;
    assert_eq!(receiver.count(), 1);
}
