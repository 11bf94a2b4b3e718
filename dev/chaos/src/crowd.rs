//! Many clients on a few threads.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use actix_rt::System;
use fastrand::Rng;

use crate::calls::{Line, http};
use crate::client::HonestClient;
use crate::fault::Lengths;
use crate::history::Scene;

/// As many threads as clients are spread over.
const THREADS: usize = 2;

/// All clients of a run.
pub(super) struct Crowd(Vec<JoinHandle<()>>);

impl Crowd {
    pub(super) fn start(
        scene: &Arc<Scene>,
        clients: usize,
        lengths: Lengths,
        mut rng: Rng,
    ) -> Self {
        // Forked here, so that a seed gives each client the same dice each time.
        let dice: Vec<(usize, Rng)> = (0..clients).map(|client| (client, rng.fork())).collect();
        let threads = (0..THREADS).map(|thread| {
            let here = dice.iter().filter(|(client, _)| client % THREADS == thread);
            let (here, scene) = (here.cloned().collect::<Vec<_>>(), scene.clone());
            thread::spawn(move || System::new().block_on(live(here, scene, lengths)))
        });
        Self(threads.collect())
    }

    /// Waits until every client has come to its end.
    pub(super) fn wait(self) {
        for thread in self.0 {
            thread.join().unwrap();
        }
    }
}

async fn live(clients: Vec<(usize, Rng)>, scene: Arc<Scene>, lengths: Lengths) {
    let http = http();
    let clients: Vec<_> = clients
        .into_iter()
        .map(|(client, rng)| {
            let line = Line { client, scene: scene.clone(), http: http.clone() };
            actix_rt::spawn(HonestClient::new(line, rng, lengths).live())
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}
