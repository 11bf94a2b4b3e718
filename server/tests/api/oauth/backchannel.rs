//! Back-channel logout: clients are notified of ended sessions (Back-Channel Logout 1.0).

mod ends;
mod receiver;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use url::form_urlencoded;

use super::refreshing::claims;
use super::{Client, PASSWORD, REDIRECT_URI, server_with, text};
use crate::browser::Browser;
use crate::support::{Server, binary, eventually};
use receiver::{Receiver, Script};

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

impl Server {
    /// Registers a public client of the operator that is notified at this URI.
    fn add_notified(&self, name: &str, uri: &str) -> Client {
        let options = ["--public", "--first-party", "--redirect-uri", REDIRECT_URI];
        self.register_client(name, &[&options[..], &["--backchannel-logout-uri", uri]].concat())
    }

    /// Ends a session by its refresh token.
    async fn revoke_by(&self, client: &Client, session: &Value) {
        let token = text(session, "refresh_token");
        let response =
            self.as_client("/oauth/revoke", client, &vec![("token", token.into())]).await;
        assert_eq!(response.status, 200, "{}", response.text);
    }

    /// How many notices are stored.
    fn pending(&self) -> i64 {
        self.number("SELECT count(*) AS number FROM logout_notices")
    }

    /// Makes all notices due now.
    fn make_due(&self) {
        self.sql("UPDATE logout_notices SET next_attempt_at = created_at");
    }
}

/// The id of the session of tokens.
fn sid(session: &Value) -> String {
    text(&claims(session), "sid")
}

#[actix_rt::test]
async fn client_gets_a_signed_logout_token_once_by_post() {
    let (server, browser) = server_with(|launch| launch).await;
    let receiver = Receiver::start(Script::default());
    let client = server.add_notified("App", &receiver.uri("/logout?from=matchbook"));
    let first = server.open_id(&browser, &client, "openid").await;
    let second = server.open_id(&browser, &client, "openid").await;
    server.revoke_by(&client, &first).await;
    server.revoke_by(&client, &second).await;
    receiver.await_count(2).await;
    let jwks = server.http.get("/.well-known/jwks.json").await.json();
    let issuer = server.http.get("/.well-known/openid-configuration").await.json();
    let mut ids = BTreeSet::new();
    for (received, session) in receiver.received().iter().zip([&first, &second]) {
        assert_eq!(received.target, "/logout?from=matchbook");
        assert_eq!(received.content_type, "application/x-www-form-urlencoded");
        assert!(received.user_agent.starts_with("matchbook-server/"), "{}", received.user_agent);
        let fields: Vec<(String, String)> =
            form_urlencoded::parse(received.body.as_bytes()).into_owned().collect();
        assert_eq!(fields.len(), 1, "{fields:?}");
        let (header, claims) = received.verified(&jwks);
        assert_eq!(header["typ"], "logout+jwt");
        assert_eq!(header["alg"], "RS256");
        let id = super::refreshing::claims(session);
        assert_eq!(claims["iss"], issuer["issuer"]);
        assert_eq!((&claims["aud"], &claims["sub"]), (&json!(client.id), &id["sub"]));
        assert_eq!((&claims["sid"], &claims["events"]), (&id["sid"], &json!({ EVENT: {} })));
        let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!((1..=120).contains(&(exp - iat)), "{claims}");
        assert!(ids.insert(text(&claims, "jti")), "{claims}");
        let names: Vec<&String> = claims.as_object().unwrap().keys().collect();
        assert_eq!(names, ["aud", "events", "exp", "iat", "iss", "jti", "sid", "sub"]);
    }
    // Longer than the interval of the polls.
    actix_rt::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((receiver.count(), server.pending()), (2, 0));
    let token = receiver.received()[0].token();
    assert_eq!(server.user(&token).await, 401, "it is no access token");
    let hint = browser.end_session(&[("id_token_hint", &token)]).await;
    assert_eq!(hint.status, 400, "it is no ID token");
}

#[actix_rt::test]
async fn metadata_announces_back_channel_logout() {
    let server = Server::start();
    let metadata = server.http.get("/.well-known/openid-configuration").await.json();
    assert_eq!(metadata["backchannel_logout_supported"], true);
    assert_eq!(metadata["backchannel_logout_session_supported"], true);
}

#[actix_rt::test]
async fn failed_attempts_are_repeated_with_growing_pauses_until_one_succeeds() {
    let (server, browser) = server_with(|launch| launch).await;
    let script = Script { statuses: vec![500, 302, 404, 204], ..Script::default() };
    let receiver = Receiver::start(script);
    let client = server.add_notified("App", &receiver.uri("/logout"));
    let session = server.open_id(&browser, &client, "openid").await;
    server.revoke_by(&client, &session).await;
    receiver.await_count(4).await;
    eventually(0, async || server.pending()).await;
    let received = receiver.received();
    let jwks = server.http.get("/.well-known/jwks.json").await.json();
    let ids: BTreeSet<String> =
        received.iter().map(|one| text(&one.verified(&jwks).1, "jti")).collect();
    assert_eq!(ids.len(), 4, "each attempt has a token of its own");
    for (pair, at_least) in received.windows(2).zip([1000, 2000, 4000]) {
        let pause = pair[1].at.duration_since(pair[0].at);
        assert!(pause >= Duration::from_millis(at_least - 100), "{pause:?}");
    }
    assert!(received.iter().all(|one| one.target == "/logout"), "no redirect is followed");
    assert_eq!(server.process.logged("client not notified, retrying"), 1, "the first failure");
}

#[actix_rt::test]
async fn rejected_notice_is_given_up_after_five_attempts() {
    let (server, browser) = server_with(|launch| launch).await;
    let receiver = Receiver::start(Script { then: 400, ..Script::default() });
    let client = server.add_notified("App", &receiver.uri("/logout"));
    let session = server.open_id(&browser, &client, "openid").await;
    server.revoke_by(&client, &session).await;
    for attempt in 1..=5 {
        receiver.await_count(attempt).await;
        if attempt < 5 {
            let query = "SELECT rejections AS number FROM logout_notices";
            eventually(i64::try_from(attempt).unwrap(), async || server.number(query)).await;
            server.make_due();
        }
    }
    eventually(0, async || server.pending()).await;
    assert_eq!(server.process.logged("client not notified, giving up"), 1);
    assert_eq!(receiver.count(), 5);
}

#[actix_rt::test]
async fn notice_is_given_up_a_day_after_the_end_of_its_session() {
    let (server, browser) = server_with(|launch| launch).await;
    let receiver = Receiver::start(Script { then: 503, ..Script::default() });
    let client = server.add_notified("App", &receiver.uri("/logout"));
    let session = server.open_id(&browser, &client, "openid").await;
    server.revoke_by(&client, &session).await;
    receiver.await_count(1).await;
    eventually(1, async || server.number("SELECT attempts AS number FROM logout_notices")).await;
    let is_postgres = server.world.database_url().starts_with("postgres");
    let day = if is_postgres { "interval '1 day'" } else { "86400000000" };
    server.sql(&format!("UPDATE logout_notices SET created_at = created_at - {day}"));
    server.make_due();
    eventually(0, async || server.pending()).await;
    assert_eq!(receiver.count(), 2);
    assert_eq!(server.process.logged("client not notified, giving up"), 1);
}

#[actix_rt::test]
async fn clients_that_do_not_respond_delay_no_other() {
    let (server, browser) = server_with(|launch| launch).await;
    let silent = Receiver::start(Script { delay: Duration::from_secs(600), ..Script::default() });
    let endless = Receiver::start(Script { body: 50_000_000, ..Script::default() });
    let prompt = Receiver::start(Script::default());
    let port = matchbook_testkit::free_port();
    let slow = server.add_notified("Slow", &silent.uri("/logout"));
    let dead = server.add_notified("Dead", &format!("http://127.0.0.1:{port}/logout"));
    let long = server.add_notified("Long", &endless.uri("/logout"));
    let fast = server.add_notified("Fast", &prompt.uri("/logout"));
    for client in [&slow, &dead, &long] {
        for _ in 0..12 {
            server.open_id(&browser, client, "openid").await;
        }
    }
    for _ in 0..10 {
        server.open_id(&browser, &fast, "openid").await;
    }
    let hint = text(&server.open_id(&browser, &fast, "openid").await, "id_token");
    let asked = Instant::now();
    browser.end_session(&[("id_token_hint", &hint)]).await;
    prompt.await_count(11).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    endless.await_count(12).await;
    // The client that does not respond gets eight requests at a time.
    assert_eq!(silent.count(), 8);
    eventually(24, async || server.pending()).await;
}

#[actix_rt::test]
async fn notice_survives_the_death_of_its_server() {
    let (server, browser) = server_with(|launch| launch).await;
    let port = matchbook_testkit::free_port();
    let client = server.add_notified("App", &format!("http://127.0.0.1:{port}/logout"));
    let hanging = Receiver::start(Script { delay: Duration::from_secs(600), ..Script::default() });
    let other = server.add_notified("Other", &hanging.uri("/logout"));
    let sessions = [
        server.open_id(&browser, &client, "openid").await,
        server.open_id(&browser, &other, "openid").await,
    ];
    server.revoke_by(&client, &sessions[0]).await;
    server.revoke_by(&other, &sessions[1]).await;
    hanging.await_count(1).await;
    let Server { world, mut process, .. } = server;
    process.kill();
    let receiver = Receiver::at(port, Script::default());
    hanging.respond();
    let again = Server::within(world, |launch| launch);
    // The claim of the dead server would expire after a minute.
    again.make_due();
    receiver.await_count(1).await;
    hanging.await_count(2).await;
    eventually(0, async || again.pending()).await;
    let jwks = again.http.get("/.well-known/jwks.json").await.json();
    let (_, claims) = receiver.received()[0].verified(&jwks);
    assert_eq!(claims["sid"], sid(&sessions[0]));
}

#[actix_rt::test]
async fn shutdown_loses_no_notice() {
    let (server, browser) = server_with(|launch| launch).await;
    let receiver = Receiver::start(Script { then: 503, ..Script::default() });
    let client = server.add_notified("App", &receiver.uri("/logout"));
    for _ in 0..10 {
        server.open_id(&browser, &client, "openid").await;
    }
    let hint = text(&server.open_id(&browser, &client, "openid").await, "id_token");
    browser.end_session(&[("id_token_hint", &hint)]).await;
    receiver.await_count(1).await;
    let Server { world, mut process, .. } = server;
    assert!(process.stop().success());
    receiver.respond();
    let before = receiver.count();
    let again = Server::within(world, |launch| launch);
    again.make_due();
    eventually(0, async || again.pending()).await;
    assert_eq!(receiver.count(), before + 11);
}

#[actix_rt::test]
async fn several_servers_send_each_notice_once() {
    let (server, browser) = server_with(|launch| launch).await;
    let others = [server.world.server(binary()).start(), server.world.server(binary()).start()];
    let receiver = Receiver::start(Script::default());
    let client = server.add_notified("App", &receiver.uri("/logout"));
    let mut expected = BTreeSet::new();
    for _ in 0..30 {
        expected.insert(sid(&server.open_id(&browser, &client, "openid").await));
    }
    // By another process, so that all servers find the notices at their next polls.
    let ended = server.world.server(binary()).run(&["sessions", "end", "--all"]);
    assert!(ended.status.success(), "{ended:?}");
    eventually(0, async || server.pending()).await;
    let jwks = server.http.get("/.well-known/jwks.json").await.json();
    let received = receiver.received();
    let sids: Vec<String> =
        received.iter().map(|one| text(&one.verified(&jwks).1, "sid")).collect();
    assert_eq!(sids.len(), 30, "each once");
    assert_eq!(sids.into_iter().collect::<BTreeSet<_>>(), expected);
    drop(others);
}

#[actix_rt::test]
async fn notice_goes_to_the_current_uri_and_is_dropped_without_one() {
    let (server, browser) = server_with(|launch| launch).await;
    let receiver = Receiver::start(Script::default());
    let port = matchbook_testkit::free_port();
    let client = server.add_notified("App", &format!("http://127.0.0.1:{port}/logout"));
    let session = server.open_id(&browser, &client, "openid").await;
    server.revoke_by(&client, &session).await;
    server.process.await_log("client not notified, retrying");
    let uri = receiver.uri("/new");
    server.sql(&format!("UPDATE clients SET backchannel_logout_uri = '{uri}'"));
    receiver.await_count(1).await;
    eventually(0, async || server.pending()).await;

    server.sql(&format!("UPDATE clients SET backchannel_logout_uri = 'http://127.0.0.1:{port}'"));
    let session = server.open_id(&browser, &client, "openid").await;
    server.revoke_by(&client, &session).await;
    server.command_json(&["clients", "remove", &client.id, "--json"]);
    server.make_due();
    eventually(0, async || server.pending()).await;
    assert_eq!(receiver.count(), 1);
}

#[actix_rt::test]
async fn certificate_of_the_client_is_verified_with_the_configured_ca() {
    // Another server of this kind: it rejects the request, but only after the handshake.
    let other = Server::start();
    let ca = other.world.folder().join("data/tls/ca.pem");
    let uri = format!("{}/oauth/revoke", other.process.url().replace("127.0.0.1", "localhost"));
    for (file, expected) in [("system", "certificate verify failed"), ("", "with 400")] {
        let file = if file.is_empty() { ca.to_str().unwrap() } else { file };
        let (server, browser) =
            server_with(|launch| launch.set("oauth.backchannel_ca_file", file)).await;
        let client = server.add_notified("App", &uri);
        let session = server.open_id(&browser, &client, "openid").await;
        server.revoke_by(&client, &session).await;
        let line = server.process.await_log("client not notified, retrying");
        assert!(line.contains(expected), "{line}");
    }
}

#[actix_rt::test]
async fn metrics_count_notices() {
    let (server, browser) =
        server_with(|launch| launch.set("metrics.address", "127.0.0.1:0")).await;
    let line = server.process.await_log("/metrics");
    let metrics = matchbook_testkit::Http::new(line.split("url=").nth(1).unwrap().trim(), None);
    let value = async |name: &str| {
        let text = metrics.get("").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().parse::<i64>().ok()
    };
    let sent = "matchbook_logout_notices_total{outcome=\"sent\"}";
    let failed = "matchbook_logout_notices_total{outcome=\"failed\"}";
    for outcome in [sent, failed, "matchbook_logout_notices_total{outcome=\"given_up\"}"] {
        assert_eq!(value(outcome).await, Some(0), "{outcome}");
    }
    let receiver = Receiver::start(Script { statuses: vec![500, 500], ..Script::default() });
    let client = server.add_notified("App", &receiver.uri("/logout"));
    let session = server.open_id(&browser, &client, "openid").await;
    server.revoke_by(&client, &session).await;
    receiver.await_count(2).await;
    eventually(Some(1), async || value("matchbook_logout_notices_pending").await).await;
    receiver.await_count(3).await;
    eventually(Some(0), async || value("matchbook_logout_notices_pending").await).await;
    assert_eq!((value(sent).await, value(failed).await), (Some(1), Some(2)));
}
