//! The requests of a refresh and of a logout, and the results of their responses. They go
//! to Matchbook's own endpoints, or to those of OAuth 2.0 (RFC 6749, RFC 7009).

use std::time::Instant;

use awc::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use awc::http::{Method, StatusCode};
use matchbook_shared::{InvalidGrantReason, TokenResponse};
use openssl::base64::{decode_block, encode_block};
use serde::Deserialize;

use crate::error::Error;
use crate::event::Event;
use crate::response::{
    ErrorResponse, compressed, error_from, is_from_token_server, not_from_token_server, retry_after,
};
use crate::server::{OAuth, Server};
use crate::store::StoredTokens;
use crate::token_set::{RefreshedTokens, TokenSet};
use crate::transport::{Http, IDEMPOTENCY_KEY, Outgoing, Response, is_json, is_repeatable};

/// The response of an OAuth token endpoint (RFC 6749 §5.1).
#[derive(Deserialize)]
struct OAuthTokens {
    access_token: String,
    refresh_token: Option<String>,
    /// A number by the RFC. Some servers send a string or a fraction.
    expires_in: Option<serde_json::Value>,
}

impl OAuthTokens {
    /// Returns the lifetime in seconds, or `None` if it cannot be parsed: the tokens are
    /// valid anyway.
    fn lifetime(&self) -> Option<u64> {
        let value = self.expires_in.as_ref()?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.split('.').next()?.parse().ok()
    }
}

impl From<OAuthTokens> for RefreshedTokens {
    fn from(tokens: OAuthTokens) -> Self {
        Self {
            expires_in: tokens.lifetime(),
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
        }
    }
}

impl From<TokenResponse> for RefreshedTokens {
    fn from(tokens: TokenResponse) -> Self {
        Self {
            access_token: tokens.token,
            refresh_token: Some(tokens.refresh_token),
            expires_in: Some(tokens.expires_in),
        }
    }
}

/// Returns the secrets that an error response about `tokens` might quote.
pub(crate) fn secrets<'a>(server: &'a Server, tokens: &'a StoredTokens) -> Vec<&'a str> {
    let client_secret = server.as_oauth().and_then(|oauth| oauth.client_secret.as_deref());
    let mut secrets = vec![tokens.refresh_token.as_str(), tokens.access_token.as_str()];
    secrets.extend(tokens.idempotency_key.as_deref());
    secrets.extend(client_secret);
    secrets
}

/// Exchanges the refresh token for new tokens.
///
/// # Errors
/// [`Error::LoggedOut`] if the server rejects the refresh token; [`Error::Superseded`] if it
/// has issued newer tokens; others keep the session.
pub(crate) async fn refresh(
    server: &Server,
    http: &Http,
    tokens: &StoredTokens,
    emit: impl FnMut(Event),
) -> Result<TokenSet, Error> {
    let form = match server.as_oauth() {
        None => Form::matchbook_refresh(tokens),
        Some(oauth) => Form::oauth_refresh(oauth, tokens)?,
    };
    let is_oauth = server.as_oauth().is_some();
    let sent_at = Instant::now();
    let response = form.post(server, http, emit).await?;
    let status = response.status();
    if status == StatusCode::OK {
        let refreshed = read_tokens(response, is_oauth).await?;
        return Ok(TokenSet::from_refresh(tokens, refreshed, sent_at));
    }
    let may_end = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST);
    if may_end && is_json(&response) {
        return Err(rejection(server, response, tokens).await);
    }
    Err(error_from(server, response, &secrets(server, tokens)).await)
}

/// Returns the error that a `400` or `401` JSON response to a refresh means.
async fn rejection(server: &Server, mut response: Response, tokens: &StoredTokens) -> Error {
    let is_oauth = server.as_oauth().is_some();
    let status = response.status();
    let retry_after = retry_after(&response);
    let is_from_server = is_from_token_server(server, &response);
    let compressed = compressed(&response);
    match response.json::<ErrorResponse>().await {
        Ok(error) if error.is_invalid_grant(is_oauth) => match error.reason {
            Some(InvalidGrantReason::Superseded) => Error::Superseded,
            reason => Error::LoggedOut(reason),
        },
        Ok(error) if is_from_server => {
            Error::UnexpectedResponse(error.message(&secrets(server, tokens)))
        }
        _ => compressed.unwrap_or_else(|| not_from_token_server(status, retry_after)),
    }
}

/// Parses the tokens of a refresh. A truncated body, or a page in its place, is transient:
/// the same refresh can be sent again.
async fn read_tokens(mut response: Response, is_oauth: bool) -> Result<RefreshedTokens, Error> {
    let compressed = compressed(&response);
    let parsed = if is_oauth {
        response.json::<OAuthTokens>().await.map(RefreshedTokens::from)
    } else {
        response.json::<TokenResponse>().await.map(RefreshedTokens::from)
    };
    parsed.map_err(|_| {
        let unreadable = || Error::transient("the response to a refresh could not be read");
        compressed.unwrap_or_else(unreadable)
    })
}

/// Ends the session of `tokens` at the server.
///
/// # Errors
/// Any error means that the server has not confirmed the end.
pub(crate) async fn log_out(
    server: &Server,
    http: &Http,
    tokens: &StoredTokens,
    emit: impl FnMut(Event),
) -> Result<(), Error> {
    let form = match server.as_oauth() {
        None => Form::matchbook_logout(tokens),
        Some(OAuth { revocation_path: None, .. }) => return Ok(()),
        Some(oauth @ OAuth { revocation_path: Some(path), .. }) => {
            Form::oauth_revocation(path, oauth, tokens)?
        }
    };
    let mut response = form.post(server, http, emit).await?;
    match response.status() {
        status if status.is_success() && is_from_token_server(server, &response) => Ok(()),
        status @ StatusCode::UNAUTHORIZED if is_json(&response) && server.as_oauth().is_none() => {
            let compressed = compressed(&response);
            match response.json::<ErrorResponse>().await {
                // The session had ended before.
                Ok(error) if error.is_invalid_grant(false) => Ok(()),
                _ => Err(compressed.unwrap_or_else(|| not_from_token_server(status, None))),
            }
        }
        _ => Err(error_from(server, response, &secrets(server, tokens)).await),
    }
}

/// Returns whether two sets of tokens certainly belong to two sessions of a Matchbook server.
/// Clients must not read the access tokens of another server (RFC 9068 §6).
pub(crate) fn differ_in_session(server: &Server, one: &StoredTokens, other: &StoredTokens) -> bool {
    let one = session_id(&one.access_token);
    let other = session_id(&other.access_token);
    server.as_oauth().is_none() && one.is_some() && other.is_some() && one != other
}

/// Reads the claim `sid` of an access token. Nothing is verified: the result only decides
/// whether the session of replaced tokens is ended.
fn session_id(access_token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        sid: String,
    }
    let payload = access_token.split('.').nth(1)?;
    let mut payload = payload.replace('-', "+").replace('_', "/");
    payload.extend(std::iter::repeat_n('=', payload.len().wrapping_neg() % 4));
    let claims = decode_block(&payload).ok()?;
    serde_json::from_slice(&claims).ok().map(|Claims { sid }| sid)
}

/// A form for an endpoint of the server.
struct Form<'a> {
    path: &'a str,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
    fields: Vec<(&'static str, &'a str)>,
    repeatable: bool,
}

impl<'a> Form<'a> {
    fn new(path: &'a str) -> Self {
        Self {
            path,
            headers: HeaderMap::new(),
            authorization: None,
            fields: Vec::new(),
            repeatable: false,
        }
    }

    fn matchbook_refresh(tokens: &'a StoredTokens) -> Self {
        let mut form = Self::new("/refresh");
        // A key is a UUID, so it is always a valid header value.
        let key = tokens.idempotency_key.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(key)) = key {
            form.headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), key);
        }
        form.repeatable = is_repeatable(&Method::POST, &form.headers);
        form.fields.push(("refresh_token", &tokens.refresh_token));
        form
    }

    fn oauth_refresh(oauth: &'a OAuth, tokens: &'a StoredTokens) -> Result<Self, Error> {
        let mut form = Self::client_auth(&oauth.token_path, oauth)?;
        form.fields.push(("grant_type", "refresh_token"));
        form.fields.push(("refresh_token", &tokens.refresh_token));
        form.fields.extend(oauth.scope.as_deref().map(|scope| ("scope", scope)));
        Ok(form)
    }

    fn matchbook_logout(tokens: &'a StoredTokens) -> Self {
        let mut form = Self::new("/logout");
        form.fields.push(("refresh_token", &tokens.refresh_token));
        // A second logout of the same session changes nothing.
        form.repeatable = true;
        form
    }

    fn oauth_revocation(
        path: &'a str,
        oauth: &'a OAuth,
        tokens: &'a StoredTokens,
    ) -> Result<Self, Error> {
        let mut form = Self::client_auth(path, oauth)?;
        form.fields.push(("token", &tokens.refresh_token));
        form.fields.push(("token_type_hint", "refresh_token"));
        form.repeatable = true;
        Ok(form)
    }

    /// Creates a form for an OAuth endpoint, with client authentication (RFC 6749 §2.3.1).
    fn client_auth(path: &'a str, oauth: &'a OAuth) -> Result<Self, Error> {
        let mut form = Self::new(path);
        form.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        match &oauth.client_secret {
            Some(secret) => {
                let id = form_encoded(&oauth.client_id);
                let pair = format!("{id}:{}", form_encoded(secret));
                let basic = format!("Basic {}", encode_block(pair.as_bytes()));
                let basic = HeaderValue::try_from(basic);
                form.authorization =
                    Some(basic.map_err(|error| Error::Invalid(format!("the secret: {error}")))?);
            }
            None => form.fields.push(("client_id", &oauth.client_id)),
        }
        Ok(form)
    }

    /// Sends the form. The timeout covers the whole response, so that a stalled body does not
    /// delay other requests that wait for the tokens.
    async fn post(
        mut self,
        server: &Server,
        http: &Http,
        mut emit: impl FnMut(Event),
    ) -> Result<Response, Error> {
        let body = serde_urlencoded::to_string(&self.fields);
        let body = body.map_err(|error| Error::Invalid(format!("the form: {error}")))?;
        let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        self.headers.insert(CONTENT_TYPE, content_type);
        let outgoing = Outgoing {
            method: &Method::POST,
            target: &server.target(self.path)?,
            headers: &self.headers,
            authorization: self.authorization,
            repeatable: self.repeatable,
        };
        let response = http.send(&outgoing, body.into(), |event| emit(event())).await?;
        Ok(response.timeout(server.timeout()))
    }
}

/// Encodes `value` as the value of a form field.
fn form_encoded(value: &str) -> String {
    serde_urlencoded::to_string([("", value)]).unwrap_or_default().split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_basic_authentication_carries_is_form_form_encoded() {
        assert_eq!(form_encoded("a b:c%"), "a+b%3Ac%25");
        assert_eq!(form_encoded("plain-1"), "plain-1");
    }

    #[test]
    fn the_session_id_is_read_from_an_access_token_of_any_length() {
        let token = |claims: &str| {
            let payload = encode_block(claims.as_bytes()).replace('+', "-").replace('/', "_");
            format!("e30.{}.c2ln", payload.trim_end_matches('='))
        };
        for name in ["", "a", "ab", "abc", "ü?>~"] {
            let claims = format!(r#"{{"sub":"x","sid":"{name}"}}"#);
            assert_eq!(session_id(&token(&claims)).as_deref(), Some(name));
        }
        for bad in ["", "opaque", "a.b.c", "..", "e30.e30.e30", &token(r#"{"sid":1}"#)] {
            assert_eq!(session_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_lifetime_is_read_from_numbers_fractions_and_strings() {
        let lifetime = |expires_in: &str| {
            let json = format!(r#"{{"access_token":"a","expires_in":{expires_in}}}"#);
            serde_json::from_str::<OAuthTokens>(&json).unwrap().lifetime()
        };
        assert_eq!(lifetime("3600"), Some(3600));
        assert_eq!(lifetime("\"3600\""), Some(3600));
        assert_eq!(lifetime("3599.5"), Some(3599));
        for odd in ["null", "-1", "\"soon\"", "{}"] {
            assert_eq!(lifetime(odd), None, "{odd}");
        }
    }
}
