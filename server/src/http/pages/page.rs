//! A page as a response: layout and headers.

use actix_web::body::BoxBody;
use actix_web::error::{InternalError, UrlencodedError};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ContentType, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, RETRY_AFTER, X_FRAME_OPTIONS,
};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, Responder, ResponseError};
use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Site;
use super::continuation::FormAction;
use crate::crypto::Digest;
use crate::http::error::Error;
use crate::http::state::State;

/// A page, or a redirect to one.
pub(in crate::http) struct Page {
    status: StatusCode,
    title: &'static str,
    /// HTML.
    body: String,
    form_action: FormAction,
    /// The script of the page, which the policy permits by its digest.
    script: Option<&'static str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Template)]
#[template(path = "layout.html")]
struct Layout<'a> {
    title: &'a str,
    site: &'a Site,
    /// The relative URL of the folder of the pages.
    root: &'a str,
    body: &'a str,
}

/// A page without a form.
#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    text: &'a str,
    /// A link to the next page, and its text.
    next: Option<(&'a str, &'a str)>,
}

impl Page {
    /// Renders the content of a page.
    pub(in crate::http) fn new(
        status: StatusCode,
        title: &'static str,
        content: &impl Template,
    ) -> Self {
        let (status, body) = match content.render() {
            Ok(body) => (status, body),
            Err(error) => {
                tracing::error!(%error, "page not rendered");
                (StatusCode::INTERNAL_SERVER_ERROR, String::new())
            }
        };
        let form_action = FormAction::ThisServer;
        Self { status, title, body, form_action, script: None, headers: Vec::new() }
    }

    /// Returns a page with one paragraph.
    pub(in crate::http) fn message(status: StatusCode, title: &'static str, text: &str) -> Self {
        Self::new(status, title, &Message { text, next: None })
    }

    /// Returns a page with one paragraph, and a link to the login.
    pub(super) fn message_before_login(title: &'static str, text: &str) -> Self {
        Self::message_before(title, text, Some(("login", "Log in")))
    }

    /// Returns a page with one paragraph, and a link: its URL and its text.
    pub(super) fn message_before(
        title: &'static str,
        text: &str,
        next: Option<(&str, &str)>,
    ) -> Self {
        Self::new(StatusCode::OK, title, &Message { text, next })
    }

    /// Redirects to another page with `GET`. The URL is relative to this page, so that a
    /// proxy may serve the server under a path.
    pub(in crate::http) fn redirect(to: &str) -> Self {
        let page = Self::message(StatusCode::SEE_OTHER, "Continue", "The next page opens.");
        match HeaderValue::from_str(to) {
            Ok(location) => page.with_header((LOCATION, location)),
            // No text with control characters gets here.
            Err(_) => Error::NotFound.into(),
        }
    }

    /// Permits the form of the page to lead to other servers than this one.
    pub(super) fn with_form_action(mut self, form_action: FormAction) -> Self {
        self.form_action = form_action;
        self
    }

    /// Permits a script in the content of the page, and its form to lead anywhere.
    pub(in crate::http) fn with_script(mut self, script: &'static str) -> Self {
        self.script = Some(script);
        self.form_action = FormAction::Any;
        self
    }

    pub(in crate::http) fn with_header(mut self, header: (HeaderName, HeaderValue)) -> Self {
        self.headers.push(header);
        self
    }

    /// Sets a cookie.
    pub(super) fn with_cookie(self, (name, value): (HeaderName, String)) -> Self {
        match HeaderValue::from_str(&value) {
            Ok(value) => self.with_header((name, value)),
            Err(_) => self,
        }
    }
}

impl From<Error> for Page {
    fn from(error: Error) -> Self {
        let response = error.error_response();
        let title = match response.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "Try again later",
            status if status.is_server_error() => "The server failed",
            _ => "This does not work",
        };
        let page = Self::message(response.status(), title, &error.to_string());
        match response.headers().get(RETRY_AFTER) {
            Some(wait) => page.with_header((RETRY_AFTER, wait.clone())),
            None => page,
        }
    }
}

/// Writes the layout and the headers. The URL of a page may have the token of a link, so no
/// other site and no cache may get it.
impl Responder for Page {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let Some(state) = request.app_data::<Data<State>>() else {
            return HttpResponse::InternalServerError().finish();
        };
        let depth = request.path().matches('/').count().saturating_sub(1);
        let root = "../".repeat(depth);
        let Self { status, title, body, form_action, script, headers } = self;
        let layout = Layout { title, site: &state.pages.site, root: &root, body: &body };
        let html = match layout.render() {
            Ok(html) => html,
            Err(error) => {
                tracing::error!(%error, "page not rendered");
                return HttpResponse::InternalServerError().finish();
            }
        };
        let mut response = HttpResponse::build(status);
        response
            .insert_header(ContentType::html())
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header((CONTENT_SECURITY_POLICY, policy(&form_action, script)))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            // For browsers that do not know `frame-ancestors`.
            .insert_header((X_FRAME_OPTIONS, "DENY"));
        for header in headers {
            response.append_header(header);
        }
        response.body(html)
    }
}

/// The pages load nothing but the stylesheet, run no script, and submit to this server only.
/// They are in no frame.
pub(in crate::http) const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; \
                                          frame-ancestors 'none'; base-uri 'none'; form-action \
                                          'self'";

/// Returns the content security policy of a page whose form may lead to other servers.
fn policy(form_action: &FormAction, script: Option<&str>) -> String {
    let policy = match form_action {
        FormAction::ThisServer => POLICY.to_owned(),
        FormAction::And(source) => format!("{POLICY} {source}"),
        FormAction::Any => POLICY.replace("; form-action 'self'", ""),
    };
    match script {
        None => policy,
        Some(script) => {
            let digest = STANDARD.encode(Digest::of(&[script.as_bytes()]).as_bytes());
            format!("{policy}; script-src 'sha256-{digest}'")
        }
    }
}

/// Renders an error of an extractor as a page.
pub(super) fn failure(error: Error, request: &HttpRequest) -> actix_web::Error {
    let message = error.to_string();
    InternalError::from_response(message, Page::from(error).respond_to(request)).into()
}

/// Renders the error of a form that cannot be read.
#[expect(clippy::needless_pass_by_value, reason = "the signature is actix's")]
pub(in crate::http) fn form_error(
    error: UrlencodedError,
    request: &HttpRequest,
) -> actix_web::Error {
    let error = match error {
        UrlencodedError::Overflow { .. } => Error::PayloadTooLarge,
        _ => Error::InvalidRequest("The form cannot be read: go back and send it again."),
    };
    failure(error, request)
}
