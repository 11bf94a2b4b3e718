//! The connection that awc uses: it skips interim responses, shows awc where a response ends,
//! and records the progress of a request.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_tls::connect::openssl::reexports::AsyncSslStream;
use bytes::{Buf, BytesMut};
use openssl::ssl::ErrorCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::DOUBTFUL_AFTER;
use super::head::{self, End};

/// The longest head of a response, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most interim responses to one request.
const MAX_INTERIMS: u32 = 32;

tokio::task_local! {
    /// The progress of the request that this task sends.
    pub(super) static SENDING: Cell<Progress>;
}

/// The progress of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// The idle time of a kept connection before the request; `None` for a new connection.
    pub(super) idle: Option<Duration>,
    /// Whether a byte of the request was passed to the system.
    pub(super) written: bool,
    /// Whether a byte of a response arrived.
    pub(super) received: bool,
}

impl Progress {
    /// Returns whether the connection may be dead: it was idle, and no byte of a response has
    /// arrived.
    pub(super) fn is_doubtful(self) -> bool {
        !self.received && self.idle.is_some_and(|idle| idle >= DOUBTFUL_AFTER)
    }
}

/// Changes the progress of the request that this task sends.
fn record(change: impl FnOnce(&mut Progress)) {
    let _ = SENDING.try_with(|cell| {
        let mut progress = cell.get();
        change(&mut progress);
        cell.set(progress);
    });
}

/// A plain or TLS connection.
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<AsyncSslStream<TcpStream>>),
}

impl Io {
    /// Returns whether the peer itself closed the connection. Without TLS this is unknown. With
    /// TLS, only a `close_notify` counts: the bindings of OpenSSL read any end as one.
    fn is_end_announced(&mut self, cx: &mut Context<'_>) -> bool {
        let Self::Tls(tls) = self else { return true };
        let peeked = Pin::new(tls.as_mut()).poll_peek(cx, &mut [0]);
        matches!(peeked, Poll::Ready(Err(error)) if error.code() == ErrorCode::ZERO_RETURN)
    }
}

macro_rules! on_either {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io {
            Io::Plain($stream) => $call,
            Io::Tls($stream) => $call,
        }
    };
}

/// The state of an exchange.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has been sent.
    New,
    /// A request is being sent, or its response is awaited.
    Requesting,
    /// A response has started, and may have ended.
    Responding,
}

/// A connection on which awc sends one request after another.
pub(super) struct Stream {
    io: Io,
    phase: Phase,
    last_read: Instant,
    interims: u32,
    /// Bytes that were read and that awc has not read: a part of a head, or a head and the bytes
    /// after it.
    held: BytesMut,
    /// Whether the request is a `HEAD`.
    is_head: bool,
    /// How the body of the response ends.
    end: End,
    /// Whether a byte of the request was written.
    has_written: bool,
    /// Whether the peer rejects the rest of the request. It may have sent a response.
    is_rejected: bool,
}

impl Stream {
    pub(super) fn new(io: Io) -> Self {
        Self {
            io,
            phase: Phase::New,
            last_read: Instant::now(),
            interims: 0,
            held: BytesMut::new(),
            is_head: false,
            end: End::Framed,
            has_written: false,
            is_rejected: false,
        }
    }

    /// Resets the state for the request that starts with these bytes.
    fn begin_request(&mut self, request: &[u8]) {
        let idle = (self.phase == Phase::Responding).then(|| self.last_read.elapsed());
        record(|progress| progress.idle = idle);
        self.phase = Phase::Requesting;
        self.interims = 0;
        self.held.clear();
        self.is_head = request.starts_with(b"HEAD ");
        self.end = End::Framed;
        self.has_written = false;
    }

    /// Drops interim responses from the held bytes, and corrects the head of the final response.
    /// Returns whether that head is complete.
    fn take_head(&mut self) -> io::Result<bool> {
        loop {
            // Some servers send an empty line after a body.
            let blank = self.held.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.held.advance(blank);
            let Some(is_interim) = interim(&self.held) else { return Ok(false) };
            if !is_interim && !self.held.starts_with(b"HTTP/1.") {
                // awc reports the error.
                return Ok(true);
            }
            let Some(length) = head_length(&self.held) else {
                return if self.held.len() > MAX_HEAD {
                    Err(io::Error::other("the head of the response is too long"))
                } else {
                    Ok(false)
                };
            };
            if !is_interim {
                let (head, end) = head::prepare(&self.held[..length], self.is_head);
                self.end = end;
                if let Some(mut head) = head {
                    head.extend_from_slice(&self.held[length..]);
                    self.held = BytesMut::from(&head[..]);
                }
                return Ok(true);
            }
            self.interims += 1;
            if self.interims > MAX_INTERIMS {
                return Err(io::Error::other("too many interim responses"));
            }
            self.held.advance(length);
        }
    }

    fn pass_on(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..length]);
        self.held.advance(length);
    }
}

/// Returns whether the bytes start with an interim response, or `None` if more are needed. 101
/// is final: the connection changes to another protocol.
fn interim(response: &[u8]) -> Option<bool> {
    let pattern = b"HTTP/1.? 1??";
    let is_like = response.iter().zip(pattern).all(|(byte, like)| byte == like || *like == b'?');
    if !is_like {
        Some(false)
    } else if response.len() < pattern.len() {
        None
    } else {
        Some(&response[9..12] != b"101")
    }
}

/// Returns the length of the head, including its empty line.
fn head_length(response: &[u8]) -> Option<usize> {
    let mut line_is_empty = false;
    for (position, byte) in response.iter().enumerate() {
        match byte {
            b'\n' if line_is_empty => return Some(position + 1),
            b'\n' => line_is_empty = true,
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    None
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.phase == Phase::Responding && !this.held.is_empty() {
                this.pass_on(buf);
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(on_either!(&mut this.io, io => Pin::new(io).poll_read(cx, buf)))?;
            let read = &buf.filled()[before..];
            if read.is_empty() {
                // awc accepts any end as the end of the body.
                let is_cut_short = this.phase == Phase::Responding
                    && (this.end == End::Framed || !this.io.is_end_announced(cx));
                return Poll::Ready(if is_cut_short {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the response is truncated"))
                } else {
                    Ok(())
                });
            }
            this.last_read = Instant::now();
            if this.phase != Phase::Requesting {
                return Poll::Ready(Ok(()));
            }
            record(|progress| progress.received = true);
            this.held.extend_from_slice(read);
            buf.set_filled(before);
            if this.take_head()? {
                this.phase = Phase::Responding;
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // awc reads no response before it has written the whole request.
        if this.phase != Phase::Requesting {
            this.begin_request(buf);
        }
        if this.is_rejected {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = ready!(on_either!(&mut this.io, io => Pin::new(io).poll_write(cx, buf)));
        if outcome.is_err() && this.has_written {
            // A server may respond and close before it has read the whole request (RFC 9112
            // §9.5). Without a response, the read fails.
            this.is_rejected = true;
            return Poll::Ready(Ok(buf.len()));
        }
        let written = outcome?;
        this.has_written |= written > 0;
        record(|progress| progress.written |= written > 0);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_rejected {
            return Poll::Ready(Ok(()));
        }
        on_either!(&mut this.io, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(&mut self.get_mut().io, io => Pin::new(io).poll_shutdown(cx))
    }
}

impl ActixStream for Stream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match &self.io {
            Io::Plain(tcp) => ActixStream::poll_read_ready(tcp, cx),
            Io::Tls(tls) => ActixStream::poll_read_ready(tls.get_ref(), cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match &self.io {
            Io::Plain(tcp) => ActixStream::poll_write_ready(tcp, cx),
            Io::Tls(tls) => ActixStream::poll_write_ready(tls.get_ref(), cx),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_and_final_responses_are_distinguished() {
        for (response, is_interim) in [
            ("HTTP/1.1 100 Continue\r\n", Some(true)),
            ("HTTP/1.1 103 Early Hints\r\n", Some(true)),
            ("HTTP/1.0 102 \r\n", Some(true)),
            ("HTTP/1.1 101 Switching Protocols\r\n", Some(false)),
            ("HTTP/1.1 200 OK\r\n", Some(false)),
            ("HTTP/1.1 2", Some(false)),
            ("HTTP/1.1 10", None),
            ("HTTP/1", None),
            ("", None),
            ("SSH-2.0", Some(false)),
            ("\x15\x03\x03", Some(false)),
        ] {
            assert_eq!(interim(response.as_bytes()), is_interim, "{response}");
        }
    }

    #[test]
    fn a_head_ends_with_its_empty_line() {
        for (response, length) in [
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1", Some(25)),
            ("HTTP/1.1 100\n\nHTTP/1.1", Some(14)),
            ("HTTP/1.1 103\r\nlink: x\r\n\r\n", Some(25)),
            ("HTTP/1.1 103\r\nlink: x\r\n", None),
            ("HTTP/1.1 103\r\nlink: x\r\n\r", None),
        ] {
            assert_eq!(head_length(response.as_bytes()), length, "{response:?}");
        }
    }
}
