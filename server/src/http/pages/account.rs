//! The page of the account: sessions, applications, password, second factor, deletion.

pub(in crate::http) mod actions;
mod totp;

use actix_web::web::{Data, Form, Query};
use askama::Template;
use matchbook_shared::device_name;
use serde::Deserialize;
use utoipa::ToSchema;

use super::browser::Browser;
use super::page::Page;
use super::problem::{Problem, parts};
use super::scope_text::scope_texts;
use crate::accounts::{DeleteError, LoginSession, OwnAccount, SecondFactorError, Unacceptable};
use crate::clock::{self, Timestamp};
use crate::grants::Application;
use crate::http::error::{Error, PageErrors, RequestBody};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::state::State;
use crate::ids::ClientId;
use crate::issuer::{self, SessionSummary};
use crate::sessions::ClientInfo;
use actions::{Action, Done};

/// The query after an action.
#[derive(Deserialize)]
pub(in crate::http) struct AccountQuery {
    done: Option<Done>,
}

/// The form of any action.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct ActionForm {
    /// The value of the form that the browser got.
    #[serde(default)]
    csrf: String,
    action: Action,
    /// The session to end, or the client whose consent is revoked.
    #[serde(default)]
    id: String,
    /// The current password.
    #[serde(default)]
    #[schema(format = Password)]
    current: String,
    /// The new password.
    #[serde(default)]
    #[schema(format = Password)]
    password: String,
    /// The same password.
    #[serde(default)]
    #[schema(format = Password)]
    repeated: String,
    /// A code of the second factor, or a recovery code.
    #[serde(default)]
    code: String,
}

/// An application that the user has permitted something.
struct ListedApplication {
    client: String,
    name: String,
    scopes: Vec<String>,
}

/// A session of an application.
struct ListedSession {
    id: String,
    /// The name of the OAuth client, if one opened the session.
    application: Option<String>,
    device: String,
    ip: Option<String>,
    /// In RFC 3339.
    used_at: String,
    used: String,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    csrf: &'a str,
    name: String,
    /// The first login name, for password managers.
    login_name: String,
    /// The login names, separated by commas.
    names: String,
    has_password: bool,
    has_totp: bool,
    recovery_codes_left: i64,
    min_length: usize,
    sessions: Vec<ListedSession>,
    applications: Vec<ListedApplication>,
    done: Option<&'static str>,
    problem: Option<String>,
    /// The action that the problem is about.
    failed: Option<Action>,
}

impl AccountPage<'_> {
    /// Returns whether the section of an action is open.
    fn is_open(&self, action: Action) -> bool {
        self.failed == Some(action)
    }
}

/// `GET /account` of a browser: the page.
pub(in crate::http) async fn account(
    state: Data<State>,
    browser: Browser,
    query: Option<Query<AccountQuery>>,
) -> Page {
    let Some(login) = browser.login() else { return Page::redirect("login") };
    let done = query.and_then(|query| query.into_inner().done);
    let shown = show(&state, &browser, login, Shown { done, problem: None }).await;
    shown.unwrap_or_else(Page::from)
}

/// What a page says besides the account itself.
struct Shown {
    done: Option<Done>,
    /// A problem, and the action that it is about.
    problem: Option<(Action, Problem)>,
}

async fn show(
    state: &State,
    browser: &Browser,
    login: &LoginSession,
    shown: Shown,
) -> Result<Page, Error> {
    let own = state.accounts.own_account(login.user).await?;
    let sessions = sessions(state, login).await?;
    let applications = state.grants.applications(login.user).await?;
    let (failed, problem) = match shown.problem {
        Some((action, problem)) => (Some(action), Some(problem)),
        None => (None, None),
    };
    let (status, problem) = parts(problem);
    let OwnAccount { account, names, recovery_codes_left } = own;
    let names: Vec<String> = names.into_iter().map(|name| name.name).collect();
    let first = names.first().cloned().unwrap_or_default();
    let content = AccountPage {
        csrf: &browser.form_value(state),
        name: account.display_name.unwrap_or_else(|| first.clone()),
        login_name: first,
        names: names.join(", "),
        has_password: account.password_hash.is_some(),
        has_totp: account.totp_confirmed_at.is_some(),
        recovery_codes_left,
        min_length: state.accounts.password_min_length(),
        sessions,
        applications: applications.into_iter().map(listed_application).collect(),
        done: shown.done.map(Done::message),
        problem,
        failed,
    };
    Ok(browser.show(Page::new(status, "Your account", &content)))
}

fn listed_application(application: Application) -> ListedApplication {
    let Application { client, name, scope, .. } = application;
    ListedApplication {
        name: name.unwrap_or_else(|| "An application that was removed".to_owned()),
        client: client.to_string(),
        scopes: scope_texts(&scope),
    }
}

/// Returns the sessions of the user.
async fn sessions(state: &State, login: &LoginSession) -> Result<Vec<ListedSession>, Error> {
    let now = clock::now();
    let mut all = Vec::new();
    for session in state.issuer.sessions(login.user).await? {
        let application = match session.client.as_deref() {
            Some(id) => {
                let client = state.clients.get(&ClientId::from(id)).await;
                let client = client.map_err(issuer::Error::from)?;
                Some(client.map_or_else(|| id.to_owned(), |client| client.name.clone()))
            }
            None => None,
        };
        all.push(listed(&session, application, now));
    }
    Ok(all)
}

fn listed(session: &SessionSummary, application: Option<String>, now: Timestamp) -> ListedSession {
    let used_at = session.rotated_at.unwrap_or(session.created_at);
    let device = session.user_agent.as_deref().and_then(device_name);
    ListedSession {
        id: session.id.0.to_string(),
        application,
        device: device.unwrap_or_else(|| "Unknown device".to_owned()),
        ip: session.ip.as_ref().map(|address| address.0.to_string()),
        used_at: used_at.to_string(),
        used: age(now, used_at),
    }
}

/// Describes how long ago something was.
fn age(now: Timestamp, then: Timestamp) -> String {
    let minutes = now.since(then).as_secs() / 60;
    let (number, unit) = match minutes {
        0 => return "just now".to_owned(),
        1..60 => (minutes, "minute"),
        60..1440 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

/// Carries out one of the actions on the page of the account.
///
/// `GET /account` is that page for a browser: a request without an access token that accepts
/// HTML. The actions that change how the user logs in need the current password.
#[utoipa::path(
    post,
    path = "/account",
    tag = "Pages",
    operation_id = "submitAccountAction",
    request_body(content = ActionForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The next page", body = String, content_type = "text/html"),
        (status = 303, description = "The action is done, or the browser is not logged in"),
        (status = 403, description = "The form is not the browser's", body = String, content_type = "text/html"),
        PageErrors<RequestBody, (RequestBody, DeleteError, SecondFactorError, Unacceptable)>,
    )
)]
pub(in crate::http) async fn act(
    state: Data<State>,
    browser: Browser,
    client: ClientInfo,
    WithTimeout(Form(form)): WithTimeout<Form<ActionForm>>,
) -> Page {
    let Some(login) = browser.login() else { return Page::redirect("login") };
    let action = form.action;
    let outcome = match browser.check(&state, &form.csrf) {
        Ok(()) => actions::run(&state, &browser, login, (form, client)).await,
        Err(problem) => Err(Ok(problem)),
    };
    let shown = match outcome {
        Ok(page) => return page,
        Err(Ok(problem)) => Shown { done: None, problem: Some((action, problem)) },
        Err(Err(error)) => return error.into(),
    };
    show(&state, &browser, login, shown).await.unwrap_or_else(Page::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn age_has_one_unit() {
        let now = Timestamp::from_secs(1_700_000_000);
        for (seconds, expected) in [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (3599, "59 minutes ago"),
            (3600, "1 hour ago"),
            (86_399, "23 hours ago"),
            (172_800, "2 days ago"),
        ] {
            assert_eq!(age(now, now.before(Duration::from_secs(seconds))), expected);
        }
    }
}
