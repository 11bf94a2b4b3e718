//! The registration of an account.

use actix_web::web::{Data, Form};
use askama::Template;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use super::browser::Browser;
use super::continuation::Continue;
use super::login::continue_as;
use super::page::Page;
use super::problem::{Problem, parts};
use crate::accounts::{LogIn, LoginName, Register, RegisterError, Registration};
use crate::http::error::{Error, Limited, PageErrors, Parameters, RequestBody};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::extract::device_cookie::DeviceCookie;
use crate::http::state::State;
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// The form of a registration.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct AccountForm {
    /// The value of the form that the browser got.
    #[serde(default)]
    csrf: String,
    /// The query of an authorization request.
    #[serde(default, rename = "continue")]
    next: String,
    /// The login name.
    #[serde(default)]
    name: String,
    /// The password.
    #[serde(default)]
    #[schema(format = Password)]
    password: String,
    /// The same password.
    #[serde(default)]
    #[schema(format = Password)]
    repeated: String,
}

#[derive(Template)]
#[template(path = "create_account.html")]
struct CreateAccountPage<'a> {
    csrf: &'a str,
    next: &'a Continue,
    name: &'a str,
    min_length: usize,
    problem: Option<String>,
}

/// Shows the form of a registration.
#[utoipa::path(
    get,
    path = "/create-account",
    tag = "Pages",
    operation_id = "showRegistration",
    params(("continue" = Option<String>, Query, description = "The query of an authorization request, or `device`.")),
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        PageErrors<(), (Parameters, RegisterError)>,
    )
)]
pub(in crate::http) async fn create_account(
    state: Data<State>,
    browser: Browser,
    next: Continue,
) -> Page {
    match state.accounts.registration() {
        Registration::Open => show(&state, &browser, &next, "", None),
        other => Error::RegistrationClosed(other).into(),
    }
}

fn show(
    state: &State,
    browser: &Browser,
    next: &Continue,
    name: &str,
    problem: Option<Problem>,
) -> Page {
    let (status, problem) = parts(problem);
    let csrf = browser.form_value(state);
    let min_length = state.accounts.password_min_length();
    let content = CreateAccountPage { csrf: &csrf, next, name, min_length, problem };
    let page = Page::new(status, "Create your account", &content);
    browser.show(page.with_form_action(next.form_action()))
}

/// Registers an account and logs in to it, or sends a mail that verifies its address first.
#[utoipa::path(
    post,
    path = "/create-account",
    tag = "Pages",
    operation_id = "submitRegistration",
    request_body(content = AccountForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A mail is sent", body = String, content_type = "text/html"),
        (status = 303, description = "The browser is logged in"),
        PageErrors<RequestBody, (RequestBody, Limited, RegisterError)>,
    )
)]
pub(in crate::http) async fn new_account(
    state: Data<State>,
    browser: Browser,
    DeviceCookie(device): DeviceCookie,
    client: ClientInfo,
    WithTimeout(Form(form)): WithTimeout<Form<AccountForm>>,
) -> Page {
    let next = match Continue::parse(&form.next) {
        Ok(next) => next,
        Err(error) => return error.into(),
    };
    let problem = match register(&state, &browser, &form, &client).await {
        Ok(Registered::Waiting) => {
            let text = "If the address has no account yet, it gets a mail with a link. Open it to \
                        finish your registration.";
            return Page::message_before_login("Check your mail", text);
        }
        Ok(Registered::Ready) => {
            let request = LogIn {
                name: form.name,
                password: SecretString::from(form.password),
                code: None,
                device,
                client,
            };
            let login = state.accounts.log_in_browser(request, browser.login_cookie()).await;
            return match login {
                Ok(login) => continue_as(&state, &next, &login),
                Err(error) => Error::from(error).into(),
            };
        }
        Err(problem) => problem,
    };
    match problem {
        Ok(problem) => show(&state, &browser, &next, &form.name, Some(problem)),
        Err(error) => error.into(),
    }
}

/// The state of a registration.
enum Registered {
    /// The account exists.
    Ready,
    /// The address has to be verified.
    Waiting,
}

/// Registers an account. The error is a problem to show in the form, or else an error page.
async fn register(
    state: &State,
    browser: &Browser,
    form: &AccountForm,
    client: &ClientInfo,
) -> Result<Registered, Result<Problem, Error>> {
    browser.check(state, &form.csrf).map_err(Ok)?;
    state.check_limit(client.ip.map(Limit::Register)).map_err(Err)?;
    state.check_limit(Some(Limit::RegisterTotal)).map_err(Err)?;
    if form.password != form.repeated {
        return Err(Ok(Problem::different_passwords()));
    }
    let name = LoginName::parse(&form.name).map_err(|error| Problem::of(error.into()))?;
    let password = SecretString::from(form.password.as_str());
    let is_mailed = state.accounts.sends_mail_to(&name);
    if is_mailed {
        // First, so that a rejected password does not count as a mail.
        let check = state.accounts.check_password(&password, &name);
        check.map_err(|reason| Problem::of(reason.into()))?;
        state.check_limit(Some(Limit::mail_to(name.as_str()))).map_err(Problem::of)?;
    }
    let request = Register { name, password, guest: None, client: client.clone() };
    let registered = state.accounts.register(request).await;
    registered.map_err(|error| Problem::of(error.into()))?;
    Ok(if is_mailed { Registered::Waiting } else { Registered::Ready })
}
