//! The device authorization grant (RFC 8628): the requests of the device.

use std::time::Duration;

use matchbook_testkit::TestResponse;
use serde_json::{Value, json};

use super::refreshing::claims;
use super::{
    Client, Parameters, REDIRECT_URI, assert_error, server_with, set, tampered, text, tokens,
};
use crate::browser::{Browser, between};
use crate::support::{Server, decode};

pub(crate) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// The URL of the page, in tests the default of `server.public_url`.
const PAGE: &str = "https://localhost:5001/device";

impl Server {
    /// Registers a public client of another party, which only devices use.
    pub(crate) fn add_tv(&self) -> Client {
        self.register_client("Tele<Vision>", &["--public", "--device", "--scope", "read write"])
    }

    /// Registers a confidential client of the operator, which devices and browsers use.
    pub(super) fn add_box(&self) -> Client {
        let options = ["--confidential", "--device", "--first-party", "--scope", "read"];
        let redirect = ["--redirect-uri", REDIRECT_URI];
        self.register_client("Box", &[options.as_slice(), &redirect].concat())
    }

    /// Requests the codes of a device.
    pub(crate) async fn begin_device(&self, client: &Client, scope: &str) -> Device {
        let mut parameters = Vec::new();
        set(&mut parameters, "scope", scope);
        self.begin_device_with(client, &parameters).await
    }

    async fn begin_device_with(&self, client: &Client, parameters: &Parameters<'_>) -> Device {
        let response = self.as_client("/oauth/device", client, parameters).await;
        assert_eq!(response.status, 200, "{}", response.text);
        assert_eq!(response.header("content-type"), "application/json");
        assert_eq!(response.header("cache-control"), "no-store");
        let body = response.json();
        let (code, user_code) = (text(&body, "device_code"), text(&body, "user_code"));
        Device { client: client.clone(), code, user_code, body }
    }

    /// Polls for the tokens of a device.
    pub(crate) async fn poll(&self, device: &Device) -> TestResponse {
        self.poll_with(&device.client, &device.code).await
    }

    async fn poll_with(&self, client: &Client, code: &str) -> TestResponse {
        let parameters = vec![("grant_type", GRANT_TYPE.into()), ("device_code", code.into())];
        self.token(client, &parameters).await
    }

    pub(super) fn device_rows(&self) -> i64 {
        self.number("SELECT count(*) AS number FROM device_codes")
    }

    pub(super) fn live_device_sessions(&self) -> i64 {
        let live = "client_id IS NOT NULL AND ended_at IS NULL";
        self.number(&format!("SELECT count(*) AS number FROM sessions WHERE {live}"))
    }
}

/// The codes of a device.
pub(crate) struct Device {
    pub(super) client: Client,
    pub(super) code: String,
    pub(crate) user_code: String,
    body: Value,
}

impl Browser {
    /// Opens the page with the code of a device, and decides.
    pub(crate) async fn decide(&self, device: &Device, decision: &str) -> TestResponse {
        let page = self.get(&format!("/device?user_code={}", device.user_code)).await;
        assert_eq!(page.status, 200, "{}", page.text);
        self.submit(&page, &[("decision", decision)]).await
    }

    pub(crate) async fn approve(&self, device: &Device) {
        let done = self.decide(device, "allow").await;
        assert_eq!(done.status, 200, "{}", done.text);
        assert!(done.text.contains("The device is logged in"), "{}", done.text);
    }
}

#[actix_rt::test]
async fn response_has_the_codes_the_page_and_the_times() {
    let server = Server::start();
    let device = server.begin_device(&server.add_tv(), "").await;
    let (code, user_code) = (&device.code, &device.user_code);
    assert!(code.starts_with("mb_dc_") && code.len() > 90, "{code}");
    let is_letter = |letter: char| "BCDFGHJKLMNPQRSTVWXZ".contains(letter);
    let groups: Vec<_> = user_code.split('-').collect();
    assert!(groups.len() == 2 && groups.iter().all(|group| group.len() == 4), "{user_code}");
    assert!(groups.iter().all(|group| group.chars().all(is_letter)), "{user_code}");
    let expected = json!({
        "device_code": code,
        "user_code": user_code,
        "verification_uri": PAGE,
        "verification_uri_complete": format!("{PAGE}?user_code={user_code}"),
        "expires_in": 600,
        "interval": 5,
    });
    assert_eq!(device.body, expected);
}

#[actix_rt::test]
async fn database_has_neither_of_the_codes() {
    let server = Server::start();
    let device = server.begin_device(&server.add_tv(), "").await;
    let payload = decode(device.code.strip_prefix("mb_dc_").unwrap());
    let (mac, secret) = (hex(&payload[..16]), hex(&openssl::sha::sha256(&payload[16..48])));
    let is_postgres = server.world.database_url().starts_with("postgres");
    let literal = |hex: &str| if is_postgres { format!("'\\x{hex}'") } else { format!("x'{hex}'") };
    let condition =
        format!("user_code_mac = {} AND secret_digest = {}", literal(&mac), literal(&secret));
    let query = format!("SELECT count(*) AS number FROM device_codes WHERE {condition}");
    assert_eq!(server.number(&query), 1);
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[actix_rt::test]
async fn approved_device_gets_tokens_that_refresh_and_reach_the_user() {
    let (server, browser) = server_with(|launch| launch).await;
    for client in [server.add_tv(), server.add_box()] {
        let device = server.begin_device(&client, "openid profile read").await;
        assert_error(&server.poll(&device).await, 400, "authorization_pending");
        browser.approve(&device).await;
        let body = tokens(&server.poll(&device).await);
        assert_eq!(body["scope"], "openid profile read");
        let access = claims(&body);
        assert_eq!((&access["client_id"], &access["scope"]), (&json!(client.id), &body["scope"]));
        assert_eq!(server.user(&text(&body, "access_token")).await, 200);
        let id_token = text(&body, "id_token");
        let id: Value =
            serde_json::from_slice(&decode(id_token.split('.').nth(1).unwrap())).unwrap();
        assert_eq!((&id["aud"], &id["sub"]), (&json!(client.id), &access["sub"]));
        assert_eq!((&id["sid"], &id["auth_time"]), (&access["sid"], &access["auth_time"]));
        assert!(id.get("nonce").is_none(), "{id}");
        let refreshed = tokens(&server.refresh_by(&client, &text(&body, "refresh_token")).await);
        assert_eq!(server.user(&text(&refreshed, "access_token")).await, 200);
    }
    assert_eq!(server.live_device_sessions(), 2);
    let of_login = "SELECT count(*) AS number FROM sessions \
                    JOIN login_sessions ON login_sessions.id = sessions.login_session_id";
    assert_eq!(server.number(of_login), 2, "the login session of the browser");
}

#[actix_rt::test]
async fn device_polls_until_its_user_denies() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_tv();
    let device = server.begin_device(&client, "").await;
    assert_error(&server.poll(&device).await, 400, "authorization_pending");
    assert_error(&server.poll(&device).await, 400, "slow_down");
    assert_error(&server.poll(&device).await, 400, "slow_down");
    let interval = "SELECT poll_interval AS number FROM device_codes";
    assert_eq!(server.number(interval), 15, "five seconds more for each");
    let done = browser.decide(&device, "deny").await;
    assert!(done.text.contains("The device is not logged in"), "{}", done.text);
    for _ in 0..2 {
        assert_error(&server.poll(&device).await, 400, "access_denied");
    }
    assert_eq!(server.live_device_sessions(), 0);
}

#[actix_rt::test]
async fn expired_request_cannot_be_approved_or_exchanged() {
    let lifetime = |seconds| {
        move |launch: matchbook_testkit::ProcessBuilder| {
            launch.set("oauth.device_code_lifetime", seconds)
        }
    };
    let (server, browser) = server_with(lifetime("2s")).await;
    let client = server.add_tv();
    let [device, approved] =
        [server.begin_device(&client, "").await, server.begin_device(&client, "").await];
    assert_eq!(device.body["expires_in"], 2);
    browser.approve(&approved).await;
    actix_rt::time::sleep(Duration::from_millis(2100)).await;
    for device in [&device, &approved] {
        assert_error(&server.poll(device).await, 400, "expired_token");
    }
    let page = browser.get(&format!("/device?user_code={}", device.user_code)).await;
    assert_eq!(page.status, 400);
    assert!(page.text.contains("This code has expired"), "{}", page.text);
    server.sql("DELETE FROM device_codes");
    assert_error(&server.poll(&device).await, 400, "expired_token");
    assert_eq!(server.live_device_sessions(), 0);
}

#[actix_rt::test]
async fn device_code_of_another_client_or_a_changed_one_is_rejected() {
    let (server, browser) = server_with(|launch| launch).await;
    let (client, other) = (server.add_tv(), server.add_box());
    let device = server.begin_device(&client, "").await;
    browser.approve(&device).await;
    assert_error(&server.poll_with(&other, &device.code).await, 400, "invalid_grant");
    let changed = tampered(&device.code);
    for code in [changed.as_str(), "mb_dc_", "x", &device.user_code, &"A".repeat(500)] {
        assert_error(&server.poll_with(&client, code).await, 400, "invalid_grant");
    }
    let mut parameters = vec![("grant_type", GRANT_TYPE.into())];
    assert_error(&server.token(&client, &parameters).await, 400, "invalid_request");
    // A device code is no authorization code.
    set(&mut parameters, "grant_type", "authorization_code");
    set(&mut parameters, "code", &device.code);
    assert_error(&server.token(&client, &parameters).await, 400, "invalid_grant");
    assert_eq!(server.live_device_sessions(), 0);
    tokens(&server.poll(&device).await);
}

#[actix_rt::test]
async fn client_authenticates_and_has_to_be_one_of_devices() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_box();
    let device = server.begin_device(&client, "").await;
    browser.approve(&device).await;
    let none = Vec::new();
    for secret in [None, Some("wrong".to_owned())] {
        let status = if secret.is_some() { 401 } else { 400 };
        let impostor = Client { secret, ..client.clone() };
        let begun = server.as_client("/oauth/device", &impostor, &none).await;
        assert_error(&begun, status, "invalid_client");
        assert_error(&server.poll_with(&impostor, &device.code).await, status, "invalid_client");
    }
    let without = server.http.post("/oauth/device", "").await;
    assert_error(&without, 400, "invalid_client");
    tokens(&server.poll(&device).await);

    let spa = server.add_spa();
    let begun = server.as_client("/oauth/device", &spa, &none).await;
    assert_error(&begun, 400, "unauthorized_client");
    assert_error(&server.poll_with(&spa, "x").await, 400, "unauthorized_client");
    assert_eq!(server.device_rows(), 1);
}

#[actix_rt::test]
async fn scope_and_resource_are_limited_as_in_an_authorization_request() {
    let (server, browser) = server_with(|launch| launch).await;
    let api = "https://api.example/";
    let options = ["--public", "--device", "--scope", "read", "--audience", api];
    let client = server.register_client("TV", &options);
    for (name, value, error) in [
        ("scope", "write", "invalid_scope"),
        ("scope", "read  \"", "invalid_scope"),
        ("resource", "https://other.example/", "invalid_target"),
        ("resource", "x", "invalid_target"),
    ] {
        let parameters = vec![(name, value.into())];
        let response = server.as_client("/oauth/device", &client, &parameters).await;
        assert_error(&response, 400, error);
    }
    let repeated = format!("client_id={}&scope=read&scope=read", client.id);
    assert_error(&server.http.post("/oauth/device", &repeated).await, 400, "invalid_request");
    assert_eq!(server.device_rows(), 0);

    let both = vec![("resource", api.into()), ("resource", "https://localhost:5001".into())];
    let device = server.begin_device_with(&client, &both).await;
    browser.approve(&device).await;
    let poll = |resource: &'static str| {
        vec![
            ("grant_type", GRANT_TYPE.into()),
            ("device_code", device.code.as_str().into()),
            ("resource", resource.into()),
        ]
    };
    let wider = server.token(&client, &poll("https://other.example/")).await;
    assert_error(&wider, 400, "invalid_target");
    let body = tokens(&server.token(&client, &poll(api)).await);
    assert_eq!((&body["scope"], &claims(&body)["aud"]), (&json!("read"), &json!(api)));
    let refreshed = tokens(&server.refresh_by(&client, &text(&body, "refresh_token")).await);
    assert_eq!(claims(&refreshed)["aud"], json!([api, "https://localhost:5001"]));
}

#[actix_rt::test]
async fn device_beyond_the_rate_limit_slows_down() {
    let (server, browser) = server_with(|launch| {
        launch.set("limits.enabled", "true").set("limits.refresh", "2").set("limits.login", "8")
    })
    .await;
    let client = server.add_tv();
    let device = server.begin_device(&client, "").await;
    for _ in 0..2 {
        assert_error(&server.poll_with(&client, "x").await, 400, "invalid_grant");
    }
    assert_error(&server.poll_with(&client, "x").await, 429, "too_many_requests");
    assert_error(&server.poll(&device).await, 400, "slow_down");
    drop(browser);
    let none = Vec::new();
    let mut last = server.as_client("/oauth/device", &client, &none).await;
    for _ in 0..10 {
        last = server.as_client("/oauth/device", &client, &none).await;
    }
    assert_error(&last, 429, "too_many_requests");
    assert!(server.device_rows() <= 8, "{}", server.device_rows());
}

#[actix_rt::test]
async fn client_that_may_no_longer_use_devices_gets_no_tokens() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_tv();
    let device = server.begin_device(&client, "").await;
    browser.approve(&device).await;
    server.sql("UPDATE clients SET is_device = NOT is_device");
    // Clients are cached for two seconds.
    actix_rt::time::sleep(Duration::from_millis(2100)).await;
    assert_error(&server.poll(&device).await, 400, "unauthorized_client");
    let page = browser.get("/device").await;
    assert!(between(&page.text, "<h1>", "</h1>") == "Log a device in", "{}", page.text);
}
