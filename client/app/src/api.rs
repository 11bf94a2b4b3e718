//! The JSON API of the page, for browsers with a cookie.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, Json, Path, ReqData, ServiceConfig};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError};
use futures_util::future::join_all;
use matchbook_client::{Client, Error};
use matchbook_shared::{ErrorBody, InvalidGrantReason, RevokedSessions, SessionInfo};
use serde::Serialize;
use uuid::Uuid;

use crate::browser_sessions::{BrowserSessions, Caller, Identity};
use crate::csrf;
use crate::ended::SessionEnd;
use crate::error::AppError;
use crate::feed::{self, Exchange};
use crate::login_limiter::LoginLimiter;
use crate::upstream::{check_origin, fetch_json, user};

/// Number of requests in a burst.
const BURST_SIZE: usize = 50;

/// The path of the event stream. It is not reported to the page, which opened it.
const EVENTS: &str = "/api/events";

/// The identity of the request's browser, set by `authenticate`.
type CurrentIdentity = ReqData<Arc<Identity>>;

pub(crate) fn routes(config: &mut ServiceConfig) {
    let scope = web::scope("/api")
        .wrap(from_fn(authenticate))
        .route("/login", web::post().to(login))
        .route("/refresh", web::post().to(refresh))
        .route("/logout", web::post().to(logout))
        .route("/logout-everywhere", web::post().to(logout_everywhere))
        .route("/burst", web::post().to(burst))
        .route("/info", web::post().to(info))
        .route("/sessions", web::get().to(sessions))
        .route("/sessions/{id}", web::delete().to(end_session))
        .route("/events", web::get().to(events))
        .default_service(web::to(async || Err::<HttpResponse, _>(ApiError::NotFound)));
    config.service(scope);
}

/// Checks that the request comes from the page of a known browser, passes the identity
/// to the handler, and reports the request to the browser's pages.
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

/// Returns the thread's client with the credentials of the browser.
fn client_for(client: &Client, identity: &Identity) -> Client {
    client.with_credentials(identity.credentials().clone())
}

fn no_content() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

async fn login(
    request: HttpRequest,
    sessions: Data<BrowserSessions>,
    client: Data<Client>,
    limiter: Data<LoginLimiter>,
    identity: CurrentIdentity,
) -> Result<HttpResponse, ApiError> {
    limiter.check(request.peer_addr())?;
    client_for(&client, &identity).log_in_as_guest().await?;
    let mut response = HttpResponse::NoContent();
    if let Some(cookie) = sessions.renewed_cookie(&request, &identity)? {
        response.insert_header(cookie);
    }
    Ok(response.finish())
}

async fn refresh(
    client: Data<Client>,
    identity: CurrentIdentity,
) -> Result<HttpResponse, ApiError> {
    client_for(&client, &identity).refresh().await?;
    Ok(no_content())
}

async fn logout(client: Data<Client>, identity: CurrentIdentity) -> Result<HttpResponse, ApiError> {
    client_for(&client, &identity).log_out().await?;
    Ok(no_content())
}

async fn logout_everywhere(
    client: Data<Client>,
    identity: CurrentIdentity,
) -> Result<Json<RevokedSessions>, ApiError> {
    let ended = client_for(&client, &identity).log_out_everywhere().await?;
    Ok(Json(RevokedSessions { ended }))
}

#[derive(Serialize)]
struct BurstResult {
    succeeded: usize,
    failed: usize,
}

/// Sends `BURST_SIZE` requests at once. Only one burst runs at a time. If all requests
/// fail, returns the error of the first.
async fn burst(
    client: Data<Client>,
    identity: CurrentIdentity,
) -> Result<Json<BurstResult>, ApiError> {
    let _guard = identity.feed().begin_burst().ok_or(ApiError::BurstInProgress)?;
    let client = client_for(&client, &identity);
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
}

async fn info(client: Data<Client>, identity: CurrentIdentity) -> Result<Json<Info>, ApiError> {
    let user = user(&client_for(&client, &identity)).await?;
    Ok(Json(Info { user_id: user.user_id }))
}

async fn sessions(
    client: Data<Client>,
    identity: CurrentIdentity,
) -> Result<Json<Vec<SessionInfo>>, ApiError> {
    Ok(Json(fetch_json(client_for(&client, &identity).get("/sessions")).await?))
}

async fn end_session(
    client: Data<Client>,
    identity: CurrentIdentity,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = Uuid::try_parse(&id).map_err(|_| ApiError::NotFound)?;
    let client = client_for(&client, &identity);
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
    fn code(&self) -> &'static str {
        match self {
            Self::App(AppError::Client(Error::NotLoggedIn)) => "not_logged_in",
            Self::App(AppError::Client(Error::LoggedOut(_))) => "logged_out",
            Self::App(AppError::Client(Error::SupersededByLogin)) => "other_sign_in",
            Self::App(AppError::Client(Error::Superseded)) => "superseded",
            Self::App(AppError::LoginRateLimited(_)) => "slow_down",
            Self::BurstInProgress => "busy",
            Self::Forbidden => "forbidden",
            Self::NoCookie => "no_cookie",
            Self::NotFound => "not_found",
            _ if self.status_code() == StatusCode::SERVICE_UNAVAILABLE => "away",
            Self::App(_) | Self::TooManyPages => "refused",
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
            Self::NoCookie => f.write_str(
                "The app was restarted, or you were away for a day: load the page and log in \
                 again.",
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
mod tests {
    use std::time::Duration;

    use actix_web::http::header::COOKIE;
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpServer, body};
    use futures_util::StreamExt;
    use matchbook_client::{Credentials, RootCerts, Server, TokenResponse};
    use matchbook_shared::{SERVER_MARK, SERVER_MARK_VALUE};
    use serde_json::json;

    use super::*;
    use crate::cookie::Cookie;

    #[actix_rt::test]
    async fn calls_of_the_page_are_reported_except_event_streams_and_unknown_paths() {
        let now = Instant::now();
        let sessions = Data::new(BrowserSessions::new(Cookie { secure: false }, 1, false, now));
        let (id, identity) = sessions.create(now).unwrap();
        let server =
            Server::new("http://localhost:1", &RootCerts::System, Duration::from_secs(1)).unwrap();
        let client = Data::new(Client::new(&server, Credentials::default()));
        let app = App::new().app_data(sessions.clone()).app_data(client).configure(routes);
        let app = init_service(app).await;
        let stream = feed::event_stream(identity.feed(), identity.credentials().clone()).unwrap();

        let long = format!("/api/{}", "x".repeat(1000));
        for (method, path, status) in [
            (Method::GET, "/api/events", 200),
            (Method::GET, "/api/%65vents", 200),
            (Method::GET, long.as_str(), 404),
            (Method::POST, "/api/logout", 204),
        ] {
            let request = TestRequest::with_uri(path)
                .method(method)
                .insert_header((COOKIE, format!("matchbook_client={id}")))
                .insert_header(("x-matchbook", "page"));
            let response = call_service(&app, request.to_request()).await;
            assert_eq!(response.status().as_u16(), status, "{path}");
        }
        let received: Vec<_> = stream.take(2).collect().await;
        let event = String::from_utf8_lossy(received[1].as_ref().unwrap()).into_owned();
        assert!(event.contains("\"path\":\"/api/logout\""), "{event}");
    }

    /// Ends the session of another device through the page's API, and returns the status. The
    /// server lists that session, and responds to its revocation with `status` and
    /// `body`. `listed` and `marked`: whether the two responses have the server's mark.
    async fn end_session_at(listed: bool, status: u16, body: &'static str, marked: bool) -> u16 {
        let id = "00000000-0000-4000-8000-000000000001";
        let list = json!([{
            "id": id, "createdAt": "2026-01-01T00:00:00Z", "lastUsedAt": "2026-01-01T00:00:00Z",
            "expiresAt": "2027-01-01T00:00:00Z", "userAgent": null, "current": false,
        }]);
        let upstream = HttpServer::new(move || {
            let respond = |marked, status, body| {
                let status = StatusCode::from_u16(status).unwrap();
                let mut response = HttpResponse::build(status);
                if marked {
                    response.insert_header((SERVER_MARK, SERVER_MARK_VALUE));
                }
                response.content_type("application/json").body(body)
            };
            let list = list.to_string();
            App::new()
                .route(
                    "/sessions",
                    web::get().to(move || {
                        let response = respond(listed, 200, list.clone());
                        async { response }
                    }),
                )
                .default_service(web::to(move || {
                    let response = respond(marked, status, body.to_owned());
                    async { response }
                }))
        });
        let upstream = upstream.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", upstream.addrs()[0]);
        let running = upstream.run();
        let handle = running.handle();
        actix_rt::spawn(running);

        let now = Instant::now();
        let sessions = Data::new(BrowserSessions::new(Cookie { secure: false }, 1, false, now));
        let (cookie, identity) = sessions.create(now).unwrap();
        let server = Server::new(&url, &RootCerts::System, Duration::from_secs(8)).unwrap();
        let client = Client::new(&server, Credentials::default());
        let tokens = TokenResponse {
            token: "access".into(),
            refresh_token: "refresh".into(),
            expires_in: 60,
        };
        let credentials = identity.credentials().clone();
        client.with_credentials(credentials).log_in_with(tokens).await.unwrap();
        let app = App::new().app_data(sessions).app_data(Data::new(client)).configure(routes);
        let app = init_service(app).await;
        let request = TestRequest::with_uri(&format!("/api/sessions/{id}"))
            .method(Method::DELETE)
            .insert_header((COOKIE, format!("matchbook_client={cookie}")))
            .insert_header(("x-matchbook", "page"));
        let response = call_service(&app, request.to_request()).await;
        handle.stop(false).await;
        response.status().as_u16()
    }

    #[actix_rt::test]
    async fn sessions_are_listed_and_ended_only_by_responses_of_the_token_server() {
        for status in [200, 204, 404] {
            assert_eq!(end_session_at(true, status, "", true).await, 204, "{status}");
        }
        for (status, body) in [
            (200, "<html>log in to this network</html>"),
            (204, ""),
            (401, r#"{"status":401,"error":"Unauthorized"}"#),
            (403, "<html>"),
            (404, "<html>"),
        ] {
            assert_eq!(end_session_at(true, status, body, false).await, 503, "{status}");
        }
        // A list from elsewhere is rejected.
        assert_eq!(end_session_at(false, 204, "", true).await, 503);
    }

    #[actix_rt::test]
    async fn a_second_burst_and_a_request_of_an_earlier_login_have_their_own_error_codes() {
        let superseded = ApiError::App(AppError::Client(Error::SupersededByLogin));
        for (error, status, code, retry_after) in [
            (ApiError::BurstInProgress, 503, "busy", Some("1")),
            (superseded, 409, "other_sign_in", None),
        ] {
            let response = error.error_response();
            assert_eq!(response.status().as_u16(), status);
            let header = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(header, retry_after);
            let bytes = body::to_bytes(response.into_body()).await.unwrap();
            let error: ErrorBody = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(error.error, code);
        }
    }
}
