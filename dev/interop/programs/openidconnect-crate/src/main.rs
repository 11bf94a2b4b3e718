//! The `openidconnect` crate: a native app, which verifies each ID token that it gets.

#[path = "../../oauth2-crate/src/redirect.rs"]
mod redirect;
#[path = "../../oauth2-crate/src/steps.rs"]
mod steps;

use std::net::TcpListener;

use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreErrorResponseType, CoreGenderClaim, CoreIdTokenClaims,
    CoreRequestTokenError, CoreTokenResponse,
};
use openidconnect::{
    AccessTokenHash, AdditionalClaims, AuthorizationCode, ClientId, CsrfToken, EndSessionUrl,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpClientError, IssuerUrl, LogoutRequest,
    Nonce, NonceVerifier, OAuth2TokenResponse, PkceCodeChallenge, PostLogoutRedirectUrl,
    ProviderMetadataWithLogout, RedirectUrl, RefreshToken, RequestTokenError, Scope, TokenResponse,
    UserInfoClaims,
};
use reqwest::blocking::Client as HttpClient;
use reqwest::redirect::Policy;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::redirect::{open_browser, receive};
use crate::steps::{announce, api_status, ask, expiry, issuer, refreshes, step};

type Failure = Box<dyn std::error::Error>;
type TokenError = CoreRequestTokenError<HttpClientError<reqwest::Error>>;
type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

const EMAIL: &str = "rust@example.com";
const GROUP: &str = "staff";

/// A claim that the crate does not know.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Groups {
    groups: Vec<String>,
}

impl AdditionalClaims for Groups {}

struct App {
    client: Client,
    client_id: ClientId,
    http: HttpClient,
    /// Where the browser comes after a login and a logout.
    listener: TcpListener,
    end_session: EndSessionUrl,
}

impl App {
    /// Registers the app, and discovers the endpoints of the server.
    fn register() -> Result<Self, Failure> {
        let http = HttpClient::builder().redirect(Policy::none()).build()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let origin = format!("http://{}", listener.local_addr()?);
        let options = json!({
            "name": "openidconnect-crate",
            "options": ["--public", "--first-party",
                "--post-logout-redirect-uri", format!("{origin}/goodbye")],
            "redirectUri": format!("{origin}/callback"),
        });
        let registered = ask("client", options)?;
        let client_id = registered["client_id"].as_str().ok_or("no client_id")?;
        let client_id = ClientId::new(client_id.to_owned());
        let metadata = ProviderMetadataWithLogout::discover(&IssuerUrl::new(issuer())?, &http)?;
        let end_session = metadata.additional_metadata().end_session_endpoint.clone();
        let client = CoreClient::from_provider_metadata(metadata, client_id.clone(), None)
            .set_redirect_uri(RedirectUrl::new(format!("{origin}/callback"))?);
        let end_session = end_session.ok_or("no end_session_endpoint")?;
        Ok(Self { client, client_id, http, listener, end_session })
    }

    fn uri(&self, path: &str) -> Result<String, Failure> {
        Ok(format!("http://{}{path}", self.listener.local_addr()?))
    }

    /// Opens a URL in Chromium, and returns the parameter of the URL to which the server sends it.
    fn redirected(
        &self,
        url: &reqwest::Url,
        path: &str,
        name: &str,
    ) -> Result<(String, CsrfToken), Failure> {
        let until = self.uri(path)?;
        let browser = open_browser(url, &until);
        let returned = receive(&self.listener, &until)?;
        browser.join().map_err(|_| "the browser has failed")?;
        require(returned.as_str().starts_with(&until), "the browser comes to another page")?;
        let parameter = |name: &str| {
            let pair = returned.query_pairs().find(|(own, _)| own == name);
            pair.map(|(_, value)| value.into_owned())
        };
        let state = CsrfToken::new(parameter("state").ok_or("no state")?);
        Ok((parameter(name).unwrap_or_default(), state))
    }

    fn log_in(&self) -> Result<CoreTokenResponse, Failure> {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut request = self.client.authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            CsrfToken::new_random,
            Nonce::new_random,
        );
        for scope in ["profile", "email", "groups", "offline_access"] {
            request = request.add_scope(Scope::new(scope.to_owned()));
        }
        let (url, state, nonce) = request.set_pkce_challenge(challenge).url();
        let (code, returned) = self.redirected(&url, "/callback", "code")?;
        require(returned.secret() == state.secret(), "the response belongs to another request")?;
        let exchange = self.client.exchange_code(AuthorizationCode::new(code))?;
        let tokens = exchange.set_pkce_verifier(verifier).request(&self.http)?;
        self.verify(&tokens, &nonce)?;
        Ok(tokens)
    }

    /// Verifies the ID token, with the hash of the access token, and returns its claims.
    fn verify<'a>(
        &self,
        tokens: &'a CoreTokenResponse,
        nonce: impl NonceVerifier,
    ) -> Result<&'a CoreIdTokenClaims, Failure> {
        let verifier = self.client.id_token_verifier();
        let id_token = tokens.id_token().ok_or("no id_token")?;
        let claims = id_token.claims(&verifier, nonce)?;
        let hash = AccessTokenHash::from_token(
            tokens.access_token(),
            id_token.signing_alg()?,
            id_token.signing_key(&verifier)?,
        )?;
        require(claims.access_token_hash() == Some(&hash), "at_hash belongs to another token")?;
        require(claims.email().map(|email| email.as_str()) == Some(EMAIL), "email")?;
        require(claims.email_verified() == Some(false), "email_verified")?;
        Ok(claims)
    }

    fn check_user_info(&self, tokens: &CoreTokenResponse) -> Result<(), Failure> {
        let id_token = tokens.id_token().ok_or("no id_token")?;
        let no_check = |_: Option<&Nonce>| Ok(());
        let claims = id_token.claims(&self.client.id_token_verifier(), no_check)?;
        let subject = claims.subject().clone();
        let request = self.client.user_info(tokens.access_token().clone(), Some(subject))?;
        let info: UserInfoClaims<Groups, CoreGenderClaim> = request.request(&self.http)?;
        require(info.email().map(|email| email.as_str()) == Some(EMAIL), "email of userinfo")?;
        require(info.additional_claims().groups == [GROUP], "groups of userinfo")
    }

    fn refresh(&self, tokens: &CoreTokenResponse) -> Result<CoreTokenResponse, TokenError> {
        let none = || RefreshToken::new(String::new());
        let refresh_token = tokens.refresh_token().cloned().unwrap_or_else(none);
        let request = self.client.exchange_refresh_token(&refresh_token);
        let request = request.map_err(|error| RequestTokenError::Other(error.to_string()))?;
        request.request(&self.http)
    }

    /// Refreshes after each expiry. Each ID token must be a new one of the same login.
    fn refresh_repeatedly(
        &self,
        mut tokens: CoreTokenResponse,
    ) -> Result<CoreTokenResponse, Failure> {
        let no_nonce = |nonce: Option<&Nonce>| match nonce {
            None => Ok(()),
            Some(_) => Err("a refresh has no nonce".to_owned()),
        };
        let no_check = |_: Option<&Nonce>| Ok(());
        let mut before = self.verify(&tokens, no_check)?.clone();
        for _ in 0..refreshes() {
            expiry(&self.http, tokens.access_token().secret())?;
            tokens = self.refresh(&tokens)?;
            let claims = self.verify(&tokens, no_nonce)?.clone();
            require(claims.subject() == before.subject(), "sub changes")?;
            require(claims.auth_time() == before.auth_time(), "auth_time changes")?;
            require(claims.issue_time() > before.issue_time(), "the id_token is old")?;
            require(self.api_status(&tokens) == 200, "the API accepts it")?;
            before = claims;
        }
        Ok(tokens)
    }

    fn log_out(&self, tokens: &CoreTokenResponse) -> Result<(), Failure> {
        let state = CsrfToken::new_random();
        let url = LogoutRequest::from(self.end_session.clone())
            .set_id_token_hint(tokens.id_token().ok_or("no id_token")?)
            .set_client_id(self.client_id.clone())
            .set_post_logout_redirect_uri(PostLogoutRedirectUrl::new(self.uri("/goodbye")?)?)
            .set_state(state.clone())
            .http_get_url();
        let (_, returned) = self.redirected(&url, "/goodbye", "state")?;
        require(returned.secret() == state.secret(), "the state of the logout differs")?;
        require(self.api_status(tokens) == 401, "the API rejects it")?;
        match self.refresh(tokens) {
            Err(RequestTokenError::ServerResponse(error))
                if *error.error() == CoreErrorResponseType::InvalidGrant =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(_) => Err("the refresh succeeds".into()),
        }
    }

    fn api_status(&self, tokens: &CoreTokenResponse) -> u16 {
        api_status(&self.http, tokens.access_token().secret())
    }
}

fn require(condition: bool, what: &'static str) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(what.into()) }
}

fn main() -> Result<(), Failure> {
    announce("openidconnect (Rust crate)", &locked_version());
    ask("user", json!({ "name": EMAIL, "groups": [GROUP] }))?;
    let app = step("discovery", || Ok((App::register()?, "passed")));
    let mut tokens = step("login in Chromium, code with PKCE, ID token, userinfo", || {
        let tokens = app.log_in()?;
        require(app.api_status(&tokens) == 200, "the API accepts it")?;
        app.check_user_info(&tokens)?;
        Ok((tokens, "passed"))
    });
    tokens = step(&format!("expiry and refresh × {}, with ID token", refreshes()), || {
        Ok((app.refresh_repeatedly(tokens)?, "passed"))
    });
    step("RP-initiated logout", || {
        app.log_out(&tokens)?;
        Ok(((), "both tokens are rejected"))
    });
    Ok(())
}

/// Returns the version of the crate in the lock file.
fn locked_version() -> String {
    let lock = include_str!("../Cargo.lock");
    let version = lock.split("name = \"openidconnect\"\nversion = \"").nth(1);
    version.and_then(|rest| rest.split('"').next()).unwrap_or("unknown").to_owned()
}
