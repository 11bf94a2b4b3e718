//! The `oauth2` crate: a native app, which listens on a free port for the redirect.
//!
//! With the argument `share` it is one of the processes of contract.mjs.

mod redirect;
mod share;
mod steps;

use std::net::TcpListener;

use oauth2::basic::{
    BasicClient, BasicErrorResponseType, BasicRequestTokenError, BasicTokenResponse,
};
use oauth2::reqwest::blocking::Client as HttpClient;
use oauth2::reqwest::redirect::Policy;
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet,
    HttpClientError, PkceCodeChallenge, RedirectUrl, RefreshToken, RevocationUrl, Scope,
    StandardRevocableToken, TokenResponse, TokenUrl,
};
use serde_json::json;

use crate::redirect::{open_browser, receive};
use crate::steps::{announce, api_status, ask, expiry, issuer, refreshes, step};

type Failure = Box<dyn std::error::Error>;
type TokenError = BasicRequestTokenError<HttpClientError<oauth2::reqwest::Error>>;
type App = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointSet, EndpointSet>;

/// Configures the app. The server's metadata has the URLs of the endpoints.
fn app(client_id: &str) -> Result<App, Failure> {
    let issuer = issuer();
    // docs: native-app
    let app = BasicClient::new(ClientId::new(client_id.to_owned()))
        .set_auth_uri(AuthUrl::new(format!("{issuer}/oauth/authorize"))?)
        .set_token_uri(TokenUrl::new(format!("{issuer}/oauth/token"))?)
        .set_revocation_url(RevocationUrl::new(format!("{issuer}/oauth/revoke"))?);
    // docs: end
    Ok(app)
}

fn log_in(app: &App, http: &HttpClient) -> Result<BasicTokenResponse, Failure> {
    // docs: native-app-login
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let redirect_uri = format!("http://{}/callback", listener.local_addr()?);
    let app = app.clone().set_redirect_uri(RedirectUrl::new(redirect_uri.clone())?);
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (url, state) = app
        .authorize_url(CsrfToken::new_random)
        .add_scope(Scope::new("read".to_owned()))
        .set_pkce_challenge(challenge)
        .url();
    // docs: end
    let browser = open_browser(&url, &redirect_uri);
    // docs: native-app-login
    let callback = receive(&listener, &redirect_uri)?;
    // docs: end
    browser.join().map_err(|_| "the browser has failed")?;
    // docs: native-app-login
    let parameter = |name: &str| {
        let pair = callback.query_pairs().find(|(own, _)| own == name);
        pair.map(|(_, value)| value.into_owned())
    };
    if parameter("state").as_deref() != Some(state.secret()) || parameter("iss") != Some(issuer()) {
        return Err("the response belongs to another request".into());
    }
    let code = AuthorizationCode::new(parameter("code").ok_or("the login has failed")?);
    let tokens = app.exchange_code(code).set_pkce_verifier(verifier).request(http)?;
    // docs: end
    Ok(tokens)
}

fn refresh(
    app: &App,
    http: &HttpClient,
    tokens: &BasicTokenResponse,
) -> Result<BasicTokenResponse, TokenError> {
    let refresh_token = refresh_token(tokens);
    // docs: native-app-refresh
    let tokens = app.exchange_refresh_token(&refresh_token).request(http)?;
    // docs: end
    Ok(tokens)
}

fn refresh_token(tokens: &BasicTokenResponse) -> RefreshToken {
    tokens.refresh_token().cloned().unwrap_or_else(|| RefreshToken::new(String::new()))
}

fn http_client() -> Result<HttpClient, Failure> {
    Ok(HttpClient::builder().redirect(Policy::none()).build()?)
}

/// Checks that the server rejected a refresh with this error.
fn rejected(
    outcome: Result<BasicTokenResponse, TokenError>,
    expected: &BasicErrorResponseType,
) -> Result<(), Failure> {
    match outcome {
        Err(TokenError::ServerResponse(error)) if error.error() == expected => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err("the refresh succeeds".into()),
    }
}

fn require(condition: bool, what: &'static str) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(what.into()) }
}

fn main() -> Result<(), Failure> {
    let http = http_client()?;
    if std::env::args().nth(1).as_deref() == Some("share") {
        return share::run(&http);
    }
    announce("oauth2 (Rust crate)", &locked_version());
    let options = json!({
        "name": "oauth2-crate",
        "options": ["--public", "--first-party", "--scope", "read"],
        "redirectUri": "http://127.0.0.1/callback",
    });
    let registered = ask("client", options)?;
    let client_id = registered["client_id"].as_str().ok_or("no client_id")?.to_owned();
    let app = app(&client_id)?;
    let mut tokens = step("login in Chromium, code with PKCE, redirect to a free port", || {
        let tokens = log_in(&app, &http)?;
        require(api_status(&http, tokens.access_token().secret()) == 200, "the API accepts it")?;
        Ok((tokens, "passed"))
    });
    let first = tokens.clone();
    tokens = step(&format!("expiry and refresh × {}", refreshes()), || {
        for _ in 0..refreshes() {
            expiry(&http, tokens.access_token().secret())?;
            tokens = refresh(&app, &http, &tokens)?;
            require(
                api_status(&http, tokens.access_token().secret()) == 200,
                "the API accepts it",
            )?;
        }
        Ok((tokens, "passed"))
    });
    tokens = step("secret of a public client", || {
        let wrong = app.clone().set_client_secret(ClientSecret::new("wrong".to_owned()));
        rejected(refresh(&wrong, &http, &tokens), &BasicErrorResponseType::InvalidClient)?;
        Ok((refresh(&app, &http, &tokens)?, "`invalid_client`, and the session continues"))
    });
    step("replay of the first refresh token", || {
        expiry(&http, tokens.access_token().secret())?;
        rejected(refresh(&app, &http, &first), &BasicErrorResponseType::InvalidGrant)?;
        rejected(refresh(&app, &http, &tokens), &BasicErrorResponseType::InvalidGrant)?;
        Ok(((), "`invalid_grant`, and the session has ended"))
    });
    step("second login and revocation", || {
        let tokens = log_in(&app, &http)?;
        let refresh_token = refresh_token(&tokens);
        // docs: native-app-logout
        app.revoke_token(StandardRevocableToken::RefreshToken(refresh_token))?.request(&http)?;
        // docs: end
        require(api_status(&http, tokens.access_token().secret()) == 401, "the API rejects it")?;
        rejected(refresh(&app, &http, &tokens), &BasicErrorResponseType::InvalidGrant)?;
        Ok(((), "both tokens are rejected"))
    });
    Ok(())
}

/// Returns the version of the crate in the lock file.
fn locked_version() -> String {
    let lock = include_str!("../Cargo.lock");
    let version = lock.split("name = \"oauth2\"\nversion = \"").nth(1);
    version.and_then(|rest| rest.split('"').next()).unwrap_or("unknown").to_owned()
}
