//! The cookie of a browser that has logged in before.

use std::convert::Infallible;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::{COOKIE, HeaderName, SET_COOKIE};
use actix_web::{FromRequest, HttpRequest};
use matchbook_shared::DEVICE_COOKIE;

/// A year.
const MAX_AGE: u32 = 365 * 24 * 60 * 60;

/// The value of the cookie, if the request has one. It is not verified.
pub(in crate::http) struct DeviceCookie(pub(in crate::http) Option<String>);

impl FromRequest for DeviceCookie {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let cookies = request.headers().get_all(COOKIE).filter_map(|header| header.to_str().ok());
        let pairs = cookies.flat_map(|header| header.split(';'));
        let mut values =
            pairs.filter_map(|pair| pair.trim().strip_prefix(DEVICE_COOKIE)?.strip_prefix('='));
        ready(Ok(Self(values.next().map(str::to_owned))))
    }
}

/// Returns the header that sets the cookie.
pub(in crate::http) fn set(value: &str) -> (HeaderName, String) {
    let attributes = format!("Max-Age={MAX_AGE}; Path=/; Secure; HttpOnly; SameSite=Lax");
    (SET_COOKIE, format!("{DEVICE_COOKIE}={value}; {attributes}"))
}
