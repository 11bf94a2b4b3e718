//! Guests: registration and login.

use actix_web::web::{Data, Json, Query};
use matchbook_shared::{GuestLoginQuery, TokenResponse};
use uuid::Uuid;

use super::error::{Error, Errors, Limited, NewGuest, Parameters};
use super::refresh::token_response;
use super::state::State;
use crate::ids::UserId;
use crate::limits::Limit;
use crate::sessions::{ClientInfo, GuestRejection};

/// Registers a guest.
///
/// The id permits one login.
#[utoipa::path(
    get,
    path = "/register",
    tag = "Guests",
    operation_id = "registerGuest",
    responses(
        (status = 200, description = "The id of the guest", body = Uuid, content_type = "application/json"),
        Errors<(Limited, NewGuest)>,
    )
)]
pub(super) async fn register(
    state: Data<State>,
    client: ClientInfo,
) -> Result<Json<UserId>, Error> {
    if !state.accounts.permits_guests() {
        return Err(Error::NoGuests);
    }
    state.check_limit(client.ip.map(Limit::Register))?;
    state.check_limit(Some(Limit::RegisterTotal))?;
    Ok(Json(state.issuer.register_guest().await?))
}

/// Opens the one session of a guest.
#[utoipa::path(
    get,
    path = "/token",
    tag = "Guests",
    operation_id = "logInGuest",
    params(GuestLoginQuery),
    responses(
        (status = 200, description = "The tokens of the session", body = TokenResponse),
        Errors<(Limited, Parameters, GuestRejection)>,
    )
)]
pub(super) async fn token(
    state: Data<State>,
    query: Query<GuestLoginQuery>,
    client: ClientInfo,
) -> Result<Json<TokenResponse>, Error> {
    state.check_limit(client.ip.map(Limit::Token))?;
    let id = query.into_inner().user_id.filter(|id| !id.is_empty());
    let id = id.ok_or(Error::InvalidRequest("Send the id from /register: `?userId=…`."))?;
    let user = Uuid::try_parse(&id).map(UserId).map_err(|_| {
        Error::InvalidRequest("`userId` is not an id: send the one from /register.")
    })?;
    Ok(token_response(state.issuer.log_in_guest(user, client).await??))
}
