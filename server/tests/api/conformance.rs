//! The cases of the `OpenID` Foundation's test plans for providers, driven by tests of our own.
//! Each test has the name of its module. The server is not certified.

mod basic;
mod discovery;
mod rp_initiated_logout;

use matchbook_server::clock;
use matchbook_testkit::{ProcessBuilder, TestResponse};
use serde_json::Value;

use crate::browser::Browser;
use crate::oauth::{
    Client, PASSWORD, Parameters, REDIRECT_URI, redirect_of, redirect_path, set, text, tokens,
};
use crate::support::{Server, decode};

/// The name of the user.
const USER: &str = "ann@example.com";

/// A provider with a user, a browser that is not logged in, and a client without PKCE, as the
/// plans have it.
pub(crate) struct Provider {
    pub(crate) server: Server,
    pub(crate) browser: Browser,
    pub(crate) client: Client,
}

/// The tokens of a login.
pub(crate) struct Login {
    /// The response to the exchange.
    pub(crate) body: Value,
    /// The claims of the ID token, whose signature is valid.
    pub(crate) id: Value,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        Self::with(|launch| launch).await
    }

    pub(crate) async fn with(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Self {
        Self::with_client(settings, &[]).await
    }

    /// Starts a provider whose client has further options.
    pub(crate) async fn with_client(
        settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder,
        options: &[&str],
    ) -> Self {
        let server = Server::with(settings);
        server.register(USER, PASSWORD).await;
        let common =
            ["--confidential", "--redirect-uri", REDIRECT_URI, "--first-party", "--no-pkce"];
        let client = server.register_client("Conformance", &[&common, options].concat());
        let browser = Browser::at(&server);
        Self { server, browser, client }
    }

    /// The authorization request of the plans, with these changes.
    pub(crate) fn request<'a>(&'a self, changes: &[(&'a str, &'a str)]) -> Parameters<'a> {
        let mut request: Parameters<'a> = vec![
            ("response_type", "code".into()),
            ("client_id", self.client.id.as_str().into()),
            ("redirect_uri", REDIRECT_URI.into()),
            ("scope", "openid".into()),
            ("state", "a state".into()),
            ("nonce", "a nonce".into()),
        ];
        for (name, value) in changes {
            set(&mut request, name, value);
        }
        request
    }

    /// Sends an authorization request, and does what the server asks of the user: log in,
    /// consent.
    pub(crate) async fn authorize(&self, request: &Parameters<'_>) -> TestResponse {
        let mut response = self.browser.authorize(request).await;
        if is_login(&response) {
            response = self.log_in(&response).await;
        }
        if !response.header("location").starts_with("../consent?") {
            return response;
        }
        let page = self.browser.get(&redirect_path("/oauth/authorize", &response)).await;
        let allowed = self.browser.submit(&page, &[("decision", "allow")]).await;
        self.browser.get(&redirect_path("/consent", &allowed)).await
    }

    /// Logs the user in at the page to which an authorization request redirects.
    pub(crate) async fn log_in(&self, asked: &TestResponse) -> TestResponse {
        self.browser.log_in_as_and_continue(USER, asked).await
    }

    /// Exchanges the code of a response.
    pub(crate) async fn exchange(&self, response: &TestResponse) -> Login {
        let redirect = redirect_of(response);
        assert_eq!(redirect["state"], "a state");
        assert_eq!(redirect["iss"], self.issuer().await);
        let body = tokens(&self.try_exchange(&redirect["code"]).await);
        let id = self.server.id_token(&body).await;
        self.check_id_token(&id).await;
        Login { body, id }
    }

    /// Sends a code to the token endpoint.
    pub(crate) async fn try_exchange(&self, code: &str) -> TestResponse {
        let form: Parameters<'_> = vec![
            ("grant_type", "authorization_code".into()),
            ("code", code.into()),
            ("redirect_uri", REDIRECT_URI.into()),
        ];
        self.server.token(&self.client, &form).await
    }

    /// Logs the user in with a request that has these changes.
    pub(crate) async fn login_with(&self, changes: &[(&str, &str)]) -> Login {
        self.exchange(&self.authorize(&self.request(changes)).await).await
    }

    pub(crate) async fn configuration(&self) -> Value {
        let response = self.server.http.get("/.well-known/openid-configuration").await;
        assert_eq!(response.status, 200, "{}", response.text);
        response.json()
    }

    async fn issuer(&self) -> String {
        text(&self.configuration().await, "issuer")
    }

    /// The checks that every ID token has to pass (`OpenID` Connect Core §2, §3.1.3.7).
    async fn check_id_token(&self, id: &Value) {
        assert_eq!(id["iss"], self.issuer().await);
        assert_eq!(id["aud"], self.client.id);
        let sub = id["sub"].as_str().unwrap();
        assert!(!sub.is_empty() && sub.len() <= 255 && sub.is_ascii(), "{sub}");
        let (issued, expires) = (id["iat"].as_i64().unwrap(), id["exp"].as_i64().unwrap());
        let now = clock::now().as_secs();
        assert!((now - 60..=now + 1).contains(&issued) && expires > now, "{issued} {expires}");
        assert!(id["auth_time"].as_i64().unwrap() <= issued);
    }

    /// The response of the userinfo endpoint.
    pub(crate) async fn userinfo(&self, login: &Login) -> Value {
        let access = text(&login.body, "access_token");
        let response = self.server.http.get_as("/oauth/userinfo", &access).await;
        assert_eq!(response.status, 200, "{}", response.text);
        assert_eq!(response.header("content-type"), "application/json");
        let body = response.json();
        assert_eq!(body["sub"], login.id["sub"]);
        body
    }
}

/// Returns whether a response redirects to the login page.
pub(crate) fn is_login(response: &TestResponse) -> bool {
    response.status == 303 && response.header("location").starts_with("../login?")
}

/// The header of a token.
pub(crate) fn header_of(token: &str) -> Value {
    serde_json::from_slice(&decode(token.split('.').next().unwrap())).unwrap()
}
