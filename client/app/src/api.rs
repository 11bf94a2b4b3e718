//! What the page calls: JSON, for browsers with a cookie.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, Json, Path, ReqData, ServiceConfig};
use actix_web::{HttpMessage, HttpResponse, ResponseError};
use futures_util::future::join_all;
use matchbook_client::{Client, Error};
use matchbook_shared::{ErrorBody, InvalidGrantReason, RevokedSessions, SessionInfo};
use serde::Serialize;
use uuid::Uuid;

use crate::browser_sessions::{Caller, Identities, Identity};
use crate::csrf;
use crate::ended::End;
use crate::error::Failure;
use crate::feed::{self, Exchange};
use crate::logins::Logins;
use crate::upstream::{read, user};

/// How many requests are a burst.
const BURST: usize = 50;

/// Of which a page is not told: it knows when it connects.
const EVENTS: &str = "/api/events";

/// The identity that `admit` found.
type Who = ReqData<Arc<Identity>>;

pub(crate) fn routes(config: &mut ServiceConfig) {
    let scope = web::scope("/api")
        .wrap(from_fn(admit))
        .route("/login", web::post().to(login))
        .route("/refresh", web::post().to(refresh))
        .route("/logout", web::post().to(logout))
        .route("/logout-everywhere", web::post().to(logout_everywhere))
        .route("/burst", web::post().to(burst))
        .route("/info", web::post().to(info))
        .route("/sessions", web::get().to(sessions))
        .route("/sessions/{id}", web::delete().to(end_session))
        .route("/events", web::get().to(event_stream))
        .default_service(web::to(async || Err::<HttpResponse, _>(Problem::NotFound)));
    config.service(scope);
}

/// Lets the page in, and tells it of its own calls. What its handlers need to
/// know of who asks, they get from here.
async fn admit(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let identity = match identify(&request) {
        Ok(identity) => identity,
        Err(problem) => {
            let refusal = request.into_response(problem.error_response());
            return Ok(refusal.map_into_right_body());
        }
    };
    request.extensions_mut().insert(identity.clone());
    let began = Instant::now();
    let answer = next.call(request).await?;
    // A path that leads nowhere is not worth a word.
    if answer.request().match_pattern().is_some_and(|pattern| pattern != EVENTS) {
        identity.feed().exchange(&Exchange {
            from: "browser",
            to: "client",
            method: answer.request().method().as_str(),
            path: answer.request().path(),
            status: Some(answer.status().as_u16()),
            began,
            took: began.elapsed(),
        });
    }
    Ok(answer.map_into_left_body())
}

fn identify(request: &ServiceRequest) -> Result<Arc<Identity>, Problem> {
    let headers = request.headers();
    let changes_nothing = matches!(*request.method(), Method::GET | Method::HEAD);
    if csrf::is_of_another_site(headers) || !(changes_nothing || csrf::is_of_the_page(headers)) {
        return Err(Problem::Forbidden);
    }
    let identities = request.app_data::<Data<Identities>>().ok_or(Problem::NoCookie)?;
    match identities.caller(headers, Instant::now()) {
        Caller::Known(identity) => Ok(identity),
        Caller::Stranger | Caller::Nobody => Err(Problem::NoCookie),
    }
}

fn session(thread: &Client, who: &Identity) -> Client {
    thread.with_credentials(who.credential().clone())
}

fn done() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

async fn login(
    request: actix_web::HttpRequest,
    identities: Data<Identities>,
    thread: Data<Client>,
    logins: Data<Logins>,
    who: Who,
) -> Result<HttpResponse, Problem> {
    logins.admit(request.peer_addr())?;
    session(&thread, &who).log_in_as_guest().await?;
    let mut answer = HttpResponse::NoContent();
    if let Some(cookie) = identities.renewed_cookie(&request, &who)? {
        answer.insert_header(cookie);
    }
    Ok(answer.finish())
}

async fn refresh(thread: Data<Client>, who: Who) -> Result<HttpResponse, Problem> {
    session(&thread, &who).refresh().await?;
    Ok(done())
}

async fn logout(thread: Data<Client>, who: Who) -> Result<HttpResponse, Problem> {
    session(&thread, &who).log_out().await?;
    Ok(done())
}

async fn logout_everywhere(
    thread: Data<Client>,
    who: Who,
) -> Result<Json<RevokedSessions>, Problem> {
    let ended = session(&thread, &who).log_out_everywhere().await?;
    Ok(Json(RevokedSessions { ended }))
}

#[derive(Serialize)]
struct Burst {
    succeeded: usize,
    failed: usize,
}

/// Fifty requests at once, and one burst at a time. Where none succeeds, why the
/// first did not.
async fn burst(thread: Data<Client>, who: Who) -> Result<Json<Burst>, Problem> {
    let _burst = who.feed().begin_burst().ok_or(Problem::Bursting)?;
    let session = session(&thread, &who);
    let answers = join_all((0..BURST).map(|_| user(&session))).await;
    let succeeded = answers.iter().filter(|answer| answer.is_ok()).count();
    match answers.into_iter().find_map(Result::err) {
        Some(failure) if succeeded == 0 => Err(failure.into()),
        _ => Ok(Json(Burst { succeeded, failed: BURST - succeeded })),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    user_id: Uuid,
}

async fn info(thread: Data<Client>, who: Who) -> Result<Json<Info>, Problem> {
    Ok(Json(Info { user_id: user(&session(&thread, &who)).await?.user_id }))
}

async fn sessions(thread: Data<Client>, who: Who) -> Result<Json<Vec<SessionInfo>>, Problem> {
    Ok(Json(read(session(&thread, &who).get("/sessions")).await?))
}

async fn end_session(
    thread: Data<Client>,
    who: Who,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = Uuid::try_parse(&id).map_err(|_| Problem::NotFound)?;
    let session = session(&thread, &who);
    let listed: Vec<SessionInfo> = read(session.get("/sessions")).await?;
    if listed.iter().any(|one| one.current && one.id == id) {
        // This way its tokens are forgotten as well.
        session.log_out().await?;
        return Ok(done());
    }
    let answer = session.delete(&format!("/sessions/{id}")).send().await?;
    match answer.status().as_u16() {
        // One that is not there has ended before, which is what was wanted.
        200..300 | 404 => Ok(done()),
        _ => Err(Failure::of(&answer).into()),
    }
}

/// `GET /api/events`: what happens, as it happens.
async fn event_stream(who: Who) -> Result<HttpResponse, Problem> {
    let events = feed::stream(who.feed(), who.credential().clone());
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        // A stop does not wait for a connection that nothing follows on.
        .force_close()
        .streaming(events.ok_or(Problem::TooManyPages)?))
}

/// Why the page does not get what it asked for.
#[derive(Debug)]
enum Problem {
    Failure(Failure),
    Bursting,
    Forbidden,
    NoCookie,
    NotFound,
    TooManyPages,
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Failure(error.into())
    }
}

impl Problem {
    /// Why the session has ended, where it has.
    fn reason(&self) -> Option<InvalidGrantReason> {
        match self {
            Self::Failure(Failure::Client(Error::LoggedOut(reason))) => *reason,
            _ => None,
        }
    }

    /// The name under which the page knows it.
    fn code(&self) -> &'static str {
        match self {
            Self::Failure(Failure::Client(Error::NotLoggedIn)) => "not_logged_in",
            Self::Failure(Failure::Client(Error::LoggedOut(_))) => "logged_out",
            Self::Failure(Failure::Client(Error::SupersededByLogin)) => "other_sign_in",
            Self::Failure(Failure::Client(Error::Superseded)) => "superseded",
            Self::Failure(Failure::TooManyLogins(_)) => "slow_down",
            Self::Bursting => "busy",
            Self::Forbidden => "forbidden",
            Self::NoCookie => "no_cookie",
            Self::NotFound => "not_found",
            _ if self.status_code() == StatusCode::SERVICE_UNAVAILABLE => "away",
            Self::Failure(_) | Self::TooManyPages => "refused",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(Failure::Client(Error::NotLoggedIn)) => {
                f.write_str("Nobody is logged in.")
            }
            Self::Failure(Failure::Client(Error::LoggedOut(reason))) => {
                f.write_str(&feed::ended(End::Ended(*reason)))
            }
            Self::Failure(failure) => failure.fmt(f),
            Self::Bursting => f.write_str("A burst is under way: wait for its end."),
            Self::Forbidden => f.write_str("Only the page of this app may ask for this."),
            Self::NoCookie => f.write_str("The app was restarted, or you were away for a day: load the page and log in again."),
            Self::NotFound => f.write_str("There is no such thing here."),
            Self::TooManyPages => f.write_str("Too many pages are open: close one."),
        }
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Failure(Failure::Client(Error::SupersededByLogin)) => StatusCode::CONFLICT,
            Self::Failure(failure) => failure.status_code(),
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoCookie => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Bursting | Self::TooManyPages => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        let retry_after = match self {
            Self::Failure(failure) => failure.retry_after(),
            Self::Bursting | Self::TooManyPages => Some(1),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            response.insert_header((RETRY_AFTER, seconds));
        }
        let (error, message) = (self.code().to_owned(), self.to_string());
        response.json(ErrorBody { error, message, reason: self.reason() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_web::http::header::COOKIE;
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, body};
    use futures_util::StreamExt;
    use matchbook_client::{Credentials, RootCerts, Server};

    use super::*;
    use crate::cookie::Cookie;

    #[actix_rt::test]
    async fn a_page_is_told_of_its_calls_but_not_of_streams_or_of_what_does_not_exist() {
        let now = Instant::now();
        let identities = Data::new(Identities::new(Cookie { secure: false }, 1, false, now));
        let (id, identity) = identities.create(now).unwrap();
        let server =
            Server::new("http://localhost:1", &RootCerts::System, Duration::from_secs(1)).unwrap();
        let session = Data::new(Client::new(&server, Credentials::default()));
        let app = App::new().app_data(identities.clone()).app_data(session).configure(routes);
        let app = init_service(app).await;
        let events = feed::stream(identity.feed(), identity.credential().clone()).unwrap();

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
            let answer = call_service(&app, request.to_request()).await;
            assert_eq!(answer.status().as_u16(), status, "{path}");
        }
        let told: Vec<_> = events.take(2).collect().await;
        let told = String::from_utf8_lossy(told[1].as_ref().unwrap()).into_owned();
        assert!(told.contains("\"path\":\"/api/logout\""), "{told}");
    }

    #[actix_rt::test]
    async fn a_second_burst_and_the_request_of_an_earlier_sign_in_are_told_what_is_the_matter() {
        let earlier = Problem::Failure(Failure::Client(Error::SupersededByLogin));
        for (problem, status, code, retry_after) in
            [(Problem::Bursting, 503, "busy", Some("1")), (earlier, 409, "other_sign_in", None)]
        {
            let answer = problem.error_response();
            assert_eq!(answer.status().as_u16(), status);
            let wait = answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(wait, retry_after);
            let text = body::to_bytes(answer.into_body()).await.unwrap();
            let told: ErrorBody = serde_json::from_slice(&text).unwrap();
            assert_eq!(told.error, code);
        }
    }
}
