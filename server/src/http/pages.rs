//! The pages for browsers. They need no script.
//!
//! The pages of links (invitation, verification, reset) use no cookie: `GET` shows a form and
//! changes nothing, because mail scanners open links, and a request without the token of the
//! link does nothing. All other forms carry a value that is bound to the browser
//! (`Browser`), against requests from other sites (CSRF).

pub(super) mod account;
mod browser;
pub(super) mod consent;
mod continuation;
pub(super) mod create_account;
pub(super) mod device;
pub(super) mod forgot_password;
pub(super) mod link_forms;
pub(super) mod log_out;
pub(super) mod login;
mod page;
mod problem;
mod scope_text;
mod theme;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use actix_web::web::Data;
use matchbook_shared::ErrorBody;

use super::error::Error;
use super::state::State;
use crate::config::pages::{Logo, Options};
use crate::crypto::TokenKeys;

pub(super) use account::{account, act};
pub(super) use consent::{consent, decide};
pub(super) use continuation::Continue;
pub(super) use create_account::{create_account, new_account};
pub(super) use device::{decide_device, device};
pub(super) use forgot_password::{forgot_password, send_reset_link};
pub(super) use link_forms::{
    accept_invitation, invitation, reset, set_password, verify, verify_registration,
};
pub(super) use log_out::{log_out, log_out_by_post};
pub(super) use login::{log_in, login};
pub(super) use page::{POLICY, Page, form_error};

/// The maximum length of a form, in bytes. A password of 1024 characters may have 12 KiB when
/// it is percent-encoded, and there are two.
pub(super) const MAX_FORM_LEN: usize = 32 * 1024;

/// What all pages share.
pub struct Pages {
    site: Site,
    stylesheet: String,
    logo: Option<Logo>,
    csrf_keys: TokenKeys,
}

/// How the pages name the service.
struct Site {
    name: String,
    has_logo: bool,
}

impl Pages {
    /// Generates the stylesheet.
    #[must_use]
    pub fn new(options: Options, csrf_keys: TokenKeys) -> Self {
        let Options { name, color, logo } = options;
        let site = Site { name, has_logo: logo.is_some() };
        Self { site, stylesheet: theme::stylesheet(color), logo, csrf_keys }
    }
}

/// Returns the stylesheet of the pages.
#[utoipa::path(
    get,
    path = "/pages.css",
    tag = "Pages",
    operation_id = "getStylesheet",
    responses((status = 200, description = "The stylesheet", body = String, content_type = "text/css"))
)]
pub(super) async fn stylesheet(state: Data<State>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/css; charset=utf-8")
        .insert_header((CACHE_CONTROL, "max-age=600"))
        .body(state.pages.stylesheet.clone())
}

/// Returns the logo of the operator.
#[utoipa::path(
    get,
    path = "/logo",
    tag = "Pages",
    operation_id = "getLogo",
    responses(
        (status = 200, description = "The image", content(([u8] = "image/svg+xml"), ([u8] = "image/png"))),
        (status = 404, description = "There is no logo", body = ErrorBody),
    )
)]
pub(super) async fn logo(state: Data<State>) -> Result<HttpResponse, Error> {
    let logo = state.pages.logo.as_ref().ok_or(Error::NotFound)?;
    Ok(HttpResponse::Ok()
        .content_type(logo.content_type)
        .insert_header((CACHE_CONTROL, "max-age=600"))
        // An SVG file may have scripts, which run if it is opened by itself.
        .insert_header((
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        ))
        .body(logo.bytes.clone()))
}
