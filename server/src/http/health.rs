//! Health checks, for a load balancer or an operator.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpRequest, HttpResponse, web};
use matchbook_shared::{Health, Readiness, ServerStatus};

use super::error::Error;
use super::middleware::request_log::client_ip;
use super::state::State;
use crate::issuer::HealthReport;
use crate::limits::Limit;

/// `GET /health/live`: the process responds. Checks nothing else.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "status": "live" }))
}

/// `GET /health/ready`: the state of the server and its problems. It responds
/// `503` without its database, and `200` without Redis: slower, but correct. It also
/// responds `200` with a key that it cannot decrypt, whose tokens it rejects.
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
