//! Login and registration with a password, and the `User-Agent`.

use std::time::Duration;

use matchbook_client::{
    Client, Credentials, DeviceToken, Error, PasswordLogin, Rejection, UserAgent,
};
use matchbook_testkit::{Reaction, ScriptedServer};
use serde_json::{Value, json};

use super::{
    SECRET, get, guest, is_transient, logged_in, on_file, recording, server_at, spawn_get, store,
};

const NAME: &str = "anna@example.com";

const PASSWORD: &str = "violet tractor seven hums";

/// Returns a server with one account, and a client that is not logged in.
fn with_account() -> (ScriptedServer, Client) {
    let script = ScriptedServer::start();
    script.add_account(NAME, PASSWORD);
    let client = Client::new(&server_at(&script), Credentials::default());
    (script, client)
}

fn rejected<T>(outcome: Result<T, Error>) -> Rejection {
    match outcome {
        Err(Error::Rejected(reason)) => reason,
        Err(error) => panic!("another error: {error:?}"),
        Ok(_) => panic!("the request succeeded"),
    }
}

/// Returns the last JSON body that the server received at `path`.
fn last_body(script: &ScriptedServer, path: &str) -> Value {
    serde_json::from_slice(&script.received(path).last().unwrap().body).unwrap()
}

/// Responds with an error of a Matchbook server.
fn error(status: u16, code: &str) -> Reaction {
    let body = json!({ "error": code, "message": format!("about {code}") });
    Reaction::json(status, &body.to_string()).marked()
}

#[actix_rt::test]
async fn a_login_with_a_password_stores_tokens_of_known_age_that_are_refreshed_later() {
    let script = ScriptedServer::start();
    script.add_account(NAME, PASSWORD);
    let (_folder, file) = store();
    let client = Client::new(&server_at(&script), on_file(&file));
    client.log_in(NAME, PASSWORD).await.unwrap();
    assert!(client.credentials().status().unwrap().remaining > Some(Duration::from_secs(50)));
    script.expire();
    let next_process = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get(&next_process, "/user").await, Ok(200));
    assert_eq!((script.rotations(), script.reuses()), (1, 0));
    assert_eq!(last_body(&script, "/login"), json!({ "name": NAME, "password": PASSWORD }));
}

#[actix_rt::test]
async fn a_login_ends_the_session_of_the_previous_login_and_a_rejected_one_does_not() {
    let (script, client) = with_account();
    client.log_in(NAME, PASSWORD).await.unwrap();
    assert_eq!(rejected(client.log_in(NAME, "wrong").await), Rejection::InvalidCredentials);
    assert_eq!(get(&client, "/user").await, Ok(200), "the session goes on");
    assert_eq!(script.received("/logout").len(), 0);
    client.log_in(NAME, PASSWORD).await.unwrap();
    let ended = script.received("/logout");
    let first_session = ended[0].field("refresh_token").unwrap();
    assert!(ended.len() == 1 && first_session.starts_with("mb_rt_1-"), "{first_session}");
    assert_eq!(get(&client, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn a_rejected_login_does_not_disturb_a_refresh_of_the_current_session() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.on("/login", [error(401, "invalid_credentials").held()]);
    let other = client.clone();
    let login = actix_rt::spawn(async move { other.log_in(NAME, "wrong").await });
    script.until_received("/login", 1).await;
    script.expire();
    assert_eq!(spawn_get(&client, "/user").await.unwrap(), Ok(200), "it does not wait");
    script.release();
    assert_eq!(rejected(login.await.unwrap()), Rejection::InvalidCredentials);
}

#[actix_rt::test]
async fn a_session_whose_tokens_cannot_be_stored_is_ended() {
    let (script, _) = with_account();
    let (_folder, file) = store();
    std::fs::create_dir(&file).unwrap();
    let client = Client::new(&server_at(&script), on_file(&file));
    assert!(matches!(client.log_in(NAME, PASSWORD).await, Err(Error::Store(_))));
    assert_eq!(script.received("/logout").len(), 1);
}

#[actix_rt::test]
async fn each_rejection_of_a_login_is_typed() {
    let (script, client) = with_account();
    let wait = Some(Duration::from_secs(40));
    for (reaction, reason) in [
        (error(401, "invalid_credentials"), Rejection::InvalidCredentials),
        (error(401, "second_factor_required"), Rejection::SecondFactorRequired),
        (error(403, "user_disabled"), Rejection::UserDisabled),
        (
            error(429, "too_many_requests").with_header("retry-after", "40"),
            Rejection::TooManyAttempts { retry_after: wait },
        ),
        (
            error(400, "from_the_future"),
            Rejection::Other {
                code: "from_the_future".to_owned(),
                message: "about from_the_future".to_owned(),
            },
        ),
    ] {
        script.on("/login", [reaction]);
        assert_eq!(rejected(client.log_in(NAME, PASSWORD).await), reason);
        assert!(!client.credentials().is_logged_in());
    }
}

#[actix_rt::test]
async fn each_rejection_of_a_registration_is_typed() {
    let (script, client) = with_account();
    for (status, code, reason) in [
        (403, "registration_closed", Rejection::RegistrationClosed),
        (409, "name_taken", Rejection::NameTaken),
        (409, "already_registered", Rejection::AlreadyRegistered),
        (400, "invalid_name", Rejection::InvalidName("about invalid_name".to_owned())),
        (
            400,
            "unacceptable_password",
            Rejection::UnacceptablePassword("about unacceptable_password".to_owned()),
        ),
    ] {
        script.on("/register", [error(status, code)]);
        assert_eq!(rejected(client.register(NAME, PASSWORD).await), reason);
    }
}

#[actix_rt::test]
async fn a_busy_server_and_responses_of_a_proxy_are_transient() {
    let (script, client) = with_account();
    let page = "<html>log in to this network</html>";
    for reaction in [
        error(503, "temporarily_unavailable").with_header("retry-after", "3"),
        Reaction::json(401, r#"{"error":"invalid_credentials","message":"a gateway"}"#),
        Reaction::respond(429, "text/html", page),
        Reaction::respond(200, "text/html", page),
        Reaction::DropConnection,
    ] {
        script.on("/login", [reaction]);
        let outcome = client.log_in(NAME, PASSWORD).await;
        assert!(is_transient(&outcome), "{outcome:?}");
    }
    script.on("/login", [error(503, "temporarily_unavailable").with_header("retry-after", "3")]);
    let Err(Error::Transient { retry_after, .. }) = client.log_in(NAME, PASSWORD).await else {
        panic!("it is transient")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(3)));
}

#[actix_rt::test]
async fn a_login_is_sent_once() {
    let (script, client) = with_account();
    script.on("/login", [Reaction::DropConnection]);
    assert!(client.log_in(NAME, PASSWORD).await.is_err());
    assert_eq!(script.received("/login").len(), 1, "each attempt counts at the server");
}

#[actix_rt::test]
async fn the_code_and_the_device_token_are_sent_with_the_login() {
    let (script, client) = with_account();
    let login = PasswordLogin::new(NAME, PASSWORD);
    let device = client.log_in_with_password(login).await.unwrap().unwrap();
    assert_eq!(device.as_str(), format!("device-{SECRET}"));
    let kept = DeviceToken::new(device.as_str()).unwrap();
    client.log_in_with_password(login.code("123456").device(&kept)).await.unwrap();
    assert_eq!(last_body(&script, "/login")["code"], "123456");
    let cookie = script.received("/login")[1].headers["cookie"].clone();
    assert_eq!(cookie, format!("__Host-matchbook_device=device-{SECRET}"));
    assert!(!script.received("/login")[0].headers.contains_key("cookie"));
}

#[actix_rt::test]
async fn a_guest_registers_with_its_access_token_and_keeps_its_session() {
    let script = ScriptedServer::start();
    let client = guest(&script, Credentials::default()).await;
    script.expire();
    script.on("/register", [error(401, "invalid_token")]);
    let user = client.register(NAME, PASSWORD).await.unwrap();
    let received = script.received("/register");
    let with_token: Vec<_> = received.iter().map(|request| request.bearer().is_some()).collect();
    assert_eq!(with_token, [false, true, true], "a guest, and the account after a refresh");
    assert_eq!(user.to_string(), "00000000-0000-4000-8000-000000000001");
    assert_eq!(script.received("/logout").len(), 0);
    assert_eq!(get(&client, "/user").await, Ok(200));

    let other = Client::new(&server_at(&script), Credentials::default());
    other.register("bert", PASSWORD).await.unwrap();
    assert_eq!(script.received("/register").last().unwrap().bearer(), None);
    other.log_in("bert", PASSWORD).await.unwrap();
}

#[actix_rt::test]
async fn no_error_and_no_event_shows_the_password_the_code_or_the_device_token() {
    let (script, _) = with_account();
    let (credentials, events) = recording();
    let client = Client::new(&server_at(&script), credentials);
    let device = DeviceToken::new("device-of-long-ago").unwrap();
    let mut shown = String::new();
    for status in [400, 401, 403, 404, 409, 418, 429, 500, 503] {
        let quote = format!("{PASSWORD} 987654 device-of-long-ago");
        let echo = json!({ "error": quote, "message": quote }).to_string();
        for path in ["/login", "/register"] {
            script.on(path, [Reaction::json(status, &echo).marked()]);
        }
        let login = PasswordLogin::new(NAME, PASSWORD).code("987654").device(&device);
        let errors = [
            client.log_in_with_password(login).await.unwrap_err(),
            client.register(NAME, PASSWORD).await.unwrap_err(),
        ];
        for error in &errors[..1] {
            assert!(!format!("{error} {error:?}").contains("987654"), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("long-ago"), "{error:?}");
        }
        shown = format!("{shown}{errors:?}{} {}", errors[0], errors[1]);
    }
    let events = format!("{:?}", events.lock().unwrap());
    assert!(events.contains("/login"), "{events}");
    for text in [&shown, &events] {
        assert!(!text.contains("tractor"), "{text}");
    }
}

#[actix_rt::test]
async fn every_request_has_the_user_agent_of_the_settings_or_of_its_client() {
    let script = ScriptedServer::start();
    script.add_account(NAME, PASSWORD);
    let app = UserAgent::new("my-app/1.2").unwrap().on_device("Anna's phone").unwrap();
    let server = server_at(&script).user_agent(app);
    let client = Client::new(&server, Credentials::default());
    client.log_in(NAME, PASSWORD).await.unwrap();
    script.expire();
    assert_eq!(get(&client, "/user").await, Ok(200));
    let browser = client.with_user_agent(UserAgent::new("Mozilla/5.0").unwrap());
    script.expire();
    assert_eq!(get(&browser, "/browser").await, Ok(200));
    client.get("/own").header("User-Agent", "curl/8").send().await.unwrap();
    client.log_out().await.unwrap();
    let mut seen: Vec<_> = script
        .all_received()
        .iter()
        .map(|received| format!("{} {}", received.path, received.headers["user-agent"]))
        .collect();
    seen.dedup();
    assert_eq!(
        seen,
        [
            "/login my-app/1.2 (Anna's phone)",
            "/user my-app/1.2 (Anna's phone)",
            "/refresh my-app/1.2 (Anna's phone)",
            "/user my-app/1.2 (Anna's phone)",
            "/browser Mozilla/5.0",
            "/refresh Mozilla/5.0",
            "/browser Mozilla/5.0",
            "/own curl/8",
            "/logout my-app/1.2 (Anna's phone)",
        ]
    );
}
