//! The login: name and password, then the code of a second factor.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Form};
use askama::Template;
use secrecy::SecretString;
use serde::Deserialize;

use super::browser::Browser;
use super::continuation::Continue;
use super::page::Page;
use super::problem::{Problem, parts};
use crate::accounts::{BrowserLoggedIn, LogIn, LogInError, LogInStep, Registration};
use crate::http::error::{Error, PageErrors, Parameters};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::extract::device_cookie::DeviceCookie;
use crate::http::state::State;
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// The form of either step.
#[derive(Deserialize)]
pub(in crate::http) struct LoginForm {
    #[serde(default)]
    csrf: String,
    #[serde(default, rename = "continue")]
    next: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    /// The proof that the password was right, in the form of the code.
    step: Option<String>,
    #[serde(default)]
    code: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    csrf: &'a str,
    next: &'a Continue,
    name: &'a str,
    problem: Option<String>,
    has_registration: bool,
    has_reset: bool,
}

#[derive(Template)]
#[template(path = "login_code.html")]
struct CodePage<'a> {
    csrf: &'a str,
    next: &'a Continue,
    step: &'a str,
    problem: Option<String>,
}

/// Shows the form of name and password.
///
/// A browser that is logged in is redirected to the page of the account, unless it comes with
/// `continue`. The form is submitted to `POST /login`.
#[utoipa::path(
    get,
    path = "/login",
    tag = "Pages",
    operation_id = "showLogin",
    params(("continue" = Option<String>, Query, description = "The query of an authorization request, or `device`.")),
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        (status = 303, description = "The browser is logged in"),
        PageErrors<(), Parameters>,
    )
)]
pub(in crate::http) async fn login(state: Data<State>, browser: Browser, next: Continue) -> Page {
    if browser.login().is_some() && next.value().is_empty() {
        return Page::redirect("account");
    }
    let name = next.login_hint().unwrap_or_default();
    show_login(&state, &browser, &next, &name, None)
}

fn show_login(
    state: &State,
    browser: &Browser,
    next: &Continue,
    name: &str,
    problem: Option<Problem>,
) -> Page {
    let (status, problem) = parts(problem);
    let content = LoginPage {
        csrf: &browser.form_value(state),
        next,
        name,
        problem,
        has_registration: state.accounts.registration() == Registration::Open,
        has_reset: state.accounts.sends_mail(),
    };
    let page = Page::new(status, "Log in", &content).with_form_action(next.form_action());
    browser.show(page)
}

/// Shows the form of the code. `step` proves that the password was right.
fn show_code(
    state: &State,
    browser: &Browser,
    next: &Continue,
    step: &str,
    problem: Option<Problem>,
) -> Page {
    let (status, problem) = parts(problem);
    let csrf = browser.form_value(state);
    let content = CodePage { csrf: &csrf, next, step, problem };
    Page::new(status, "Enter your code", &content).with_form_action(next.form_action())
}

/// `POST /login`: logs the browser in.
pub(in crate::http) async fn log_in(
    state: Data<State>,
    browser: Browser,
    DeviceCookie(device): DeviceCookie,
    client: ClientInfo,
    WithTimeout(Form(form)): WithTimeout<Form<LoginForm>>,
) -> Page {
    let next = match Continue::parse(&form.next) {
        Ok(next) => next,
        Err(error) => return error.into(),
    };
    if let Err(problem) = browser.check(&state, &form.csrf) {
        return show_login(&state, &browser, &next, &form.name, Some(problem));
    }
    if let Err(error) = state.check_limit(client.ip.map(Limit::Login)) {
        return error.into();
    }
    if let Some(step) = form.step {
        let code = SecretString::from(form.code);
        let browser_secret = browser.secret().to_owned();
        let request = LogInStep { step, browser: browser_secret, code, device, client };
        return check_code(&state, &browser, &next, request).await;
    }
    let password = SecretString::from(form.password);
    let request = LogIn { name: form.name, password, code: None, device, client };
    check_password(&state, &browser, &next, request).await
}

async fn check_password(state: &State, browser: &Browser, next: &Continue, request: LogIn) -> Page {
    let name = request.name.clone();
    match state.accounts.log_in_browser(request, browser.login_cookie()).await {
        Ok(login) => continue_as(state, next, &login),
        Err(LogInError::SecondFactorRequired(proven)) => {
            let step = state.accounts.login_step(&proven, browser.secret());
            show_code(state, browser, next, &step, None)
        }
        Err(error) => match Problem::of(error.into()) {
            Ok(problem) => show_login(state, browser, next, &name, Some(problem)),
            Err(error) => error.into(),
        },
    }
}

async fn check_code(state: &State, browser: &Browser, next: &Continue, request: LogInStep) -> Page {
    let step = request.step.clone();
    let problem = match state.accounts.finish_log_in(request, browser.login_cookie()).await {
        Ok(Some(login)) => return continue_as(state, next, &login),
        Ok(None) => {
            let text = "The login took too long, or the password was changed: log in again.";
            let problem = Problem::new(StatusCode::FORBIDDEN, text);
            return show_login(state, browser, next, "", Some(problem));
        }
        Err(LogInError::InvalidCredentials) => Problem::of(Error::InvalidCode),
        Err(error) => Problem::of(error.into()),
    };
    match problem {
        Ok(problem) => show_code(state, browser, next, &step, Some(problem)),
        Err(error) => error.into(),
    }
}

/// Sets the cookies of a login, and redirects to what the user came for.
pub(super) fn continue_as(state: &State, next: &Continue, login: &BrowserLoggedIn) -> Page {
    Browser::logged_in(next.redirect(), login, state)
}
