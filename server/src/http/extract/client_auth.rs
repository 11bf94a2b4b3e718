//! The credentials of an OAuth client (RFC 6749 §2.3).

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use crate::clients::ClientCredentials;

/// The client's part of a form. An empty value counts as omitted.
#[derive(Clone, Copy, Default)]
pub(in crate::http) struct FormCredentials<'a> {
    pub(in crate::http) client_id: Option<&'a str>,
    pub(in crate::http) client_secret: Option<&'a str>,
}

/// Why a request has no credentials that can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum InvalidCredentials {
    /// Neither a form field nor a header names the client (`invalid_client`).
    Missing,
    /// An `Authorization` header other than a valid Basic one (`invalid_client`, `401`).
    Header,
    /// Two methods at once, or a repeated header (`invalid_request`).
    SeveralMethods,
    /// `client_id` is not the client of the header (`invalid_request`).
    OtherClient,
}

/// Returns the credentials of a request with this form.
pub(in crate::http) fn client_credentials(
    request: &HttpRequest,
    form: FormCredentials<'_>,
) -> Result<ClientCredentials, InvalidCredentials> {
    let client_id = form.client_id.filter(|id| !id.is_empty());
    let client_secret = form.client_secret.filter(|secret| !secret.is_empty());
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next();
    if headers.next().is_some() || (header.is_some() && client_secret.is_some()) {
        return Err(InvalidCredentials::SeveralMethods);
    }
    if let Some(header) = header {
        let basic = header.to_str().ok().and_then(parse_basic);
        let (id, secret) = basic.ok_or(InvalidCredentials::Header)?;
        if client_id.is_some_and(|client_id| client_id != id) {
            return Err(InvalidCredentials::OtherClient);
        }
        return Ok(ClientCredentials::Basic { id: id.into(), secret });
    }
    let id = client_id.ok_or(InvalidCredentials::Missing)?.into();
    Ok(match client_secret {
        Some(secret) => ClientCredentials::Post { id, secret: secret.into() },
        None => ClientCredentials::None { id },
    })
}

/// Parses HTTP Basic. Id and secret are form-encoded before they are joined (RFC 6749
/// §2.3.1), so they may contain a colon.
fn parse_basic(header: &str) -> Option<(String, SecretString)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim_matches(' ')).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    let id = form_decode(id)?;
    if id.is_empty() {
        return None;
    }
    Some((id, form_decode(secret)?.into()))
}

/// Decodes `application/x-www-form-urlencoded`. A `%` without two digits stands for itself:
/// some libraries do not encode.
fn form_decode(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use secrecy::ExposeSecret;

    use super::*;

    /// The method, the id and the secret.
    type Parsed = (&'static str, String, String);

    fn parse(headers: &[&str], form: FormCredentials<'_>) -> Result<Parsed, InvalidCredentials> {
        let mut request = TestRequest::default();
        for header in headers {
            request = request.append_header((AUTHORIZATION, *header));
        }
        client_credentials(&request.to_http_request(), form).map(|credentials| match credentials {
            ClientCredentials::None { id } => ("none", id.to_string(), String::new()),
            ClientCredentials::Basic { id, secret } => {
                ("basic", id.to_string(), secret.expose_secret().to_owned())
            }
            ClientCredentials::Post { id, secret } => {
                ("post", id.to_string(), secret.expose_secret().to_owned())
            }
        })
    }

    fn form<'a>(id: &'a str, secret: &'a str) -> FormCredentials<'a> {
        FormCredentials { client_id: Some(id), client_secret: Some(secret) }
    }

    fn basic(credentials: &str) -> String {
        format!("Basic {}", STANDARD.encode(credentials))
    }

    fn parsed(method: &'static str, id: &str, secret: &str) -> Parsed {
        (method, id.to_owned(), secret.to_owned())
    }

    #[test]
    fn form_has_an_id_and_perhaps_a_secret() {
        assert_eq!(parse(&[], form("web", "s")).unwrap(), parsed("post", "web", "s"));
        assert_eq!(parse(&[], form("web", "")).unwrap(), parsed("none", "web", ""));
        let id_only = FormCredentials { client_id: Some("web"), client_secret: None };
        assert_eq!(parse(&[], id_only).unwrap(), parsed("none", "web", ""));
    }

    #[test]
    fn missing_id_is_reported() {
        for form in [FormCredentials::default(), form("", ""), form("", "s")] {
            assert_eq!(parse(&[], form), Err(InvalidCredentials::Missing));
        }
    }

    #[test]
    fn id_and_secret_of_basic_are_form_decoded() {
        let none = FormCredentials::default();
        for (encoded, id, secret) in [
            ("web:secret", "web", "secret"),
            ("web:", "web", ""),
            ("web:a%3Ab%2Bc%25d", "web", "a:b+c%d"),
            ("web:a+b", "web", "a b"),
            ("web:a:b", "web", "a:b"),
            ("a%3Ab%2B:x", "a:b+", "x"),
            ("web:100%", "web", "100%"),
            ("web:%C3%A4", "web", "ä"),
        ] {
            assert_eq!(
                parse(&[&basic(encoded)], none).unwrap(),
                parsed("basic", id, secret),
                "{encoded}"
            );
        }
        let lower = basic("web:s").replace("Basic", "bAsIc");
        assert_eq!(parse(&[&lower], none).unwrap(), parsed("basic", "web", "s"));
    }

    #[test]
    fn other_headers_are_rejected() {
        let unreadable = format!("Basic {}", STANDARD.encode([0xff, b':']));
        let headers = ["Bearer x", "Basic", "Basic !", &basic("web"), &basic(":s"), &unreadable];
        for header in headers {
            let outcome = parse(&[header], FormCredentials::default());
            assert_eq!(outcome, Err(InvalidCredentials::Header), "{header}");
        }
        assert_eq!(
            parse(&[&basic("web:%ff")], FormCredentials::default()),
            Err(InvalidCredentials::Header)
        );
    }

    #[test]
    fn two_methods_at_once_are_rejected() {
        let header = basic("web:s");
        let outcome = parse(&[&header], form("web", "s"));
        assert_eq!(outcome, Err(InvalidCredentials::SeveralMethods));
        let outcome = parse(&[&header, &header], FormCredentials::default());
        assert_eq!(outcome, Err(InvalidCredentials::SeveralMethods));
    }

    #[test]
    fn id_in_the_form_is_that_of_the_header() {
        let header = basic("web:s");
        assert_eq!(parse(&[&header], form("web", "")).unwrap(), parsed("basic", "web", "s"));
        assert_eq!(parse(&[&header], form("app", "")), Err(InvalidCredentials::OtherClient));
    }
}
