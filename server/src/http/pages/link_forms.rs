//! The forms of links.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Form, Query};
use askama::Template;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::page::Page;
use super::problem::{Problem, parts};
use crate::accounts::{
    AcceptInvitation, InvalidName, LinkError, LinkPurpose, LinkSubject, LinkToken, LoginName,
    ResetPassword,
};
use crate::http::error::{Error, Limited, PageErrors, Parameters, RequestBody};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::state::State;
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// The query of a link.
#[derive(Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct LinkQuery {
    /// The token of the link.
    #[serde(default)]
    #[param(required)]
    #[schema(required, example = "mb_ln_…")]
    token: String,
}

/// The form of an invitation.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct InvitationForm {
    /// The token of the link.
    #[serde(default)]
    #[schema(required, example = "mb_ln_…")]
    token: String,
    /// The login name, if the invitation has none.
    #[schema(value_type = String, required = false)]
    name: Option<String>,
    /// The new password.
    #[serde(default)]
    #[schema(required, format = Password)]
    password: String,
    /// The same password.
    #[serde(default)]
    #[schema(required, format = Password)]
    repeated: String,
}

/// The form of a reset.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct ResetForm {
    /// The token of the link.
    #[serde(default)]
    #[schema(required, example = "mb_ln_…")]
    token: String,
    /// The new password.
    #[serde(default)]
    #[schema(required, format = Password)]
    password: String,
    /// The same password.
    #[serde(default)]
    #[schema(required, format = Password)]
    repeated: String,
}

#[derive(Template)]
#[template(path = "invitation.html")]
struct InvitationPage<'a> {
    token: &'a str,
    name: &'a str,
    name_is_fixed: bool,
    min_length: usize,
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "verify.html")]
struct VerifyPage<'a> {
    token: &'a str,
    name: &'a str,
}

#[derive(Template)]
#[template(path = "reset.html")]
struct ResetPage<'a> {
    token: &'a str,
    name: &'a str,
    min_length: usize,
    problem: Option<String>,
}

/// Returns what a link is about, or an error if it cannot be used.
async fn subject(
    state: &State,
    token: &str,
    purpose: LinkPurpose,
    client: &ClientInfo,
) -> Result<LinkSubject, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let token = LinkToken::parse(token).ok_or(Error::InvalidLink)?;
    state.accounts.link_subject(&token, purpose).await?.ok_or(Error::InvalidLink)
}

/// Shows the form of an invitation.
#[utoipa::path(
    get,
    path = "/invitation",
    tag = "Pages",
    operation_id = "showInvitation",
    params(LinkQuery),
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        PageErrors<Parameters, (Limited, LinkError)>,
    )
)]
pub(in crate::http) async fn invitation(
    state: Data<State>,
    Query(LinkQuery { token }): Query<LinkQuery>,
    client: ClientInfo,
) -> Page {
    let form =
        InvitationForm { token, name: None, password: String::new(), repeated: String::new() };
    show_invitation(&state, &form, None, &client).await.unwrap_or_else(Page::from)
}

/// Shows the form of an invitation, with the name that the user typed.
async fn show_invitation(
    state: &State,
    form: &InvitationForm,
    problem: Option<Problem>,
    client: &ClientInfo,
) -> Result<Page, Error> {
    let subject = subject(state, &form.token, LinkPurpose::Invitation, client).await?;
    let (status, problem) = parts(problem);
    let typed = form.name.as_deref().unwrap_or_default();
    Ok(Page::new(
        status,
        "Create your account",
        &InvitationPage {
            token: &form.token,
            name: subject.name.as_deref().unwrap_or(typed),
            name_is_fixed: subject.name.is_some(),
            min_length: state.accounts.password_min_length(),
            problem,
        },
    ))
}

/// Creates the account of an invitation.
#[utoipa::path(
    post,
    path = "/invitation",
    tag = "Pages",
    operation_id = "submitInvitation",
    request_body(content = InvitationForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The account is ready", body = String, content_type = "text/html"),
        PageErrors<RequestBody, (RequestBody, Limited, LinkError, InvalidName)>,
    )
)]
pub(in crate::http) async fn accept_invitation(
    state: Data<State>,
    WithTimeout(Form(form)): WithTimeout<Form<InvitationForm>>,
    client: ClientInfo,
) -> Page {
    let again = client.clone();
    let problem = match accept(&state, &form, client).await {
        Ok(response) => return response,
        Err(problem) => problem,
    };
    let shown = match problem {
        Ok(problem) => show_invitation(&state, &form, Some(problem), &again).await,
        Err(error) => Err(error),
    };
    shown.unwrap_or_else(Page::from)
}

/// Accepts an invitation. The error is a problem to show in the form, or else an error page.
async fn accept(
    state: &State,
    form: &InvitationForm,
    client: ClientInfo,
) -> Result<Page, Result<Problem, Error>> {
    state.check_limit(client.ip.map(Limit::Login)).map_err(Err)?;
    if form.password != form.repeated {
        return Err(Ok(Problem::different_passwords()));
    }
    let name = form.name.as_deref().map(LoginName::parse).transpose();
    let name = name.map_err(|invalid| Problem::of(invalid.into()))?;
    let token = LinkToken::parse(&form.token);
    let password = SecretString::from(form.password.as_str());
    let request = AcceptInvitation { token, name, password, client };
    state.accounts.accept_invitation(request).await.map_err(problem)?;
    let text = "You can now log in with your name and your password.";
    Ok(Page::message_before_login("Your account is ready", text))
}

fn problem(error: LinkError) -> Result<Problem, Error> {
    Problem::of(error.into())
}

/// Shows the form that verifies the email address of a registration.
#[utoipa::path(
    get,
    path = "/verify",
    tag = "Pages",
    operation_id = "showVerification",
    params(LinkQuery),
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        PageErrors<Parameters, (Limited, LinkError)>,
    )
)]
pub(in crate::http) async fn verify(
    state: Data<State>,
    Query(LinkQuery { token }): Query<LinkQuery>,
    client: ClientInfo,
) -> Page {
    match subject(&state, &token, LinkPurpose::Verification, &client).await {
        Ok(subject) => {
            let name = subject.name.as_deref().unwrap_or_default();
            Page::new(
                StatusCode::OK,
                "Confirm your email address",
                &VerifyPage { token: &token, name },
            )
        }
        Err(error) => error.into(),
    }
}

/// Creates the account of a registration.
#[utoipa::path(
    post,
    path = "/verify",
    tag = "Pages",
    operation_id = "submitVerification",
    request_body(content = LinkQuery, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The account is ready", body = String, content_type = "text/html"),
        PageErrors<RequestBody, (RequestBody, Limited, LinkError)>,
    )
)]
pub(in crate::http) async fn verify_registration(
    state: Data<State>,
    WithTimeout(Form(form)): WithTimeout<Form<LinkQuery>>,
    client: ClientInfo,
) -> Page {
    let confirm = async {
        state.check_limit(client.ip.map(Limit::Login))?;
        let token = LinkToken::parse(&form.token);
        state.accounts.confirm_registration(token, client).await?;
        Ok::<_, Error>(())
    };
    match confirm.await {
        Ok(()) => {
            let text = "Your email address is confirmed. You can now log in.";
            Page::message_before_login("Your account is ready", text)
        }
        Err(error) => error.into(),
    }
}

/// Shows the form that sets a new password.
#[utoipa::path(
    get,
    path = "/reset",
    tag = "Pages",
    operation_id = "showReset",
    params(LinkQuery),
    responses(
        (status = 200, description = "The form", body = String, content_type = "text/html"),
        PageErrors<Parameters, (Limited, LinkError)>,
    )
)]
pub(in crate::http) async fn reset(
    state: Data<State>,
    Query(LinkQuery { token }): Query<LinkQuery>,
    client: ClientInfo,
) -> Page {
    show_reset(&state, &token, None, &client).await.unwrap_or_else(Page::from)
}

async fn show_reset(
    state: &State,
    token: &str,
    problem: Option<Problem>,
    client: &ClientInfo,
) -> Result<Page, Error> {
    let subject = subject(state, token, LinkPurpose::Reset, client).await?;
    let (status, problem) = parts(problem);
    let name = subject.name.as_deref().unwrap_or_default();
    let min_length = state.accounts.password_min_length();
    let content = ResetPage { token, name, min_length, problem };
    Ok(Page::new(status, "Choose a new password", &content))
}

/// Sets a new password by a link.
#[utoipa::path(
    post,
    path = "/reset",
    tag = "Pages",
    operation_id = "submitReset",
    request_body(content = ResetForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The password is set", body = String, content_type = "text/html"),
        PageErrors<RequestBody, (RequestBody, Limited, LinkError)>,
    )
)]
pub(in crate::http) async fn set_password(
    state: Data<State>,
    WithTimeout(Form(form)): WithTimeout<Form<ResetForm>>,
    client: ClientInfo,
) -> Page {
    let again = client.clone();
    let problem = match reset_password(&state, &form, client).await {
        Ok(response) => return response,
        Err(problem) => problem,
    };
    let shown = match problem {
        Ok(problem) => show_reset(&state, &form.token, Some(problem), &again).await,
        Err(error) => Err(error),
    };
    shown.unwrap_or_else(Page::from)
}

/// Sets a new password. The error is a problem to show in the form, or else an error page.
async fn reset_password(
    state: &State,
    form: &ResetForm,
    client: ClientInfo,
) -> Result<Page, Result<Problem, Error>> {
    state.check_limit(client.ip.map(Limit::Login)).map_err(Err)?;
    if form.password != form.repeated {
        return Err(Ok(Problem::different_passwords()));
    }
    let token = LinkToken::parse(&form.token);
    let new = SecretString::from(form.password.as_str());
    state.accounts.reset_password(ResetPassword { token, new, client }).await.map_err(problem)?;
    let text = "You are logged out on all devices. You can now log in with the new password.";
    Ok(Page::message_before_login("Your password is set", text))
}
