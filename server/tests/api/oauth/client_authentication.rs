//! The authentication of clients at the token endpoint.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use matchbook_testkit::TestResponse;

use super::{Client, Parameters, assert_error, server_with, set, text, tokens};
use crate::support::Server;

/// A refresh by a client that authenticates as the test says.
fn refresh(refresh_token: &str) -> Parameters<'static> {
    vec![("grant_type", "refresh_token".into()), ("refresh_token", refresh_token.to_owned().into())]
}

impl Server {
    /// Sends a token request with these `Authorization` headers.
    async fn token_with(&self, headers: &[String], form: &Parameters<'_>) -> TestResponse {
        let request = self.http.request("POST", "/oauth/token");
        let request = headers.iter().fold(request, |request, header| {
            request.append_header(("authorization", header.as_str()))
        });
        TestResponse::of(request.send_form(form)).await
    }
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

/// Percent-encodes every byte.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02X}").unwrap();
        text
    })
}

#[actix_rt::test]
async fn confidential_client_authenticates_by_header_or_form_at_every_request() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let secret = client.secret.clone().unwrap();
    let mut token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    for headers in [
        vec![basic(&client.id, &secret)],
        vec![basic(&encoded(&client.id), &encoded(&secret))],
        vec![basic(&client.id, &secret).replace("Basic", "bAsIc")],
        vec![],
    ] {
        let mut form = refresh(&token);
        if headers.is_empty() {
            set(&mut form, "client_id", &client.id);
            set(&mut form, "client_secret", &secret);
        }
        token = text(&tokens(&server.token_with(&headers, &form).await), "refresh_token");
    }
    let mut form = refresh(&token);
    set(&mut form, "client_id", &client.id);
    token = text(
        &tokens(&server.token_with(&[basic(&client.id, &secret)], &form).await),
        "refresh_token",
    );

    let mut with_id = refresh(&token);
    set(&mut with_id, "client_id", &client.id);
    let mut with_wrong = with_id.clone();
    set(&mut with_wrong, "client_secret", "mb_cs_wrong");
    let mut without_id = refresh(&token);
    set(&mut without_id, "client_secret", &secret);
    for (headers, form, status) in [
        (vec![], &with_id, 400),
        (vec![], &with_wrong, 400),
        (vec![], &without_id, 400),
        (vec![], &refresh(&token), 400),
        (vec![basic(&client.id, "")], &refresh(&token), 401),
        (vec![basic(&client.id, "mb_cs_wrong")], &refresh(&token), 401),
        (vec![basic(&client.id, &secret.to_uppercase())], &refresh(&token), 401),
        (vec!["Basic".to_owned()], &with_id, 401),
        (vec!["Basic !".to_owned()], &with_id, 401),
        (vec![format!("Bearer {secret}")], &with_id, 401),
    ] {
        let response = server.token_with(&headers, form).await;
        assert_error(&response, status, "invalid_client");
        let challenge = response.header("www-authenticate");
        assert_eq!(challenge.starts_with("Basic realm="), status == 401, "{challenge}");
    }
    tokens(&server.token_with(&[basic(&client.id, &secret)], &refresh(&token)).await);
    let events = "SELECT count(*) AS number FROM events WHERE kind = 'refresh_rejected'";
    assert_eq!(server.number(events), 0, "the session is untouched");
}

#[actix_rt::test]
async fn two_methods_or_two_clients_at_once_are_an_invalid_request() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let secret = client.secret.clone().unwrap();
    let token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    let header = basic(&client.id, &secret);
    let mut both = refresh(&token);
    set(&mut both, "client_id", &client.id);
    set(&mut both, "client_secret", &secret);
    let mut other = refresh(&token);
    set(&mut other, "client_id", "other");
    for (headers, form) in [
        (vec![header.clone()], &both),
        (vec![header.clone()], &other),
        (vec![header.clone(), header.clone()], &refresh(&token)),
    ] {
        assert_error(&server.token_with(&headers, form).await, 400, "invalid_request");
    }
    tokens(&server.token(&client, &refresh(&token)).await);
}

#[actix_rt::test]
async fn public_client_sends_no_secret_or_an_empty_one() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let mut token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    for (headers, secret) in
        [(vec![], None), (vec![basic(&client.id, "")], None), (vec![], Some(""))]
    {
        let mut form = refresh(&token);
        if headers.is_empty() {
            set(&mut form, "client_id", &client.id);
        }
        form.extend(secret.map(|secret| ("client_secret", secret.into())));
        token = text(&tokens(&server.token_with(&headers, &form).await), "refresh_token");
    }
    let mut by_form = refresh(&token);
    set(&mut by_form, "client_id", &client.id);
    set(&mut by_form, "client_secret", "x");
    assert_error(&server.token_with(&[], &by_form).await, 400, "invalid_client");
    let by_header = server.token_with(&[basic(&client.id, "x")], &refresh(&token)).await;
    assert_error(&by_header, 401, "invalid_client");
    tokens(&server.refresh_by(&client, &token).await);
}

#[actix_rt::test]
async fn unknown_client_and_wrong_secret_get_the_same_response() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    let known = Client { secret: Some("mb_cs_wrong".to_owned()), ..client };
    let unknown = Client { id: "cl_unknown".to_owned(), ..known.clone() };
    for path in ["/oauth/token", "/oauth/revoke", "/oauth/introspect"] {
        for grant_type in ["refresh_token", "authorization_code", "client_credentials", "x"] {
            let mut form = refresh(&token);
            set(&mut form, "grant_type", grant_type);
            set(&mut form, "code", "x");
            set(&mut form, "token", &token);
            let [known, unknown] = [
                server.as_client(path, &known, &form).await,
                server.as_client(path, &unknown, &form).await,
            ];
            assert_error(&known, 401, "invalid_client");
            assert_eq!((known.status, &known.text), (unknown.status, &unknown.text));
            let challenge = "www-authenticate";
            assert_eq!(known.header(challenge), unknown.header(challenge));
        }
    }
}

#[actix_rt::test]
async fn replaced_secret_is_accepted_until_the_next_replacement() {
    let server = Server::start();
    let options = ["--confidential", "--machine", "--scope", "read"];
    let client = server.register_client("machine", &options);
    let form = vec![("grant_type", "client_credentials".into())];
    tokens(&server.token(&client, &form).await);
    let rotate = || {
        let rotated = server.command_json(&["clients", "rotate-secret", &client.id, "--json"]);
        let secret = rotated["client_secret"].as_str().unwrap().to_owned();
        Client { secret: Some(secret), ..client.clone() }
    };
    let accepted = |client: Client| {
        let (server, form) = (&server, &form);
        async move { server.token(&client, form).await.status }
    };
    let second = rotate();
    crate::support::eventually(200, async || accepted(second.clone()).await).await;
    assert_eq!(accepted(client.clone()).await, 200);
    let third = rotate();
    crate::support::eventually(200, async || accepted(third.clone()).await).await;
    assert_eq!(accepted(second).await, 200);
    assert_error(&server.token(&client, &form).await, 401, "invalid_client");
}
