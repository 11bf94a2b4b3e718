//! The consent of a user to what a client requests.

use actix_web::web::{Data, Form};
use askama::Template;
use serde::Deserialize;
use url::{Url, form_urlencoded};
use utoipa::ToSchema;

use super::browser::Browser;
use super::continuation::Continue;
use super::page::Page;
use super::problem::{Problem, parts};
use super::scope_text::scope_texts;
use crate::accounts::LoginSession;
use crate::grants::{AuthorizationError, AuthorizationRequest};
use crate::http::error::{Error, PageErrors, Parameters, RequestBody};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::oauth::authorize::{parse, reject_request};
use crate::http::state::State;

/// The form of a decision.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct ConsentForm {
    /// The value of the form that the browser got.
    #[serde(default)]
    csrf: String,
    /// The query of an authorization request.
    #[serde(default, rename = "continue")]
    next: String,
    decision: ConsentDecision,
}

/// What the user decides.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum ConsentDecision {
    Allow,
    Deny,
}

#[derive(Template)]
#[template(path = "consent.html")]
struct ConsentPage<'a> {
    csrf: &'a str,
    next: &'a Continue,
    /// The name of the client.
    client: &'a str,
    /// Where the browser goes afterwards.
    host: String,
    user: String,
    scopes: Vec<String>,
    problem: Option<String>,
}

/// Shows what a client requests.
#[utoipa::path(
    get,
    path = "/consent",
    tag = "Pages",
    operation_id = "showConsent",
    params(("continue" = String, Query, description = "The query of an authorization request.")),
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        (status = 303, description = "The browser is not logged in, or the request is rejected"),
        PageErrors<(), Parameters>,
    )
)]
pub(in crate::http) async fn consent(state: Data<State>, browser: Browser, next: Continue) -> Page {
    let Some(login) = browser.login() else { return to_login(&next) };
    match request(&state, &next).await {
        Ok(request) => show(&state, &browser, login, (&next, &request), None).await,
        Err(page) => page,
    }
}

/// Allows or denies what a client requests, and returns to the client.
#[utoipa::path(
    post,
    path = "/consent",
    tag = "Pages",
    operation_id = "submitConsent",
    request_body(content = ConsentForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "A redirect to the authorization request, or to the client"),
        (status = 403, description = "The form is not the browser's", body = String, content_type = "text/html"),
        PageErrors<RequestBody, RequestBody>,
    )
)]
pub(in crate::http) async fn decide(
    state: Data<State>,
    browser: Browser,
    WithTimeout(Form(form)): WithTimeout<Form<ConsentForm>>,
) -> Page {
    let next = match Continue::parse(&form.next) {
        Ok(next) => next,
        Err(error) => return error.into(),
    };
    let Some(login) = browser.login() else { return to_login(&next) };
    let request = match request(&state, &next).await {
        Ok(request) => request,
        Err(page) => return page,
    };
    if let Err(problem) = browser.check(&state, &form.csrf) {
        return show(&state, &browser, login, (&next, &request), Some(problem)).await;
    }
    if form.decision == ConsentDecision::Deny {
        return reject_request(&state, &request, AuthorizationError::ACCESS_DENIED);
    }
    match state.grants.consent(login.user, &request).await {
        Ok(()) => next.redirect(),
        Err(error) => Error::Failed(error).into(),
    }
}

/// Parses the authorization request that continues after the consent.
async fn request(state: &State, next: &Continue) -> Result<AuthorizationRequest, Page> {
    let pairs = form_urlencoded::parse(next.value().as_bytes()).into_owned().collect();
    parse(state, pairs).await
}

fn to_login(next: &Continue) -> Page {
    Page::redirect(&format!("login{}", next.parameter()))
}

async fn show(
    state: &State,
    browser: &Browser,
    login: &LoginSession,
    (next, request): (&Continue, &AuthorizationRequest),
    problem: Option<Problem>,
) -> Page {
    let (status, problem) = parts(problem);
    let profile = state.accounts.profile(login.user).await;
    let content = ConsentPage {
        csrf: &browser.form_value(state),
        next,
        client: &request.client.name,
        host: destination(&request.target.redirect_uri),
        user: profile.map(|profile| profile.name).unwrap_or_default(),
        scopes: scope_texts(&request.scope),
        problem,
    };
    let page = Page::new(status, "Allow access?", &content);
    browser.show(page.with_form_action(next.form_action()))
}

/// Describes where a redirect URI leads: a host, or an app on the device of the user.
fn destination(redirect_uri: &str) -> String {
    let Ok(uri) = Url::parse(redirect_uri) else { return redirect_uri.to_owned() };
    match (uri.scheme(), uri.host_str(), uri.port()) {
        ("http" | "https", Some(host), Some(port)) => format!("{host}:{port}"),
        ("http" | "https", Some(host), None) => host.to_owned(),
        (scheme, ..) => format!("the app {scheme}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_is_the_host_or_the_app() {
        for (uri, expected) in [
            ("https://app.example/cb?x", "app.example"),
            ("http://127.0.0.1:8080/cb", "127.0.0.1:8080"),
            ("https://app.example@evil.example/", "evil.example"),
            ("com.example.app:/cb", "the app com.example.app"),
        ] {
            assert_eq!(destination(uri), expected);
        }
    }
}
