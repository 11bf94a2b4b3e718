//! The page and its files, compiled in.

use std::time::Instant;

use actix_web::http::header::{CONTENT_TYPE, HeaderName, SET_COOKIE};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, guard};

use crate::browser_sessions::{BrowserSessions, Caller};
use crate::csrf;
use crate::error::AppError;

const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const INDEX: &str = include_str!("../page/index.html");

/// Path, content type and content.
const FILES: [(&str, &str, &str); 14] = [
    ("/page.js", JAVASCRIPT, include_str!("../page/page.js")),
    ("/accounts.js", JAVASCRIPT, include_str!("../page/accounts.js")),
    ("/actions.js", JAVASCRIPT, include_str!("../page/actions.js")),
    ("/api.js", JAVASCRIPT, include_str!("../page/api.js")),
    ("/diagram.js", JAVASCRIPT, include_str!("../page/diagram.js")),
    ("/dom.js", JAVASCRIPT, include_str!("../page/dom.js")),
    ("/message.js", JAVASCRIPT, include_str!("../page/message.js")),
    ("/session.js", JAVASCRIPT, include_str!("../page/session.js")),
    ("/session_list.js", JAVASCRIPT, include_str!("../page/session_list.js")),
    ("/style.css", CSS, include_str!("../page/style.css")),
    ("/session.css", CSS, include_str!("../page/session.css")),
    ("/accounts.css", CSS, include_str!("../page/accounts.css")),
    ("/diagram.css", CSS, include_str!("../page/diagram.css")),
    ("/favicon.svg", "image/svg+xml", include_str!("../page/favicon.svg")),
];

/// Makes the browser load the page again, as a same-site request.
const REFRESH: HeaderName = HeaderName::from_static("refresh");
const RELOAD_PAGE: &str = "<!doctype html><html lang=\"en\"><title>Matchbook</title>\
                           <p><a href=\"/\">To the page</a></p></html>";

pub(crate) fn routes(config: &mut ServiceConfig) {
    config.route("/", get_or_head().to(index));
    for (path, content_type, content) in FILES {
        let file = move || async move {
            HttpResponse::Ok().insert_header((CONTENT_TYPE, content_type)).body(content)
        };
        config.route(path, get_or_head().to(file));
    }
}

/// Serves the page at `GET /`. A browser without a known cookie gets one.
async fn index(
    request: HttpRequest,
    sessions: web::Data<BrowserSessions>,
) -> Result<HttpResponse, AppError> {
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, HTML));
    let caller = sessions.caller(request.headers(), Instant::now());
    if let Caller::Known(_) = caller {
        return Ok(response.body(INDEX));
    }
    // The browser may have a cookie that it does not send when it follows a link from
    // another site (`SameSite=Strict`). A new cookie would overwrite it.
    if csrf::is_cross_site(request.headers(), sessions.cookie().secure) {
        return Ok(response.insert_header((REFRESH, "0; url=/")).body(RELOAD_PAGE));
    }
    let (id, _) = sessions.create(Instant::now())?;
    response.insert_header((SET_COOKIE, sessions.cookie().set(&id)));
    Ok(match caller {
        // The page explains why the browser is logged out.
        Caller::UnknownCookie => {
            response.body(INDEX.replacen("<body>", "<body data-unknown-cookie>", 1))
        }
        _ => response.body(INDEX),
    })
}

/// A route for GET and HEAD.
pub(crate) fn get_or_head() -> actix_web::Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}
