//! Health checks, for a load balancer or an operator.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpRequest, HttpResponse, web};
use matchbook_shared::{Health, Readiness, ServerStatus};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{Error, Errors, Limited};
use super::middleware::request_log::client_ip;
use super::state::State;
use crate::issuer::HealthReport;
use crate::limits::Limit;

/// The response of `GET /health/live`.
#[derive(Serialize, ToSchema)]
pub(super) struct Liveness {
    /// Always `live`.
    status: &'static str,
}

/// Returns whether the process responds.
///
/// Checks nothing else.
#[utoipa::path(
    get,
    path = "/health/live",
    tag = "Health",
    operation_id = "live",
    responses((status = 200, description = "The process responds", body = Liveness))
)]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Liveness { status: "live" })
}

/// Returns the state of the server and its problems.
///
/// Without Redis the server is slower, but correct. With a key that it cannot decrypt, it rejects the
/// tokens of that key.
#[utoipa::path(
    get,
    path = "/health/ready",
    tag = "Health",
    operation_id = "ready",
    responses(
        Errors<(Limited,)>,
        (status = 200, description = "The server can issue tokens", body = Readiness),
        (
            status = 503,
            description = "The server cannot issue tokens, or is about to stop",
            body = Readiness,
            headers(("Retry-After" = String, description = "When to send the request again, in seconds.")),
        ),
    )
)]
pub(super) async fn ready(
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    check_limit(&state, &request)?;
    let report = state.issuer.health().await;
    let passes = report.can_issue;
    Ok(readiness(report, passes, state.draining.has_begun()))
}

/// Returns whether the server can verify access tokens, and the state of its parts.
///
/// In contrast to `/health/ready`, it also succeeds without the database, while Redis has the
/// status of access tokens. For a load balancer: a database that is down does not take all servers
/// out.
#[utoipa::path(
    get,
    path = "/health/serving",
    tag = "Health",
    operation_id = "serving",
    responses(
        Errors<(Limited,)>,
        (status = 200, description = "The server can verify access tokens", body = Readiness),
        (
            status = 503,
            description = "The server cannot verify access tokens, or is about to stop",
            body = Readiness,
            headers(("Retry-After" = String, description = "When to send the request again, in seconds.")),
        ),
    )
)]
pub(super) async fn serving(
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    check_limit(&state, &request)?;
    let report = state.issuer.health().await;
    let passes = report.can_verify;
    Ok(readiness(report, passes, state.draining.has_begun()))
}

/// Counts a health check against the limit of its address. Those of trusted proxies are not
/// limited: a balancer would take `429` for a failure of the server.
fn check_limit(state: &State, request: &HttpRequest) -> Result<(), Error> {
    let ip = client_ip(request).filter(|ip| !state.proxies.contains(*ip));
    state.check_limit(ip.map(Limit::Ready))
}

fn readiness(mut report: HealthReport, passes: bool, is_draining: bool) -> HttpResponse {
    let up = |up| if up { Health::Up } else { Health::Down };
    if is_draining {
        report.problems.push("The server is about to stop: use another one.".to_owned());
    }
    let (status, code) = match (is_draining, passes, report.problems.is_empty()) {
        (true, ..) => (ServerStatus::Draining, StatusCode::SERVICE_UNAVAILABLE),
        (false, false, _) => (ServerStatus::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        (false, true, false) => (ServerStatus::Degraded, StatusCode::OK),
        (false, true, true) => (ServerStatus::Ready, StatusCode::OK),
    };
    let mut response = HttpResponse::build(code);
    if code == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header((RETRY_AFTER, "1"));
    }
    response.json(Readiness {
        status,
        database: up(report.database),
        redis: report.redis.map(up),
        problems: report.problems,
    })
}
