//! The second factor: codes of an authenticator app, and recovery codes.

use matchbook_testkit::{Http, TestResponse};
use serde_json::{Value, json};
use totp_rs::{Builder, Secret};

use crate::account::outcome;
use crate::guessing::device_cookie;
use crate::races::Pair;
use crate::support::{Server, Tokens};

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

/// Turns the second factor of an account on. Returns its secret and the recovery codes.
pub(crate) async fn enroll(
    server: &Server,
    tokens: &Tokens,
    password: &str,
) -> (String, Vec<String>) {
    let proof = json!({ "password": password });
    let begun = server.post_json_as("/account/totp", &proof, &tokens.access).await;
    assert_eq!(begun.status, 200, "{}", begun.text);
    let secret = begun.field("secret");
    let body = json!({ "code": code_of(&secret, 0) });
    let confirmed = server.post_json_as("/account/totp/confirm", &body, &tokens.access).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text);
    let codes = confirmed.json()["recoveryCodes"].as_array().unwrap().clone();
    let codes: Vec<String> = codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect();
    assert_eq!(codes.len(), 10);
    (secret, codes)
}

/// The code that an app shows `steps` time steps from now.
pub(crate) fn code_of(secret: &str, steps: i64) -> String {
    let secret = Secret::try_from_base32(secret).unwrap();
    let totp = Builder::new().with_secret(secret).build().unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    totp.generate(now.checked_add_signed(30 * steps).unwrap()).to_string()
}

/// The current code. The server behaves as if the codes before it were used a minute ago.
pub(crate) fn code(server: &Server, secret: &str) -> String {
    server.sql("UPDATE accounts SET totp_last_step = totp_last_step - 2");
    code_of(secret, 0)
}

async fn log_in_with(http: &Http, password: &str, code: &str) -> TestResponse {
    let body = json!({ "name": "ann", "password": password, "code": code });
    TestResponse::of(http.request("POST", "/login").send_json(&body)).await
}

#[actix_rt::test]
async fn code_is_asked_for_only_after_the_right_password() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let (secret, _) = enroll(&server, &tokens, PASSWORD).await;
    let asked = server.try_log_in_as("ann", PASSWORD).await;
    assert_eq!(outcome(&asked), (401, "second_factor_required".into()));
    let wrong_password = server.try_log_in_as("ann", OTHER).await;
    assert_eq!(outcome(&wrong_password), (401, "invalid_credentials".into()));
    let right = code(&server, &secret);
    let wrong = if right == "000000" { "000001" } else { "000000" };
    for (password, code) in [(OTHER, right.as_str()), (PASSWORD, wrong), (PASSWORD, "x")] {
        let rejected = log_in_with(&server.http, password, code).await;
        assert_eq!((rejected.status, rejected.text), (401, wrong_password.text.clone()));
    }
    let tokens = Tokens::of(&log_in_with(&server.http, PASSWORD, &right).await);
    let account = server.account(&tokens).await;
    assert_eq!(
        (&account["secondFactor"], &account["recoveryCodesLeft"]),
        (&json!(true), &json!(10))
    );
}

#[actix_rt::test]
async fn app_gets_the_secret_as_a_uri_that_names_account_and_server() {
    let server =
        Server::with(|launch| launch.set("tokens.issuer", "https://auth.example.com:8443"));
    server.register("ann@example.com", PASSWORD).await;
    let tokens = server.log_in_as("ann@example.com", PASSWORD).await;
    let proof = json!({ "password": PASSWORD });
    let begun = server.post_json_as("/account/totp", &proof, &tokens.access).await;
    let secret = begun.field("secret");
    assert_eq!(secret.len(), 32, "160 bits");
    let uri = format!(
        "otpauth://totp/auth.example.com:ann%40example.com?secret={secret}&issuer=auth.example.com"
    );
    assert_eq!(begun.field("uri"), uri);
}

#[actix_rt::test]
async fn code_is_accepted_once_at_all_servers_together() {
    let pair = Pair::with(&[]);
    let server = &pair.here;
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let (secret, codes) = enroll(server, &tokens, PASSWORD).await;
    for code in [code(server, &secret), codes[3].to_lowercase().replace('-', " ")] {
        let logins = (0..8).map(|i| {
            let (http, code) = (pair.server(i), code.clone());
            actix_rt::spawn(async move { log_in_with(&http, PASSWORD, &code).await.status })
        });
        let mut statuses = Vec::new();
        for login in logins.collect::<Vec<_>>() {
            statuses.push(login.await.unwrap());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401, 401, 401, 401, 401, 401, 401], "{code}");
    }
    assert_eq!(server.account(&tokens).await["recoveryCodesLeft"], 9);
    let used = "SELECT count(*) AS number FROM events WHERE kind = 'recovery_code_used'";
    assert_eq!(server.number(used), 1);
}

#[actix_rt::test]
async fn second_factor_counts_once_it_is_confirmed_and_until_it_is_removed() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let send = async |(method, path), body: Value| {
        server.json_as((method, path), &body, &tokens.access).await
    };
    let begin = async |password: &str| {
        send(("POST", "/account/totp"), json!({ "password": password })).await
    };
    let confirm =
        async |code: String| send(("POST", "/account/totp/confirm"), json!({ "code": code })).await;
    let remove = async |body: Value| send(("DELETE", "/account/totp"), body).await;
    assert_eq!(outcome(&confirm("123456".into()).await), (409, "second_factor_off".into()));
    let off = remove(json!({ "password": PASSWORD, "code": "123456" })).await;
    assert_eq!(outcome(&off), (409, "second_factor_off".into()));
    assert_eq!(outcome(&begin(OTHER).await), (401, "invalid_credentials".into()));
    let first = begin(PASSWORD).await.field("secret");
    server.log_in_as("ann", PASSWORD).await;
    // Another attempt has another secret.
    let second = begin(PASSWORD).await.field("secret");
    assert_eq!(outcome(&confirm(code_of(&first, 0)).await), (401, "invalid_code".into()));
    let used = code_of(&second, 0);
    assert_eq!(confirm(used.clone()).await.status, 200);
    let reused = log_in_with(&server.http, PASSWORD, &used).await;
    assert_eq!(outcome(&reused), (401, "invalid_credentials".into()), "the first code is used");
    assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 401);
    assert_eq!(outcome(&begin(PASSWORD).await), (409, "second_factor_on".into()));
    let again = confirm(code_of(&second, 1)).await;
    assert_eq!(outcome(&again), (409, "second_factor_on".into()));

    let without = remove(json!({ "password": PASSWORD })).await;
    assert_eq!(outcome(&without), (401, "invalid_code".into()));
    let wrong = remove(json!({ "password": OTHER, "code": code(&server, &second) })).await;
    assert_eq!(outcome(&wrong), (401, "invalid_credentials".into()));
    let removed = remove(json!({ "password": PASSWORD, "code": code(&server, &second) })).await;
    assert_eq!(removed.status, 204, "{}", removed.text);
    server.log_in_as("ann", PASSWORD).await;
    assert_eq!(server.number("SELECT count(*) AS number FROM recovery_codes"), 0);
    for kind in ["second_factor_enabled", "second_factor_disabled"] {
        let query = format!("SELECT count(*) AS number FROM events WHERE kind = '{kind}'");
        assert_eq!(server.number(&query), 1, "{kind}");
    }
}

#[actix_rt::test]
async fn operator_removes_the_second_factor_of_a_user_who_has_lost_it() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    enroll(&server, &tokens, PASSWORD).await;
    assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 401);
    let removed = server.users_json(&["remove-second-factor", "ann"]);
    assert_eq!(removed["changed"], true);
    assert_eq!(server.users_json(&["remove-second-factor", "ann"])["changed"], false);
    server.log_in_as("ann", PASSWORD).await;
    assert_eq!(server.number("SELECT count(*) AS number FROM recovery_codes"), 0);
}

#[actix_rt::test]
async fn secret_is_encrypted_under_the_servers_secret_and_moves_to_a_new_one() {
    const OLD_SECRET: &str = "the-secret-before-of-thirty-two-characters";
    const NEW_SECRET: &str = "the-secret-after-it-of-thirty-two-characters";
    let mut server =
        Server::with(|launch| launch.set("secret", OLD_SECRET).set("log.level", "debug"));
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let (secret, codes) = enroll(&server, &tokens, PASSWORD).await;
    let length = "SELECT CAST(length(totp_secret) AS bigint) AS number FROM accounts";
    assert_eq!(server.number(length), 12 + 20 + 16, "nonce, secret, tag");
    let first = code(&server, &secret);
    Tokens::of(&log_in_with(&server.http, PASSWORD, &first).await);
    Tokens::of(&log_in_with(&server.http, PASSWORD, &codes[0]).await);
    assert!(server.process.stop().success());
    let log = server.process.log();
    for text in [&secret, &first, &codes[0], &codes[1]] {
        assert!(!log.contains(text.as_str()), "{text}");
    }

    let both = |launch: matchbook_testkit::ProcessBuilder| {
        launch.set("secret", NEW_SECRET).set("old_secrets", OLD_SECRET)
    };
    let mut server = Server::within(server.world, both);
    let second = code(&server, &secret);
    Tokens::of(&log_in_with(&server.http, PASSWORD, &second).await);
    assert!(server.process.stop().success());

    let server = Server::within(server.world, |launch| launch.set("secret", NEW_SECRET));
    let third = code(&server, &secret);
    Tokens::of(&log_in_with(&server.http, PASSWORD, &third).await);
}

#[actix_rt::test]
async fn codes_cannot_be_guessed_with_the_right_password() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let login = server.try_log_in_as("ann", PASSWORD).await;
    let cookie = device_cookie(&login);
    let (secret, codes) = enroll(&server, &Tokens::of(&login), PASSWORD).await;
    let right = code(&server, &secret);
    let wrong = if right == "000000" { "000001" } else { "000000" };
    // A known browser: its attempts are not delayed.
    let attempt = async |code: &str| {
        let body = json!({ "name": "ann", "password": PASSWORD, "code": code });
        let request =
            server.http.request("POST", "/login").insert_header(("cookie", cookie.as_str()));
        TestResponse::of(request.send_json(&body)).await
    };
    for _ in 0..10 {
        assert_eq!(attempt(wrong).await.status, 401);
    }
    let refused = attempt(&right).await;
    assert_eq!(outcome(&refused), (429, "too_many_requests".into()));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=90).contains(&wait), "{wait}");
    // Recovery codes cannot be guessed anyway.
    assert_eq!(attempt(&codes[0]).await.status, 200);
}
