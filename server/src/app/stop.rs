//! Stops the server at a signal: drains it first, then shuts down gracefully.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use actix_rt::signal::unix::{Signal, SignalKind, signal};
use actix_web::dev::ServerHandle;

use super::time_limit::TimeLimit;
use crate::draining::Draining;

/// The signals that stop the server.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

/// How a signal stops the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// SIGTERM: drains first.
    Drain,
    /// SIGINT, from a terminal: completes the requests in flight.
    Graceful,
    /// SIGQUIT: drops them.
    Forced,
}

impl StopSignals {
    /// Receives the signals from now on. Before, each ends the process.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Stop {
        poll_fn(|cx| {
            if self.terminate.poll_recv(cx).is_ready() {
                Poll::Ready(Stop::Drain)
            } else if self.interrupt.poll_recv(cx).is_ready() {
                Poll::Ready(Stop::Graceful)
            } else if self.quit.poll_recv(cx).is_ready() {
                Poll::Ready(Stop::Forced)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Waits for a signal, then stops the server. A second signal ends the time of the drain.
    /// The limit of the shutdown begins after it.
    pub(super) async fn stop(
        mut self,
        server: ServerHandle,
        draining: Draining,
        drain: Duration,
        limit: TimeLimit,
    ) {
        let mut stop = self.next().await;
        draining.begin();
        if stop == Stop::Drain && !drain.is_zero() {
            tracing::info!(?drain, "stop signal received, draining");
            if let Ok(second) = tokio::time::timeout(drain, self.next()).await {
                stop = second;
            }
        }
        tracing::info!("stopping");
        limit.begin();
        server.stop(stop != Stop::Forced).await;
    }
}
