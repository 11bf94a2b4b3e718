//! A minimal HTTP/1.1 client: keep-alive, one request at a time, reused buffers. It loads a
//! server with little processor time of its own.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use openssl::ssl::{SslConnector, SslMethod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// The address of a server and its TLS configuration.
pub struct ServerAddress {
    host: String,
    port: u16,
    tls: Option<SslConnector>,
}

impl ServerAddress {
    /// Parses a URL like `http://127.0.0.1:5001`. With `https` trusts the CA in the file
    /// `ca`, or the CAs of the system.
    ///
    /// # Panics
    /// When the URL is invalid or the CA cannot be read.
    pub fn new(url: &str, ca: Option<&Path>) -> Self {
        let (scheme, rest) = url.split_once("://").expect("a URL with a scheme");
        let authority = rest.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').expect("a URL with a port");
        let tls = (scheme == "https").then(|| {
            let mut tls = SslConnector::builder(SslMethod::tls_client()).unwrap();
            if let Some(ca) = ca {
                tls.set_ca_file(ca).unwrap();
            }
            tls.build()
        });
        Self { host: host.to_owned(), port: port.parse().expect("a port"), tls }
    }

    /// Returns the value of the `Host` header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Stream {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => stream.write_all(bytes).await,
        }
    }

    async fn read(&mut self, into: &mut Vec<u8>) -> Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(into).await,
            Self::Tls(stream) => stream.read_buf(into).await,
        }
    }
}

/// A connection to a server.
pub struct LoadConnection {
    stream: Stream,
    /// The received response.
    received: Vec<u8>,
    /// The body of a chunked response.
    joined: Vec<u8>,
}

/// A response, valid until the next request.
#[derive(Clone, Copy)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// The status line and the headers.
    head: &'a [u8],
    /// The complete body.
    pub body: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let head = std::str::from_utf8(self.head).ok()?;
        let mut headers = head.split("\r\n").filter_map(|line| line.split_once(':'));
        let (_, value) = headers.find(|(own, _)| own.eq_ignore_ascii_case(name))?;
        Some(value.trim())
    }
}

/// Larger than any response in the benchmark.
const CAPACITY: usize = 16 * 1024;

impl LoadConnection {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached or is not trusted.
    pub async fn open(target: &ServerAddress) -> Result<Self> {
        let plain = TcpStream::connect((target.host.as_str(), target.port)).await?;
        plain.set_nodelay(true)?;
        let stream = match &target.tls {
            None => Stream::Plain(plain),
            Some(tls) => {
                let ssl = tls.configure()?.into_ssl(&target.host)?;
                let mut stream = Box::new(SslStream::new(ssl, plain)?);
                std::pin::Pin::new(&mut *stream).connect().await.map_err(Error::other)?;
                Stream::Tls(stream)
            }
        };
        Ok(Self { stream, received: Vec::with_capacity(CAPACITY), joined: Vec::new() })
    }

    /// Sends a request, head and body, and reads the complete response.
    ///
    /// # Errors
    /// When the connection breaks or the response is not HTTP.
    pub async fn send(&mut self, request: &[u8]) -> Result<Reply<'_>> {
        self.stream.write(request).await?;
        self.received.clear();
        let (head, end) = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break (Head::parse(&self.received[..end])?, end + 4);
            }
            self.more().await?;
        };
        let Some(length) = head.length else { return self.chunks(head.status, end).await };
        while self.received.len() < end + length {
            self.more().await?;
        }
        Ok(Reply {
            status: head.status,
            head: &self.received[..end],
            body: &self.received[end..end + length],
        })
    }

    async fn more(&mut self) -> Result<()> {
        if self.stream.read(&mut self.received).await? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        Ok(())
    }

    /// Reads a chunked body (RFC 9112 §7.1) from `at`.
    async fn chunks(&mut self, status: u16, mut at: usize) -> Result<Reply<'_>> {
        let head = at;
        self.joined.clear();
        loop {
            let Some(line) = find(&self.received[at..], b"\r\n") else {
                self.more().await?;
                continue;
            };
            let size = std::str::from_utf8(&self.received[at..at + line]).unwrap_or_default();
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| bad("a chunk has no size"))?;
            let from = at + line + 2;
            while self.received.len() < from + size + 2 {
                self.more().await?;
            }
            if size == 0 {
                return Ok(Reply { status, head: &self.received[..head], body: &self.joined });
            }
            self.joined.extend_from_slice(&self.received[from..from + size]);
            at = from + size + 2;
        }
    }
}

/// The relevant parts of a response head.
struct Head {
    status: u16,
    /// The length of the body. `None` if it is chunked.
    length: Option<usize>,
}

impl Head {
    fn parse(head: &[u8]) -> Result<Self> {
        let head = std::str::from_utf8(head).map_err(|_| bad("the head is not UTF-8"))?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| bad("no status line"))?;
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.trim().parse().map_err(|_| bad("the length is not a number"))?;
                return Ok(Self { status, length: Some(length) });
            }
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Ok(Self { status, length: None });
            }
        }
        Ok(Self { status, length: Some(0) })
    }
}

fn bad(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// Returns the position of `needle` in `text`.
fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

/// Returns a field of a flat JSON object without escapes, as in token responses. Parsing
/// the whole object would cost more than sending it.
pub fn field<'a>(json: &'a [u8], name: &str) -> Option<&'a str> {
    let json = std::str::from_utf8(json).ok()?;
    let mut rest = json;
    loop {
        let (_, after) = rest.split_once('"')?;
        let (key, after) = after.split_once('"')?;
        rest = after;
        let Some(value) = after.trim_start().strip_prefix(':') else { continue };
        let value = value.trim_start();
        let text = value.strip_prefix('"');
        let end = text.map_or_else(|| value.find([',', '}']), |text| text.find('"'))?;
        let value = text.unwrap_or(value);
        if key == name {
            return Some(&value[..end]);
        }
        rest = &value[end + usize::from(text.is_some())..];
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_field_is_found_by_its_name() {
        let json = br#"{"a":"token","n":12, "token" : "t.k-n", "last":true}"#;
        assert_eq!(field(json, "token"), Some("t.k-n"));
        assert_eq!(field(json, "n"), Some("12"));
        assert_eq!(field(json, "last"), Some("true"));
        assert_eq!(field(json, "t.k-n"), None);
        assert_eq!(field(b"", "token"), None);
    }

    /// Returns the status and body of a response that arrives in these pieces.
    fn read(pieces: &'static [&'static str]) -> (u16, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut request = [0; 5];
            stream.read_exact(&mut request).unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
                std::thread::yield_now();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let mut connection =
                LoadConnection::open(&ServerAddress::new(&url, None)).await.unwrap();
            let reply = connection.send(b"hello").await.unwrap();
            (reply.status, String::from_utf8(reply.body.to_vec()).unwrap())
        })
    }

    #[test]
    fn a_response_with_a_length_is_read_completely() {
        let pieces = &["HTTP/1.1 401 Un", "authorized\r\nContent-Length: 5\r\n", "\r\nhe", "llo"];
        assert_eq!(read(pieces), (401, "hello".to_owned()));
    }

    #[test]
    fn the_chunks_of_a_response_are_joined() {
        let pieces = &[
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r",
            "\n3\r\nhel\r\n2",
            ";x=y\r\nlo\r\n0\r\n\r\n",
        ];
        assert_eq!(read(pieces), (200, "hello".to_owned()));
    }
}
