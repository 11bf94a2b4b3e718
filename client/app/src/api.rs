//! The JSON API of the page, for browsers with a cookie.

mod accounts;

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, Json, JsonConfig, Path, Query, ReqData, ServiceConfig};
use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError,
};
use futures_util::future::join_all;
use matchbook_client::{Client, Error};
use matchbook_shared::{
    ErrorBody, InvalidGrantReason, RevokeSessionsQuery, RevokedSessions, SessionInfo, device_name,
};
use serde::Serialize;
use uuid::Uuid;

use crate::browser_sessions::{BrowserSessions, Caller, Identity};
use crate::csrf;
use crate::ended::SessionEnd;
use crate::error::AppError;
use crate::feed::{self, Exchange};
use crate::login_limiter::LoginLimiter;
use crate::upstream::{check_origin, fetch_json, on_behalf_of, user};

/// Number of requests in a burst.
const BURST_SIZE: usize = 50;

/// The longest form of the page, in bytes.
const MAX_FORM_LEN: usize = 8 << 10;

/// The path of the event stream. It is not reported to the page, which opened it.
const EVENTS: &str = "/api/events";

/// The identity of the request's browser, set by `authenticate`.
type CurrentIdentity = ReqData<Arc<Identity>>;

pub(crate) fn routes(config: &mut ServiceConfig) {
    let scope = web::scope("/api")
        .wrap(from_fn(authenticate))
        .app_data(
            // The parser's error is not shown: it may quote the password.
            JsonConfig::default()
                .limit(MAX_FORM_LEN)
                .error_handler(|_, _| ApiError::InvalidForm.into()),
        )
        .route("/login", web::post().to(login))
        .route("/account/login", web::post().to(accounts::log_in))
        .route("/account/register", web::post().to(accounts::register))
        .route("/refresh", web::post().to(refresh))
        .route("/logout", web::post().to(logout))
        .route("/logout-everywhere", web::post().to(logout_everywhere))
        .route("/burst", web::post().to(burst))
        .route("/info", web::post().to(info))
        .route("/sessions", web::get().to(sessions))
        .route("/sessions", web::delete().to(end_sessions))
        .route("/sessions/{id}", web::delete().to(end_session))
        .route("/events", web::get().to(events))
        .default_service(web::to(async || Err::<HttpResponse, _>(ApiError::NotFound)));
    config.service(scope);
}

/// Checks that the request comes from the page of a known browser, and passes the
/// identity to the handler. Reports the request to the browser's pages.
async fn authenticate(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let identity = match identify(&request) {
        Ok(identity) => identity,
        Err(error) => {
            let response = request.into_response(error.error_response());
            return Ok(response.map_into_right_body());
        }
    };
    request.extensions_mut().insert(identity.clone());
    let began = Instant::now();
    let response = next.call(request).await?;
    // Requests without a route are not reported.
    if response.request().match_pattern().is_some_and(|pattern| pattern != EVENTS) {
        identity.feed().publish_exchange(&Exchange {
            from: "browser",
            to: "client",
            method: response.request().method().as_str(),
            path: response.request().path(),
            status: Some(response.status().as_u16()),
            began,
            took: began.elapsed(),
        });
    }
    Ok(response.map_into_left_body())
}

fn identify(request: &ServiceRequest) -> Result<Arc<Identity>, ApiError> {
    let headers = request.headers();
    let read_only = matches!(*request.method(), Method::GET | Method::HEAD);
    let sessions = request.app_data::<Data<BrowserSessions>>().ok_or(ApiError::NoCookie)?;
    let https = sessions.cookie().secure;
    if csrf::is_cross_site(headers, https)
        || !(read_only || csrf::passes_csrf_check(headers, https))
    {
        return Err(ApiError::Forbidden);
    }
    match sessions.caller(headers, Instant::now()) {
        Caller::Known(identity) => Ok(identity),
        Caller::UnknownCookie | Caller::NoCookie => Err(ApiError::NoCookie),
    }
}

/// The browser of a request, and a client that sends requests on its behalf.
struct Browser {
    client: Client,
    identity: Arc<Identity>,
    sessions: Data<BrowserSessions>,
    request: HttpRequest,
}

impl FromRequest for Browser {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request).ok_or(ApiError::NoCookie))
    }
}

impl Browser {
    fn of(request: &HttpRequest) -> Option<Self> {
        // Set by `authenticate`.
        let identity = request.extensions().get::<Arc<Identity>>().cloned()?;
        let client = request.app_data::<Data<Client>>()?;
        let client = on_behalf_of(client, identity.credentials(), request);
        let sessions = request.app_data::<Data<BrowserSessions>>()?.clone();
        Some(Self { client, identity, sessions, request: request.clone() })
    }

    /// Replaces the cookie after a login.
    async fn renew_cookie(&self, response: &mut HttpResponseBuilder) -> Result<(), ApiError> {
        if let Some(cookie) = self.sessions.renewed_cookie(&self.request, &self.identity).await? {
            response.append_header(cookie);
        }
        Ok(())
    }
}

/// Counts a login from the address of the request.
struct LoginPermit;

impl FromRequest for LoginPermit {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let limiter = request.app_data::<Data<LoginLimiter>>();
        let checked = limiter.map_or(Ok(()), |limiter| limiter.check(request.peer_addr()));
        ready(checked.map(|()| Self).map_err(ApiError::from))
    }
}

fn no_content() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

async fn login(_permit: LoginPermit, browser: Browser) -> Result<HttpResponse, ApiError> {
    browser.client.log_in_as_guest().await?;
    let mut response = HttpResponse::NoContent();
    browser.renew_cookie(&mut response).await?;
    Ok(response.finish())
}

async fn refresh(browser: Browser) -> Result<HttpResponse, ApiError> {
    browser.client.refresh().await?;
    Ok(no_content())
}

async fn logout(browser: Browser) -> Result<HttpResponse, ApiError> {
    browser.client.log_out().await?;
    Ok(no_content())
}

async fn logout_everywhere(browser: Browser) -> Result<Json<RevokedSessions>, ApiError> {
    let ended = browser.client.log_out_everywhere().await?;
    Ok(Json(RevokedSessions { ended }))
}

#[derive(Serialize)]
struct BurstResult {
    succeeded: usize,
    failed: usize,
}

/// Sends `BURST_SIZE` requests at once. Only one burst runs at a time. If all requests
/// fail, returns the error of the first.
async fn burst(browser: Browser) -> Result<Json<BurstResult>, ApiError> {
    let Browser { client, identity, .. } = browser;
    let _guard = identity.feed().begin_burst().ok_or(ApiError::BurstInProgress)?;
    let results = join_all((0..BURST_SIZE).map(|_| user(&client))).await;
    let succeeded = results.iter().filter(|result| result.is_ok()).count();
    match results.into_iter().find_map(Result::err) {
        Some(error) if succeeded == 0 => Err(error.into()),
        _ => Ok(Json(BurstResult { succeeded, failed: BURST_SIZE - succeeded })),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    user_id: Uuid,
    /// The name of the account; absent for a guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

async fn info(browser: Browser) -> Result<Json<Info>, ApiError> {
    let user = user(&browser.client).await?;
    Ok(Json(Info { user_id: user.user_id, name: user.name }))
}

/// A session with the name of its device.
#[derive(Serialize)]
struct ListedSession {
    #[serde(flatten)]
    session: SessionInfo,
    /// Such as "Firefox on Windows".
    device: Option<String>,
}

async fn sessions(browser: Browser) -> Result<Json<Vec<ListedSession>>, ApiError> {
    let sessions: Vec<SessionInfo> = fetch_json(browser.client.get("/sessions")).await?;
    let named = sessions.into_iter().map(|session| ListedSession {
        device: session.user_agent.as_deref().and_then(device_name),
        session,
    });
    Ok(Json(named.collect()))
}

/// Ends the other sessions of the user: `DELETE /api/sessions?keep=current`.
async fn end_sessions(
    browser: Browser,
    query: Query<RevokeSessionsQuery>,
) -> Result<Json<RevokedSessions>, ApiError> {
    if query.keep.as_deref() != Some("current") {
        return Err(ApiError::NotFound);
    }
    let others = browser.client.delete("/sessions").query(&query.into_inner());
    Ok(Json(fetch_json(others).await?))
}

async fn end_session(browser: Browser, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = Uuid::try_parse(&id).map_err(|_| ApiError::NotFound)?;
    let client = browser.client;
    let listed: Vec<SessionInfo> = fetch_json(client.get("/sessions")).await?;
    if listed.iter().any(|session| session.current && session.id == id) {
        // A logout also deletes the tokens.
        client.log_out().await?;
        return Ok(no_content());
    }
    let response = client.delete(&format!("/sessions/{id}")).send().await?;
    check_origin(&response)?;
    match response.status().as_u16() {
        // 404: the session has already ended.
        200..300 | 404 => Ok(no_content()),
        _ => Err(AppError::from_response(&response).into()),
    }
}

/// Streams the browser's events: `GET /api/events`.
async fn events(identity: CurrentIdentity) -> Result<HttpResponse, ApiError> {
    let stream = feed::event_stream(identity.feed(), identity.credentials().clone());
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        // Keeps the shutdown from waiting for an idle connection.
        .force_close()
        .streaming(stream.ok_or(ApiError::TooManyPages)?))
}

/// An error of the API.
#[derive(Debug)]
enum ApiError {
    App(AppError),
    BurstInProgress,
    Forbidden,
    InvalidForm,
    NoCookie,
    NotFound,
    TooManyPages,
}

impl From<AppError> for ApiError {
    fn from(error: AppError) -> Self {
        Self::App(error)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::App(error.into())
    }
}

impl ApiError {
    /// Returns why the session has ended, if the error says so.
    fn reason(&self) -> Option<InvalidGrantReason> {
        match self {
            Self::App(AppError::Client(Error::LoggedOut(reason))) => *reason,
            _ => None,
        }
    }

    /// Returns the stable code for programs.
    fn code(&self) -> &str {
        match self {
            Self::App(AppError::Client(Error::Rejected(rejection))) => rejection.code(),
            Self::App(AppError::Client(Error::NotLoggedIn)) => "not_logged_in",
            Self::App(AppError::Client(Error::LoggedOut(_))) => "logged_out",
            Self::App(AppError::Client(Error::SupersededByLogin)) => "superseded_by_login",
            Self::App(AppError::Client(Error::Superseded)) => "superseded",
            Self::App(AppError::LoginRateLimited(_)) => "slow_down",
            Self::BurstInProgress => "busy",
            Self::Forbidden => "forbidden",
            Self::InvalidForm => "invalid_form",
            Self::NoCookie => "no_cookie",
            Self::NotFound => "not_found",
            Self::TooManyPages => "too_many_pages",
            Self::App(_) if self.status_code() == StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            Self::App(_) => "request_failed",
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(AppError::Client(Error::NotLoggedIn)) => f.write_str("Not logged in."),
            Self::App(AppError::Client(Error::LoggedOut(reason))) => {
                f.write_str(&feed::end_message(SessionEnd::Ended(*reason)))
            }
            Self::App(error) => error.fmt(f),
            Self::BurstInProgress => f.write_str("A burst is in progress: wait until it ends."),
            Self::Forbidden => f.write_str("Only the page of this app may send this request."),
            Self::InvalidForm => f.write_str("Fill in the name and the password."),
            Self::NoCookie => f.write_str(
                "The app does not know this browser, as after a day without a request: load the \
                 page and log in again.",
            ),
            Self::NotFound => f.write_str("Not found."),
            Self::TooManyPages => f.write_str("Too many pages are open: close one."),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::App(AppError::Client(Error::SupersededByLogin)) => StatusCode::CONFLICT,
            Self::App(error) => error.status_code(),
            Self::InvalidForm => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoCookie => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BurstInProgress | Self::TooManyPages => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        let retry_after = match self {
            Self::App(error) => error.retry_after(),
            Self::BurstInProgress | Self::TooManyPages => Some(1),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            response.insert_header((RETRY_AFTER, seconds));
        }
        response.json(ErrorBody {
            error: self.code().to_owned(),
            message: self.to_string(),
            reason: self.reason(),
        })
    }
}

#[cfg(test)]
mod tests;
