//! The account of the user: profile, deletion, second factor.

use actix_web::HttpResponse;
use actix_web::web::{Data, Json};
use matchbook_shared::{
    AccountInfo, AccountName, ChangeAccountRequest, ConfirmTotpRequest, NewTotp, PasswordProof,
    RecoveryCodes,
};
use secrecy::SecretString;

use super::accounts::{optional, required};
use super::error::{Error, Errors, Limited, RequestBody};
use super::extract::bearer::Bearer;
use super::extract::body_timeout::WithTimeout;
use super::state::State;
use crate::accounts::{
    DeleteError, DisplayName, InvalidDisplayName, OwnAccount, OwnAccountError, Proof, Requester,
    SecondFactorError,
};
use crate::limits::Limit;
use crate::sessions::ClientInfo;
use crate::tokens::VerifiedToken;

/// Returns the account of the user.
#[utoipa::path(
    get,
    path = "/account",
    tag = "Account",
    operation_id = "getAccount",
    responses(
        (status = 200, description = "The account", body = AccountInfo),
        Errors<(Bearer, OwnAccountError)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn read(
    state: Data<State>,
    Bearer(access): Bearer,
) -> Result<Json<AccountInfo>, Error> {
    Ok(Json(info(state.accounts.own_account(access.user).await?)))
}

/// Changes the display name.
#[utoipa::path(
    patch,
    path = "/account",
    tag = "Account",
    operation_id = "changeAccount",
    request_body = ChangeAccountRequest,
    responses(
        (status = 200, description = "The account", body = AccountInfo),
        Errors<(Bearer, RequestBody, OwnAccountError, InvalidDisplayName)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn change(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<ChangeAccountRequest>>,
    client: ClientInfo,
) -> Result<Json<AccountInfo>, Error> {
    let ChangeAccountRequest { display_name } = body.into_inner();
    let name = display_name.ok_or(Error::InvalidRequest("Send the field `displayName`."))?;
    let name = name.map(|name| DisplayName::parse(&name)).transpose()?;
    Ok(Json(info(state.accounts.rename(access.user, name, client).await?)))
}

/// Deletes the account and ends its sessions.
#[utoipa::path(
    delete,
    path = "/account",
    tag = "Account",
    operation_id = "deleteAccount",
    request_body = PasswordProof,
    responses(
        (status = 204, description = "The account is deleted"),
        Errors<(Bearer, Limited, RequestBody, DeleteError)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn delete(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<PasswordProof>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    let (proof, code) = proof(&state, &access, body.into_inner(), client)?;
    state.accounts.delete(proof, code.as_ref()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Begins to add a second factor.
///
/// The second factor is on after `POST /account/totp/confirm`.
#[utoipa::path(
    post,
    path = "/account/totp",
    tag = "Account",
    operation_id = "beginTotp",
    request_body = PasswordProof,
    responses(
        (status = 200, description = "The secret of the second factor", body = NewTotp),
        Errors<(Bearer, Limited, RequestBody, SecondFactorError)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn begin_totp(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<PasswordProof>>,
    client: ClientInfo,
) -> Result<Json<NewTotp>, Error> {
    let (proof, _) = proof(&state, &access, body.into_inner(), client)?;
    let new = state.accounts.begin_second_factor(proof).await?;
    Ok(Json(NewTotp { secret: new.secret, uri: new.uri }))
}

/// Turns the second factor on.
#[utoipa::path(
    post,
    path = "/account/totp/confirm",
    tag = "Account",
    operation_id = "confirmTotp",
    request_body = ConfirmTotpRequest,
    responses(
        (status = 200, description = "Recovery codes, which are not returned again", body = RecoveryCodes),
        Errors<(Bearer, Limited, RequestBody, SecondFactorError)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn confirm_totp(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<ConfirmTotpRequest>>,
    client: ClientInfo,
) -> Result<Json<RecoveryCodes>, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let code = required(body.into_inner().code, "Send the field `code`.")?.into();
    let codes = state.accounts.confirm_second_factor(access.user, &code, client).await?;
    let recovery_codes = codes.iter().map(crate::accounts::RecoveryCode::encode).collect();
    Ok(Json(RecoveryCodes { recovery_codes }))
}

/// Removes the second factor.
#[utoipa::path(
    delete,
    path = "/account/totp",
    tag = "Account",
    operation_id = "deleteTotp",
    request_body = PasswordProof,
    responses(
        (status = 204, description = "The second factor is removed"),
        Errors<(Bearer, Limited, RequestBody, SecondFactorError)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn delete_totp(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<PasswordProof>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    let (proof, code) = proof(&state, &access, body.into_inner(), client)?;
    state.accounts.disable_second_factor(proof, code.as_ref()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Counts a request with a password against the limit, and returns its parts.
fn proof(
    state: &State,
    access: &VerifiedToken,
    body: PasswordProof,
    client: ClientInfo,
) -> Result<(Proof, Option<SecretString>), Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let password = required(body.password, "Send the field `password`.")?.into();
    let requester = Requester::from(access);
    Ok((Proof { requester, password, client }, optional(body.code)))
}

fn info(own: OwnAccount) -> AccountInfo {
    let OwnAccount { account, names, recovery_codes_left } = own;
    let names = names.into_iter().map(|name| AccountName {
        verified: name.verified_at.is_some(),
        name: name.name,
        kind: name.kind,
    });
    AccountInfo {
        user_id: account.user.0,
        names: names.collect(),
        display_name: account.display_name,
        created_at: account.created_at.to_date_time(),
        is_admin: account.is_admin,
        has_password: account.password_hash.is_some(),
        second_factor: account.totp_confirmed_at.is_some(),
        recovery_codes_left,
    }
}
