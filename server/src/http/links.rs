//! Links that work once: the endpoints that take their tokens.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Data, Json};
use matchbook_shared::{
    AcceptInvitationRequest, ConfirmRequest, ForgotPasswordRequest, RegisteredUser,
    ResetPasswordRequest,
};

use super::accounts::required;
use super::error::Error;
use super::extract::body_timeout::WithTimeout;
use super::state::State;
use crate::accounts::{AcceptInvitation, ForgottenPassword, LinkToken, LoginName, ResetPassword};
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// `POST /invitations/accept`: creates the account of an invitation.
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

/// `POST /register/confirm`: creates the account of a registration whose email address is
/// verified by the link.
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

/// `POST /password/forgot`: sends a link that sets a new password. The response is the same
/// for every name, and does not wait for the work.
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

/// `POST /password/reset`: sets a new password, and ends all sessions of the user.
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
