//! Links that work once: the endpoints that take their tokens.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Data, Json};
use matchbook_shared::{
    AcceptInvitationRequest, ConfirmRequest, ForgotPasswordRequest, RegisteredUser,
    ResetPasswordRequest,
};

use super::accounts::required;
use super::error::{Error, Errors, Limited, RequestBody};
use super::extract::body_timeout::WithTimeout;
use super::state::State;
use crate::accounts::{
    AcceptInvitation, ForgottenPassword, InvalidName, LinkError, LinkToken, LoginName,
    ResetPassword,
};
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// Creates the account of an invitation.
///
/// A rejected request does not use the link.
#[utoipa::path(
    post,
    path = "/invitations/accept",
    tag = "Accounts",
    operation_id = "acceptInvitation",
    request_body = AcceptInvitationRequest,
    responses(
        (status = 201, description = "The account", body = RegisteredUser),
        Errors<(Limited, RequestBody, LinkError, InvalidName)>,
    )
)]
pub(super) async fn accept(
    state: Data<State>,
    WithTimeout(body): WithTimeout<Json<AcceptInvitationRequest>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let AcceptInvitationRequest { token, name, password } = body.into_inner();
    let token = LinkToken::parse(&required(token, "Send the field `token`.")?);
    let name = name.as_deref().map(LoginName::parse).transpose()?;
    let password = required(password, "Send the field `password`.")?.into();
    let accept = AcceptInvitation { token, name, password, client };
    let user = state.accounts.accept_invitation(accept).await?;
    Ok(HttpResponse::build(StatusCode::CREATED).json(RegisteredUser { user_id: user.0 }))
}

/// Creates the account of a registration.
///
/// The link of the mail verifies the email address.
#[utoipa::path(
    post,
    path = "/register/confirm",
    tag = "Accounts",
    operation_id = "confirmRegistration",
    request_body = ConfirmRequest,
    responses(
        (status = 201, description = "The account", body = RegisteredUser),
        Errors<(Limited, RequestBody, LinkError)>,
    )
)]
pub(super) async fn confirm(
    state: Data<State>,
    WithTimeout(body): WithTimeout<Json<ConfirmRequest>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let token = required(body.into_inner().token, "Send the field `token`.")?;
    let user = state.accounts.confirm_registration(LinkToken::parse(&token), client).await?;
    Ok(HttpResponse::build(StatusCode::CREATED).json(RegisteredUser { user_id: user.0 }))
}

/// Sends a link that sets a new password.
///
/// The response is the same for every name, and does not wait for the work.
#[utoipa::path(
    post,
    path = "/password/forgot",
    tag = "Accounts",
    operation_id = "forgotPassword",
    request_body = ForgotPasswordRequest,
    responses(
        (status = 202, description = "The request is accepted"),
        Errors<(Limited, RequestBody)>,
    )
)]
pub(super) async fn forgot(
    state: Data<State>,
    WithTimeout(body): WithTimeout<Json<ForgotPasswordRequest>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let name = required(body.into_inner().name, "Send the field `name`.")?;
    if let Ok(name) = LoginName::parse(&name)
        && state.check_limit(Some(Limit::mail_to(name.as_str()))).is_ok()
    {
        state.accounts.clone().forgot_password(ForgottenPassword { name, client });
    }
    Ok(HttpResponse::Accepted().finish())
}

/// Sets a new password by a link.
///
/// Ends all sessions of the user.
#[utoipa::path(
    post,
    path = "/password/reset",
    tag = "Accounts",
    operation_id = "resetPassword",
    request_body = ResetPasswordRequest,
    responses(
        (status = 204, description = "The password is set"),
        Errors<(Limited, RequestBody, LinkError)>,
    )
)]
pub(super) async fn reset(
    state: Data<State>,
    WithTimeout(body): WithTimeout<Json<ResetPasswordRequest>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let ResetPasswordRequest { token, new } = body.into_inner();
    let token = LinkToken::parse(&required(token, "Send the field `token`.")?);
    let new = required(new, "Send the field `new`.")?.into();
    state.accounts.reset_password(ResetPassword { token, new, client }).await?;
    Ok(HttpResponse::NoContent().finish())
}
