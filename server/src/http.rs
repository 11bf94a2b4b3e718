//! The HTTP API: routes and handlers, one file for each group of endpoints.
//!
//! A handler parses its request, calls one method of the issuer and writes the
//! response. Status codes are in `error`.

mod account;
mod accounts;
mod backends;
pub mod error;
mod extract;
mod failures;
mod forward_auth;
mod guests;
mod health;
mod links;
mod metrics;
mod middleware;
mod oauth;
pub mod openapi;
pub mod pages;
mod public_document;
mod refresh;
mod resources;
mod sessions;
pub mod state;
mod user;
mod well_known;

use actix_web::error::{JsonPayloadError, QueryPayloadError, UrlencodedError};
use actix_web::guard::GuardContext;
use actix_web::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use actix_web::{HttpRequest, Route, guard, web};

use error::Error;
pub use failures::log_ends_of_outages;
pub use middleware::{close_unread_bodies, request_log};
pub use oauth::permit_origin;
use resources::{Endpoints, read, resource};

/// The maximum length of a form or a JSON body, in bytes. The longest valid one is a tenth of this.
const MAX_FORM_LEN: usize = 8 * 1024;

/// The content type of the forms of browsers.
const FORM_TYPE: &[u8] = b"application/x-www-form-urlencoded";

/// Adds the routes of the API.
pub fn routes(service: &mut web::ServiceConfig) {
    service
        .app_data(web::FormConfig::default().limit(MAX_FORM_LEN).error_handler(form_error))
        .app_data(web::JsonConfig::default().limit(MAX_FORM_LEN).error_handler(json_error))
        .app_data(web::QueryConfig::default().error_handler(query_error));
    endpoints().register(service);
    service.default_service(web::to(async || Err::<(), _>(Error::NotFound)));
}

/// Returns the path and the methods of every route of the API.
#[must_use]
pub fn route_table() -> Vec<(String, Vec<&'static str>)> {
    endpoints().paths().collect()
}

fn endpoints() -> Endpoints {
    let mut endpoints = Endpoints::default();
    endpoints
        // The most frequent first: actix takes the first route that matches.
        .service(resource("/user", "GET", web::get().to(user::user)))
        .service(resource("/refresh", "POST", web::post().to(refresh::refresh)))
        .service(
            resource("/.well-known/jwks.json", "GET, HEAD, OPTIONS", read().to(well_known::jwks))
                .route(web::route().guard(guard::Options()).to(well_known::preflight)),
        )
        .service(
            resource("/register", "GET, POST", web::get().to(guests::register))
                .route(web::post().to(accounts::register)),
        )
        .service(
            resource("/login", "GET, HEAD, POST", read().to(pages::login))
                .route(web::post().guard(guard::fn_guard(is_form)).to(pages::log_in))
                .route(web::post().to(accounts::log_in))
                .app_data(page_form()),
        )
        .service(resource("/password", "POST", web::post().to(accounts::change_password)))
        .service(resource("/register/confirm", "POST", web::post().to(links::confirm)))
        .service(resource("/password/forgot", "POST", web::post().to(links::forgot)))
        .service(resource("/password/reset", "POST", web::post().to(links::reset)))
        .service(resource("/invitations/accept", "POST", web::post().to(links::accept)))
        .service(
            resource("/account", "GET, POST, PATCH, DELETE", page().to(pages::account))
                .route(web::get().to(account::read))
                .route(web::post().to(pages::act))
                .app_data(page_form())
                .route(web::patch().to(account::change))
                .route(web::delete().to(account::delete)),
        )
        .service(
            resource("/account/totp", "POST, DELETE", web::post().to(account::begin_totp))
                .route(web::delete().to(account::delete_totp)),
        )
        .service(resource("/account/totp/confirm", "POST", web::post().to(account::confirm_totp)))
        .service(resource("/token", "GET", web::get().to(guests::token)))
        .service(resource("/logout", "POST", web::post().to(sessions::logout)))
        .service(resource("/health/live", "GET, HEAD", read().to(health::live)))
        .service(resource("/health/ready", "GET, HEAD", read().to(health::ready)))
        .service(resource("/health/serving", "GET, HEAD", read().to(health::serving)))
        .service(
            resource("/sessions", "GET, POST, DELETE", web::get().to(sessions::list))
                .route(web::post().to(backends::open_session))
                .route(web::delete().to(sessions::revoke_all)),
        )
        .service(resource("/sessions/{id}", "DELETE", web::delete().to(sessions::revoke)))
        .service(resource("/forward-auth", "GET, HEAD", read().to(forward_auth::forward_auth)))
        .service(resource("/forward-auth/login", "GET, HEAD", read().to(forward_auth::log_in)))
        .configure(oauth_routes)
        .configure(page_routes)
        .configure(documentation_routes);
    endpoints
}

/// Adds the routes of the description of the API.
fn documentation_routes(service: &mut Endpoints) {
    service
        .service(
            resource("/openapi.json", "GET, HEAD, OPTIONS", read().to(openapi::openapi_json))
                .route(web::route().guard(guard::Options()).to(openapi::openapi_preflight)),
        )
        .service(resource("/docs", "GET, HEAD", read().to(openapi::docs)))
        .service(resource("/docs.css", "GET, HEAD", read().to(openapi::docs_stylesheet)));
}

/// Adds the routes of OAuth 2.1.
fn oauth_routes(service: &mut Endpoints) {
    let preflight = || web::route().guard(guard::Options()).to(oauth::preflight);
    service
        .service(
            resource("/oauth/token", "POST, OPTIONS", web::post().to(oauth::token))
                .route(preflight()),
        )
        .service(
            resource("/oauth/revoke", "POST, OPTIONS", web::post().to(oauth::revoke))
                .route(preflight()),
        )
        .service(resource("/oauth/device", "POST", web::post().to(oauth::authorize_device)))
        .service(resource("/oauth/introspect", "POST", web::post().to(oauth::introspect)))
        .service(
            resource("/oauth/userinfo", "GET, POST, OPTIONS", web::get().to(oauth::userinfo))
                .route(web::post().to(oauth::userinfo_by_post))
                .route(preflight()),
        )
        .service(
            resource("/oauth/authorize", "GET, POST", web::get().to(oauth::authorize))
                .route(web::post().to(oauth::authorize_by_post))
                .app_data(page_form()),
        )
        .service(
            resource("/oauth/logout", "GET, POST", web::get().to(pages::log_out))
                .route(web::post().to(pages::log_out_by_post))
                .app_data(page_form()),
        )
        .configure(metadata_routes);
}

/// Adds the routes of the metadata.
fn metadata_routes(service: &mut Endpoints) {
    let document = |path, get: Route| {
        resource(path, "GET, HEAD, OPTIONS", get)
            .route(web::route().guard(guard::Options()).to(oauth::metadata_preflight))
    };
    service
        .service(document("/.well-known/oauth-authorization-server", read().to(oauth::metadata)))
        .service(document(
            "/.well-known/oauth-authorization-server/{path:.*}",
            read().to(oauth::metadata_of_path),
        ))
        .service(document(
            "/.well-known/openid-configuration",
            read().to(oauth::openid_configuration),
        ))
        .service(document(
            "/{path:.*}/.well-known/openid-configuration",
            read().to(oauth::openid_configuration_of_path),
        ));
}

/// Adds the routes of the pages for browsers.
fn page_routes(service: &mut Endpoints) {
    let form = |path, get: Route, post: Route| {
        resource(path, "GET, HEAD, POST", get).route(post).app_data(page_form())
    };
    let post = web::post;
    service
        .service(form(
            "/invitation",
            read().to(pages::invitation),
            post().to(pages::accept_invitation),
        ))
        .service(form("/verify", read().to(pages::verify), post().to(pages::verify_registration)))
        .service(form("/reset", read().to(pages::reset), post().to(pages::set_password)))
        .service(form("/device", read().to(pages::device), post().to(pages::decide_device)))
        .service(form("/consent", read().to(pages::consent), post().to(pages::decide)))
        .service(form(
            "/create-account",
            read().to(pages::create_account),
            post().to(pages::new_account),
        ))
        .service(form(
            "/forgot-password",
            read().to(pages::forgot_password),
            post().to(pages::send_reset_link),
        ))
        .service(resource("/logo", "GET, HEAD", read().to(pages::logo)))
        .service(resource("/pages.css", "GET, HEAD", read().to(pages::stylesheet)));
}

/// Adds the route of the metrics, which have an address of their own.
pub fn metrics_routes(service: &mut web::ServiceConfig) {
    let mut endpoints = Endpoints::default();
    endpoints.service(resource("/metrics", "GET, HEAD", read().to(metrics::metrics)));
    endpoints.register(service);
    service.default_service(web::to(async || Err::<(), _>(Error::NotFound)));
}

/// Returns how the form of a page is read.
fn page_form() -> web::FormConfig {
    web::FormConfig::default().limit(pages::MAX_FORM_LEN).error_handler(pages::form_error)
}

/// Returns a route for a browser that opens a page, and not for a client of the API.
fn page() -> Route {
    web::get().guard(guard::fn_guard(|context| {
        let headers = context.head().headers();
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let is_browser = accept.is_some_and(|accept| accept.contains("text/html"));
        is_browser && !headers.contains_key(AUTHORIZATION)
    }))
}

/// Returns whether a request is the form of a page, and not one of the API.
fn is_form(context: &GuardContext<'_>) -> bool {
    let content_type = context.head().headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(FORM_TYPE))
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is actix's")]
fn form_error(error: UrlencodedError, _: &HttpRequest) -> actix_web::Error {
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

#[expect(clippy::needless_pass_by_value, reason = "the signature is actix's")]
fn json_error(error: JsonPayloadError, _: &HttpRequest) -> actix_web::Error {
    match error {
        JsonPayloadError::OverflowKnownLength { .. } | JsonPayloadError::Overflow { .. } => {
            Error::PayloadTooLarge
        }
        JsonPayloadError::ContentType => {
            Error::InvalidRequest("Send JSON: `Content-Type: application/json`.")
        }
        _ => Error::InvalidRequest(
            "The JSON cannot be read: send one object, each field once and with a string.",
        ),
    }
    .into()
}

fn query_error(_: QueryPayloadError, _: &HttpRequest) -> actix_web::Error {
    Error::InvalidRequest(
        "The query cannot be read: send each parameter once, percent-encoded as UTF-8.",
    )
    .into()
}
