//! OAuth 2.1 with real requests: clients are registered by the command line, users log in at
//! the pages.

mod attacks;
mod authorization;
mod backchannel;
mod bad_requests;
mod client_authentication;
mod codes;
mod cors;
pub(crate) mod device;
mod device_sessions;
mod end_session;
mod introspection;
mod machines;
mod metadata;
mod openid;
mod prompts;
mod refreshing;
mod revocation;

use std::borrow::Cow;

use matchbook_testkit::{ProcessBuilder, TestResponse};
use serde_json::Value;
use url::form_urlencoded;

use crate::browser::Browser;
use crate::support::{Server, encode};

pub(crate) use authorization::{assert_error_redirect, redirect_path};

pub(crate) const PASSWORD: &str = "violet tractor seven hums";
pub(crate) const REDIRECT_URI: &str = "https://app.example/cb";

/// RFC 7636 Appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// A registered client.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) secret: Option<String>,
}

/// The parameters of a request.
pub(crate) type Parameters<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// Returns the challenge of a verifier.
pub(crate) fn challenge(verifier: &str) -> String {
    encode(openssl::sha::sha256(verifier.as_bytes()))
}

/// Replaces a parameter, or removes it if `value` is empty.
pub(crate) fn set<'a>(parameters: &mut Parameters<'a>, name: &'a str, value: &'a str) {
    parameters.retain(|(own, _)| *own != name);
    if !value.is_empty() {
        parameters.push((name, value.into()));
    }
}

impl Client {
    /// The parameters of an authorization request with PKCE.
    pub(crate) fn request(&self) -> Parameters<'_> {
        vec![
            ("response_type", "code".into()),
            ("client_id", self.id.as_str().into()),
            ("redirect_uri", REDIRECT_URI.into()),
            ("state", "a state".into()),
            ("code_challenge", challenge(VERIFIER).into()),
            ("code_challenge_method", "S256".into()),
        ]
    }
}

/// The parameters that exchange a code.
pub(crate) fn exchange_of(code: &str) -> Parameters<'_> {
    vec![
        ("grant_type", "authorization_code".into()),
        ("code", code.into()),
        ("redirect_uri", REDIRECT_URI.into()),
        ("code_verifier", VERIFIER.into()),
    ]
}

impl Server {
    /// Registers a client by the command line.
    pub(crate) fn register_client(&self, name: &str, options: &[&str]) -> Client {
        let arguments = [&["clients", "add", name, "--json"], options].concat();
        let added = self.command_json(&arguments);
        Client {
            id: added["client_id"].as_str().unwrap().to_owned(),
            secret: added["client_secret"].as_str().map(str::to_owned),
        }
    }

    /// Registers a confidential client of the operator.
    pub(crate) fn add_web_app(&self) -> Client {
        self.register_client(
            "web",
            &["--confidential", "--redirect-uri", REDIRECT_URI, "--first-party", "--scope", "read"],
        )
    }

    /// Registers a public client of the operator.
    pub(crate) fn add_spa(&self) -> Client {
        self.register_client(
            "spa",
            &["--public", "--redirect-uri", REDIRECT_URI, "--first-party", "--scope", "read write"],
        )
    }

    /// Sends a token request of a client, which authenticates by Basic if it has a secret.
    pub(crate) async fn token(&self, client: &Client, parameters: &Parameters<'_>) -> TestResponse {
        self.as_client("/oauth/token", client, parameters).await
    }

    /// Sends a request of a client.
    pub(crate) async fn as_client(
        &self,
        path: &str,
        client: &Client,
        parameters: &Parameters<'_>,
    ) -> TestResponse {
        let request = self.http.request("POST", path);
        let mut parameters = parameters.clone();
        if let Some(secret) = &client.secret {
            let request = request.basic_auth(&client.id, secret);
            return TestResponse::of(request.send_form(&parameters)).await;
        }
        set(&mut parameters, "client_id", &client.id);
        TestResponse::of(request.send_form(&parameters)).await
    }

    /// Exchanges a refresh token.
    pub(crate) async fn refresh_by(&self, client: &Client, refresh_token: &str) -> TestResponse {
        let parameters =
            vec![("grant_type", "refresh_token".into()), ("refresh_token", refresh_token.into())];
        self.token(client, &parameters).await
    }

    /// Registers the account `ann`, and logs a browser in.
    pub(crate) async fn browser_of_ann(&self) -> Browser {
        self.register("ann", PASSWORD).await;
        self.log_browser_in().await
    }

    /// Logs another browser of `ann` in.
    pub(crate) async fn log_browser_in(&self) -> Browser {
        let browser = Browser::at(self);
        let response = browser.log_in("ann", PASSWORD).await;
        assert_eq!(response.status, 303, "{}", response.text);
        browser
    }

    /// Lets the browser get a code, and exchanges it.
    pub(crate) async fn log_in_with(&self, browser: &Browser, client: &Client) -> Value {
        let code = browser.code(&client.request()).await;
        tokens(&self.token(client, &exchange_of(&code)).await)
    }
}

/// A server that has the account `ann`, and a browser that is logged in.
pub(crate) async fn server_with(
    settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder,
) -> (Server, Browser) {
    let server = Server::with(settings);
    let browser = server.browser_of_ann().await;
    (server, browser)
}

impl Browser {
    /// Sends an authorization request.
    pub(crate) async fn authorize(&self, parameters: &Parameters<'_>) -> TestResponse {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let query = query.extend_pairs(parameters).finish();
        self.get(&format!("/oauth/authorize?{query}")).await
    }

    /// Returns the code of an authorization request that needs no question.
    pub(crate) async fn code(&self, parameters: &Parameters<'_>) -> String {
        let redirect = redirect_of(&self.authorize(parameters).await);
        redirect.get("code").unwrap_or_else(|| panic!("{redirect:?}")).clone()
    }
}

/// The parameters of a redirect to a client.
pub(crate) type Redirect = std::collections::BTreeMap<String, String>;

/// Returns the parameters of a redirect to the client.
pub(crate) fn redirect_of(response: &TestResponse) -> Redirect {
    assert_eq!(response.status, 303, "{}", response.text);
    let location = response.header("location");
    let query = location.strip_prefix(REDIRECT_URI).and_then(|rest| rest.strip_prefix('?'));
    let query = query.unwrap_or_else(|| panic!("{location}"));
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Returns the body of a successful token response, and checks its form.
pub(crate) fn tokens(response: &TestResponse) -> Value {
    assert_eq!(response.status, 200, "{}", response.text);
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("cache-control"), "no-store");
    let body = response.json();
    assert_eq!(body["token_type"], "Bearer");
    assert!(body["expires_in"].as_u64().is_some_and(|seconds| seconds > 0), "{body}");
    body
}

/// Returns a text of a JSON body.
pub(crate) fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap_or_else(|| panic!("no {name} in {body}")).to_owned()
}

/// Checks the status and the error of a response of an OAuth endpoint.
pub(crate) fn assert_error(response: &TestResponse, status: u16, error: &str) {
    assert_eq!(response.status, status, "{}", response.text);
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("cache-control"), "no-store");
    let body = response.json();
    assert_eq!(body["error"], error, "{body}");
    let description = text(&body, "error_description");
    let is_permitted = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b'"' && byte != b'\\';
    assert!(description.bytes().all(is_permitted), "{description}");
    assert!(!description.contains("invalid_grant") && !description.contains("invalid_client"));
}

/// Changes a character of a token.
pub(crate) fn tampered(token: &str) -> String {
    let other = if &token[60..61] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &token[..60], &token[61..])
}
