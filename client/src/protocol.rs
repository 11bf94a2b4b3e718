//! What is sent to trade a refresh token or to end a session, and what the
//! answer means: at Matchbook's own endpoints, or at those of RFC 6749.

use std::fmt;
use std::time::{Duration, Instant};

use awc::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use awc::http::{Method, StatusCode};
use matchbook_shared::{Reason, SERVER_MARK, SERVER_MARK_VALUE, TokenResponse};
use openssl::base64::{decode_block, encode_block};
use serde::Deserialize;

use crate::credentials::Granted;
use crate::scrub::scrub;
use crate::server::{compressed, refusal, retry_after};
use crate::store::StoredTokens;
use crate::transport::{Http, IDEMPOTENCY_KEY, Outgoing, Response, is_json, is_repeatable};
use crate::{Error, Event, Server};

/// The refresh token is not good (RFC 6749 §5.2).
const INVALID_GRANT: &str = "invalid_grant";

/// How long the rest of an answer is waited for that nobody will look at.
const DRAIN: Duration = Duration::from_secs(1);

/// A token server that speaks RFC 6749. Its access tokens are mostly for an API
/// elsewhere, which [`Server::allow_origin`] has to name.
#[derive(Clone)]
pub struct OAuth {
    /// The path of the token endpoint (§3.2), below the server's URL.
    pub token_path: String,
    /// The path of the revocation endpoint (RFC 7009); where there is none, a
    /// logout only forgets the tokens.
    pub revocation_path: Option<String>,
    /// The client's identifier (§2.2).
    pub client_id: String,
    /// Its secret (§2.3.1), sent by Basic authentication.
    pub client_secret: Option<String>,
    /// The scope to ask for; without it the server grants that of the sign-in.
    pub scope: Option<String>,
}

/// The secret is not shown.
impl fmt::Debug for OAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth")
            .field("token_path", &self.token_path)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// What RFC 6749 §5.1 grants.
#[derive(Deserialize)]
struct OAuthTokens {
    access_token: String,
    refresh_token: Option<String>,
    /// A number, or what servers send in its place.
    expires_in: Option<serde_json::Value>,
}

impl OAuthTokens {
    /// In seconds. What cannot be read is left out: the tokens are granted.
    fn lifetime(&self) -> Option<u64> {
        let value = self.expires_in.as_ref()?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.split('.').next()?.parse().ok()
    }
}

/// A refusal by either kind of server.
#[derive(Deserialize)]
pub(crate) struct Refusal {
    error: String,
    message: Option<String>,
    error_description: Option<String>,
    reason: Option<Reason>,
}

impl Refusal {
    /// What a person may be told, without `secrets`.
    pub(crate) fn said(&self, secrets: &[&str]) -> String {
        let said = self.message.as_deref().or(self.error_description.as_deref());
        scrub(said.unwrap_or(&self.error), secrets)
    }

    /// Whether the server of these tokens says that the refresh token is not good. A
    /// gateway's error has other words; a Matchbook server always has a message.
    fn is_invalid_grant(&self, oauth: bool) -> bool {
        self.error == INVALID_GRANT && (oauth || self.message.is_some())
    }
}

/// What a server may quote when it finds fault with a request about these tokens.
pub(crate) fn secrets<'a>(server: &'a Server, held: &'a StoredTokens) -> Vec<&'a str> {
    let client_secret = server.as_oauth().and_then(|oauth| oauth.client_secret.as_deref());
    let mut secrets = vec![held.refresh_token.as_str(), held.access_token.as_str()];
    secrets.extend(held.idempotency_key.as_deref());
    secrets.extend(client_secret);
    secrets
}

/// Trades the refresh token of `held` for new tokens.
pub(crate) async fn refresh(
    server: &Server,
    http: &Http,
    held: &StoredTokens,
    tell: impl FnMut(Event),
) -> Result<Granted, Error> {
    let form = match server.as_oauth() {
        None => {
            let mut headers = HeaderMap::new();
            // Keys are UUIDs.
            let key = held.idempotency_key.as_deref().map(HeaderValue::from_str);
            if let Some(Ok(key)) = key {
                headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), key);
            }
            Form {
                path: "/refresh",
                repeatable: is_repeatable(&Method::POST, &headers),
                headers,
                authorization: None,
                fields: vec![("refresh_token", &held.refresh_token)],
            }
        }
        Some(oauth) => {
            let mut form = Form::authenticated(&oauth.token_path, oauth)?;
            form.fields.push(("grant_type", "refresh_token"));
            form.fields.push(("refresh_token", &held.refresh_token));
            form.fields.extend(oauth.scope.as_deref().map(|scope| ("scope", scope)));
            form
        }
    };
    let sent_at = Instant::now();
    let response = form.post(server, http, tell).await;
    let (mut response, oauth) = (response?, server.as_oauth().is_some());
    let status = response.status();
    let retry_after = retry_after(&response);
    let may_end = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST);
    if status == StatusCode::OK {
        granted(response, held, oauth, sent_at).await
    } else if may_end && is_json(&response) {
        let is_ours = is_from_server(server, &response);
        let compressed = compressed(&response);
        match response.json::<Refusal>().await {
            Ok(refusal) if refusal.is_invalid_grant(oauth) => Err(match refusal.reason {
                Some(Reason::Superseded) => Error::Superseded,
                reason => Error::LoggedOut(reason),
            }),
            Ok(refusal) if is_ours => {
                Err(Error::UnexpectedResponse(refusal.said(&secrets(server, held))))
            }
            _ => Err(compressed.unwrap_or_else(|| from_elsewhere(status, retry_after))),
        }
    } else {
        Err(refusal(server, response, &secrets(server, held)).await)
    }
}

/// Reads what a refresh grants. An answer that is cut short, or a page that
/// something in between puts in its place, can be had again.
async fn granted(
    mut response: Response,
    held: &StoredTokens,
    oauth: bool,
    sent_at: Instant,
) -> Result<Granted, Error> {
    let compressed = compressed(&response);
    let lost = |_| {
        let lost = || Error::transient("the answer to a refresh could not be read");
        compressed.clone().unwrap_or_else(lost)
    };
    let tokens = if oauth {
        response.json::<OAuthTokens>().await.map_err(lost)?
    } else {
        let tokens = response.json::<TokenResponse>().await.map_err(lost)?;
        OAuthTokens {
            access_token: tokens.token,
            refresh_token: Some(tokens.refresh_token),
            expires_in: Some(tokens.expires_in.into()),
        }
    };
    let lifetime = tokens.lifetime();
    Ok(Granted::succeeding(
        held,
        tokens.access_token,
        // A server that does not rotate may leave it out (RFC 6749 §6).
        tokens.refresh_token.unwrap_or_else(|| held.refresh_token.clone()),
        lifetime,
        sent_at,
    ))
}

/// Ends the session of `held` at the server.
pub(crate) async fn log_out(
    server: &Server,
    http: &Http,
    held: &StoredTokens,
    tell: impl FnMut(Event),
) -> Result<(), Error> {
    let mut form = match server.as_oauth() {
        None => Form {
            path: "/logout",
            headers: HeaderMap::new(),
            authorization: None,
            fields: vec![("refresh_token", &held.refresh_token)],
            repeatable: false,
        },
        Some(oauth) => {
            let Some(path) = &oauth.revocation_path else { return Ok(()) };
            let mut form = Form::authenticated(path, oauth)?;
            form.fields.push(("token", &held.refresh_token));
            form.fields.push(("token_type_hint", "refresh_token"));
            form
        }
    };
    // An ended session cannot be ended again.
    form.repeatable = true;
    let mut response = form.post(server, http, tell).await?;
    match response.status() {
        // A portal's page is no revocation (RFC 7009 §2.2).
        status if status.is_success() && is_from_server(server, &response) => Ok(()),
        StatusCode::UNAUTHORIZED if is_json(&response) && server.as_oauth().is_none() => {
            let (status, compressed) = (response.status(), compressed(&response));
            match response.json::<Refusal>().await {
                // It was not good before either.
                Ok(refusal) if refusal.is_invalid_grant(false) => Ok(()),
                _ => Err(compressed.unwrap_or_else(|| from_elsewhere(status, None))),
            }
        }
        _ => Err(refusal(server, response, &secrets(server, held)).await),
    }
}

/// Whether two pairs of tokens are certainly of two sessions of a Matchbook server. The
/// access tokens of another server are not for its clients to read (RFC 9068 §6).
pub(crate) fn differ_in_session(server: &Server, one: &StoredTokens, other: &StoredTokens) -> bool {
    let one = session_id(&one.access_token);
    let other = session_id(&other.access_token);
    server.as_oauth().is_none() && one.is_some() && other.is_some() && one != other
}

/// Reads the claim `sid` of an access token, without verifying anything: it decides only
/// whether tokens that were replaced are given back.
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

/// Whether a response is the server's own: a Matchbook server marks each. One of RFC
/// 6749 has its errors in JSON (§5.2); what it says to a revocation has no meaning
/// (RFC 7009 §2.2), but it is no page.
pub(crate) fn is_from_server(server: &Server, response: &Response) -> bool {
    if server.as_oauth().is_some() && response.status().is_success() {
        let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        return !kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with(b"text/html"));
    }
    if server.as_oauth().is_some() {
        return is_json(response);
    }
    let mark = response.headers().get(SERVER_MARK).and_then(|mark| mark.to_str().ok());
    mark == Some(SERVER_MARK_VALUE)
}

/// A response of something in between, such as a gateway, a proxy or the portal of a
/// network: it ends nothing, and may pass.
pub(crate) fn from_elsewhere(status: StatusCode, retry_after: Option<Duration>) -> Error {
    let status = status.as_u16();
    let problem = format!("{status} from something between here and the token server");
    Error::Transient { problem, retry_after }
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
    /// A form for an endpoint of RFC 6749, which says who asks.
    fn authenticated(path: &'a str, oauth: &'a OAuth) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut form =
            Self { path, headers, authorization: None, fields: vec![], repeatable: false };
        match &oauth.client_secret {
            Some(secret) => {
                // Both are form-encoded first (§2.3.1).
                let pair = format!("{}:{}", encoded(&oauth.client_id), encoded(secret));
                let basic = format!("Basic {}", encode_block(pair.as_bytes()));
                let basic = HeaderValue::try_from(basic);
                form.authorization =
                    Some(basic.map_err(|error| Error::Invalid(format!("the secret: {error}")))?);
            }
            None => form.fields.push(("client_id", &oauth.client_id)),
        }
        Ok(form)
    }

    /// Sends it. The timeout is for the whole answer: a body that stalls must not
    /// keep the turn.
    async fn post(
        mut self,
        server: &Server,
        http: &Http,
        mut tell: impl FnMut(Event),
    ) -> Result<Response, Error> {
        let body = serde_urlencoded::to_string(&self.fields);
        let body = body.map_err(|error| Error::Invalid(format!("the form: {error}")))?;
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        self.headers.insert(CONTENT_TYPE, form);
        let outgoing = Outgoing {
            method: &Method::POST,
            target: &server.at(self.path)?,
            headers: &self.headers,
            authorization: self.authorization,
            repeatable: self.repeatable,
        };
        let response = http.send(&outgoing, body.into(), |event| tell(event())).await?;
        Ok(response.timeout(server.timeout()))
    }
}

/// As a value of a form.
fn encoded(value: &str) -> String {
    serde_urlencoded::to_string([("", value)]).unwrap_or_default().split_off(1)
}

/// Reads the rest of an answer that nobody will look at, so that its connection
/// can be used again.
pub(crate) async fn drain(response: Response) {
    let _ = response.timeout(DRAIN).body().limit(64 * 1024).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_basic_authentication_carries_is_form_encoded() {
        assert_eq!(encoded("a b:c%"), "a+b%3Ac%25");
        assert_eq!(encoded("plain-1"), "plain-1");
    }

    #[test]
    fn a_session_is_read_from_an_access_token_of_any_length() {
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
    fn a_lifetime_is_read_from_whatever_servers_send() {
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

    #[test]
    fn debug_does_not_show_the_secret() {
        let oauth = OAuth {
            token_path: "/token".into(),
            revocation_path: None,
            client_id: "app".into(),
            client_secret: Some("hush".into()),
            scope: None,
        };
        assert!(!format!("{oauth:?}").contains("hush"));
    }
}
