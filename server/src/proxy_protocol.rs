//! The PROXY protocol, version 2: a balancer that forwards TCP names the client's address in a
//! header before the first byte of the client
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, §2.2).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::rt::net::{ActixStream, Ready, TcpStream};
use ppp::v2::{Addresses, Command, Header, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::proxies::TrustedProxies;

/// The header of a connection that a balancer, or this program, makes for itself.
pub const LOCAL_HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The length of the part of a header whose length is fixed: signature, version, command,
/// family and the length of the rest.
const FIXED_LEN: usize = 16;
/// The maximum length of the rest: addresses and additional fields, which are ignored.
const MAX_REST_LEN: usize = 2048;
/// How long a header may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// A connection from a balancer whose header was read.
#[derive(Debug)]
pub struct ProxiedStream {
    stream: TcpStream,
    client: SocketAddr,
}

/// Why a connection is closed before its first request.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("its peer is not in `server.trusted_proxies`")]
    Untrusted,
    #[error("no PROXY header arrived within {TIME_LIMIT:?}")]
    TimedOut,
    #[error("the PROXY header is longer than {MAX_REST_LEN} bytes")]
    TooLong,
    #[error("no PROXY header of version 2: {0}")]
    Malformed(#[from] ParseError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ProxiedStream {
    /// Reads the header of a new connection, and no byte more. A process of this machine may send
    /// a header without an address, as `matchbook-server health` does.
    pub async fn accept(stream: TcpStream, proxies: &TrustedProxies) -> Result<Self, HeaderError> {
        let peer = stream.peer_addr()?;
        let ip = peer.ip().to_canonical();
        let is_trusted = proxies.contains(ip);
        if !is_trusted && !ip.is_loopback() {
            return Err(HeaderError::Untrusted);
        }
        let accepted = timeout(TIME_LIMIT, Self::read(stream, peer)).await;
        let accepted = accepted.unwrap_or(Err(HeaderError::TimedOut))?;
        if is_trusted || accepted.client == peer {
            Ok(accepted)
        } else {
            Err(HeaderError::Untrusted)
        }
    }

    async fn read(mut stream: TcpStream, peer: SocketAddr) -> Result<Self, HeaderError> {
        let mut header = vec![0; FIXED_LEN];
        stream.read_exact(&mut header).await?;
        let rest = rest_len(&header)?;
        header.resize(FIXED_LEN + rest, 0);
        stream.read_exact(&mut header[FIXED_LEN..]).await?;
        let client = client_address(&header)?.unwrap_or(peer);
        Ok(Self { stream, client })
    }

    /// Returns the address of the client, or that of the balancer if the connection is its own.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.stream
    }
}

/// Returns the length of what follows the fixed part of a header.
fn rest_len(fixed: &[u8]) -> Result<usize, HeaderError> {
    match Header::try_from(fixed) {
        Ok(_) => Ok(0),
        Err(ParseError::Partial(_, rest)) if rest > MAX_REST_LEN => Err(HeaderError::TooLong),
        Err(ParseError::Partial(_, rest)) => Ok(rest),
        Err(error) => Err(error.into()),
    }
}

/// Returns the address of the client in a header, if it has one: connections of the balancer
/// itself, such as health checks, have the command LOCAL.
fn client_address(header: &[u8]) -> Result<Option<SocketAddr>, ParseError> {
    let header = Header::try_from(header)?;
    Ok(match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (Command::Proxy, Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
        _ => None,
    })
}

impl AsyncRead for ProxiedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ProxiedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl ActixStream for ProxiedStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.stream, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.stream, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    /// Makes a header of a version and a command, a family and the rest.
    fn header(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[version_and_command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xBB];

    #[test]
    fn client_address_is_that_of_the_header() {
        let mut ipv6 = [0; 36];
        ipv6[..2].copy_from_slice(&[0x20, 0x01]);
        ipv6[15] = 7;
        ipv6[33] = 80;
        let with_fields = [&IPV4[..], &[0x04, 0, 2, 9, 9], &[0xE0, 0, 1, 9]].concat();
        for (header, expected) in [
            (header(0x21, 0x11, &IPV4), Some("192.0.2.7:4711")),
            (header(0x21, 0x11, &with_fields), Some("192.0.2.7:4711")),
            (header(0x21, 0x21, &ipv6), Some("[2001::7]:80")),
            (header(0x20, 0x11, &IPV4), None),
            (header(0x20, 0x00, &[]), None),
            (LOCAL_HEADER.to_vec(), None),
            (header(0x21, 0x00, &[]), None),
            (header(0x21, 0x31, &[0; 216]), None),
        ] {
            let rest = rest_len(&header[..FIXED_LEN]).unwrap();
            assert_eq!(FIXED_LEN + rest, header.len(), "{header:?}");
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(client_address(&header).unwrap(), expected, "{header:?}");
        }
    }

    #[test]
    fn malformed_header_is_rejected() {
        let fixed = |header: &[u8]| rest_len(&header[..FIXED_LEN]).is_err();
        assert!(fixed(b"GET /user HTTP/1.1\r\n"));
        assert!(fixed(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n"), "version 1");
        assert!(fixed(&header(0x11, 0x11, &IPV4)), "another version");
        assert!(fixed(&header(0x22, 0x11, &IPV4)), "another command");
        assert!(fixed(&header(0x21, 0x41, &IPV4)), "another family");
        assert!(fixed(&header(0x21, 0x11, &[0; MAX_REST_LEN + 1])), "too long");
        assert!(client_address(&header(0x21, 0x11, &IPV4[..11])).is_err(), "no port");
        assert!(client_address(&header(0x21, 0x11, &[])).is_err(), "no address");
    }
}
