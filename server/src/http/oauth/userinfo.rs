//! `GET` and `POST /oauth/userinfo` (`OpenID` Connect Core §5.3).

use actix_web::http::header::AUTHORIZATION;
use actix_web::web::{Data, Json};
use actix_web::{HttpMessage, HttpRequest};
use serde::Serialize;
use utoipa::ToSchema;

use super::OAuthError;
use super::form::OAuthForm;
use crate::http::error::{Error, Errors, RequestBody};
use crate::http::extract::bearer::{UserBearer, verify_form_token};
use crate::http::state::State;
use crate::ids::UserId;
use crate::tokens::{StandardScopes, TokenHolder, UserClaims, VerifiedToken};

/// The claims about the user. A claim that has no value is absent.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct UserInfoClaims {
    /// The user, as in ID tokens.
    #[schema(value_type = uuid::Uuid)]
    sub: UserId,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    claims: UserClaims,
}

/// The form of `POST /oauth/userinfo`, unless the token is in the header.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the form is only described: its fields are read by name")]
pub(in crate::http) struct UserInfoForm {
    #[schema(value_type = String, required = false)]
    access_token: Option<String>,
}

/// Returns the claims about the user of the access token that its scopes permit.
#[utoipa::path(
    get,
    path = "/oauth/userinfo",
    tag = "OAuth",
    operation_id = "getUserinfo",
    responses(
        (status = 200, description = "The claims", body = UserInfoClaims),
        Errors<(UserBearer,)>,
    ),
    security(("bearer" = []))
)]
pub(in crate::http) async fn userinfo(
    state: Data<State>,
    UserBearer(access): UserBearer,
) -> Result<Json<UserInfoClaims>, Error> {
    claims(&state, access).await
}

/// Returns the claims about the user of an access token.
///
/// The token is in the header or in the form (RFC 6750 §2.2).
#[utoipa::path(
    post,
    path = "/oauth/userinfo",
    tag = "OAuth",
    operation_id = "getUserinfoByForm",
    request_body(content = UserInfoForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The claims", body = UserInfoClaims),
        Errors<(UserBearer, RequestBody)>,
    ),
    security((), ("bearer" = []))
)]
pub(in crate::http) async fn userinfo_by_post(
    state: Data<State>,
    request: HttpRequest,
    bearer: Result<UserBearer, Error>,
    form: Result<OAuthForm, OAuthError>,
) -> Result<Json<UserInfoClaims>, Error> {
    let has_header = request.headers().contains_key(AUTHORIZATION);
    let is_form = request.content_type().eq_ignore_ascii_case("application/x-www-form-urlencoded");
    let token = match form {
        Ok(OAuthForm(form)) => form.get("access_token").map(str::to_owned),
        Err(OAuthError::Form(error)) if is_form && !has_header => return Err(error),
        Err(OAuthError::InvalidRequest(message)) if is_form && !has_header => {
            return Err(Error::InvalidRequest(message));
        }
        // A request with the header may have any body, and one without a form has no token.
        Err(_) => None,
    };
    let access = match token {
        None => bearer?.0,
        Some(_) if has_header => return Err(Error::InvalidBearer("Send the access token once.")),
        Some(token) => verify_form_token(&state, &request, &token).await?,
    };
    claims(&state, access).await
}

async fn claims(state: &State, access: VerifiedToken) -> Result<Json<UserInfoClaims>, Error> {
    let TokenHolder::Client(scopes) = access.holder else { return Err(Error::InsufficientScope) };
    if !scopes.contains(StandardScopes::OPENID) {
        return Err(Error::InsufficientScope);
    }
    let claims = state.issuer.user_claims(access.user, scopes).await?;
    Ok(Json(UserInfoClaims { sub: access.user, claims }))
}
