//! Corrects the head of a response for awc.
//!
//! awc 3.11 misreads some heads that RFC 9112 §6.3 allows. It treats a body that ends
//! with the connection as empty, and waits for the body of a `304`. After an empty
//! HTTP/1.0 response it waits for the end of the connection. It keeps a connection that
//! an HTTP/1.0 server closes.

/// How the body of a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By its length or its last chunk. An earlier end of the connection truncates it.
    Framed,
    /// By the end of the connection.
    Close,
}

/// The headers about the body and the connection.
#[derive(Default)]
struct Facts<'a> {
    /// `Content-Length`.
    length: Option<&'a [u8]>,
    has_coding: bool,
    closes: bool,
    keeps: bool,
}

/// Returns the head that awc must read, if it differs, and how the body ends. awc itself
/// reports a malformed head.
pub(super) fn prepare(head: &[u8], is_head: bool) -> (Option<Vec<u8>>, End) {
    const VERSION: usize = "HTTP/1.".len();
    let Some(status) = head.get(9..12) else { return (None, End::Framed) };
    if status == b"101" {
        return (None, End::Close);
    }
    let has_no_body = matches!(status, b"204" | b"304");
    let is_old = head[VERSION] == b'0';
    let facts = read(head);
    let is_framed = facts.length.is_some() || facts.has_coding && !is_old;
    let is_empty = facts.length.is_some_and(|length| length.iter().all(|byte| *byte == b'0'));
    let end = if is_head || has_no_body || is_framed { End::Framed } else { End::Close };
    let version = match end {
        End::Close => b'0',
        End::Framed if is_head || has_no_body || is_empty => b'1',
        End::Framed => head[VERSION],
    };
    let is_to_close = end == End::Close || is_old && !facts.keeps;
    let adds_close = is_to_close && !facts.closes;
    if version == head[VERSION] && !adds_close && !has_no_body {
        return (None, end);
    }
    let mut prepared = Vec::with_capacity(head.len() + 32);
    for (number, line) in head.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let is_framing = matches!(field(line), Some((name, _)) if is_one_of(
            name, &["content-length", "transfer-encoding"],
        ));
        if number == 0 {
            prepared.extend_from_slice(line);
            prepared[VERSION] = version;
            if adds_close {
                prepared.extend_from_slice(b"connection: close\r\n");
            }
        } else if !(has_no_body && is_framing) {
            prepared.extend_from_slice(line);
        }
    }
    (Some(prepared), end)
}

fn read(head: &[u8]) -> Facts<'_> {
    let mut facts = Facts::default();
    for (name, value) in head.split(|byte| *byte == b'\n').skip(1).filter_map(field) {
        if is_one_of(name, &["content-length"]) {
            facts.length = Some(value);
        } else if is_one_of(name, &["transfer-encoding"]) {
            facts.has_coding = true;
        } else if is_one_of(name, &["connection"]) {
            for option in value.split(|byte| *byte == b',') {
                facts.closes |= is_one_of(option.trim_ascii(), &["close"]);
                facts.keeps |= is_one_of(option.trim_ascii(), &["keep-alive"]);
            }
        }
    }
    facts.keeps &= !facts.closes;
    facts
}

/// Returns the name and the value of a header line.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii()))
}

fn is_one_of(text: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| text.eq_ignore_ascii_case(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines of the head that awc reads, and how the body ends.
    fn prepared(lines: &str, is_head: bool) -> (String, End) {
        let head = format!("{}\r\n\r\n", lines.replace('|', "\r\n"));
        let (changed, end) = prepare(head.as_bytes(), is_head);
        let seen = changed.map_or(head, |changed| String::from_utf8(changed).unwrap());
        (seen.trim_end().replace("\r\n", "|"), end)
    }

    #[test]
    fn a_head_is_changed_only_if_awc_would_misread_it() {
        for (head, seen, end) in [
            ("HTTP/1.1 200 OK|content-length: 4", None, End::Framed),
            ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", None, End::Framed),
            ("HTTP/1.1 101 -|upgrade: h2c", None, End::Close),
            ("HTTP/1.0 200 OK|content-length: 4|connection: Keep-Alive", None, End::Framed),
            (
                "HTTP/1.1 200 OK|server: x",
                Some("HTTP/1.0 200 OK|connection: close|server: x"),
                End::Close,
            ),
            (
                "HTTP/1.1 200 OK|Connection: x, Close",
                Some("HTTP/1.0 200 OK|Connection: x, Close"),
                End::Close,
            ),
            (
                "HTTP/1.0 200 OK|content-length: 4",
                Some("HTTP/1.0 200 OK|connection: close|content-length: 4"),
                End::Framed,
            ),
            (
                "HTTP/1.0 401 -|content-length: 0|connection: keep-alive",
                Some("HTTP/1.1 401 -|content-length: 0|connection: keep-alive"),
                End::Framed,
            ),
            (
                "HTTP/1.1 304 -|Content-Length: 4|etag: a",
                Some("HTTP/1.1 304 -|etag: a"),
                End::Framed,
            ),
            ("HTTP/1.0 204 -", Some("HTTP/1.1 204 -|connection: close"), End::Framed),
            (
                "HTTP/1.0 200 OK|transfer-encoding: chunked",
                Some("HTTP/1.0 200 OK|connection: close|transfer-encoding: chunked"),
                End::Close,
            ),
        ] {
            assert_eq!(prepared(head, false), (seen.unwrap_or(head).to_owned(), end), "{head}");
        }
        let head = "HTTP/1.1 200 OK|content-length: 4";
        assert_eq!(prepared(head, true), (head.to_owned(), End::Framed));
        assert_eq!(prepared("HTTP/1.1 200 OK", true).1, End::Framed);
    }
}
