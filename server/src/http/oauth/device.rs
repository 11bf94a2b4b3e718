//! `POST /oauth/device`: the device authorization endpoint (RFC 8628 §3.1).

use actix_web::HttpRequest;
use actix_web::web::{Data, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::documented::{DeviceEndpoint, DeviceForm, OAuthErrors};
use super::form::OAuthForm;
use super::{OAuthError, admit, credentials};
use crate::grants::{DeviceAuthorization, DeviceRequest};
use crate::http::state::State;
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// The response to a device (RFC 8628 §3.2).
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct DeviceCodes {
    /// What the device presents at the token endpoint.
    device_code: String,
    /// What the user types at the page.
    #[schema(example = "WDJB-MJHT")]
    user_code: String,
    /// The page.
    verification_uri: String,
    /// The page with the code, for a QR code.
    verification_uri_complete: String,
    /// Seconds.
    expires_in: u64,
    /// Seconds between two polls of the token endpoint.
    interval: u64,
}

/// Begins a login on a device without a browser (RFC 8628).
///
/// The user opens the page in another browser, and approves the request there. Meanwhile the device
/// polls the token endpoint.
#[utoipa::path(
    post,
    path = "/oauth/device",
    tag = "OAuth",
    operation_id = "authorizeDevice",
    request_body(content = DeviceForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The codes", body = DeviceCodes),
        OAuthErrors<DeviceEndpoint>,
    ),
    security((), ("client" = []))
)]
pub(in crate::http) async fn authorize_device(
    state: Data<State>,
    request: HttpRequest,
    form: Result<OAuthForm, OAuthError>,
    from: ClientInfo,
) -> Result<Json<DeviceCodes>, OAuthError> {
    let OAuthForm(parameters) = form?;
    let credentials = credentials(&request, &parameters)?;
    let client = admit(&state, &credentials, false, from.ip.map(Limit::Login)).await?;
    let request = DeviceRequest { client, parameters };
    let DeviceAuthorization { device_code, user_code, expires_in, interval } =
        state.grants.authorize_device(request).await?;
    let page = format!("{}/device", state.public_url.trim_end_matches('/'));
    Ok(Json(DeviceCodes {
        device_code,
        verification_uri_complete: format!("{page}?user_code={user_code}"),
        verification_uri: page,
        user_code: user_code.to_string(),
        expires_in: expires_in.as_secs(),
        interval: interval.as_secs(),
    }))
}
