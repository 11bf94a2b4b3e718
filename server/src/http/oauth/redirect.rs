//! The response to an authorization request: the way back to the client.

use actix_web::http::StatusCode;
use askama::Template;
use url::form_urlencoded;

use crate::grants::{AuthorizationError, RedirectTarget, RequestParameters, ResponseMode};
use crate::http::pages::Page;

/// The script of the page that submits the response.
const SUBMIT: &str = "document.forms[0].submit()";

/// A page whose form is the response.
#[derive(Template)]
#[template(path = "form_post.html")]
struct FormPost<'a> {
    redirect_uri: &'a str,
    fields: &'a [(&'a str, &'a str)],
    script: &'a str,
}

/// Sends the response of a request to the client: a code, or an error. `issuer` identifies
/// the server for the client (RFC 9207).
pub(in crate::http) fn respond(
    target: &RedirectTarget,
    issuer: &str,
    outcome: Result<&str, AuthorizationError>,
) -> Page {
    let mut fields = match &outcome {
        Ok(code) => vec![("code", *code)],
        Err(error) => {
            vec![("error", error.code), ("error_description", error.description)]
        }
    };
    if let Some(state) = &target.state {
        fields.push(("state", state));
    }
    fields.push(("iss", issuer));
    match target.mode {
        ResponseMode::Query => Page::redirect(&with_query(&target.redirect_uri, &fields)),
        ResponseMode::FormPost => form_post(&target.redirect_uri, &fields),
    }
}

/// Sends the browser to a page of this server, which continues the request of these parameters
/// later. `page` is relative to the path of this request, so that a path before it stays.
pub(in crate::http) fn continue_at(page: &str, parameters: &RequestParameters) -> Page {
    let query = encode(parameters.pairs());
    Page::redirect(&with_query(page, &[("continue", &query)]))
}

/// Encodes parameters as a query.
pub(in crate::http) fn encode<'a>(pairs: impl Iterator<Item = &'a (String, String)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    query.finish()
}

/// Appends parameters to the query of a URI, which has no fragment.
pub(in crate::http) fn with_query(uri: &str, fields: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fields);
    let separator = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{separator}{}", query.finish())
}

fn form_post(redirect_uri: &str, fields: &[(&str, &str)]) -> Page {
    let content = FormPost { redirect_uri, fields, script: SUBMIT };
    Page::new(StatusCode::OK, "Back to the application", &content).with_script(SUBMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_appended_to_the_query_of_the_redirect_uri() {
        let fields = [("code", "c"), ("state", "s"), ("iss", "https://me")];
        let expected = "code=c&state=s&iss=https%3A%2F%2Fme";
        for (uri, separator) in
            [("https://app/cb", '?'), ("https://app/cb?a=b", '&'), ("com.example:/cb", '?')]
        {
            assert_eq!(with_query(uri, &fields), format!("{uri}{separator}{expected}"));
        }
    }

    #[test]
    fn state_cannot_inject_a_header_and_comes_back_byte_for_byte() {
        let state = "a\r\nSet-Cookie: x=1\u{e9} &=+%20#?\"<>";
        let location = with_query("https://app/cb", &[("state", state)]);
        let (_, query) = location.split_once('?').unwrap();
        let found = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "state");
        assert_eq!(found.unwrap().1, state);
        assert!(location.is_ascii() && !location.contains(char::is_control), "{location}");
    }
}
