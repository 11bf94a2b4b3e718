//! The app's HTTP server: the plain-text endpoints, the page and its API. Each browser
//! has its own tokens.

use std::net::SocketAddr;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{Server as HttpServerFuture, ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CROSS_ORIGIN_RESOURCE_POLICY, ContentType,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::middleware::{DefaultHeaders, Next, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, ResponseError, guard, web};
use matchbook_client::{Client, Credentials, RootCertsError, Server, ServerError};

use crate::assets::get_or_head;
use crate::browser_folder::BrowserFolder;
use crate::browser_sessions::{BrowserSessions, Caller};
use crate::config::Config;
use crate::cookie::Cookie;
use crate::csrf::AllowedHosts;
use crate::error::AppError;
use crate::login_limiter::LoginLimiter;
use crate::upstream::{on_behalf_of, user};
use crate::{api, assets, csrf};

/// The page loads files of its own origin only, and must not be framed.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                              img-src 'self'; connect-src 'self'; base-uri 'none'; \
                              form-action 'none'; frame-ancestors 'none'";

/// How long a graceful shutdown waits for requests in progress.
const SHUTDOWN_SECONDS: u64 = 5;

/// Exempt from the host check: health probes use bare addresses.
const LIVE: &str = "/health/live";

/// An error at the start of the app. Its message is for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(
        "`server.ca_file`: {0}; start the server first, because it creates its development CA, or \
         name the CA that signed its certificate"
    )]
    RootCerts(RootCertsError),
    #[error("`server.url`: {0}")]
    Url(ServerError),
    #[error("cannot bind to {0} (`client.address`): {1}")]
    Bind(SocketAddr, #[source] std::io::Error),
}

impl From<ServerError> for StartError {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::RootCerts(error) => Self::RootCerts(error),
            error => Self::Url(error),
        }
    }
}

/// Binds the app. Returns the server, which runs once it is awaited, and its addresses.
pub(crate) async fn start(
    config: &Config,
) -> Result<(HttpServerFuture, Vec<SocketAddr>), StartError> {
    let server = Server::new(&config.server_url, &config.trust, config.timeout)?;
    let cookie = Cookie { secure: config.cookie_secure };
    let mut sessions = BrowserSessions::new(cookie, config.sessions, config.demo, Instant::now());
    if let Some(folder) = open_folder(config) {
        sessions.restore(folder).await;
    }
    let sessions = web::Data::new(sessions);
    let sessions_at_shutdown = sessions.clone();
    let hosts = web::Data::new(AllowedHosts::new(config.address.ip(), &config.hosts));
    let limiter = web::Data::new(LoginLimiter::new(config.logins));
    let login_by_get = config.demo || config.address.ip().is_loopback();
    let app = HttpServer::new(move || {
        App::new()
            .app_data(limiter.clone())
            .app_data(sessions.clone())
            .app_data(hosts.clone())
            // The connections of this thread. Each request adds its own credentials.
            .app_data(web::Data::new(Client::new(&server, Credentials::default())))
            .wrap(from_fn(check_host))
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
            .route("/login", web::get().to(async || Err::<String, _>(AppError::LoginByGet)))
            .route("/info", web::get().to(info))
            .route(LIVE, get_or_head().to(async || "live"))
    })
    .workers(config.workers)
    // Sends small responses without waiting for the previous acknowledgment.
    .tcp_nodelay(true)
    .shutdown_timeout(SHUTDOWN_SECONDS)
    .bind(config.address)
    .map_err(|error| StartError::Bind(config.address, error))?;
    let addresses = app.addrs();
    ignore_hangup();
    end_event_streams_at_shutdown(sessions_at_shutdown);
    Ok((app.run(), addresses))
}

/// Opens the folder of the browsers' tokens. Without it the app works, and keeps the tokens in
/// memory.
fn open_folder(config: &Config) -> Option<BrowserFolder> {
    let path = config.browsers.as_ref()?;
    let folder = BrowserFolder::open(path).inspect_err(|error| {
        tracing::warn!(
            %error,
            folder = %path.display(),
            "browser sessions kept in memory only, a restart of the app ends them (`store.browsers`)"
        );
    });
    folder.ok()
}

/// Ignores SIGHUP, which would end the process. Operators send it to reload settings.
fn ignore_hangup() {
    #[cfg(unix)]
    {
        use actix_web::rt::signal::unix::{SignalKind, signal};
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => {
                actix_web::rt::spawn(async move {
                    while hangup.recv().await.is_some() {
                        tracing::info!("SIGHUP ignored: settings are read at startup only");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no SIGHUP handler: SIGHUP will end the app");
            }
        }
    }
}

/// Ends event streams at SIGTERM. They never end on their own, and a graceful shutdown
/// waits for every response.
fn end_event_streams_at_shutdown(sessions: web::Data<BrowserSessions>) {
    #[cfg(unix)]
    {
        use actix_web::rt::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                actix_web::rt::spawn(async move {
                    terminate.recv().await;
                    sessions.close();
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no SIGTERM handler: open event streams will delay shutdown");
            }
        }
    }
    #[cfg(not(unix))]
    drop(sessions);
}

/// Rejects unknown `Host` headers, against DNS rebinding.
async fn check_host(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let hosts = request.app_data::<web::Data<AllowedHosts>>();
    if request.path() != LIVE && !hosts.is_some_and(|hosts| hosts.allows(request.headers())) {
        let response = request.into_response(AppError::HostNotAllowed.error_response());
        return Ok(response.map_into_right_body());
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// Logs in as a new guest: `GET /login` and `POST /login`.
async fn login(
    request: HttpRequest,
    limiter: web::Data<LoginLimiter>,
    sessions: web::Data<BrowserSessions>,
    client: web::Data<Client>,
) -> Result<HttpResponse, AppError> {
    let mut response = HttpResponse::Ok();
    let caller = same_site_caller(&request, &sessions)?;
    limiter.check(request.peer_addr())?;
    match caller {
        Caller::Known(identity) => {
            let client = on_behalf_of(&client, identity.credentials(), &request);
            client.log_in_as_guest().await?;
            if let Some(cookie) = sessions.renewed_cookie(&request, &identity).await? {
                response.insert_header(cookie);
            }
        }
        Caller::NoCookie => {
            let demo = sessions.demo().ok_or(AppError::NoCookie)?;
            on_behalf_of(&client, &demo, &request).log_in_as_guest().await?;
        }
        Caller::UnknownCookie => return Err(AppError::UnknownCookie),
    }
    Ok(response.insert_header(ContentType::plaintext()).body("Logged in"))
}

/// Returns the logged-in user, as known by the server: `GET /info`.
async fn info(
    request: HttpRequest,
    sessions: web::Data<BrowserSessions>,
    client: web::Data<Client>,
) -> Result<String, AppError> {
    let credentials = match same_site_caller(&request, &sessions)? {
        Caller::Known(identity) => identity.credentials().clone(),
        Caller::NoCookie => sessions.demo().ok_or(AppError::NoCookie)?,
        Caller::UnknownCookie => return Err(AppError::UnknownCookie),
    };
    let client = on_behalf_of(&client, &credentials, &request);
    Ok(format!("User Id: {}", user(&client).await?.user_id))
}

/// Identifies the caller. Rejects cross-site requests (login CSRF).
fn same_site_caller(request: &HttpRequest, sessions: &BrowserSessions) -> Result<Caller, AppError> {
    if csrf::is_cross_site(request.headers(), sessions.cookie().secure) {
        return Err(AppError::CrossSite);
    }
    Ok(sessions.caller(request.headers(), Instant::now()))
}
