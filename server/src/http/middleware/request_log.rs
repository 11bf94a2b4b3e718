//! The log line, the duration metric and the id of each request.

use std::net::IpAddr;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};
use tracing::Instrument;
use uuid::Uuid;

use crate::connections::Connection;
use crate::http::state::State;
use crate::metrics::{Label, Request};

/// The header that names a request, in the response and from a trusted proxy.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The maximum length of a request id from a proxy, in characters.
const MAX_REQUEST_ID_LEN: usize = 64;
/// The header in which proxies name the addresses before them.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of the client: the first one that no trusted proxy has.
#[derive(Clone, Copy)]
struct ClientIp(IpAddr);

/// Logs and measures method, path, status and duration. The path is the route's
/// pattern: the path of the request may hold a guest id, which permits a login.
pub async fn request_log(
    state: Data<State>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let start = Instant::now();
    if let Some(connection) = request.request().conn_data::<Connection>() {
        connection.has_request();
    }
    let method = method_label(request.method());
    let route = request.match_pattern().unwrap_or_default();
    let peer = request.peer_addr().map(|peer| peer.ip());
    if let Some(peer) = peer {
        let lines = request.headers().get_all(FORWARDED_FOR);
        // A value that is not text ends the walk along the proxies.
        let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap_or("?")).collect();
        let client = state.proxies.client_ip(peer, lines.into_iter());
        request.extensions_mut().insert(ClientIp(client));
    }
    let from_proxy = peer.is_some_and(|peer| state.proxies.contains(peer.to_canonical()));
    let id = from_proxy.then(|| forwarded_request_id(&request)).flatten();
    let id = id.unwrap_or_else(|| Uuid::new_v4().to_string());

    let span = tracing::info_span!("request", id, method, path = route);
    let respond = async {
        let response = next.call(request).await?;
        let status = response.status().as_u16();
        let duration = start.elapsed();
        tracing::debug!(status, micros = duration.as_micros(), "response sent");
        state.metrics.record_request(&Request { method: Label(method), route, status }, duration);
        Ok::<_, Error>(response)
    };
    let mut response = respond.instrument(span).await?;
    if state.draining.has_begun() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

/// Returns the client's address of a request that passed [`request_log`].
pub(in crate::http) fn client_ip(request: &HttpRequest) -> Option<IpAddr> {
    request.extensions().get::<ClientIp>().map(|ClientIp(address)| *address)
}

/// Returns the name of a method that a route has, or `other`: a client must not be
/// able to create labels.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Returns the request id from a proxy, if it is fit for a log.
fn forwarded_request_id(request: &ServiceRequest) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let is_fit = !id.is_empty() && id.len() <= MAX_REQUEST_ID_LEN && id.bytes().all(is_allowed);
    is_fit.then(|| id.to_owned())
}
