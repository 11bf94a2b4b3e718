//! Authorization requests (RFC 6749 §4.1.1): what a browser brings from a client.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::pkce;
use super::progress::{self, Progress};
use crate::clients::Client;
use crate::clock::Timestamp;
use crate::crypto::TokenKeys;
use crate::ids::ClientId;
use crate::tokens::Scope;

/// The scope tokens that every client may request (`OpenID` Connect Core §5.4, §11). Each
/// refresh token may be used offline, so `offline_access` is accepted and not needed.
pub const STANDARD_SCOPES: [&str; 5] = ["openid", "profile", "email", "groups", "offline_access"];

/// Scope tokens that are accepted, and give no claims.
const IGNORED_SCOPES: [&str; 2] = ["address", "phone"];

/// The maximum length of `state` and `nonce`, in bytes.
const MAX_VALUE_LEN: usize = 2048;

/// The most resource servers of one request.
const MAX_AUDIENCES: usize = 10;

/// The parameters of a request. An empty value counts as omitted, and no parameter but
/// `resource` occurs twice (RFC 6749 §3.1, §3.2, RFC 8707 §2).
#[derive(Debug, Clone, Default)]
pub struct RequestParameters(Vec<(String, String)>);

impl RequestParameters {
    /// Returns the parameters, or the name of one that is repeated.
    pub fn new(mut pairs: Vec<(String, String)>) -> Result<Self, RepeatedParameter> {
        pairs.retain(|(_, value)| !value.is_empty());
        let mut names = HashSet::new();
        let is_repeated = pairs.iter().any(|(name, _)| name != "resource" && !names.insert(name));
        if is_repeated { Err(RepeatedParameter(Self(pairs))) } else { Ok(Self(pairs)) }
    }

    /// Returns the value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    fn is_repeated(&self, name: &str) -> bool {
        self.all(name).nth(1).is_some()
    }

    /// Returns the resource servers of a request (RFC 8707 §2).
    #[must_use]
    pub fn audiences(&self) -> Vec<String> {
        self.all("resource").map(str::to_owned).collect()
    }

    /// Returns the parameters with one replaced.
    #[must_use]
    pub fn with(&self, name: &str, value: String) -> Self {
        let others = self.0.iter().filter(|(own, _)| own != name).cloned();
        Self(others.chain([(name.to_owned(), value)]).collect())
    }

    /// Returns the parameters as name and value.
    pub fn pairs(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.iter()
    }
}

/// Parameters of which one occurs twice.
#[derive(Debug)]
pub struct RepeatedParameter(RequestParameters);

/// A valid authorization request.
#[derive(Clone)]
pub struct AuthorizationRequest {
    pub client: Arc<Client>,
    pub target: RedirectTarget,
    pub scope: Scope,
    /// S256 (RFC 7636 §4.2).
    pub code_challenge: Option<String>,
    pub nonce: Option<String>,
    /// The resource servers (RFC 8707). Empty: the default audience.
    pub audiences: Vec<String>,
    /// The name that the client suggests for the login.
    pub login_hint: Option<String>,
    /// An ID token of the user whom the client expects.
    pub(super) id_token_hint: Option<String>,
    pub(super) prompt: Prompt,
    pub(super) max_age: Option<Duration>,
    pub(super) progress: Option<Progress>,
}

/// What the client wants the user to be asked (`OpenID` Connect Core §3.1.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    /// Nothing: the client gets an error if a page would be needed.
    pub(super) none: bool,
    pub(super) login: bool,
    pub(super) consent: bool,
}

/// The destination of the response to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectTarget {
    pub redirect_uri: String,
    /// The value that the client gets back as it was.
    pub state: Option<String>,
    pub mode: ResponseMode,
}

/// How the client gets the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMode {
    /// In the query of the redirect URI.
    Query,
    /// In a form that the browser submits (OAuth 2.0 Form Post Response Mode).
    FormPost,
}

/// Why a request is rejected.
#[derive(Debug)]
pub enum RejectedRequest {
    /// The user gets an error page: the redirect URI is not known to be the client's.
    Page(InvalidRequest),
    /// The client gets an error.
    Redirect { target: RedirectTarget, error: AuthorizationError },
}

/// Why a request has no redirect URI that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidRequest {
    NoClient,
    UnknownClient,
    NoRedirectUri,
    /// The redirect URI is not one that the client registered.
    ForeignRedirectUri,
    RepeatedParameter,
    /// `state` could not be sent back as it was.
    UnreadableState,
}

/// An error of the authorization endpoint (RFC 6749 §4.1.2.1) and its description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorizationError {
    pub code: &'static str,
    pub description: &'static str,
}

impl AuthorizationError {
    const fn new(code: &'static str, description: &'static str) -> Self {
        Self { code, description }
    }

    const fn invalid(description: &'static str) -> Self {
        Self::new("invalid_request", description)
    }

    pub const ACCESS_DENIED: Self = Self::new("access_denied", "The user denied the request.");
    pub const LOGIN_REQUIRED: Self = Self::new("login_required", "The user has to log in.");
    pub const CONSENT_REQUIRED: Self =
        Self::new("consent_required", "The user has to consent to the request.");
    pub const UNAVAILABLE: Self = Self::new("temporarily_unavailable", "Try again in a moment.");
}

/// Returns the client id of a request, which decides everything else.
pub(super) fn client_id(
    parameters: &Result<RequestParameters, RepeatedParameter>,
) -> Result<ClientId, InvalidRequest> {
    let (Ok(parameters) | Err(RepeatedParameter(parameters))) = parameters;
    if parameters.is_repeated("client_id") {
        return Err(InvalidRequest::RepeatedParameter);
    }
    parameters.get("client_id").map(ClientId::from).ok_or(InvalidRequest::NoClient)
}

/// What the parser needs besides the parameters.
pub(super) struct RequestContext<'a> {
    pub(super) client: Arc<Client>,
    /// The default audience, which every client may name.
    pub(super) default_audience: &'a str,
    pub(super) progress_keys: &'a TokenKeys,
    pub(super) now: Timestamp,
}

/// Parses a request of a client.
pub(super) fn parse(
    parameters: Result<RequestParameters, RepeatedParameter>,
    cx: RequestContext<'_>,
) -> Result<AuthorizationRequest, RejectedRequest> {
    let (parameters, is_repeated) = match parameters {
        Ok(parameters) => (parameters, false),
        Err(RepeatedParameter(parameters)) => (parameters, true),
    };
    let target = target(&parameters, &cx.client).map_err(RejectedRequest::Page)?;
    let reject = |error| RejectedRequest::Redirect { target: target.clone(), error };
    if is_repeated {
        return Err(reject(AuthorizationError::invalid("A parameter is repeated.")));
    }
    check_response(&parameters).map_err(reject)?;
    check_unsupported(&parameters).map_err(reject)?;
    let code_challenge = challenge(&parameters, &cx.client).map_err(reject)?;
    let scope = scope(&parameters, &cx.client).map_err(reject)?;
    let audiences = audiences(&parameters, &cx.client, cx.default_audience).map_err(reject)?;
    let prompt = prompt(&parameters).map_err(reject)?;
    let max_age = max_age(&parameters).map_err(reject)?;
    let progress = parameters.get(progress::PARAMETER);
    let progress =
        progress.and_then(|text| Progress::parse(text, &parameters, cx.progress_keys, cx.now));
    Ok(AuthorizationRequest {
        client: cx.client,
        target,
        scope,
        code_challenge,
        nonce: parameters.get("nonce").map(str::to_owned),
        audiences,
        login_hint: parameters.get("login_hint").map(str::to_owned),
        id_token_hint: parameters.get("id_token_hint").map(str::to_owned),
        prompt,
        max_age,
        progress,
    })
}

fn target(
    parameters: &RequestParameters,
    client: &Client,
) -> Result<RedirectTarget, InvalidRequest> {
    if parameters.is_repeated("redirect_uri") || parameters.is_repeated("state") {
        return Err(InvalidRequest::RepeatedParameter);
    }
    let redirect_uri = match (parameters.get("redirect_uri"), client.redirect_uris.as_slice()) {
        (Some(uri), _) if client.permits_redirect(uri) => uri,
        (Some(_), _) => return Err(InvalidRequest::ForeignRedirectUri),
        (None, [only]) => only,
        (None, _) => return Err(InvalidRequest::NoRedirectUri),
    };
    let mode = match parameters.get("response_mode") {
        Some("form_post") => ResponseMode::FormPost,
        _ => ResponseMode::Query,
    };
    let state = parameters.get("state").map(str::to_owned);
    // The parser of the query replaces bytes that are not UTF-8.
    if state.as_ref().is_some_and(|state| state.contains(char::REPLACEMENT_CHARACTER)) {
        return Err(InvalidRequest::UnreadableState);
    }
    Ok(RedirectTarget { redirect_uri: redirect_uri.to_owned(), state, mode })
}

fn check_response(parameters: &RequestParameters) -> Result<(), AuthorizationError> {
    match parameters.get("response_type") {
        None => return Err(AuthorizationError::invalid("response_type is missing.")),
        Some("code") => {}
        Some(_) => {
            return Err(AuthorizationError::new(
                "unsupported_response_type",
                "response_type must be code.",
            ));
        }
    }
    match parameters.get("response_mode") {
        None | Some("query" | "form_post") => {}
        Some(_) => {
            return Err(AuthorizationError::invalid("response_mode must be query or form_post."));
        }
    }
    let is_too_long =
        |name| parameters.get(name).is_some_and(|value: &str| value.len() > MAX_VALUE_LEN);
    if is_too_long("state") || is_too_long("nonce") {
        return Err(AuthorizationError::invalid("state and nonce are limited to 2048 bytes."));
    }
    // PostgreSQL stores no zero bytes.
    if parameters.get("nonce").is_some_and(|nonce| nonce.contains(char::is_control)) {
        return Err(AuthorizationError::invalid("nonce must not have control characters."));
    }
    Ok(())
}

/// Rejects the parameters that would change the request if they were understood
/// (`OpenID` Connect Core §3.1.2.6).
fn check_unsupported(parameters: &RequestParameters) -> Result<(), AuthorizationError> {
    for (name, code) in [
        ("request", "request_not_supported"),
        ("request_uri", "request_uri_not_supported"),
        ("registration", "registration_not_supported"),
    ] {
        if parameters.get(name).is_some() {
            return Err(AuthorizationError::new(code, "Send the parameters themselves."));
        }
    }
    Ok(())
}

fn challenge(
    parameters: &RequestParameters,
    client: &Client,
) -> Result<Option<String>, AuthorizationError> {
    let Some(challenge) = parameters.get("code_challenge") else {
        if parameters.get("code_challenge_method").is_some() {
            return Err(AuthorizationError::invalid("code_challenge is missing."));
        }
        return if client.require_pkce || client.is_public() {
            Err(AuthorizationError::invalid("The client must use PKCE: send code_challenge."))
        } else {
            Ok(None)
        };
    };
    // A missing method means `plain` (RFC 7636 §4.3).
    if parameters.get("code_challenge_method") != Some("S256") {
        return Err(AuthorizationError::invalid("code_challenge_method must be S256."));
    }
    if !pkce::is_challenge(challenge) {
        return Err(AuthorizationError::invalid("code_challenge must be a SHA-256 in base64url."));
    }
    Ok(Some(challenge.to_owned()))
}

/// Returns whether every client may request a scope token.
fn is_standard_scope(token: &str) -> bool {
    STANDARD_SCOPES.contains(&token) || IGNORED_SCOPES.contains(&token)
}

/// Returns the scope of a request; without one, all that the client may request.
pub(super) fn scope(
    parameters: &RequestParameters,
    client: &Client,
) -> Result<Scope, AuthorizationError> {
    let Some(text) = parameters.get("scope") else { return Ok(client.scope.clone()) };
    let scope = Scope::parse(text);
    let scope =
        scope.map_err(|_| AuthorizationError::new("invalid_scope", "The scope is malformed."))?;
    let is_permitted = |token: &str| client.scope.contains(token) || is_standard_scope(token);
    if !scope.tokens().all(is_permitted) {
        return Err(AuthorizationError::new(
            "invalid_scope",
            "The client may not request this scope.",
        ));
    }
    Ok(scope)
}

/// Returns the resource servers of a request (RFC 8707 §2).
pub(super) fn audiences(
    parameters: &RequestParameters,
    client: &Client,
    default: &str,
) -> Result<Vec<String>, AuthorizationError> {
    let audiences = parameters.audiences();
    if audiences.len() > MAX_AUDIENCES || !permits_audiences(client, &audiences, default) {
        return Err(AuthorizationError::new(
            "invalid_target",
            "The client may not request tokens for this resource.",
        ));
    }
    Ok(audiences)
}

/// Returns whether a client may get tokens for these resource servers.
pub(super) fn permits_audiences(client: &Client, audiences: &[String], default: &str) -> bool {
    audiences.iter().all(|audience| audience == default || client.audiences.contains(audience))
}

fn prompt(parameters: &RequestParameters) -> Result<Prompt, AuthorizationError> {
    let mut prompt = Prompt::default();
    let text = parameters.get("prompt").unwrap_or_default();
    let mut count = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        count += 1;
        match word {
            "none" => prompt.none = true,
            "login" => prompt.login = true,
            "consent" => prompt.consent = true,
            // Each browser has one login session.
            "select_account" => {}
            _ => return Err(AuthorizationError::invalid("prompt has an unknown value.")),
        }
    }
    if prompt.none && count > 1 {
        return Err(AuthorizationError::invalid("prompt=none excludes other values."));
    }
    Ok(prompt)
}

fn max_age(parameters: &RequestParameters) -> Result<Option<Duration>, AuthorizationError> {
    let Some(text) = parameters.get("max_age") else { return Ok(None) };
    let seconds: u32 = text
        .parse()
        .map_err(|_| AuthorizationError::invalid("max_age must be a number of seconds."))?;
    Ok(Some(Duration::from_secs(seconds.into())))
}
