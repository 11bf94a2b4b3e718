//! `POST /refresh`, the native form of OAuth's refresh token grant (RFC 6749 §6).

use actix_web::web::{Data, Form, Json};
use matchbook_shared::{RefreshRequest, TokenResponse};

use super::error::{Error, Errors, Limited, Parameters, RequestBody, round_up_to_seconds};
use super::extract::body_timeout::WithTimeout;
use super::extract::idempotency_key::OptionalKey;
use super::state::State;
use crate::issuer::{IssuedTokens, RefreshError, UnrecognizedToken};
use crate::limits::Limit;
use crate::sessions::{ClientInfo, PresentedToken};

/// Exchanges a refresh token for its successor.
///
/// A client that repeats a refresh, because its response was lost, sends the same idempotency key.
#[utoipa::path(
    post,
    path = "/refresh",
    tag = "Sessions",
    operation_id = "refresh",
    params((
            "Idempotency-Key" = Option<String>,
            Header,
            description = "Random, and new for each refresh token: 16 to 128 visible ASCII characters.",
        )),
    request_body(content = RefreshRequest, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The next tokens of the session", body = TokenResponse),
        Errors<(Limited, RequestBody, Parameters, RefreshError)>,
    )
)]
pub(super) async fn refresh(
    state: Data<State>,
    WithTimeout(form): WithTimeout<Form<RefreshRequest>>,
    OptionalKey(key): OptionalKey,
    client: ClientInfo,
) -> Result<Json<TokenResponse>, Error> {
    state.check_limit(client.ip.map(Limit::Refresh))?;
    let text = form.into_inner().refresh_token.filter(|token| !token.is_empty());
    let text = text.ok_or(Error::InvalidRequest("Send the form field `refresh_token`."))?;
    let Some(token) = state.issuer.authenticate(&text, None) else {
        // Perhaps a token of the server that was in use before.
        let unrecognized = UnrecognizedToken { text, idempotency_key: key, client };
        let exchanged = state.issuer.exchange(unrecognized).await?;
        return exchanged.map(token_response).ok_or(Error::InvalidGrant(None));
    };
    state.check_limit(Some(Limit::Session(token.session)))?;
    let presented = PresentedToken { token, idempotency_key: key, client };
    Ok(token_response(state.issuer.refresh(presented).await?))
}

pub(super) fn token_response(tokens: IssuedTokens) -> Json<TokenResponse> {
    Json(TokenResponse {
        token: tokens.access_token,
        refresh_token: tokens.refresh_token,
        expires_in: round_up_to_seconds(tokens.expires_in),
    })
}
