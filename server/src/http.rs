//! Routes and handlers, a file for each group of endpoints.

pub mod error;
mod extract;
mod health;
mod middleware;
mod sessions;
pub mod state;
mod tokens;
mod user;
mod well_known;

use std::future::ready;

use actix_web::error::{QueryPayloadError, UrlencodedError};
use actix_web::{HttpRequest, Resource, Route, guard, web};

use error::Error;
pub use middleware::{close_unread_bodies, request_log};

/// The most bytes of a form. The longest good one is a tenth of this.
const LONGEST_FORM: usize = 8 * 1024;

/// Every route of the server.
pub fn routes(service: &mut web::ServiceConfig) {
    service
        .app_data(web::FormConfig::default().limit(LONGEST_FORM).error_handler(bad_form))
        .app_data(web::QueryConfig::default().error_handler(bad_query))
        // In the order of how often they are asked for: the first that fits is taken.
        .service(resource("/user", "GET", web::get().to(user::user)))
        .service(resource("/refresh", "POST", web::post().to(tokens::refresh)))
        .service(
            resource("/.well-known/jwks.json", "GET, HEAD, OPTIONS", read().to(well_known::jwks))
                .route(web::route().guard(guard::Options()).to(well_known::preflight)),
        )
        .service(resource("/register", "GET", web::get().to(tokens::register)))
        .service(resource("/token", "GET", web::get().to(tokens::token)))
        .service(resource("/logout", "POST", web::post().to(sessions::logout)))
        .service(resource("/health/live", "GET, HEAD", read().to(health::live)))
        .service(resource("/health/ready", "GET, HEAD", read().to(health::ready)))
        .service(
            resource("/sessions", "GET, DELETE", web::get().to(sessions::list))
                .route(web::delete().to(sessions::end_all)),
        )
        .service(resource("/sessions/{id}", "DELETE", web::delete().to(sessions::end_one)))
        .default_service(web::to(async || Err::<(), _>(Error::NotFound)));
}

/// The one route of the server for measures.
pub fn metrics_routes(service: &mut web::ServiceConfig) {
    service
        .service(resource("/metrics", "GET, HEAD", read().to(health::metrics)))
        .default_service(web::to(async || Err::<(), _>(Error::NotFound)));
}

/// A path that answers other methods with those that it takes.
fn resource(path: &str, methods: &'static str, route: Route) -> Resource {
    web::resource(path)
        .route(route)
        .default_service(web::to(move || ready(Err::<(), _>(Error::MethodNotAllowed(methods)))))
}

/// A route that changes nothing.
fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is actix's")]
fn bad_form(error: UrlencodedError, _: &HttpRequest) -> actix_web::Error {
    match error {
        UrlencodedError::Overflow { .. } => Error::PayloadTooLarge,
        UrlencodedError::ContentType => {
            Error::InvalidRequest("Send a form: `Content-Type: application/x-www-form-urlencoded`.")
        }
        _ => Error::InvalidRequest(
            "The form cannot be read: send each field once, percent-encoded as UTF-8.",
        ),
    }
    .into()
}

fn bad_query(_: QueryPayloadError, _: &HttpRequest) -> actix_web::Error {
    Error::InvalidRequest(
        "The query cannot be read: send each parameter once, percent-encoded as UTF-8.",
    )
    .into()
}
