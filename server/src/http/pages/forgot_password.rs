//! The request for a link that sets a new password.

use actix_web::web::{Data, Form};
use askama::Template;
use serde::Deserialize;
use utoipa::ToSchema;

use super::browser::Browser;
use super::page::Page;
use super::problem::{Problem, parts};
use crate::accounts::{ForgottenPassword, LoginName};
use crate::http::error::{Limited, PageErrors, RequestBody};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::state::State;
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// The form of a forgotten password.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct ForgottenForm {
    /// The value of the form that the browser got.
    #[serde(default)]
    csrf: String,
    /// The login name.
    #[serde(default)]
    name: String,
}

#[derive(Template)]
#[template(path = "forgot_password.html")]
struct ForgotPasswordPage<'a> {
    csrf: &'a str,
    name: &'a str,
    sends_mail: bool,
    problem: Option<String>,
}

/// Shows the form that requests a link for a new password.
#[utoipa::path(
    get,
    path = "/forgot-password",
    tag = "Pages",
    operation_id = "showForgottenPassword",
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        PageErrors<(), ()>,
    )
)]
pub(in crate::http) async fn forgot_password(state: Data<State>, browser: Browser) -> Page {
    show(&state, &browser, "", None)
}

fn show(state: &State, browser: &Browser, name: &str, problem: Option<Problem>) -> Page {
    let (status, problem) = parts(problem);
    let csrf = browser.form_value(state);
    let sends_mail = state.accounts.sends_mail();
    let content = ForgotPasswordPage { csrf: &csrf, name, sends_mail, problem };
    browser.show(Page::new(status, "Forgot your password?", &content))
}

/// Sends a link that sets a new password. The page is the same for every name, and does not
/// wait for the work.
#[utoipa::path(
    post,
    path = "/forgot-password",
    tag = "Pages",
    operation_id = "submitForgottenPassword",
    request_body(content = ForgottenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The page for every name", body = String, content_type = "text/html"),
        (status = 403, description = "The form is not the browser's", body = String, content_type = "text/html"),
        PageErrors<RequestBody, (RequestBody, Limited)>,
    )
)]
pub(in crate::http) async fn send_reset_link(
    state: Data<State>,
    browser: Browser,
    client: ClientInfo,
    WithTimeout(Form(form)): WithTimeout<Form<ForgottenForm>>,
) -> Page {
    if let Err(problem) = browser.check(&state, &form.csrf) {
        return show(&state, &browser, &form.name, Some(problem));
    }
    if let Err(error) = state.check_limit(client.ip.map(Limit::Login)) {
        return error.into();
    }
    if let Ok(name) = LoginName::parse(&form.name)
        && state.check_limit(Some(Limit::mail_to(name.as_str()))).is_ok()
    {
        state.accounts.clone().forgot_password(ForgottenPassword { name, client });
    }
    let text = "If the name belongs to an account with an email address, that address gets a mail \
                with a link. The link works for an hour.";
    Page::message_before_login("Check your mail", text)
}
