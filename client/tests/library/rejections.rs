//! Only a response of the token server ends a session.

use std::time::{Duration, Instant};

use matchbook_client::{Client, Credentials, Error, TokenResponse};
use matchbook_shared::InvalidGrantReason;
use matchbook_testkit::{Reaction, ScriptedServer};
use openssl::base64::encode_block;

use super::{
    SECRET, TEST_TIMEOUT, get, get_after_backoff, is_transient, logged_in, logged_in_with, on_file,
    server_at, server_within, store, within_timeout,
};

/// Returns the error of `GET /user` if each refresh has this reaction, and whether the tokens
/// are kept.
async fn fail_refresh(reaction: Reaction) -> (Error, bool) {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.expire();
    script.always("/refresh", reaction);
    let error = within_timeout(get(&client, "/user")).await.unwrap_err();
    // Three tries, and one more if the first was on a kept connection.
    assert!((1..=4).contains(&script.refreshes()), "{}", script.refreshes());
    assert_eq!(script.reuses(), 0);
    (error, client.credentials().is_logged_in())
}

#[actix_rt::test]
async fn a_401_that_is_not_from_the_token_server_ends_no_session() {
    for body in [
        r#"{"error":"any","message":"of a gateway"}"#,
        r#"{"status":401,"error":"Unauthorized"}"#,
        r#"{"error":"invalid_token","message":"The JWT is expired"}"#,
        r#"{"error":"invalid_token"}"#,
        r#"{"error":"invalid_grant"}"#,
        r#"{"message":"Unauthorized"}"#,
        "{}",
        "[]",
        "null",
    ] {
        for status in [400, 401] {
            let (error, kept) = fail_refresh(Reaction::json(status, body)).await;
            assert!(matches!(error, Error::Transient { .. }) && kept, "{body}: {error:?}");
        }
    }
}

#[actix_rt::test]
async fn a_response_of_a_gateway_is_neither_a_login_nor_a_logout() {
    for (status, content_type, body) in [
        (200, "text/html", "<html>log in to this network</html>"),
        (200, "application/json", "{}"),
        (204, "text/plain", ""),
        (401, "application/json", r#"{"status":401,"error":"Unauthorized"}"#),
        (401, "text/html", "<html>"),
        (403, "application/json", r#"{"error":"Forbidden","message":"by policy"}"#),
        (403, "text/html", "<html>"),
        (404, "text/html", "<html>"),
        (407, "text/html", "<html>"),
        (502, "text/html", "<html>"),
    ] {
        let script = ScriptedServer::start();
        let (_folder, file) = store();
        let reaction = Reaction::respond(status, content_type, body);
        for path in ["/token", "/logout", "/sessions", "/refresh"] {
            script.always(path, reaction.clone());
        }
        let client = logged_in_with(&script, on_file(&file)).await;
        let text = format!("{status} {body}");
        // The second time the gateway also responds to the first request of a login.
        for is_registered in [true, false] {
            let outcome = within_timeout(client.log_in_as_guest()).await;
            assert!(is_transient(&outcome), "log in: {text}: {outcome:?}");
            assert_eq!(script.received("/token").len(), 1, "{is_registered}");
            script.always("/register", reaction.clone());
        }
        let refreshed = within_timeout(client.refresh()).await;
        assert!(is_transient(&refreshed), "refresh: {text}: {refreshed:?}");
        assert!(is_transient(&within_timeout(client.log_out()).await), "log out: {text}");
        let everywhere = within_timeout(client.log_out_everywhere()).await;
        assert!(is_transient(&everywhere), "log out everywhere: {text}: {everywhere:?}");
        assert!(client.credentials().is_logged_in(), "{text}");
        let other = Client::new(&server_at(&script), on_file(&file));
        assert_eq!(get(&other, "/user").await, Ok(200), "the tokens are kept: {text}");
        script.always("/logout", Reaction::Serve);
        assert_eq!(within_timeout(client.log_out()).await, Ok(()), "{text}");
    }
}

#[actix_rt::test]
async fn a_login_whose_response_is_lost_is_not_retried_and_the_next_one_succeeds() {
    let script = ScriptedServer::start();
    let client = Client::new(&server_at(&script), Credentials::default());
    for (is_first, problem) in [(true, "no response"), (false, "may have processed the request")] {
        let before = script.received("/token").len();
        script.on("/token", [Reaction::DropConnection]);
        let lost = within_timeout(client.log_in_as_guest()).await;
        assert!(is_transient(&lost), "{lost:?}");
        assert!(lost.as_ref().unwrap_err().to_string().contains(problem), "{lost:?}");
        assert_eq!(script.received("/token").len(), before + 1, "it was sent again");
        assert_eq!(client.credentials().is_logged_in(), !is_first, "the tokens before are kept");
        assert_eq!(within_timeout(client.log_in_as_guest()).await, Ok(()));
        assert_eq!(get(&client, "/user").await, Ok(200));
    }
}

#[actix_rt::test]
async fn superseded_tokens_are_kept_until_the_server_decides() {
    let superseded = r#"{"error":"invalid_grant","message":"newer","reason":"superseded"}"#;
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Reaction::json(401, superseded).marked()]);
    assert_eq!(get(&client, "/user").await, Err(Error::Superseded));
    assert!(client.credentials().is_logged_in());
    let other = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get(&other, "/user").await, Ok(200), "the tokens are still there");
    // Newer tokens in the store are used.
    assert_eq!(get_after_backoff(&client, "/user").await, Ok(200));
    script.expire();
    script.on("/refresh", [Reaction::invalid_grant()]);
    let ended = get(&client, "/user").await.unwrap_err();
    assert_eq!(ended, Error::LoggedOut(Some(InvalidGrantReason::LoggedOut)));
}

#[actix_rt::test]
async fn a_login_ends_the_session_of_the_previous_login() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    client.log_in_as_guest().await.unwrap();
    let ended = script.received("/logout");
    assert_eq!(ended.len(), 1);
    assert!(ended[0].field("refresh_token").unwrap().starts_with("mb_rt_1-0"));
    assert_eq!(get(&client, "/user").await, Ok(200), "the new session continues");
    // A failed logout does not fail the login.
    script.always("/logout", Reaction::respond(502, "text/html", "<html>"));
    client.log_in_as_guest().await.unwrap();
    assert_eq!(get(&client, "/user").await, Ok(200));
}

/// Returns an access token with a session id.
fn of_session(id: &str) -> String {
    let claims = encode_block(format!(r#"{{"sid":"{id}"}}"#).as_bytes());
    format!("e30.{}.c2ln", claims.trim_end_matches('='))
}

#[actix_rt::test]
async fn installed_tokens_end_the_previous_session_if_both_name_their_session() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let client = Client::new(&server_at(&script), on_file(&file));
    let log_in = async |token: String| {
        let tokens = TokenResponse { token, ..script.log_in() };
        client.log_in_with(tokens).await.unwrap();
    };
    let ended = || -> Vec<_> {
        let ended = script.received("/logout").into_iter();
        ended.map(|received| received.field("refresh_token").unwrap()).collect()
    };
    // The second tokens have the same session, the fourth have none.
    for token in
        [of_session("a"), of_session("a"), of_session("b"), "opaque".into(), of_session("c")]
    {
        log_in(token).await;
    }
    assert_eq!(ended(), [format!("mb_rt_2-0-{SECRET}")]);
    // A failed logout does not fail the login.
    script.always("/logout", Reaction::respond(502, "text/html", "<html>"));
    log_in(of_session("d")).await;
    assert_eq!(ended()[1..], [format!("mb_rt_5-0-{SECRET}")]);
}

#[actix_rt::test]
async fn invalid_grant_ends_the_session() {
    let json = r#"{"error":"invalid_grant","message":"","reason":"expired_idle"}"#;
    let ended = Error::LoggedOut(Some(InvalidGrantReason::ExpiredIdle));
    assert_eq!(fail_refresh(Reaction::json(400, json)).await, (ended, false));
}

#[actix_rt::test]
async fn an_ended_session_is_erased_from_the_store_and_not_refreshed_again() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Reaction::invalid_grant()]);
    let ended = get(&client, "/user").await.unwrap_err();
    assert_eq!(ended, Error::LoggedOut(Some(InvalidGrantReason::LoggedOut)));
    assert_eq!(get(&client, "/user").await, Err(Error::NotLoggedIn));
    let other = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get(&other, "/user").await, Err(Error::NotLoggedIn));
    assert_eq!((script.refreshes(), script.received("/user").len()), (1, 1));
    assert!(!std::fs::read_to_string(&file).unwrap_or_default().contains("mb_rt_"));
}

#[actix_rt::test]
async fn a_transient_failure_keeps_the_tokens_and_returns_retry_after() {
    for (status, content_type, body) in [
        (200, "text/html", "<html>log in to this café's network</html>"),
        (400, "text/html", "<html>"),
        (401, "text/html", "<html>"),
        (401, "application/json", r#"{"detail":"gateway"}"#),
        (403, "text/html", "<html>"),
        (407, "text/html", "<html>"),
        (408, "text/html", "<html>"),
        (429, "application/json", "{}"),
        (429, "application/json", r#"{"error":"invalid_grant","message":"hardly"}"#),
        (500, "application/json", r#"{"error":"invalid_grant","message":"hardly"}"#),
        (502, "text/html", "<html>"),
        (503, "application/json", "{}"),
        (504, "text/plain", ""),
    ] {
        let reaction =
            Reaction::respond(status, content_type, body).with_header("retry-after", "7");
        let (error, kept) = fail_refresh(reaction).await;
        assert!(matches!(error, Error::Transient { .. }) && kept, "{status} {body}: {error:?}");
        if status >= 429 {
            let Error::Transient { retry_after, .. } = error else { unreachable!() };
            assert_eq!(retry_after, Some(Duration::from_secs(7)), "{status}");
        }
    }
}

#[actix_rt::test]
async fn an_error_other_than_invalid_grant_is_reported_and_keeps_the_tokens() {
    let json = r#"{"error":"invalid_request","message":"unknown parameter"}"#;
    let (error, kept) = fail_refresh(Reaction::json(400, json).marked()).await;
    assert!(kept);
    assert!(
        matches!(&error, Error::UnexpectedResponse(text) if text.contains("unknown parameter")),
        "{error}"
    );
}

#[actix_rt::test]
async fn a_lost_truncated_or_invalid_response_keeps_the_tokens() {
    for (name, reaction) in [
        ("lost", Reaction::DropConnection),
        ("torn", Reaction::TruncateBody),
        ("empty", Reaction::json(200, "")),
        ("no tokens", Reaction::json(200, "{}")),
        ("no content", Reaction::json(204, "")),
    ] {
        let (error, kept) = fail_refresh(reaction).await;
        let is_expected = matches!(error, Error::Transient { .. } | Error::UnexpectedResponse(_));
        assert!(is_expected && kept, "{name}: {error:?}");
    }
}

#[actix_rt::test]
async fn a_timeout_keeps_the_tokens() {
    for (name, reaction) in [("held", Reaction::Serve.held()), ("stalled", Reaction::StallBody)] {
        let script = ScriptedServer::start();
        let server = server_within(&script, Duration::from_millis(400));
        let client = Client::new(&server, Credentials::default());
        client.log_in_with(script.log_in()).await.unwrap();
        script.expire();
        script.always("/refresh", reaction);
        let started_at = Instant::now();
        let outcome = actix_rt::time::timeout(TEST_TIMEOUT, get(&client, "/user")).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{name}: no timeout"));
        assert!(is_transient(&outcome), "{outcome:?}");
        assert!(started_at.elapsed() < Duration::from_secs(10), "{:?}", started_at.elapsed());
        assert!(client.credentials().is_logged_in());
        script.always("/refresh", Reaction::Serve);
        script.release();
        assert_eq!(get_after_backoff(&client, "/user").await, Ok(200));
        assert_eq!((script.rotations(), script.reuses()), (1, 0));
    }
}

#[actix_rt::test]
async fn a_401_with_a_stalled_body_does_not_block_the_refresh() {
    let script = ScriptedServer::start();
    let server = server_within(&script, Duration::from_millis(400));
    let client = Client::new(&server, Credentials::default());
    client.log_in_with(script.log_in()).await.unwrap();
    script.expire();
    script.on("/user", [Reaction::StallBody]);
    assert_eq!(within_timeout(get(&client, "/user")).await, Ok(200));
}

#[actix_rt::test]
async fn an_unreachable_server_keeps_the_tokens() {
    let script = ScriptedServer::start();
    let tokens = script.log_in();
    let server = server_at(&script);
    let address = script.origin().trim_start_matches("http://").to_owned();
    drop(script);
    // Wait until the listener is closed.
    within_timeout(async {
        while std::net::TcpStream::connect(&address).is_ok() {
            actix_rt::task::yield_now().await;
        }
    })
    .await;
    let client = Client::new(&server, Credentials::default());
    client.log_in_with(tokens).await.unwrap();
    assert!(is_transient(&get(&client, "/user").await));
    assert!(is_transient(&client.refresh().await));
    assert!(client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn retry_after_delays_the_next_refresh() {
    for status in [429, 503] {
        let script = ScriptedServer::start();
        let client = logged_in(&script).await;
        script.expire();
        script.on("/refresh", [Reaction::json(status, "{}").with_header("retry-after", "2")]);
        assert!(is_transient(&get(&client, "/user").await));
        for _ in 0..3 {
            let Err(Error::Transient { retry_after: Some(wait), .. }) = get(&client, "/user").await
            else {
                panic!("no backoff")
            };
            assert!(wait <= Duration::from_secs(2), "{wait:?}");
        }
        assert_eq!(script.refreshes(), 1, "no refresh during the delay");
        assert_eq!(get_after_backoff(&client, "/user").await, Ok(200));
        let received = script.received("/refresh");
        assert_eq!(received.len(), 2, "one refresh after the delay");
        assert!(received[1].at - received[0].at >= Duration::from_millis(1900));
    }
}

#[actix_rt::test]
async fn backoff_grows_with_each_failure_and_ends_with_a_success() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.expire();
    script.always("/refresh", Reaction::json(500, "{}"));
    let mut rests = Vec::new();
    for _ in 0..3 {
        assert!(is_transient(&get(&client, "/user").await));
        let received = script.refreshes();
        let Err(Error::Transient { retry_after: Some(rest), .. }) = get(&client, "/user").await
        else {
            panic!("no backoff")
        };
        assert_eq!(script.refreshes(), received, "no refresh during the backoff");
        rests.push(rest);
        actix_rt::time::sleep(rest).await;
    }
    assert!(rests[0] > Duration::from_millis(50), "{rests:?}");
    assert!(rests[0] < rests[1] && rests[1] < rests[2], "{rests:?}");
    script.always("/refresh", Reaction::Serve);
    assert_eq!(get(&client, "/user").await, Ok(200));
    // A success resets the backoff.
    script.expire();
    script.always("/refresh", Reaction::json(500, "{}"));
    assert!(is_transient(&get(&client, "/user").await));
    let Err(Error::Transient { retry_after: Some(rest), .. }) = get(&client, "/user").await else {
        panic!("no backoff")
    };
    assert!(rest < rests[1], "{rest:?} {rests:?}");
}

#[actix_rt::test]
async fn a_single_transient_failure_is_retried() {
    for reaction in [
        Reaction::json(500, "{}"),
        Reaction::DropConnection,
        Reaction::TruncateBody,
        Reaction::respond(502, "text/html", "<html>"),
    ] {
        let script = ScriptedServer::start();
        let client = logged_in(&script).await;
        script.expire();
        script.on("/refresh", [reaction]);
        assert_eq!(get(&client, "/user").await, Ok(200));
        assert_eq!((script.refreshes(), script.rotations(), script.reuses()), (2, 1, 0));
    }
}

#[actix_rt::test]
async fn a_new_login_resets_the_backoff() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.expire();
    script.on("/refresh", [Reaction::json(503, "{}").with_header("retry-after", "60")]);
    assert!(is_transient(&get(&client, "/user").await));
    client.log_in_with(script.log_in()).await.unwrap();
    script.expire();
    assert_eq!(get(&client, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn responses_of_a_resource_end_no_session() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    let refused = r#"{"error":"invalid_grant","message":"not from here"}"#;
    for status in [400, 403, 500] {
        script.on("/user", [Reaction::json(status, refused)]);
        assert_eq!(get(&client, "/user").await, Ok(status));
    }
    assert_eq!(script.refreshes(), 0);
    // A `401` to fresh tokens is returned, and the request is not sent a third time.
    script.on("/user", [Reaction::json(401, refused), Reaction::json(401, refused)]);
    assert_eq!(get(&client, "/user").await, Ok(401));
    assert_eq!(script.refreshes(), 1);
    assert!(client.credentials().is_logged_in());
    assert_eq!(get(&client, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn a_logout_ends_the_session_and_erases_the_tokens() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let client = logged_in_with(&script, on_file(&file)).await;
    client.log_out().await.unwrap();
    assert_eq!(script.received("/logout").len(), 1);
    assert!(!client.credentials().is_logged_in());
    assert_eq!(get(&client, "/user").await, Err(Error::NotLoggedIn));
    client.log_out().await.unwrap();
    assert_eq!(script.all_received().len(), 1, "there was no session to end");
    let other = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get(&other, "/user").await, Err(Error::NotLoggedIn));
}

#[actix_rt::test]
async fn a_logout_everywhere_refreshes_if_necessary_and_erases_the_tokens() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.expire();
    assert_eq!(client.log_out_everywhere().await, Ok(1));
    assert_eq!((script.refreshes(), script.received("/sessions").len()), (1, 2));
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn an_unconfirmed_logout_keeps_the_tokens_and_can_be_repeated() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.on("/logout", [Reaction::json(503, r#"{"error":"away","message":"away"}"#)]);
    assert!(is_transient(&client.log_out().await));
    assert!(client.credentials().is_logged_in());
    client.log_out().await.unwrap();
    assert!(!client.credentials().is_logged_in());
    assert_eq!(script.received("/logout").len(), 2);
}
