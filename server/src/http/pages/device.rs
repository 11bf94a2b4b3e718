//! The page `/device`: a user types the code that a device shows, and approves or denies its
//! request (RFC 8628 §3.3).
//!
//! A code that comes with the address of the page is only filled in: the user still compares it
//! with the device, and decides by a form (RFC 8628 §5.4).

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Form, Query};
use askama::Template;
use serde::Deserialize;
use utoipa::ToSchema;

use super::browser::Browser;
use super::consent::ConsentDecision;
use super::continuation::Continue;
use super::page::Page;
use super::problem::{Problem, parts};
use super::scope_text::scope_texts;
use crate::accounts::LoginSession;
use crate::grants::{PendingDevice, PresentedUserCode, UserCodeError};
use crate::http::error::{Error, PageErrors, Parameters, RequestBody};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::state::State;
use crate::sessions::{ClientInfo, DeviceDecided};

/// The query of the page.
#[derive(Deserialize)]
pub(in crate::http) struct DeviceQuery {
    #[serde(default)]
    user_code: String,
}

/// The form of a code, and that of a decision.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct UserCodeForm {
    /// The value of the form that the browser got.
    #[serde(default)]
    csrf: String,
    /// The code that the device shows.
    #[serde(default)]
    user_code: String,
    /// Without one, the page shows the request.
    #[schema(value_type = ConsentDecision, required = false)]
    decision: Option<ConsentDecision>,
}

#[derive(Template)]
#[template(path = "device.html")]
struct CodePage<'a> {
    csrf: &'a str,
    user_code: &'a str,
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "device_request.html")]
struct RequestPage<'a> {
    csrf: &'a str,
    user_code: String,
    /// The name of the client.
    client: &'a str,
    user: String,
    scopes: Vec<String>,
}

/// Shows the form of the code that a device shows, or with the code the request of the device.
#[utoipa::path(
    get,
    path = "/device",
    tag = "Pages",
    operation_id = "showDevice",
    params(("user_code" = Option<String>, Query, description = "The code that the device shows.")),
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        (status = 303, description = "The browser is not logged in"),
        (status = 400, description = "The code is unknown, expired or used", body = String, content_type = "text/html"),
        (status = 429, description = "Too many wrong codes", body = String, content_type = "text/html"),
        PageErrors<Parameters, ()>,
    )
)]
pub(in crate::http) async fn device(
    state: Data<State>,
    browser: Browser,
    query: Query<DeviceQuery>,
    from: ClientInfo,
) -> Page {
    let text = &query.user_code;
    let Some(login) = browser.login() else { return to_login(text) };
    if text.is_empty() {
        return show_form(&state, &browser, text, None);
    }
    match find(&state, text, login, &from).await {
        Ok(device) => show_request(&state, &browser, login, &device).await,
        Err(Ok(problem)) => show_form(&state, &browser, text, Some(problem)),
        Err(Err(error)) => error.into(),
    }
}

/// Shows the request of a device, approves or denies it.
#[utoipa::path(
    post,
    path = "/device",
    tag = "Pages",
    operation_id = "submitDevice",
    request_body(content = UserCodeForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The request, or the end", body = String, content_type = "text/html"),
        (status = 303, description = "The browser is not logged in"),
        (status = 403, description = "The form is not the browser's", body = String, content_type = "text/html"),
        (status = 429, description = "Too many wrong codes", body = String, content_type = "text/html"),
        PageErrors<RequestBody, RequestBody>,
    )
)]
pub(in crate::http) async fn decide_device(
    state: Data<State>,
    browser: Browser,
    from: ClientInfo,
    WithTimeout(Form(form)): WithTimeout<Form<UserCodeForm>>,
) -> Page {
    let UserCodeForm { csrf, user_code, decision } = form;
    let Some(login) = browser.login() else { return to_login(&user_code) };
    if let Err(problem) = browser.check(&state, &csrf) {
        return show_form(&state, &browser, &user_code, Some(problem));
    }
    let device = match find(&state, &user_code, login, &from).await {
        Ok(device) => device,
        Err(Ok(problem)) => return show_form(&state, &browser, &user_code, Some(problem)),
        Err(Err(error)) => return error.into(),
    };
    let Some(decision) = decision else {
        return show_request(&state, &browser, login, &device).await;
    };
    let is_allowed = decision == ConsentDecision::Allow;
    let decided = if is_allowed {
        state.grants.approve_device(&device, login).await
    } else {
        state.grants.deny_device(&device, login).await
    };
    match decided {
        Ok(DeviceDecided::Done) if is_allowed => {
            let text = "Go back to your device: it continues in a moment. You can close this page.";
            Page::message(StatusCode::OK, "The device is logged in", text)
        }
        Ok(DeviceDecided::Done) => {
            let text = "The device gets no access. You can close this page.";
            Page::message(StatusCode::OK, "The device is not logged in", text)
        }
        Ok(DeviceDecided::LoggedOut) => to_login(&user_code),
        Ok(DeviceDecided::TooLate) => {
            let text = "This code has expired or was used: begin again on your device.";
            show_form(&state, &browser, "", Some(bad_code(text)))
        }
        Err(error) => Error::Failed(error).into(),
    }
}

fn to_login(user_code: &str) -> Page {
    Page::redirect(&format!("login{}", Continue::to_device(user_code).parameter()))
}

/// Finds the request of a code. The inner result of an error is a problem for the user.
async fn find(
    state: &State,
    text: &str,
    login: &LoginSession,
    from: &ClientInfo,
) -> Result<PendingDevice, Result<Problem, Error>> {
    let presented = PresentedUserCode { text, login: *login, ip: from.ip };
    state.grants.find_device(&presented).await.map_err(|error| match error {
        UserCodeError::Unknown => {
            Ok(bad_code("This code is unknown: compare it with the code on your device."))
        }
        UserCodeError::Expired => {
            Ok(bad_code("This code has expired: begin again on your device."))
        }
        UserCodeError::Decided => {
            Ok(bad_code("This code was used before: begin again on your device for a new one."))
        }
        UserCodeError::TooManyGuesses(wait) => too_many(wait),
        UserCodeError::Failed(error) => Err(Error::Failed(error)),
    })
}

fn too_many(wait: Duration) -> Result<Problem, Error> {
    Problem::of(Error::RateLimited(wait))
}

fn bad_code(problem: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, problem)
}

fn show_form(state: &State, browser: &Browser, user_code: &str, problem: Option<Problem>) -> Page {
    let (status, problem) = parts(problem);
    let content = CodePage { csrf: &browser.form_value(state), user_code, problem };
    browser.show(Page::new(status, "Log a device in", &content))
}

async fn show_request(
    state: &State,
    browser: &Browser,
    login: &LoginSession,
    device: &PendingDevice,
) -> Page {
    let profile = state.accounts.profile(login.user).await;
    let content = RequestPage {
        csrf: &browser.form_value(state),
        user_code: device.user_code.to_string(),
        client: &device.client.name,
        user: profile.map(|profile| profile.name).unwrap_or_default(),
        scopes: scope_texts(&device.scope),
    };
    browser.show(Page::new(StatusCode::OK, "Log this device in?", &content))
}
