//! The clients of a run, on a few threads.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use actix_rt::System;
use fastrand::Rng;

use crate::calls::{Connection, http};
use crate::client::HonestClient;
use crate::fault::Timings;
use crate::history::RunContext;

/// Number of threads.
const THREADS: usize = 2;

/// All clients of a run.
pub(super) struct Workload(Vec<JoinHandle<()>>);

impl Workload {
    pub(super) fn start(
        context: &Arc<RunContext>,
        clients: usize,
        timings: Timings,
        mut rng: Rng,
    ) -> Self {
        // Forked here, so that a seed determines the decisions of each client.
        let rngs: Vec<(usize, Rng)> = (0..clients).map(|client| (client, rng.fork())).collect();
        let threads = (0..THREADS).map(|thread| {
            let here = rngs.iter().filter(|(client, _)| client % THREADS == thread);
            let here: Vec<_> = here.cloned().collect();
            let context = context.clone();
            thread::spawn(move || System::new().block_on(run_clients(here, context, timings)))
        });
        Self(threads.collect())
    }

    /// Waits until all clients have ended.
    pub(super) fn wait(self) {
        for thread in self.0 {
            thread.join().unwrap();
        }
    }
}

async fn run_clients(clients: Vec<(usize, Rng)>, context: Arc<RunContext>, timings: Timings) {
    let http = http();
    let clients: Vec<_> = clients
        .into_iter()
        .map(|(client, rng)| {
            let connection = Connection { client, context: context.clone(), http: http.clone() };
            actix_rt::spawn(HonestClient::new(connection, rng, timings).run())
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}
