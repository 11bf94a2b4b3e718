//! The credentials of a backend (HTTP Basic, RFC 7617).

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use crate::http::error::Error;

/// The id and the secret of a request.
pub(in crate::http) struct BasicCredentials {
    pub(in crate::http) id: String,
    pub(in crate::http) secret: SecretString,
}

impl FromRequest for BasicCredentials {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(parse(request).ok_or(Error::InvalidClient))
    }
}

fn parse(request: &HttpRequest) -> Option<BasicCredentials> {
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next()?.to_str().ok()?;
    let (scheme, encoded) = header.split_once(' ')?;
    if headers.next().is_some() || !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim_matches(' ')).ok()?).ok()?;
    // RFC 7617 §2 forbids control characters, and PostgreSQL cannot look for some of them.
    if decoded.contains(char::is_control) {
        return None;
    }
    let (id, secret) = decoded.split_once(':')?;
    Some(BasicCredentials { id: id.to_owned(), secret: secret.to_owned().into() })
}
