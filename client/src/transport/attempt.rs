//! One attempt to send a request, and the error of an attempt without a response.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use actix_rt::time::sleep;
use awc::SendClientRequest;
use awc::error::{ConnectError, SendRequestError};
use awc::http::StatusCode;
use futures_util::future::{Either, select};
use tokio::sync::Notify;

use super::dial::DialError;
use super::stream::{Progress, SENDING};
use super::{Outgoing, Response};
use crate::error::Error;

/// The outcome of one attempt, and how far it came.
pub(super) struct Sent {
    pub(super) outcome: Result<Response, SendRequestError>,
    pub(super) progress: Progress,
}

impl Sent {
    /// Returns whether the request can be sent again: its kept connection was dead, and no byte
    /// of a response arrived.
    pub(super) fn may_be_repeated(&self, outgoing: &Outgoing<'_>) -> bool {
        let repeatable = outgoing.repeatable;
        let Progress { idle: Some(_), written, received } = self.progress else { return false };
        match &self.outcome {
            // A server may send `408` on an idle connection (RFC 9110 §15.5.9).
            Ok(response) => repeatable && response.status() == StatusCode::REQUEST_TIMEOUT,
            Err(_) => !received && (repeatable || !written),
        }
    }

    /// Returns whether there is a response to the request.
    fn is_response(&self) -> bool {
        let response = self.outcome.as_ref();
        response.is_ok_and(|response| response.status() != StatusCode::REQUEST_TIMEOUT)
    }
}

/// Awaits the response. Notifies `doubt` if a doubtful connection receives no byte within
/// `first_wait`.
pub(super) async fn follow(
    mut sending: SendClientRequest,
    first_wait: Duration,
    mut doubt: Option<&Notify>,
) -> Sent {
    let mut waiting = None;
    let outcome = poll_fn(|cx| {
        let polled = Pin::new(&mut sending).poll(cx);
        // The connection is unknown at first: the request may wait for one.
        if polled.is_pending() && doubt.is_some() && SENDING.with(Cell::get).is_doubtful() {
            let waiting = waiting.get_or_insert_with(|| Box::pin(sleep(first_wait)));
            if waiting.as_mut().poll(cx).is_ready() {
                doubt.take().map(Notify::notify_one);
            }
        }
        polled
    })
    .await;
    Sent { outcome, progress: SENDING.with(Cell::get) }
}

/// Awaits two attempts until one has a response. If neither has one, the outcome of the second
/// is returned: that of the first only shows that its connection was dead.
pub(super) async fn first_response(
    first: impl Future<Output = Sent> + Unpin,
    second: impl Future<Output = Sent> + Unpin,
) -> Sent {
    match select(first, second).await {
        Either::Left((sent, second)) if !sent.is_response() => second.await,
        Either::Right((sent, first)) if !sent.is_response() => {
            let other = first.await;
            if other.is_response() { other } else { sent }
        }
        Either::Left((sent, _)) | Either::Right((sent, _)) => sent,
    }
}

/// Returns the error of an attempt without a response. A missing connection may be due to a
/// proxy that is required but not supported, so the error names its variable.
pub(super) fn failure(
    error: &SendRequestError,
    progress: Progress,
    unused_proxy: Option<&str>,
) -> Error {
    let hint =
        unused_proxy.map_or_else(String::new, |name| format!("; {name} is set, but not used"));
    Error::transient(match error {
        SendRequestError::Connect(ConnectError::Io(io)) => {
            match io.get_ref().and_then(|inner| inner.downcast_ref::<DialError>()) {
                Some(DialError::Permanent(problem)) => {
                    return Error::Misconfigured(format!("{problem}{hint}"));
                }
                _ => format!("cannot connect to the server: {io}{hint}"),
            }
        }
        SendRequestError::Connect(ConnectError::Timeout) => {
            format!("cannot connect to the server: timeout{hint}")
        }
        // The timeout expired before there was a connection.
        SendRequestError::Timeout if !progress.written => {
            format!("cannot connect to the server: timeout{hint}")
        }
        SendRequestError::Timeout => "no response from the server in time".to_owned(),
        _ if progress.idle.is_some() && !progress.received => {
            "the server closed a kept connection, and may have processed the request".to_owned()
        }
        SendRequestError::Connect(error) => {
            format!("no response from the server: {error}{hint}")
        }
        error => format!("no response from the server: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_failure_to_connect_names_a_proxy_that_is_not_used() {
        let no_connection = Progress::default();
        let sent = Progress { written: true, ..no_connection };
        let said = |error: &SendRequestError, progress| {
            let named = failure(error, progress, Some("HTTPS_PROXY")).to_string();
            let bare = failure(error, progress, None).to_string();
            (named.strip_prefix(&bare).unwrap().to_owned(), bare)
        };
        let hint = "; HTTPS_PROXY is set, but not used";
        let dial = |error| SendRequestError::Connect(ConnectError::Io(io::Error::other(error)));
        for (error, problem) in [
            (SendRequestError::Timeout, "cannot connect to the server: timeout"),
            (
                SendRequestError::Connect(ConnectError::Timeout),
                "cannot connect to the server: timeout",
            ),
            (dial(DialError::Transient("refused".into())), "cannot connect to the server: refused"),
            (dial(DialError::Permanent("unknown host".into())), "unknown host"),
        ] {
            assert_eq!(said(&error, no_connection), (hint.to_owned(), problem.to_owned()));
        }
        let late = said(&SendRequestError::Timeout, sent);
        assert_eq!(late, (String::new(), "no response from the server in time".to_owned()));
    }
}
