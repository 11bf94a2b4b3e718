//! The cookies of a request.

use actix_web::HttpRequest;
use actix_web::http::header::{COOKIE, HeaderName, SET_COOKIE};

/// Returns the value of the first cookie of a name. It is not verified.
pub(in crate::http) fn value<'a>(request: &'a HttpRequest, name: &'a str) -> Option<&'a str> {
    values(request, name).next()
}

/// Returns the values of all cookies of a name. A browser has several if they were set for other
/// domains or paths, and sends an older one first.
pub(in crate::http) fn values<'a>(
    request: &'a HttpRequest,
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    let cookies = request.headers().get_all(COOKIE).filter_map(|header| header.to_str().ok());
    let pairs = cookies.flat_map(|header| header.split(';'));
    pairs.filter_map(move |pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// Returns the header that sets a cookie for `max_age` seconds, or deletes it if that is 0.
/// Scripts cannot read it, and other sites cannot send it with a form.
pub(in crate::http) fn set(name: &str, value: &str, max_age: u64) -> (HeaderName, String) {
    let attributes = format!("Max-Age={max_age}; Path=/; Secure; HttpOnly; SameSite=Lax");
    (SET_COOKIE, format!("{name}={value}; {attributes}"))
}
