//! For whatever watches over the server.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpResponse, web};
use matchbook_shared::{Health, Readiness, ServerStatus};

use crate::state::State;

/// `GET /health/live`: the process answers. Asks nothing of anybody.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "status": "live" }))
}

/// `GET /health/ready`: the server can do its work. Without its database it
/// cannot (`503`); without Redis it is slower and correct (`200`).
pub(super) async fn ready(state: web::Data<State>) -> HttpResponse {
    let database = match state.store.ping().await {
        Ok(()) => Health::Up,
        Err(error) => {
            tracing::warn!(%error, "not ready");
            Health::Down
        }
    };
    let redis =
        state.active.ping().await.map(|answers| if answers { Health::Up } else { Health::Down });
    let status = match (database, redis) {
        (Health::Down, _) => ServerStatus::Unavailable,
        (Health::Up, Some(Health::Down)) => ServerStatus::Degraded,
        (Health::Up, Some(Health::Up) | None) => ServerStatus::Ready,
    };
    let mut response = match status {
        ServerStatus::Unavailable => {
            let mut response = HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE);
            response.insert_header((RETRY_AFTER, "1"));
            response
        }
        ServerStatus::Ready | ServerStatus::Degraded => HttpResponse::Ok(),
    };
    response.json(Readiness { status, database, redis })
}
