//! The protected resource.

use actix_web::web::Json;
use matchbook_shared::UserInfo;

use super::bearer::Bearer;
use crate::clock::{self, Timestamp};

/// `GET /user`: whose access token this is, and until when.
pub(super) async fn user(Bearer(claims): Bearer) -> Json<UserInfo> {
    Json(UserInfo {
        user_id: claims.sub.0,
        now: clock::now().to_date_time(),
        expires_at: Timestamp::from_secs(claims.exp).to_date_time(),
    })
}
