//! One line for each request.

use std::time::Instant;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use tracing::Instrument;

/// Logs method, path, status and time. The path is the route's: what a client
/// wrote instead may hold a guest id, which is a ticket.
///
/// # Errors
/// Those of the request.
pub async fn log_request(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.match_pattern());
    // Whatever is logged on the way says what it was for.
    let span = tracing::info_span!("request", %method, path);
    let response = next.call(request).instrument(span.clone()).await?;
    let status = response.status().as_u16();
    tracing::debug!(parent: &span, status, micros = start.elapsed().as_micros(), "answered");
    Ok(response)
}
