//! Sessions that a backend opens for its users.

use actix_web::web::{Data, Json};
use matchbook_shared::{OpenSessionRequest, TokenResponse};

use super::error::{Error, Errors, RequestBody};
use super::extract::basic::BasicCredentials;
use super::extract::body_timeout::WithTimeout;
use super::refresh::token_response;
use super::state::State;
use crate::accounts::{OpenSession, OpenSessionError};
use crate::sessions::ClientInfo;
use crate::tokens::{ExtraClaims, InvalidClaims};

/// Opens a session for a user of a backend.
///
/// Each session of the same subject belongs to the same user.
#[utoipa::path(
    post,
    path = "/sessions",
    tag = "Backends",
    operation_id = "openSession",
    request_body = OpenSessionRequest,
    responses(
        (status = 200, description = "The tokens of the session", body = TokenResponse),
        Errors<(BasicCredentials, RequestBody, OpenSessionError)>,
    ),
    security(("backend" = []))
)]
pub(super) async fn open_session(
    state: Data<State>,
    credentials: BasicCredentials,
    WithTimeout(body): WithTimeout<Json<OpenSessionRequest>>,
    client: ClientInfo,
) -> Result<Json<TokenResponse>, Error> {
    let OpenSessionRequest { subject, claims } = body.into_inner();
    let subject = subject.ok_or(Error::InvalidRequest("Send the field `subject`."))?;
    let claims = ExtraClaims::new(&claims.unwrap_or_default())?;
    let BasicCredentials { id: backend, secret } = credentials;
    let request = OpenSession { backend, secret, subject, claims, client };
    Ok(token_response(state.accounts.open_backend_session(request).await?))
}

impl From<InvalidClaims> for Error {
    fn from(error: InvalidClaims) -> Self {
        match error {
            InvalidClaims::TooLong => Self::InvalidRequest("`claims` has more than 2048 bytes."),
            InvalidClaims::Reserved(_) => Self::InvalidRequest(
                "`claims` has a name that access tokens use themselves: see docs/api.md.",
            ),
        }
    }
}
