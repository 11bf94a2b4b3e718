//! For whatever watches over the server.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpRequest, HttpResponse, web};
use matchbook_shared::{Health, Readiness, ServerStatus};

use super::tokens::limit;
use crate::http::error::Error;
use crate::http::state::State;
use crate::limits::Limit;
use crate::store::ClockState;

/// `GET /health/live`: the process answers. Asks nothing of anybody.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "status": "live" }))
}

/// `GET /health/ready`: the server can do its work, or says why it cannot.
/// Without its database it cannot (`503`); without Redis it is slower and correct,
/// and with a key that it cannot open it refuses what other servers sign (`200`).
///
/// # Errors
/// When its address asks too often.
pub(super) async fn ready(
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    limit(&state, &request, Limit::Ready)?;
    Ok(readiness(&state).await)
}

async fn readiness(state: &State) -> HttpResponse {
    let up = |up| if up { Health::Up } else { Health::Down };
    let database = state.store.check_writable().await;
    let redis = state.active.ask_redis().await;
    let mut problems = redis.problems;
    if let Err(error) = &database {
        tracing::warn!(%error, "not ready");
        problems.push("The database takes no writes: nothing can be granted.".to_owned());
    }
    let (clock, problem) = state.store.clock();
    problems.extend(problem.map(|problem| sentence(&problem)));
    if !state.keys.is_whole() {
        problems.push(
            "A signing key in the database was sealed under another secret: what other servers \
             sign with it is refused here."
                .to_owned(),
        );
    }
    let can_sign = state.keys.can_sign();
    if !can_sign {
        problems.push("There is no key to sign with: nothing can be granted.".to_owned());
    }
    let works = database.is_ok() && can_sign && clock != ClockState::Wrong;
    let (status, code) = match (works, problems.is_empty()) {
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
        database: up(database.is_ok()),
        redis: redis.up.map(up),
        problems,
    })
}

/// The same, as the others begin and end.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

/// `GET /metrics`, for Prometheus.
pub(super) async fn metrics(state: web::Data<State>) -> HttpResponse {
    let redis = state.active.redis();
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(state.metrics.text(&state.store, redis.up == Some(true), redis.evicting))
}
