//! Clients that act for themselves (`client_credentials`).

use serde_json::json;

use super::refreshing::claims;
use super::{Client, Parameters, assert_error, server_with, set, text, tokens};
use crate::support::{Server, eventually};

fn request() -> Parameters<'static> {
    vec![("grant_type", "client_credentials".into())]
}

impl Server {
    fn add_machine(&self) -> Client {
        let options = ["--confidential", "--machine", "--scope", "read write"];
        self.register_client(
            "machine",
            &[&options[..], &["--audience", "https://api.example"]].concat(),
        )
    }
}

#[actix_rt::test]
async fn machine_gets_an_access_token_for_itself_and_no_refresh_token() {
    let server = Server::start();
    let client = server.add_machine();
    let body = tokens(&server.token(&client, &request()).await);
    let mut names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["access_token", "expires_in", "scope", "token_type"]);
    let claims = claims(&body);
    assert_eq!(claims["sub"], json!(client.id));
    assert_eq!(claims["client_id"], json!(client.id));
    assert_eq!(claims["scope"], "read write");
    assert_eq!(claims["aud"], "https://localhost:5001");
    assert!(claims.get("auth_time").is_none(), "{claims}");
    let described = server.introspect(&client, &text(&body, "access_token")).await;
    assert_eq!((&described["active"], &described["sub"]), (&json!(true), &json!(client.id)));
}

#[actix_rt::test]
async fn machine_may_request_less_and_not_more() {
    let server = Server::start();
    let client = server.add_machine();
    let mut narrow = request();
    set(&mut narrow, "scope", "write");
    set(&mut narrow, "resource", "https://api.example");
    let body = tokens(&server.token(&client, &narrow).await);
    assert_eq!((&claims(&body)["scope"], &body["scope"]), (&json!("write"), &json!("write")));
    assert_eq!(claims(&body)["aud"], "https://api.example");
    for (name, value, error) in [
        ("scope", "write admin", "invalid_scope"),
        ("scope", "offline_access", "invalid_scope"),
        ("scope", "\"", "invalid_scope"),
        ("resource", "https://api.example/", "invalid_target"),
        ("resource", "api", "invalid_target"),
    ] {
        let mut wide = request();
        set(&mut wide, name, value);
        assert_error(&server.token(&client, &wide).await, 400, error);
    }
}

#[actix_rt::test]
async fn only_confidential_machines_may_act_for_themselves() {
    let (server, _) = server_with(|launch| launch).await;
    for client in [server.add_web_app(), server.add_spa()] {
        assert_error(&server.token(&client, &request()).await, 400, "unauthorized_client");
    }
    let machine = server.add_machine();
    let no_secret = Client { secret: None, ..machine.clone() };
    assert_error(&server.token(&no_secret, &request()).await, 400, "invalid_client");
    for (grant_type, error) in [
        ("password", "unsupported_grant_type"),
        ("implicit", "unsupported_grant_type"),
        ("Client_Credentials", "unsupported_grant_type"),
        ("", "invalid_request"),
    ] {
        let mut other = request();
        set(&mut other, "grant_type", grant_type);
        assert_error(&server.token(&machine, &other).await, 400, error);
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM sessions"), 0);
}

#[actix_rt::test]
async fn token_of_a_machine_reaches_no_user_and_can_be_revoked() {
    let server = Server::start();
    let client = server.add_machine();
    let [first, second] = [
        text(&tokens(&server.token(&client, &request()).await), "access_token"),
        text(&tokens(&server.token(&client, &request()).await), "access_token"),
    ];
    for path in ["/user", "/sessions", "/account"] {
        let response = server.http.get_as(path, &first).await;
        assert_eq!(
            (response.status, response.field("error").as_str()),
            (403, "insufficient_scope")
        );
    }
    let form = vec![("token", first.as_str().into())];
    assert_eq!(server.as_client("/oauth/revoke", &client, &form).await.status, 200);
    assert_eq!(server.user(&first).await, 401);
    assert_eq!(server.user(&second).await, 403, "the other token is valid");
    let removed = server.command_json(&["clients", "remove", &client.id, "--json"]);
    assert_eq!(removed["ended"], 1);
    eventually(401, async || server.user(&second).await).await;
}
