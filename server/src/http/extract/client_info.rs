//! The address and the `User-Agent` of a client.

use std::convert::Infallible;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::USER_AGENT;
use actix_web::{FromRequest, HttpRequest};

use crate::http::middleware::request_log::client_ip;
use crate::sessions::ClientInfo;

/// The maximum length of a stored `User-Agent`, in bytes. The rest is cut off.
const MAX_USER_AGENT_LEN: usize = 256;

impl FromRequest for ClientInfo {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let user_agent = request.headers().get(USER_AGENT).map(|header| {
            let mut text = String::from_utf8_lossy(header.as_bytes()).into_owned();
            let mut end = text.len().min(MAX_USER_AGENT_LEN);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text
        });
        ready(Ok(Self { user_agent, ip: client_ip(request) }))
    }
}
