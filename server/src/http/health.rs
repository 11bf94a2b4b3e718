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
        (status = 200, description = "The server can serve requests", body = Readiness),
        (
            status = 503,
            description = "The server cannot reach its database",
            body = Readiness,
            headers(("Retry-After" = String, description = "When to send the request again, in seconds.")),
        ),
    )
)]
pub(super) async fn ready(
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    state.check_limit(client_ip(&request).map(Limit::Ready))?;
    Ok(readiness(state.issuer.health().await))
}

fn readiness(report: HealthReport) -> HttpResponse {
    let up = |up| if up { Health::Up } else { Health::Down };
    let (status, code) = match (report.can_issue, report.problems.is_empty()) {
        (false, _) => (ServerStatus::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        (true, false) => (ServerStatus::Degraded, StatusCode::OK),
        (true, true) => (ServerStatus::Ready, StatusCode::OK),
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
