//! The client app: the article's endpoints, for one person.

use std::fmt;
use std::net::SocketAddr;

use actix_web::dev::Server as HttpServing;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, ContentType, RETRY_AFTER};
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpResponse, HttpServer, ResponseError, web};
use matchbook_client::{Credential, Error, Server, Session, TrustError};
use matchbook_shared::UserInfo;

use crate::config::Config;

/// Why the app does not start. Each is a sentence for its operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(
        "`server.ca_file`: {0}; start the server first, which makes its development CA, or name \
         the CA that signed its certificate"
    )]
    Trust(#[from] TrustError),
    #[error("{0} cannot be listened on (`client.address`): {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// Starts the app; it answers once the first part is awaited. The second is
/// where it listens.
pub(crate) fn start(config: &Config) -> Result<(HttpServing, Vec<SocketAddr>), StartError> {
    let server = Server::new(&config.server_url, &config.trust, config.timeout)?;
    let credential = Credential::default();
    let app = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(Session::new(&server, credential.clone())))
            .wrap(DefaultHeaders::new().add((CACHE_CONTROL, "no-store")))
            .route("/login", web::get().to(login))
            .route("/info", web::get().to(info))
            .route("/health/live", web::get().to(async || "live"))
    })
    .workers(config.workers)
    .bind(config.address)
    .map_err(|error| StartError::Listen(config.address, error))?;
    let addresses = app.addrs();
    Ok((app.run(), addresses))
}

/// `GET /login`: a new guest, logged in.
async fn login(session: web::Data<Session>) -> Result<&'static str, Failure> {
    session.log_in_as_guest().await?;
    Ok("Logged in")
}

/// `GET /info`: who is logged in, as the server says.
async fn info(session: web::Data<Session>) -> Result<String, Failure> {
    let mut response = session.get("/user").await?;
    if response.status() != StatusCode::OK.as_u16() {
        return Err(Failure::Refused(response.status().as_u16()));
    }
    let user: UserInfo =
        response.json().await.map_err(|error| Error::Unexpected(error.to_string()))?;
    Ok(format!("User Id: {}", user.user_id))
}

/// What the person is told who asked.
#[derive(Debug)]
enum Failure {
    Client(Error),
    /// The server answered this, also to fresh tokens.
    Refused(u16),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(Error::NotLoggedIn) => f.write_str("Not logged in: open /login first."),
            Self::Client(Error::LoggedOut(_)) => {
                f.write_str("The session has ended: open /login to log in again.")
            }
            Self::Client(Error::Transient { problem, .. }) => {
                write!(f, "Try again in a moment: {problem}.")
            }
            Self::Client(error) => write!(f, "This did not work: {error}."),
            Self::Refused(status) => write!(f, "This did not work: the server answers {status}."),
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Client(Error::NotLoggedIn | Error::LoggedOut(_)) => StatusCode::UNAUTHORIZED,
            Self::Client(Error::Transient { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Client(_) | Self::Refused(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Self::Client(Error::Transient { retry_after, .. }) = self {
            let seconds = retry_after.map_or(1, |wait| wait.as_secs().max(1));
            response.insert_header((RETRY_AFTER, seconds));
        }
        response.insert_header(ContentType::plaintext()).body(self.to_string())
    }
}
