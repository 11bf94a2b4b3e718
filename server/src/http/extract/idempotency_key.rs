//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header).

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};

use crate::crypto::IdempotencyKey;
use crate::http::error::Error;

const HEADER: &str = "idempotency-key";

/// The key of a request, if it has one.
pub(in crate::http) struct OptionalKey(pub(in crate::http) Option<IdempotencyKey>);

impl FromRequest for OptionalKey {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(parse(request).map(Self))
    }
}

fn parse(request: &HttpRequest) -> Result<Option<IdempotencyKey>, Error> {
    let mut headers = request.headers().get_all(HEADER);
    let Some(header) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err(Error::InvalidRequest("Send one `Idempotency-Key`."));
    }
    let key = header.to_str().ok().and_then(IdempotencyKey::parse);
    key.map(Some).ok_or(Error::InvalidRequest(
        "`Idempotency-Key` must be 16 to 128 visible ASCII characters, new and random for each \
         refresh token.",
    ))
}
