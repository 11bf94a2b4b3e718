//! Cross-origin requests (CORS, Fetch §3.2) of public clients in browsers.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderValue, ORIGIN, VARY,
};
use actix_web::middleware::Next;
use actix_web::web::Data;

use crate::http::state::State;

/// The endpoints that apps in browsers call.
const PATHS: [&str; 3] = ["/oauth/token", "/oauth/revoke", "/oauth/userinfo"];

/// Permits the origins of the redirect URIs of public clients to read the responses of the
/// endpoints that apps in browsers call. Requests with cookies are not permitted: these
/// endpoints use none.
pub async fn permit_origin<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    if !PATHS.contains(&request.path()) {
        return next.call(request).await;
    }
    let origin = permitted_origin(request.request()).await;
    let mut response = next.call(request).await?;
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("Retry-After, WWW-Authenticate"),
        );
    }
    Ok(response)
}

async fn permitted_origin(request: &HttpRequest) -> Option<HeaderValue> {
    let origin = request.headers().get(ORIGIN)?;
    let state = request.app_data::<Data<State>>()?;
    let is_permitted = state.clients.permits_origin(origin.to_str().ok()?).await;
    is_permitted.then(|| origin.clone())
}

/// Responds to a preflight request (Fetch §4.8).
pub(in crate::http) async fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"))
        .insert_header((
            ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, idempotency-key",
        ))
        .insert_header((ACCESS_CONTROL_MAX_AGE, "600"))
        .finish()
}
