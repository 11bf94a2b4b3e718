//! Redirects. None is followed; the error names the target.

use actix_http::HttpMessage;
use awc::http::header::LOCATION;
use url::Url;

use super::{Response, Target};
use crate::error::Error;
use crate::scrub::scrub;

/// The error of a redirect, stored with its response.
#[derive(Clone)]
struct Redirect(Error);

/// Stores the error of a redirect with the response, because only this caller knows the target
/// of the request.
pub(super) fn note(response: &Response, target: &Target) {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return;
    }
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let requested = Url::parse(&target.uri.to_string()).ok();
    let to = location.and_then(|location| match &requested {
        Some(requested) => requested.join(location).ok(),
        None => Url::parse(location).ok(),
    });
    let Some(mut to) = to else { return };
    let is_same_host = requested.is_some_and(|requested| requested.host_str() == to.host_str());
    if target.tls && location.is_some_and(|location| Url::parse(location).is_err()) {
        // The URL of the request has the scheme `http` even for TLS.
        let _ = to.set_scheme("https");
    }
    // The other parts may be secrets for a browser.
    to.set_query(None);
    to.set_fragment(None);
    let _ = to.set_username("");
    let _ = to.set_password(None);
    let to = scrub(to.as_str(), &[]);
    let error = if target.tls || is_same_host {
        Error::Misconfigured(format!(
            "the server redirects to {to}, which is not followed: correct the server's URL"
        ))
    } else {
        // Without TLS, any device of the network can send a redirect.
        Error::transient(format!(
            "a device redirects to {to}, which is not followed: log in to this network first, or \
             correct the server's URL"
        ))
    };
    response.extensions_mut().insert(Redirect(error));
}

/// Returns the error of a response that is a redirect.
pub(crate) fn redirected(response: &Response) -> Option<Error> {
    response.extensions().get::<Redirect>().map(|redirect| redirect.0.clone())
}
