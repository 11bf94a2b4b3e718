//! Metrics, for Prometheus.

use actix_web::{HttpResponse, web};

use super::state::State;

/// `GET /metrics`
pub(super) async fn metrics(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(state.issuer.encode_metrics().await)
}
