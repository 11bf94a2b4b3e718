//! Interruption by Ctrl-C and SIGTERM.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Whether the benchmark was interrupted.
static STOP: AtomicBool = AtomicBool::new(false);

/// Handles Ctrl-C and SIGTERM, so that all started processes are stopped.
pub(crate) fn handle_signals() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).unwrap();
            let mut terminate = signal(SignalKind::terminate()).unwrap();
            let interrupted = std::pin::pin!(interrupt.recv());
            let terminated = std::pin::pin!(terminate.recv());
            futures_util::future::select(interrupted, terminated).await;
            eprintln!("bench: stopping");
            STOP.store(true, Ordering::Relaxed);
        });
    });
}

/// Unwinds if the benchmark was interrupted. Dropping the processes stops them.
pub(crate) fn stop_if_interrupted() {
    if STOP.load(Ordering::Relaxed) {
        std::panic::resume_unwind(Box::new("interrupted"));
    }
}

/// Returns whether the benchmark was interrupted.
pub(crate) fn is_interrupted() -> bool {
    STOP.load(Ordering::Relaxed)
}
