//! `/forward-auth`: a reverse proxy asks whether the browser of a request is logged in, before it
//! passes the request to an application.

mod return_address;

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use actix_web::web::{Data, Query};
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::error::{Error, Errors, PageErrors, Parameters, UnknownPath};
use super::extract::bearer::UserBearer;
use super::extract::cookies;
use super::extract::login_session::OptionalLogin;
use super::pages::{Continue, Page};
use super::state::State;
use crate::accounts::ForwardedUser;
use crate::tokens::{StandardScopes, TokenHolder};
use return_address::ReturnAddress;

/// The cookie of the protected applications. The prefix makes browsers accept it only over HTTPS.
///
/// NEVER CHANGE IT once a version is released: configurations of proxies remove it by its name.
const COOKIE: &str = "__Secure-matchbook_forward";

/// How many cookies of the name are tried.
const MAX_COOKIES: usize = 4;

/// Where the login is, for proxies that cannot pass a redirect.
const LOGIN_URL: HeaderName = HeaderName::from_static("x-auth-login");

/// The address of the request, from proxies that cannot pass a redirect.
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");

/// Tells a proxy whether a user may reach an application.
///
/// The proxy sends the headers of the original request. A login in this browser or an access token
/// permits it; guests are not permitted. A page is redirected to the login if the proxy sends
/// `X-Forwarded-Uri` (Caddy, Traefik). If it sends `X-Original-URL` (nginx), a page gets `401`
/// with the URL of the login in `X-Auth-Login`.
#[utoipa::path(
    get,
    path = "/forward-auth",
    tag = "Verification",
    operation_id = "forwardAuth",
    params(
        ("group" = Option<Vec<String>>, Query, description = "The user must be in one of these groups."),
        ("X-Forwarded-Proto" = Option<String>, Header, description = "The scheme of the original request."),
        ("X-Forwarded-Host" = Option<String>, Header, description = "Its host."),
        ("X-Forwarded-Uri" = Option<String>, Header, description = "Its path and query."),
        ("X-Original-URL" = Option<String>, Header, description = "Its URL, from nginx."),
    ),
    responses(
        (
            status = 204,
            description = "The user may reach the application",
            headers(
                ("X-Auth-User" = String, description = "The id of the user."),
                ("X-Auth-Name" = String, description = "The login name."),
                ("X-Auth-Email" = String, description = "The verified email address."),
                ("X-Auth-Groups" = String, description = "The groups, separated by commas."),
            ),
        ),
        (status = 302, description = "The page for the login"),
        Errors<(UserBearer, ForwardedUser, UnknownPath)>,
    ),
    security((), ("bearer" = []))
)]
pub(super) async fn forward_auth(
    state: Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    if state.forward_auth.is_none() {
        return Err(Error::NotFound);
    }
    let groups = required_groups(&request)?;
    match user_of(&state, &request).await {
        Ok(user) => {
            let is_in = |group: &String| user.groups.contains(group);
            let is_permitted = groups.is_empty() || groups.iter().any(is_in);
            is_permitted.then(|| permit(&user)).ok_or(Error::NotInGroup)
        }
        Err(error @ Error::MissingToken) if is_page(request.headers()) => {
            Ok(to_login(&state, request.headers(), &error))
        }
        Err(error) => Err(error),
    }
}

/// Returns the user of the cookie, or else of the access token.
async fn user_of(state: &State, request: &HttpRequest) -> Result<ForwardedUser, Error> {
    for cookie in cookies::values(request, COOKIE).take(MAX_COOKIES) {
        if let Some(user) = state.accounts.user_of_forward_auth_cookie(cookie).await? {
            return Ok(user);
        }
    }
    let UserBearer(access) = UserBearer::extract(request).await?;
    let is_permitted = match access.holder {
        TokenHolder::Native => true,
        TokenHolder::Client(scopes) => scopes.contains(StandardScopes::FORWARD_AUTH),
        TokenHolder::Machine => false,
    };
    let user = state.accounts.forwarded_user(access.user).await?;
    user.filter(|_| is_permitted).ok_or(Error::InsufficientScope)
}

/// Returns the groups of the query, of which the user must be in one. A misspelled parameter must
/// not permit every user.
fn required_groups(request: &HttpRequest) -> Result<Vec<String>, Error> {
    let query = form_urlencoded::parse(request.query_string().as_bytes());
    let mut groups = Vec::new();
    for (name, group) in query {
        if name != "group" {
            tracing::warn!(parameter = %name.escape_debug(), "unknown parameter of /forward-auth");
            return Err(Error::InvalidRequest(
                "The only parameter is `group`: correct the URL in the configuration of the proxy.",
            ));
        }
        groups.push(group.into_owned());
    }
    Ok(groups)
}

/// Returns the scheme and the host of an address. Its path and query may have secrets of an
/// application.
fn origin_of(address: &str) -> String {
    Url::parse(address)
        .map_or_else(|_| "invalid".to_owned(), |url| url.origin().ascii_serialization())
}

fn permit(user: &ForwardedUser) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    // All of them, also without a value: Caddy 2.6 passes the name of a missing one as its value,
    // and other proxies keep what the client sent.
    let headers = [
        ("x-auth-user", user.user.to_string()),
        ("x-auth-name", user.name.clone().unwrap_or_default()),
        ("x-auth-email", user.email.clone().unwrap_or_default()),
        ("x-auth-groups", user.groups.join(",")),
    ];
    for (name, value) in headers {
        // Names may have other characters than ASCII, as UTF-8.
        let value = HeaderValue::from_bytes(value.as_bytes());
        response.insert_header((name, value.unwrap_or(HeaderValue::from_static(""))));
    }
    response.finish()
}

/// Returns whether a browser opens a page, and not a client of an API.
fn is_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
        && !headers.contains_key(AUTHORIZATION)
}

/// Sends a page to the login, if its address is known and configured.
fn to_login(state: &State, headers: &HeaderMap, error: &Error) -> HttpResponse {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let original = text(ORIGINAL_URL.as_str()).map(str::to_owned);
    let can_redirect = original.is_none();
    let forwarded = || {
        let host = text("x-forwarded-host")?;
        let uri = text("x-forwarded-uri").filter(|uri| uri.starts_with('/'))?;
        Some(format!("{}://{host}{uri}", text("x-forwarded-proto")?))
    };
    let Some(address) = original.or_else(forwarded) else { return error.error_response() };
    let options = state.forward_auth.as_ref();
    let parsed = options.and_then(|options| ReturnAddress::parse(&address, options));
    let Some(parsed) = parsed else {
        tracing::warn!(
            origin = origin_of(&address),
            "page of no host in `forward_auth.hosts`, or not over https, not redirected to the login"
        );
        return error.error_response();
    };
    let encoded = utf8_percent_encode(parsed.as_str(), NON_ALPHANUMERIC);
    let base = state.public_url.trim_end_matches('/');
    let url = format!("{base}/forward-auth/login?return={encoded}");
    if can_redirect {
        return HttpResponse::build(StatusCode::FOUND).insert_header((LOCATION, url)).finish();
    }
    let mut response = error.error_response();
    if let Ok(url) = HeaderValue::from_str(&url) {
        response.headers_mut().insert(LOGIN_URL, url);
    }
    response
}

#[derive(Deserialize)]
pub(super) struct LoginQuery {
    #[serde(default, rename = "return")]
    address: String,
}

/// Lets a browser log in, and returns it to an application with the cookie for it.
#[utoipa::path(
    get,
    path = "/forward-auth/login",
    tag = "Pages",
    operation_id = "logInForApplication",
    params(("return" = String, Query, description = "The URL of a page, on a configured host.")),
    responses(
        (status = 303, description = "The page of the application, or the login"),
        PageErrors<Parameters, (Parameters, UnknownPath)>,
    )
)]
pub(super) async fn log_in(
    state: Data<State>,
    query: Query<LoginQuery>,
    login: Result<OptionalLogin, Error>,
) -> Page {
    let Some(options) = &state.forward_auth else { return Error::NotFound.into() };
    let Some(address) = ReturnAddress::parse(&query.address, options) else {
        let origin = origin_of(&query.address);
        tracing::info!(origin, "return address of no configured host rejected");
        let problem = "The address to return to is not one of an application that this server \
                       protects: open the application again.";
        return Error::InvalidRequest(problem).into();
    };
    match login {
        Ok(OptionalLogin { session: Some(login), .. }) => {
            let cookie = state.accounts.forward_auth_cookie(&login);
            let lifetime = state.accounts.login_lifetime();
            let header = set_cookie(&cookie, &options.cookie_domain, lifetime);
            Page::redirect(address.as_str()).with_header(header)
        }
        Ok(_) => {
            let next = Continue::to_application(address.as_str());
            Page::redirect(&format!("../login{}", next.parameter()))
        }
        Err(error) => error.into(),
    }
}

/// Returns the header that sets the cookie. Scripts cannot read it, and other sites cannot send it
/// with a form.
fn set_cookie(value: &str, domain: &str, lifetime: Duration) -> (HeaderName, HeaderValue) {
    let (name, text) = cookies::set(COOKIE, value, lifetime.as_secs());
    let text = format!("{text}; Domain={domain}");
    // The domain was checked at the start, and the value is base64.
    (name, HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")))
}
