//! The cookie of a browser that has logged in before.

use std::convert::Infallible;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::HeaderName;
use actix_web::{FromRequest, HttpRequest};
use matchbook_shared::DEVICE_COOKIE;

use super::cookies;

/// A year.
const MAX_AGE: u64 = 365 * 24 * 60 * 60;

/// The value of the cookie, if the request has one. It is not verified.
pub(in crate::http) struct DeviceCookie(pub(in crate::http) Option<String>);

impl FromRequest for DeviceCookie {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(cookies::value(request, DEVICE_COOKIE).map(str::to_owned))))
    }
}

/// Returns the header that sets the cookie.
pub(in crate::http) fn set(value: &str) -> (HeaderName, String) {
    cookies::set(DEVICE_COOKIE, value, MAX_AGE)
}
