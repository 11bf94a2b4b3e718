//! `GET /user`, the protected resource.

use actix_web::web::{Data, Json};
use matchbook_shared::UserInfo;

use super::extract::bearer::Bearer;
use super::state::State;
use crate::clock;

/// Returns the user of the access token, the name of an account, and when the token
/// expires.
pub(super) async fn user(state: Data<State>, Bearer(access): Bearer) -> Json<UserInfo> {
    let profile = state.accounts.profile(access.user).await;
    let email_verified = profile.as_ref().map(|profile| profile.email_verified);
    Json(UserInfo {
        user_id: access.user.0,
        now: clock::now().to_date_time(),
        expires_at: access.expires_at.to_date_time(),
        name: profile.map(|profile| profile.name),
        email_verified,
    })
}
