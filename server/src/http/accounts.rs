//! Accounts: registration, login, password.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Data, Json};
use matchbook_shared::{
    ChangePasswordRequest, LoginRequest, RegisterRequest, RegisteredUser, TokenResponse,
};
use secrecy::SecretString;

use super::error::{Error, Errors, Limited, RequestBody};
use super::extract::bearer::Bearer;
use super::extract::body_timeout::WithTimeout;
use super::extract::device_cookie::{self, DeviceCookie};
use super::refresh::token_response;
use super::state::State;
use crate::accounts::{
    ChangePassword, ChangePasswordError, LogIn, LogInError, LoggedIn, LoginName, Register,
    RegisterError, Requester,
};
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// Registers an account.
///
/// With the access token of a guest, the guest becomes the account and keeps its id.
#[utoipa::path(
    post,
    path = "/register",
    tag = "Accounts",
    operation_id = "register",
    request_body = RegisterRequest,
    responses(
        (status = 201, description = "The account", body = RegisteredUser),
        Errors<(Limited, RequestBody, Bearer, RegisterError)>,
    ),
    security((), ("bearer" = []))
)]
pub(super) async fn register(
    state: Data<State>,
    bearer: Result<Bearer, Error>,
    WithTimeout(body): WithTimeout<Json<RegisterRequest>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    state.check_limit(client.ip.map(Limit::Register))?;
    state.check_limit(Some(Limit::RegisterTotal))?;
    let guest = match bearer {
        Ok(Bearer(access)) => Some(access),
        Err(Error::MissingToken) => None,
        Err(error) => return Err(error),
    };
    let RegisterRequest { name, password } = body.into_inner();
    let name = LoginName::parse(&required(name, "Send the field `name`.")?)?;
    let password = required(password, "Send the field `password`.")?.into();
    if state.accounts.sends_mail_to(&name) {
        // First, so that a rejected password does not count as a mail.
        state.accounts.check_password(&password, &name)?;
        state.check_limit(Some(Limit::mail_to(name.as_str())))?;
    }
    let register = Register { name, password, guest, client };
    let user = state.accounts.register(register).await?;
    Ok(HttpResponse::build(StatusCode::CREATED).json(RegisteredUser { user_id: user.0 }))
}

/// Opens a session of an account.
///
/// The cookie of the response shows in later logins that the browser is known, so that they are not
/// slowed down when others guess the password.
#[utoipa::path(
    post,
    path = "/login",
    tag = "Accounts",
    operation_id = "logIn",
    request_body = LoginRequest,
    responses(
        (
            status = 200,
            description = "The tokens of the session",
            body = TokenResponse,
            headers(("Set-Cookie" = String, description = "The cookie of a known browser")),
        ),
        Errors<(Limited, RequestBody, LogInError)>,
    )
)]
pub(super) async fn log_in(
    state: Data<State>,
    WithTimeout(body): WithTimeout<Json<LoginRequest>>,
    DeviceCookie(device): DeviceCookie,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let LoginRequest { name, password, code } = body.into_inner();
    let name = required(name, "Send the field `name`.")?;
    let password = SecretString::from(required(password, "Send the field `password`.")?);
    let code = optional(code);
    let log_in = LogIn { name, password, code, device, client };
    let LoggedIn { tokens, device } = state.accounts.log_in(log_in).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header(device_cookie::set(&device));
    Ok(response.json(token_response(tokens).into_inner()))
}

/// Changes the password.
///
/// Ends the other sessions of the user.
#[utoipa::path(
    post,
    path = "/password",
    tag = "Account",
    operation_id = "changePassword",
    request_body = ChangePasswordRequest,
    responses(
        (status = 204, description = "The password is changed"),
        Errors<(Bearer, Limited, RequestBody, ChangePasswordError)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn change_password(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<ChangePasswordRequest>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let ChangePasswordRequest { current, new } = body.into_inner();
    let current = required(current, "Send the field `current`.")?.into();
    let new = required(new, "Send the field `new`.")?.into();
    let requester = Requester::from(&access);
    state.accounts.change_password(ChangePassword { requester, current, new, client }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Returns the value of a field that must not be missing or empty.
pub(super) fn required(field: Option<String>, message: &'static str) -> Result<String, Error> {
    field.filter(|text| !text.is_empty()).ok_or(Error::InvalidRequest(message))
}

/// Returns the value of a field, unless it is missing or empty.
pub(super) fn optional(field: Option<String>) -> Option<SecretString> {
    field.filter(|text| !text.is_empty()).map(SecretString::from)
}
