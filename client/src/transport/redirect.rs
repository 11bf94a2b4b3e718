//! Redirects: none is followed, and the error names where they lead.

use actix_http::HttpMessage;
use awc::http::header::LOCATION;
use url::Url;

use super::{Response, Target};
use crate::error::Error;
use crate::scrub::scrub;

/// What a redirect in the response of a server means.
#[derive(Clone)]
struct Redirect(Error);

/// Notes with a response where it redirects to. Only there is it known what was
/// asked.
pub(super) fn note(response: &Response, target: &Target) {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return;
    }
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let asked = Url::parse(&target.uri.to_string()).ok();
    let to = location.and_then(|location| match &asked {
        Some(asked) => asked.join(location).ok(),
        None => Url::parse(location).ok(),
    });
    let Some(mut to) = to else { return };
    let is_same_host = asked.is_some_and(|asked| asked.host_str() == to.host_str());
    if target.tls && location.is_some_and(|location| Url::parse(location).is_err()) {
        // awc knows of no TLS.
        let _ = to.set_scheme("https");
    }
    // What else is in it may be meant for a browser alone.
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
        // Without TLS anybody in between can say this.
        Error::transient(format!(
            "something redirects to {to}, which is not followed: log in to this network first, or \
             correct the server's URL"
        ))
    };
    response.extensions_mut().insert(Redirect(error));
}

/// The error that a redirect is, where a response is none to follow.
pub(crate) fn redirected(response: &Response) -> Option<Error> {
    response.extensions().get::<Redirect>().map(|redirect| redirect.0.clone())
}
