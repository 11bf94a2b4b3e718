//! The account of the user: profile, deletion, second factor.

use actix_web::HttpResponse;
use actix_web::web::{Data, Json};
use matchbook_shared::{
    AccountInfo, AccountName, ChangeAccountRequest, ConfirmTotpRequest, NewTotp, PasswordProof,
    RecoveryCodes,
};
use secrecy::SecretString;

use super::accounts::{optional, required};
use super::error::Error;
use super::extract::bearer::Bearer;
use super::extract::body_timeout::WithTimeout;
use super::state::State;
use crate::accounts::{DisplayName, OwnAccount, Proof};
use crate::limits::Limit;
use crate::sessions::ClientInfo;
use crate::tokens::VerifiedToken;

/// `GET /account`: the account of the access token.
pub(super) async fn read(
    state: Data<State>,
    Bearer(access): Bearer,
) -> Result<Json<AccountInfo>, Error> {
    Ok(Json(info(state.accounts.own_account(access.user).await?)))
}

/// `PATCH /account`: changes the display name.
pub(super) async fn change(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<ChangeAccountRequest>>,
    client: ClientInfo,
) -> Result<Json<AccountInfo>, Error> {
    let ChangeAccountRequest { display_name } = body.into_inner();
    let name = display_name.ok_or(Error::InvalidRequest("Send the field `displayName`."))?;
    let name = name.map(|name| DisplayName::parse(&name)).transpose()?;
    Ok(Json(info(state.accounts.rename(access, name, client).await?)))
}

/// `DELETE /account`: deletes the account and ends its sessions.
pub(super) async fn delete(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<PasswordProof>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    let (proof, code) = proof(&state, access, body.into_inner(), client)?;
    state.accounts.delete(proof, code.as_ref()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /account/totp`: begins to add a second factor.
pub(super) async fn begin_totp(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<PasswordProof>>,
    client: ClientInfo,
) -> Result<Json<NewTotp>, Error> {
    let (proof, _) = proof(&state, access, body.into_inner(), client)?;
    let new = state.accounts.begin_second_factor(proof).await?;
    Ok(Json(NewTotp { secret: new.secret, uri: new.uri }))
}

/// `POST /account/totp/confirm`: turns the second factor on.
pub(super) async fn confirm_totp(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<ConfirmTotpRequest>>,
    client: ClientInfo,
) -> Result<Json<RecoveryCodes>, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let code = required(body.into_inner().code, "Send the field `code`.")?.into();
    let codes = state.accounts.confirm_second_factor(access, &code, client).await?;
    let recovery_codes = codes.iter().map(crate::accounts::RecoveryCode::encode).collect();
    Ok(Json(RecoveryCodes { recovery_codes }))
}

/// `DELETE /account/totp`: removes the second factor.
pub(super) async fn delete_totp(
    state: Data<State>,
    Bearer(access): Bearer,
    WithTimeout(body): WithTimeout<Json<PasswordProof>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    let (proof, code) = proof(&state, access, body.into_inner(), client)?;
    state.accounts.disable_second_factor(proof, code.as_ref()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Counts a request with a password against the limit, and returns its parts.
fn proof(
    state: &State,
    access: VerifiedToken,
    body: PasswordProof,
    client: ClientInfo,
) -> Result<(Proof, Option<SecretString>), Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let password = required(body.password, "Send the field `password`.")?.into();
    Ok((Proof { access, password, client }, optional(body.code)))
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
