//! The page and what belongs to it, compiled in.

use std::time::Instant;

use actix_web::http::header::{CONTENT_TYPE, HeaderName, SET_COOKIE};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, guard};

use crate::browser_sessions::{Caller, Identities};
use crate::csrf;
use crate::error::Failure;

const HTML: &str = "text/html; charset=utf-8";
const INDEX: &str = include_str!("../page/index.html");

/// Path, type and text.
const PARTS: [(&str, &str, &str); 3] = [
    ("/page.js", "text/javascript; charset=utf-8", include_str!("../page/page.js")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("/favicon.svg", "image/svg+xml", include_str!("../page/favicon.svg")),
];

/// Has a browser load another page, which then counts as asked for by this site.
const REFRESH: HeaderName = HeaderName::from_static("refresh");
const AGAIN: &str = "<!doctype html><html lang=\"en\"><title>Matchbook</title>\
                     <p><a href=\"/\">To the page</a></p></html>";

pub(crate) fn routes(config: &mut ServiceConfig) {
    config.route("/", get_or_head().to(index));
    for (path, kind, text) in PARTS {
        let part = move || async move {
            HttpResponse::Ok().insert_header((CONTENT_TYPE, kind)).body(text)
        };
        config.route(path, get_or_head().to(part));
    }
}

/// `GET /`: the page. A browser without a cookie of this app's gets one.
async fn index(
    request: HttpRequest,
    identities: web::Data<Identities>,
) -> Result<HttpResponse, Failure> {
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CONTENT_TYPE, HTML));
    let caller = identities.caller(request.headers(), Instant::now());
    if let Caller::Known(_) = caller {
        return Ok(answer.body(INDEX));
    }
    // Who follows a link from another site may well have a cookie that is not
    // sent then (`SameSite=Strict`). It must not be overwritten.
    if csrf::is_of_another_site(request.headers()) {
        return Ok(answer.insert_header((REFRESH, "0; url=/")).body(AGAIN));
    }
    let (id, _) = identities.create(Instant::now())?;
    answer.insert_header((SET_COOKIE, identities.cookie().set(&id)));
    Ok(match caller {
        // The page says why nobody is logged in.
        Caller::Stranger => answer.body(INDEX.replacen("<body>", "<body data-forgotten>", 1)),
        _ => answer.body(INDEX),
    })
}

/// A route for GET and HEAD.
pub(crate) fn get_or_head() -> actix_web::Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}
