//! Guests: registration and login.

use actix_web::web::{Data, Json, Query};
use matchbook_shared::{GuestLoginQuery, TokenResponse};
use uuid::Uuid;

use super::error::Error;
use super::refresh::token_response;
use super::state::State;
use crate::ids::UserId;
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// `GET /register`: registers a guest.
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

/// `GET /token?userId=`: opens the one session of a guest.
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
