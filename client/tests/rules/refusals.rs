//! Only the token server's word ends a session.

use std::time::{Duration, Instant};

use matchbook_client::{Client, Credentials, Error, TokenResponse};
use matchbook_shared::Reason;
use openssl::base64::encode_block;

use super::script::{Act, PATIENCE, SECRET, Script};
use super::{get, get_after_rest, is_transient, logged_in, logged_in_with, on_file, soon, store};

/// What `GET /user` comes to when each refresh is answered so, and whether the
/// tokens are kept.
async fn refresh_answered(act: Act) -> (Error, bool) {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    script.always("/refresh", act);
    let error = soon(get(&client, "/user")).await.unwrap_err();
    // Three tries, and one more where the first was on a kept connection.
    assert!((1..=4).contains(&script.refreshes()), "{}", script.refreshes());
    assert_eq!(script.reuses(), 0);
    (error, client.credentials().is_logged_in())
}

#[actix_rt::test]
async fn a_401_with_other_words_than_the_servers_ends_nothing() {
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
            let (error, kept) = refresh_answered(Act::json(status, body)).await;
            assert!(matches!(error, Error::Transient { .. }) && kept, "{body}: {error:?}");
        }
    }
}

/// An answer that comes from something in between, at a call other than a refresh.
#[actix_rt::test]
async fn what_something_in_between_says_is_no_log_in_no_log_out_and_no_list() {
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
        let (script, (_folder, file)) = (Script::start(), store());
        let act = Act::say(status, content_type, body);
        for path in ["/token", "/logout", "/sessions", "/refresh"] {
            script.always(path, act.clone());
        }
        let client = logged_in_with(&script, on_file(&file)).await;
        let said = format!("{status} {body}");
        // The second time it responds to the first request of a log-in, too.
        for is_registered in [true, false] {
            let outcome = soon(client.log_in_as_guest()).await;
            assert!(is_transient(&outcome), "log in: {said}: {outcome:?}");
            assert_eq!(script.asked("/token").len(), 1, "{is_registered}");
            script.always("/register", act.clone());
        }
        let refreshed = soon(client.refresh()).await;
        assert!(is_transient(&refreshed), "refresh: {said}: {refreshed:?}");
        assert!(is_transient(&soon(client.log_out()).await), "log out: {said}");
        let everywhere = soon(client.log_out_everywhere()).await;
        assert!(is_transient(&everywhere), "log out everywhere: {said}: {everywhere:?}");
        assert!(client.credentials().is_logged_in(), "{said}");
        let other = Client::new(&script.server(), on_file(&file));
        assert_eq!(get(&other, "/user").await, Ok(200), "the tokens are kept: {said}");
        script.always("/logout", Act::Do);
        assert_eq!(soon(client.log_out()).await, Ok(()), "{said}");
    }
}

#[actix_rt::test]
async fn a_log_in_whose_response_is_lost_is_not_sent_again_and_the_next_one_works() {
    let script = Script::start();
    let client = Client::new(&script.server(), Credentials::default());
    for (is_first, problem) in [(true, "no response"), (false, "may have carried the request out")]
    {
        let before = script.asked("/token").len();
        script.on("/token", [Act::Lose]);
        let lost = soon(client.log_in_as_guest()).await;
        assert!(is_transient(&lost), "{lost:?}");
        assert!(lost.as_ref().unwrap_err().to_string().contains(problem), "{lost:?}");
        assert_eq!(script.asked("/token").len(), before + 1, "it was sent again");
        assert_eq!(client.credentials().is_logged_in(), !is_first, "the tokens before are kept");
        assert_eq!(soon(client.log_in_as_guest()).await, Ok(()));
        assert_eq!(get(&client, "/user").await, Ok(200));
    }
}

#[actix_rt::test]
async fn superseded_tokens_are_kept_until_the_server_decides() {
    let superseded = r#"{"error":"invalid_grant","message":"newer","reason":"superseded"}"#;
    let (script, (_folder, file)) = (Script::start(), store());
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Act::json(401, superseded).marked()]);
    assert_eq!(get(&client, "/user").await, Err(Error::Superseded));
    assert!(client.credentials().is_logged_in());
    let other = Client::new(&script.server(), on_file(&file));
    assert_eq!(get(&other, "/user").await, Ok(200), "the tokens are still there");
    // Where the store has newer ones by then, those are used.
    assert_eq!(get_after_rest(&client, "/user").await, Ok(200));
    script.expire();
    script.on("/refresh", [Act::invalid_grant()]);
    let ended = get(&client, "/user").await.unwrap_err();
    assert_eq!(ended, Error::LoggedOut(Some(Reason::LoggedOut)));
}

#[actix_rt::test]
async fn a_log_in_ends_the_session_of_the_log_in_before() {
    let script = Script::start();
    let client = logged_in(&script).await;
    client.log_in_as_guest().await.unwrap();
    let ended = script.asked("/logout");
    assert_eq!(ended.len(), 1);
    assert!(ended[0].field("refresh_token").unwrap().starts_with("mb_rt_1-0"));
    assert_eq!(get(&client, "/user").await, Ok(200), "the new one goes on");
    // A failure of that is none of the log-in's.
    script.always("/logout", Act::say(502, "text/html", "<html>"));
    client.log_in_as_guest().await.unwrap();
    assert_eq!(get(&client, "/user").await, Ok(200));
}

/// An access token that names its session.
fn of_session(id: &str) -> String {
    let claims = encode_block(format!(r#"{{"sid":"{id}"}}"#).as_bytes());
    format!("e30.{}.c2ln", claims.trim_end_matches('='))
}

#[actix_rt::test]
async fn tokens_from_elsewhere_end_the_session_before_where_both_name_theirs() {
    let (script, (_folder, file)) = (Script::start(), store());
    let client = Client::new(&script.server(), on_file(&file));
    let log_in = async |token: String| {
        let tokens = TokenResponse { token, ..script.sign_in() };
        client.log_in_with(tokens).await.unwrap();
    };
    let ended = || -> Vec<_> {
        let ended = script.asked("/logout").into_iter();
        ended.map(|asked| asked.field("refresh_token").unwrap()).collect()
    };
    // The second tokens are of the same session, the fourth names none.
    for token in
        [of_session("a"), of_session("a"), of_session("b"), "opaque".into(), of_session("c")]
    {
        log_in(token).await;
    }
    assert_eq!(ended(), [format!("mb_rt_2-0-{SECRET}")]);
    // A failure of that does not fail the log-in.
    script.always("/logout", Act::say(502, "text/html", "<html>"));
    log_in(of_session("d")).await;
    assert_eq!(ended()[1..], [format!("mb_rt_5-0-{SECRET}")]);
}

#[actix_rt::test]
async fn invalid_grant_ends_the_session() {
    let json = r#"{"error":"invalid_grant","message":"","reason":"expired_idle"}"#;
    let ended = Error::LoggedOut(Some(Reason::ExpiredIdle));
    assert_eq!(refresh_answered(Act::json(400, json)).await, (ended, false));
}

#[actix_rt::test]
async fn an_ended_session_is_erased_from_its_store_and_nothing_asks_for_it_again() {
    let (script, (_folder, file)) = (Script::start(), store());
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Act::invalid_grant()]);
    let ended = get(&client, "/user").await.unwrap_err();
    assert_eq!(ended, Error::LoggedOut(Some(Reason::LoggedOut)));
    assert_eq!(get(&client, "/user").await, Err(Error::NotLoggedIn));
    let other = Client::new(&script.server(), on_file(&file));
    assert_eq!(get(&other, "/user").await, Err(Error::NotLoggedIn));
    assert_eq!((script.refreshes(), script.asked("/user").len()), (1, 1));
    assert!(!std::fs::read_to_string(&file).unwrap_or_default().contains("mb_rt_"));
}

#[actix_rt::test]
async fn what_may_pass_keeps_the_tokens_and_tells_how_long_to_wait() {
    for (status, content_type, body) in [
        (200, "text/html", "<html>log in to this café's network</html>"),
        (400, "text/html", "<html>"),
        (401, "text/html", "<html>"),
        (401, "application/json", r#"{"detail":"a gateway of its own mind"}"#),
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
        let act = Act::say(status, content_type, body).with_header("retry-after", "7");
        let (error, kept) = refresh_answered(act).await;
        assert!(matches!(error, Error::Transient { .. }) && kept, "{status} {body}: {error:?}");
        if status >= 429 {
            let Error::Transient { retry_after, .. } = error else { unreachable!() };
            assert_eq!(retry_after, Some(Duration::from_secs(7)), "{status}");
        }
    }
}

#[actix_rt::test]
async fn another_refusal_is_told_and_keeps_the_tokens() {
    let json = r#"{"error":"invalid_request","message":"what is this"}"#;
    let (error, kept) = refresh_answered(Act::json(400, json).marked()).await;
    assert!(kept);
    assert!(
        matches!(&error, Error::UnexpectedResponse(said) if said.contains("what is this")),
        "{error}"
    );
}

#[actix_rt::test]
async fn an_answer_that_is_lost_torn_or_no_grant_at_all_keeps_the_tokens() {
    for (name, act) in [
        ("lost", Act::Lose),
        ("torn", Act::Tear),
        ("empty", Act::json(200, "")),
        ("no tokens", Act::json(200, "{}")),
        ("no content", Act::json(204, "")),
    ] {
        let (error, kept) = refresh_answered(act).await;
        let told = matches!(error, Error::Transient { .. } | Error::UnexpectedResponse(_));
        assert!(told && kept, "{name}: {error:?}");
    }
}

#[actix_rt::test]
async fn a_server_that_does_not_answer_in_time_keeps_the_tokens() {
    for (name, act) in [("held", Act::Do.held()), ("stalled", Act::Stall)] {
        let script = Script::start();
        let server = script.server_within(Duration::from_millis(400));
        let client = Client::new(&server, Credentials::default());
        client.log_in_with(script.sign_in()).await.unwrap();
        script.expire();
        script.always("/refresh", act);
        let asked = Instant::now();
        let outcome = actix_rt::time::timeout(PATIENCE, get(&client, "/user")).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{name}: it waits for ever"));
        assert!(is_transient(&outcome), "{outcome:?}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert!(client.credentials().is_logged_in());
        script.always("/refresh", Act::Do);
        script.release();
        assert_eq!(get_after_rest(&client, "/user").await, Ok(200));
        assert_eq!((script.trades(), script.reuses()), (1, 0));
    }
}

#[actix_rt::test]
async fn a_401_whose_body_never_ends_holds_nothing_up() {
    let script = Script::start();
    let server = script.server_within(Duration::from_millis(400));
    let client = Client::new(&server, Credentials::default());
    client.log_in_with(script.sign_in()).await.unwrap();
    script.expire();
    script.on("/user", [Act::Stall]);
    assert_eq!(soon(get(&client, "/user")).await, Ok(200));
}

#[actix_rt::test]
async fn a_server_that_is_away_keeps_the_tokens() {
    let script = Script::start();
    let tokens = script.sign_in();
    let server = script.server();
    let address = script.origin().trim_start_matches("http://").to_owned();
    drop(script);
    // Until its listener is closed.
    soon(async {
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
async fn a_server_that_asks_to_wait_is_not_asked_again_before() {
    for status in [429, 503] {
        let script = Script::start();
        let client = logged_in(&script).await;
        script.expire();
        script.on("/refresh", [Act::json(status, "{}").with_header("retry-after", "2")]);
        assert!(is_transient(&get(&client, "/user").await));
        for _ in 0..3 {
            let Err(Error::Transient { retry_after: Some(wait), .. }) = get(&client, "/user").await
            else {
                panic!("it rests")
            };
            assert!(wait <= Duration::from_secs(2), "{wait:?}");
        }
        assert_eq!(script.refreshes(), 1, "nothing was asked meanwhile");
        assert_eq!(get_after_rest(&client, "/user").await, Ok(200));
        let asked = script.asked("/refresh");
        assert_eq!(asked.len(), 2, "it was not asked in vain");
        assert!(asked[1].at - asked[0].at >= Duration::from_millis(1900));
    }
}

#[actix_rt::test]
async fn without_a_word_from_the_server_it_rests_a_little_and_longer_each_time() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    script.always("/refresh", Act::json(500, "{}"));
    let mut rests = Vec::new();
    for _ in 0..3 {
        assert!(is_transient(&get(&client, "/user").await));
        let asked = script.refreshes();
        let Err(Error::Transient { retry_after: Some(rest), .. }) = get(&client, "/user").await
        else {
            panic!("it rests")
        };
        assert_eq!(script.refreshes(), asked, "nothing is asked meanwhile");
        rests.push(rest);
        actix_rt::time::sleep(rest).await;
    }
    assert!(rests[0] > Duration::from_millis(50), "{rests:?}");
    assert!(rests[0] < rests[1] && rests[1] < rests[2], "{rests:?}");
    script.always("/refresh", Act::Do);
    assert_eq!(get(&client, "/user").await, Ok(200));
    // A success is the end of it: the next failure rests as the first did.
    script.expire();
    script.always("/refresh", Act::json(500, "{}"));
    assert!(is_transient(&get(&client, "/user").await));
    let Err(Error::Transient { retry_after: Some(rest), .. }) = get(&client, "/user").await else {
        panic!("it rests")
    };
    assert!(rest < rests[1], "{rest:?} {rests:?}");
}

#[actix_rt::test]
async fn a_failure_that_passes_at_once_is_not_noticed() {
    for act in [Act::json(500, "{}"), Act::Lose, Act::Tear, Act::say(502, "text/html", "<html>")] {
        let script = Script::start();
        let client = logged_in(&script).await;
        script.expire();
        script.on("/refresh", [act]);
        assert_eq!(get(&client, "/user").await, Ok(200));
        assert_eq!((script.refreshes(), script.trades(), script.reuses()), (2, 1, 0));
    }
}

#[actix_rt::test]
async fn a_new_sign_in_does_not_rest_for_the_failures_of_the_one_before() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    script.on("/refresh", [Act::json(503, "{}").with_header("retry-after", "60")]);
    assert!(is_transient(&get(&client, "/user").await));
    client.log_in_with(script.sign_in()).await.unwrap();
    script.expire();
    assert_eq!(get(&client, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn the_answers_of_a_resource_end_no_session() {
    let script = Script::start();
    let client = logged_in(&script).await;
    let refused = r#"{"error":"invalid_grant","message":"not from here"}"#;
    for status in [400, 403, 500] {
        script.on("/user", [Act::json(status, refused)]);
        assert_eq!(get(&client, "/user").await, Ok(status));
    }
    assert_eq!(script.refreshes(), 0);
    // One that refuses fresh tokens too is handed on, and asked no third time.
    script.on("/user", [Act::json(401, refused), Act::json(401, refused)]);
    assert_eq!(get(&client, "/user").await, Ok(401));
    assert_eq!(script.refreshes(), 1);
    assert!(client.credentials().is_logged_in());
    assert_eq!(get(&client, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn logging_out_ends_it_at_the_server_and_here() {
    let (script, (_folder, file)) = (Script::start(), store());
    let client = logged_in_with(&script, on_file(&file)).await;
    client.log_out().await.unwrap();
    assert_eq!(script.asked("/logout").len(), 1);
    assert!(!client.credentials().is_logged_in());
    assert_eq!(get(&client, "/user").await, Err(Error::NotLoggedIn));
    client.log_out().await.unwrap();
    assert_eq!(script.asked_in_all().len(), 1, "there was nothing to end");
    let other = Client::new(&script.server(), on_file(&file));
    assert_eq!(get(&other, "/user").await, Err(Error::NotLoggedIn));
}

#[actix_rt::test]
async fn logging_out_everywhere_refreshes_where_it_must_and_erases_here() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    assert_eq!(client.log_out_everywhere().await, Ok(1));
    assert_eq!((script.refreshes(), script.asked("/sessions").len()), (1, 2));
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn a_logout_that_the_server_did_not_confirm_keeps_the_tokens_for_another_try() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.on("/logout", [Act::json(503, r#"{"error":"away","message":"away"}"#)]);
    assert!(is_transient(&client.log_out().await));
    assert!(client.credentials().is_logged_in());
    client.log_out().await.unwrap();
    assert!(!client.credentials().is_logged_in());
    assert_eq!(script.asked("/logout").len(), 2);
}
