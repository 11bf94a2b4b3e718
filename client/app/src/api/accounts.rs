//! Login and registration with a name and a password.

use actix_web::http::header::SET_COOKIE;
use actix_web::web::Json;
use actix_web::{HttpResponse, HttpResponseBuilder};
use matchbook_client::PasswordLogin;
use serde::{Deserialize, Serialize};

use super::{ApiError, Browser, LoginPermit};

/// The form of the page. It has no `Debug`, so that no log shows the password.
#[derive(Deserialize)]
pub(super) struct LoginForm {
    name: String,
    password: String,
    /// The code of the second factor.
    #[serde(default)]
    code: Option<String>,
}

/// The outcome of a registration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    /// Whether the browser is logged in with the account.
    logged_in: bool,
}

/// Logs in with an account: `POST /api/account/login`.
pub(super) async fn log_in(
    _permit: LoginPermit,
    browser: Browser,
    form: Json<LoginForm>,
) -> Result<HttpResponse, ApiError> {
    let mut response = HttpResponse::NoContent();
    log_in_with(&browser, &form, &mut response).await?;
    Ok(response.finish())
}

/// Registers an account and logs in: `POST /api/account/register`. A guest that is logged in
/// becomes the account.
pub(super) async fn register(
    _permit: LoginPermit,
    browser: Browser,
    form: Json<LoginForm>,
) -> Result<HttpResponse, ApiError> {
    browser.client.register(&form.name, &form.password).await?;
    let mut response = HttpResponse::Ok();
    if browser.client.credentials().is_logged_in() {
        browser.renew_cookie(&mut response).await?;
        return Ok(response.json(Registered { logged_in: true }));
    }
    let logged_in = match log_in_with(&browser, &form, &mut response).await {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, "registered, but not logged in");
            false
        }
    };
    Ok(response.json(Registered { logged_in }))
}

/// Logs in, and sets the cookies of the browser.
async fn log_in_with(
    browser: &Browser,
    form: &LoginForm,
    response: &mut HttpResponseBuilder,
) -> Result<(), ApiError> {
    let cookie = browser.sessions.cookie();
    let device = cookie.device(browser.request.headers());
    let mut login = PasswordLogin::new(&form.name, &form.password);
    if let Some(code) = form.code.as_deref().filter(|code| !code.is_empty()) {
        login = login.code(code);
    }
    if let Some(device) = &device {
        login = login.device(device);
    }
    if let Some(device) = browser.client.log_in_with_password(login).await? {
        response.append_header((SET_COOKIE, cookie.set_device(&device)));
    }
    browser.renew_cookie(response).await
}
