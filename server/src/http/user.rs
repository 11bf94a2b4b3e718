//! `GET /user`, the protected resource.

use actix_web::web::Json;
use matchbook_shared::UserInfo;

use super::extract::bearer::Bearer;
use crate::clock;

/// Returns the user of the access token, and when the token expires.
pub(super) async fn user(Bearer(access): Bearer) -> Json<UserInfo> {
    Json(UserInfo {
        user_id: access.user.0,
        now: clock::now().to_date_time(),
        expires_at: access.expires_at.to_date_time(),
    })
}
