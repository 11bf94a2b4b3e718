//! The pages of links that work once: invitation, verification, reset.
//!
//! `GET` shows a form and changes nothing, because mail scanners open links. `POST` of the
//! form uses the link. The forms need no protection against cross-site requests (CSRF): they
//! use no cookie, and a request without the token of the link does nothing.

pub(super) mod link_forms;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ContentType, REFERRER_POLICY, RETRY_AFTER,
};
use actix_web::{HttpResponse, ResponseError};
use askama::Template;

use super::error::Error;

pub(super) use link_forms::{
    accept_invitation, invitation, reset, set_password, verify, verify_registration,
};

/// The maximum length of a form, in bytes. A password of 1024 characters may have 12 KiB when
/// it is percent-encoded, and there are two.
pub(super) const MAX_FORM_LEN: usize = 32 * 1024;

/// The pages load nothing but the stylesheet, run no script, and submit to this server only.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";

const STYLESHEET: &str = include_str!("../../templates/pages.css");

/// Returns the stylesheet of the pages.
#[utoipa::path(
    get,
    path = "/pages.css",
    tag = "Pages",
    operation_id = "getStylesheet",
    responses((status = 200, description = "The stylesheet", body = String, content_type = "text/css"))
)]
pub(super) async fn stylesheet() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/css; charset=utf-8")
        .insert_header((CACHE_CONTROL, "max-age=600"))
        .body(STYLESHEET)
}

/// A page without a form.
#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    title: &'a str,
    text: &'a str,
}

/// Renders a page. The URL of the page may have the token of a link, so that no other site
/// and no cache may get it.
fn page(status: StatusCode, template: &impl Template) -> HttpResponse {
    let html = match template.render() {
        Ok(html) => html,
        Err(error) => {
            tracing::error!(%error, "page not rendered");
            return HttpResponse::InternalServerError().finish();
        }
    };
    HttpResponse::build(status)
        .insert_header(ContentType::html())
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .body(html)
}

/// Renders an error as a page.
fn error_page(error: &Error) -> HttpResponse {
    let response = error.error_response();
    let title = match response.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "Try again later",
        status if status.is_server_error() => "The server failed",
        _ => "This does not work",
    };
    let mut page = page(response.status(), &Message { title, text: &error.to_string() });
    if let Some(wait) = response.headers().get(RETRY_AFTER) {
        page.headers_mut().insert(RETRY_AFTER, wait.clone());
    }
    page
}
