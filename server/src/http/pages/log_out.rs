//! `GET` and `POST /oauth/logout`: a logout that a client initiates (`OpenID` Connect
//! RP-Initiated Logout 1.0).
//!
//! A client proves by an ID token whom it wants to log out. Without one, or if another user is
//! logged in, the user is asked, so that no other site can log the browser out.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Form, Query};
use askama::Template;
use url::{Url, form_urlencoded};
use utoipa::{IntoParams, ToSchema};

use super::browser::Browser;
use super::continuation::{FormAction, source};
use super::page::Page;
use super::problem::{Problem, parts};
use crate::accounts::{LogOut, LoginSession};
use crate::grants::{InvalidLogoutRequest, LogoutRequest};
use crate::http::error::{Error, PageErrors, Parameters, RequestBody};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::extract::login_session;
use crate::http::oauth::redirect::{encode, with_query};
use crate::http::state::State;
use crate::ids::UserId;
use crate::limits::Limit;
use crate::sessions::ClientInfo;

type Pairs = Vec<(String, String)>;

/// The longest query to which a request by `POST` is redirected, in bytes.
const MAX_QUERY_LEN: usize = 16 * 1024;

/// The fields of the form by which the user confirms a logout.
const CSRF: &str = "csrf";
const CONTINUE: &str = "continue";

/// The parameters of a logout request. All are optional, and others are ignored.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the parameters are only described: they are read by name")]
pub(in crate::http) struct LogoutParameters {
    /// An ID token of the session that the client ends, expired or not.
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    id_token_hint: Option<String>,
    /// The client. It must be the one of `id_token_hint`.
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    client_id: Option<String>,
    /// Where the browser returns to: a URI that the client registered.
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    post_logout_redirect_uri: Option<String>,
    /// Returned with the redirect.
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    state: Option<String>,
}

#[derive(Template)]
#[template(path = "log_out.html")]
struct LogOutPage<'a> {
    csrf: &'a str,
    /// The query of the logout request.
    next: &'a str,
    /// The name of the client.
    client: Option<&'a str>,
    user: String,
    problem: Option<String>,
}

/// Logs the browser out, or asks the user whether to do so.
///
/// With a valid `id_token_hint`, the login of the browser ends, the sessions that clients opened
/// through it, and the session of the ID token. A request without it, or for another user than the
/// one of the login, is confirmed by the user first.
#[utoipa::path(
    get,
    path = "/oauth/logout",
    tag = "OAuth",
    operation_id = "endSessionOfBrowser",
    params(LogoutParameters),
    responses(
        (status = 200, description = "A question, or the confirmation", body = String, content_type = "text/html"),
        (
            status = 303,
            description = "The browser is logged out: a redirect to the client",
            headers(("Location" = String, description = "The redirect URI of the client.")),
        ),
        PageErrors<Parameters, Parameters>,
    )
)]
pub(in crate::http) async fn log_out(
    state: Data<State>,
    query: Query<Pairs>,
    browser: Browser,
    client: ClientInfo,
) -> Page {
    let pairs = query.into_inner();
    if let Err(error) = state.check_limit(client.ip.map(Limit::Logout)) {
        return error.into();
    }
    let next = encode(pairs.iter());
    let request = match state.grants.parse_logout_request(pairs).await {
        Ok(Ok(request)) => request,
        Ok(Err(problem)) => return reject(&state, &browser, problem).await,
        Err(error) => return Error::Failed(error).into(),
    };
    let Some(hint) = &request.hint else {
        return match browser.login() {
            Some(login) => ask(&state, &browser, login, Question::about(&next, &request)).await,
            None => finish(&request),
        };
    };
    let session = Some(hint.session);
    match browser.login() {
        Some(login) if login.user != hint.user => {
            let end = LogOut { user: hint.user, cookie: None, session, client };
            match state.accounts.log_out(end).await {
                Ok(()) => ask(&state, &browser, login, Question::about(&next, &request)).await,
                Err(error) => Error::from(error).into(),
            }
        }
        _ => end_login(&state, &browser, (hint.user, &request), client).await,
    }
}

/// Logs the browser out after the user has confirmed it, or accepts a logout request in a form.
///
/// Browsers do not send the cookie of the login with a form of another site, but with the redirect
/// that follows it.
#[utoipa::path(
    post,
    path = "/oauth/logout",
    tag = "OAuth",
    operation_id = "endSessionOfBrowserByForm",
    request_body(content = LogoutParameters, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The confirmation", body = String, content_type = "text/html"),
        (
            status = 303,
            description = "A redirect to the same request by `GET`, or to the client",
            headers(("Location" = String, description = "The URL with the parameters, or the redirect URI of the client.")),
        ),
        (status = 403, description = "The form is not the browser's", body = String, content_type = "text/html"),
        PageErrors<RequestBody, RequestBody>,
    )
)]
pub(in crate::http) async fn log_out_by_post(
    state: Data<State>,
    browser: Browser,
    client: ClientInfo,
    WithTimeout(Form(form)): WithTimeout<Form<Pairs>>,
) -> Page {
    if let Err(error) = state.check_limit(client.ip.map(Limit::Logout)) {
        return error.into();
    }
    let field = |name: &str| form.iter().find(|(own, _)| own == name).map(|(_, value)| value);
    let Some(csrf) = field(CSRF) else {
        let query = encode(form.iter());
        if query.len() > MAX_QUERY_LEN {
            return Error::PayloadTooLarge.into();
        }
        return Page::redirect(&format!("logout?{query}"));
    };
    let next = field(CONTINUE).map_or("", String::as_str);
    let pairs = form_urlencoded::parse(next.as_bytes()).into_owned().collect();
    let request = match state.grants.parse_logout_request(pairs).await {
        // The user wants to log out, whatever the client has sent.
        Ok(request) => request.unwrap_or_default(),
        Err(error) => return Error::Failed(error).into(),
    };
    // By `GET` the request has the cookies, also if another site has sent this form.
    let Some(login) = browser.login() else { return Page::redirect(&format!("logout?{next}")) };
    if let Err(problem) = browser.check(&state, csrf) {
        let question = Question { problem: Some(problem), ..Question::about(next, &request) };
        return ask(&state, &browser, login, question).await;
    }
    end_login(&state, &browser, (login.user, &request), client).await
}

/// Ends the login of the browser, if it is of this user, and the session of the hint.
async fn end_login(
    state: &State,
    browser: &Browser,
    (user, request): (UserId, &LogoutRequest),
    client: ClientInfo,
) -> Page {
    let cookie = browser.login_cookie().map(str::to_owned);
    let session = request.hint.as_ref().map(|hint| hint.session);
    match state.accounts.log_out(LogOut { user, cookie, session, client }).await {
        Ok(()) => finish(request).with_cookie(login_session::clear()),
        Err(error) => Error::from(error).into(),
    }
}

/// Returns to the client. Without an ID token, only the user decides to do so.
fn finish(request: &LogoutRequest) -> Page {
    let to = request.redirect_uri.as_deref().map(|uri| match &request.state {
        Some(state) => with_query(uri, &[("state", state)]),
        None => uri.to_owned(),
    });
    match &to {
        Some(to) if request.hint.is_some() => Page::redirect(to),
        to => {
            let link = to.as_deref().map(|to| (to, "Back to the application"));
            Page::message_before("You are logged out", "You can close this page.", link)
        }
    }
}

/// What the user is asked.
struct Question<'a> {
    /// The query of the logout request.
    next: &'a str,
    /// The name of the client.
    client: Option<&'a str>,
    form_action: FormAction,
    problem: Option<Problem>,
    title: &'static str,
}

impl<'a> Question<'a> {
    fn about(next: &'a str, request: &'a LogoutRequest) -> Self {
        let uri = request.redirect_uri.as_deref().filter(|_| request.hint.is_some());
        let url = uri.and_then(|uri| Url::parse(uri).ok());
        Self {
            next,
            client: request.client.as_ref().map(|client| client.name.as_str()),
            form_action: url.map_or(FormAction::ThisServer, |url| FormAction::And(source(&url))),
            problem: None,
            title: "Log out?",
        }
    }
}

/// Asks the user whether to log out.
async fn ask(
    state: &State,
    browser: &Browser,
    login: &LoginSession,
    question: Question<'_>,
) -> Page {
    let Question { next, client, form_action, problem, title } = question;
    let (status, problem) = parts(problem);
    let profile = state.accounts.profile(login.user).await;
    let content = LogOutPage {
        csrf: &browser.form_value(state),
        next,
        client,
        user: profile.map(|profile| profile.name).unwrap_or_default(),
        problem,
    };
    browser.show(Page::new(status, title, &content).with_form_action(form_action))
}

/// Returns the page for a request that is rejected. The user can log out nevertheless.
async fn reject(state: &State, browser: &Browser, invalid: InvalidLogoutRequest) -> Page {
    let text = match invalid {
        InvalidLogoutRequest::RepeatedParameter => "The application sent a parameter twice.",
        InvalidLogoutRequest::InvalidHint => {
            "The application sent an ID token that is not valid here."
        }
        InvalidLogoutRequest::HintOfOtherClient => {
            "The application sent the ID token of another one."
        }
        InvalidLogoutRequest::UnknownClient => "The application is not registered here.",
        InvalidLogoutRequest::ForeignRedirectUri => {
            "The application sent a post_logout_redirect_uri that it has not registered."
        }
    };
    tracing::info!(problem = ?invalid, "logout request rejected");
    let title = "This application cannot log you out";
    let Some(login) = browser.login() else {
        return Page::message(StatusCode::BAD_REQUEST, title, text);
    };
    let problem = Some(Problem::new(StatusCode::BAD_REQUEST, text));
    let request = LogoutRequest::default();
    ask(state, browser, login, Question { problem, title, ..Question::about("", &request) }).await
}
