//! What is written down of each request: a line, a measure, and an id that its
//! answer carries too.

use std::net::IpAddr;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
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

/// Names a request in logs and in its answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over from a proxy, in characters.
const LONGEST_ID: usize = 64;
/// Where a proxy says whom it was asked by.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of the client, as far as trusted proxies vouch for it.
#[derive(Clone, Copy)]
struct Client(IpAddr);

/// Logs and measures method, path, status and time. The path is the route's:
/// what a client wrote instead may hold a guest id, which is a ticket.
///
/// # Errors
/// Those of the request.
pub async fn request_log(
    state: Data<State>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let start = Instant::now();
    if let Some(connection) = request.request().conn_data::<Connection>() {
        connection.has_request();
    }
    let (method, route) = (known(request.method()), request.match_pattern().unwrap_or_default());
    let peer = request.peer_addr().map(|peer| peer.ip());
    if let Some(peer) = peer {
        let lines = request.headers().get_all(FORWARDED_FOR);
        // What is not even text stops the walk along the proxies.
        let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap_or("?")).collect();
        let client = state.proxies.client(peer, lines.into_iter());
        request.extensions_mut().insert(Client(client));
    }
    let from_proxy = peer.is_some_and(|peer| state.proxies.include(peer.to_canonical()));
    let id = from_proxy.then(|| given_id(&request)).flatten();
    let id = id.unwrap_or_else(|| Uuid::new_v4().to_string());

    // Whatever is logged on the way says what it was for.
    let span = tracing::info_span!("request", id, method, path = route);
    let answered = async {
        let response = next.call(request).await?;
        let (status, took) = (response.status().as_u16(), start.elapsed());
        tracing::debug!(status, micros = took.as_micros(), "answered");
        state.metrics.answered(&Request { method: Label(method), route, status }, took);
        Ok::<_, Error>(response)
    };
    let mut response = answered.instrument(span).await?;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

/// The address of the client of a request that is observed.
pub(in crate::http) fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    request.extensions().get::<Client>().map(|Client(address)| *address)
}

/// The name of a method that some route has: whatever else a client makes up
/// must not become a label.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The id that a proxy has given the request, if it is fit for a log.
fn given_id(request: &ServiceRequest) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let good = !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(fit);
    good.then(|| id.to_owned())
}
