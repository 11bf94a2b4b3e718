//! The client app: the article's endpoints, and a page on which to watch what
//! the library does. Each browser is somebody else.

use std::net::SocketAddr;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{Server as HttpServing, ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CROSS_ORIGIN_RESOURCE_POLICY, ContentType,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::middleware::{DefaultHeaders, Next, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, ResponseError, guard, web};
use matchbook_client::{Client, Credentials, RootCertsError, Server, ServerError};

use crate::assets::get_or_head;
use crate::browser_sessions::{Caller, Identities};
use crate::config::Config;
use crate::cookie::Cookie;
use crate::csrf::Hosts;
use crate::error::Failure;
use crate::logins::Logins;
use crate::upstream::user;
use crate::{api, assets, csrf};

/// The page has all its parts in files of this origin, and nobody frames it.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                              img-src 'self'; connect-src 'self'; base-uri 'none'; \
                              form-action 'none'; frame-ancestors 'none'";

/// How long a stopping app waits for the requests that it is answering.
const SHUTDOWN_SECONDS: u64 = 5;

/// Has to answer whatever name it is asked under: a probe knows addresses alone.
const LIVE: &str = "/health/live";

/// Why the app does not start. Each is a sentence for its operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(
        "`server.ca_file`: {0}; start the server first, which makes its development CA, or name \
         the CA that signed its certificate"
    )]
    RootCerts(RootCertsError),
    #[error("`server.url`: {0}")]
    Url(ServerError),
    #[error("{0} cannot be listened on (`client.address`): {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

impl From<ServerError> for StartError {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::RootCerts(error) => Self::RootCerts(error),
            error => Self::Url(error),
        }
    }
}

/// Starts the app; it answers once the first part is awaited. The second is
/// where it listens.
pub(crate) fn start(config: &Config) -> Result<(HttpServing, Vec<SocketAddr>), StartError> {
    let server = Server::new(&config.server_url, &config.trust, config.timeout)?;
    let cookie = Cookie { secure: config.cookie_secure };
    let identities =
        web::Data::new(Identities::new(cookie, config.sessions, config.demo, Instant::now()));
    let known = identities.clone();
    let hosts = web::Data::new(Hosts::new(config.address.ip(), &config.hosts));
    let logins = web::Data::new(Logins::new(config.logins));
    let login_by_get = config.demo || config.address.ip().is_loopback();
    let app = HttpServer::new(move || {
        App::new()
            .app_data(logins.clone())
            .app_data(known.clone())
            .app_data(hosts.clone())
            // This thread's connections; whose tokens go over them, each request says.
            .app_data(web::Data::new(Client::new(&server, Credentials::default())))
            .wrap(from_fn(admit_host))
            .wrap(
                DefaultHeaders::new()
                    .add((CACHE_CONTROL, "no-store"))
                    .add((CONTENT_SECURITY_POLICY, CONTENT_POLICY))
                    .add((CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"))
                    .add((REFERRER_POLICY, "no-referrer"))
                    .add((X_CONTENT_TYPE_OPTIONS, "nosniff")),
            )
            .configure(assets::routes)
            .configure(api::routes)
            .route("/login", web::post().to(login))
            .route("/login", web::get().guard(guard::fn_guard(move |_| login_by_get)).to(login))
            .route("/login", web::get().to(async || Err::<String, _>(Failure::LoginByGet)))
            .route("/info", web::get().to(info))
            .route(LIVE, get_or_head().to(async || "live"))
    })
    .workers(config.workers)
    // A small response is sent at once, not after the acknowledgement of the last one.
    .tcp_nodelay(true)
    .shutdown_timeout(SHUTDOWN_SECONDS)
    .bind(config.address)
    .map_err(|error| StartError::Listen(config.address, error))?;
    let addresses = app.addrs();
    outlive_hangup();
    end_event_streams_at_shutdown(identities);
    Ok((app.run(), addresses))
}

/// Keeps the app running when SIGHUP comes, whose default is to end the process: it
/// is what operators send to have files read again.
fn outlive_hangup() {
    #[cfg(unix)]
    {
        use actix_web::rt::signal::unix::{SignalKind, signal};
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => {
                actix_web::rt::spawn(async move {
                    while hangup.recv().await.is_some() {
                        tracing::info!("SIGHUP ignored: settings are read at the start alone");
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "SIGHUP will end the app"),
        }
    }
}

/// A stream of events never ends by itself, and a stop waits for every answer.
fn end_event_streams_at_shutdown(identities: web::Data<Identities>) {
    #[cfg(unix)]
    {
        use actix_web::rt::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                actix_web::rt::spawn(async move {
                    terminate.recv().await;
                    identities.close();
                });
            }
            Err(error) => tracing::warn!(%error, "open event streams will delay the stop"),
        }
    }
    #[cfg(not(unix))]
    drop(identities);
}

/// Refuses what is asked under a name that is not the app's: one of another
/// site's that was made to resolve to here would pass for this origin.
async fn admit_host(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let hosts = request.app_data::<web::Data<Hosts>>();
    if request.path() != LIVE && !hosts.is_some_and(|hosts| hosts.admit(request.headers())) {
        let refusal = request.into_response(Failure::AnotherHost.error_response());
        return Ok(refusal.map_into_right_body());
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// `GET /login` and `POST /login`: a new guest, logged in.
async fn login(
    request: HttpRequest,
    logins: web::Data<Logins>,
    identities: web::Data<Identities>,
    session: web::Data<Client>,
) -> Result<HttpResponse, Failure> {
    let mut answer = HttpResponse::Ok();
    let caller = caller(&request, &identities)?;
    logins.admit(request.peer_addr())?;
    match caller {
        Caller::Known(identity) => {
            session.with_credentials(identity.credential().clone()).log_in_as_guest().await?;
            if let Some(cookie) = identities.renewed_cookie(&request, &identity)? {
                answer.insert_header(cookie);
            }
        }
        Caller::Nobody => {
            let demo = identities.demo().ok_or(Failure::NoCookie)?;
            session.with_credentials(demo).log_in_as_guest().await?;
        }
        Caller::Stranger => return Err(Failure::Forgotten),
    }
    Ok(answer.insert_header(ContentType::plaintext()).body("Logged in"))
}

/// `GET /info`: who is logged in, as the server says.
async fn info(
    request: HttpRequest,
    identities: web::Data<Identities>,
    session: web::Data<Client>,
) -> Result<String, Failure> {
    let credential = match caller(&request, &identities)? {
        Caller::Known(identity) => identity.credential().clone(),
        Caller::Nobody => identities.demo().ok_or(Failure::NoCookie)?,
        Caller::Stranger => return Err(Failure::Forgotten),
    };
    Ok(format!("User Id: {}", user(&session.with_credentials(credential)).await?.user_id))
}

/// Who asks. What another site made a browser ask for is refused: logging
/// somebody in or out is not for it.
fn caller(request: &HttpRequest, identities: &Identities) -> Result<Caller, Failure> {
    if csrf::is_of_another_site(request.headers()) {
        return Err(Failure::AnotherSite);
    }
    Ok(identities.caller(request.headers(), Instant::now()))
}
