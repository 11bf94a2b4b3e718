//! `GET /user`, the protected resource.

use actix_web::web::{Data, Json};
use matchbook_shared::UserInfo;

use super::error::Errors;
use super::extract::bearer::UserBearer;
use super::state::State;
use crate::clock;
use crate::tokens::{StandardScopes, TokenHolder};

/// Returns the user of the access token.
///
/// With the name of an account. An OAuth client gets the name with the scope `profile`, and the
/// state of the email address with the scope `email`.
#[utoipa::path(
    get,
    path = "/user",
    tag = "Sessions",
    operation_id = "getUser",
    responses(
        (status = 200, description = "The token is valid", body = UserInfo),
        Errors<(UserBearer,)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn user(state: Data<State>, UserBearer(access): UserBearer) -> Json<UserInfo> {
    let permits = |scope| match access.holder {
        TokenHolder::Native => true,
        TokenHolder::Client(scopes) => scopes.contains(scope),
        TokenHolder::Machine => false,
    };
    let profile = state.accounts.profile(access.user).await;
    let email_verified = profile.as_ref().map(|profile| profile.email_verified);
    let name = profile.map(|profile| profile.name);
    Json(UserInfo {
        user_id: access.user.0,
        now: clock::now().to_date_time(),
        expires_at: access.expires_at.to_date_time(),
        name: name.filter(|_| permits(StandardScopes::PROFILE)),
        email_verified: email_verified.filter(|_| permits(StandardScopes::EMAIL)),
    })
}
