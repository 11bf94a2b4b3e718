//! The rules of the client, against a scripted server.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use actix_rt::System;
use actix_rt::task::JoinHandle;
use matchbook_client::{Client, Credentials, Error, Event, FileStore, RootCerts, Server};
use matchbook_testkit::{Reaction, ScriptedServer};

mod accounts;
mod connections;
mod durable;
mod events;
mod framing;
mod misconfigured;
mod oauth;
mod rejections;
mod requests;
mod secrets;
mod sharing;
mod strategies;
mod wire;

/// Is part of each token and key of a scripted server.
const SECRET: &str = ScriptedServer::SECRET;

/// The longest wait for an expected event, also on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the settings of the client for a scripted server.
fn server_at(script: &ScriptedServer) -> Server {
    server_within(script, Duration::from_secs(10))
}

/// Returns the settings of the client, with this timeout of an exchange.
fn server_within(script: &ScriptedServer, timeout: Duration) -> Server {
    Server::new(script.origin(), &RootCerts::System, timeout).unwrap()
}

/// Returns a client that is logged in, with tokens in memory.
async fn logged_in(script: &ScriptedServer) -> Client {
    logged_in_with(script, Credentials::default()).await
}

/// Returns a client that is logged in. The age of its tokens is unknown.
async fn logged_in_with(script: &ScriptedServer, credentials: Credentials) -> Client {
    let client = Client::new(&server_at(script), credentials);
    client.log_in_with(script.log_in()).await.unwrap();
    client
}

/// Returns a client that is logged in as a guest. The age of its tokens is known.
async fn guest(script: &ScriptedServer, credentials: Credentials) -> Client {
    let client = Client::new(&server_at(script), credentials);
    client.log_in_as_guest().await.unwrap();
    client
}

/// Returns credentials like those of a process that keeps its tokens in this file.
fn on_file(path: &Path) -> Credentials {
    Credentials::builder().store(FileStore::new(path)).build()
}

/// Returns a temporary folder, and the path of a file in it that does not exist.
fn store() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    (folder, file)
}

/// Returns the status of the response to `GET path`.
async fn get(client: &Client, path: &str) -> Result<u16, Error> {
    client.get(path).send().await.map(|response| response.status().as_u16())
}

/// Starts `GET path` in a task.
fn spawn_get(client: &Client, path: &'static str) -> JoinHandle<Result<u16, Error>> {
    let client = client.clone();
    actix_rt::spawn(async move { get(&client, path).await })
}

/// Expires the access token and starts `GET path`. Returns when its refresh has arrived at
/// the server, which holds `reaction` until its release.
async fn hold_refresh(
    script: &ScriptedServer,
    client: &Client,
    path: &'static str,
    reaction: Reaction,
) -> JoinHandle<Result<u16, Error>> {
    let refreshes = script.refreshes();
    script.expire();
    script.on("/refresh", [reaction.held()]);
    let request = spawn_get(client, path);
    script.until_received("/refresh", refreshes + 1).await;
    request
}

/// Runs `GET path` on a thread of its own.
fn on_a_thread(
    server: &Server,
    credentials: &Credentials,
    path: &'static str,
) -> thread::JoinHandle<Result<u16, Error>> {
    let server = server.clone();
    let credentials = credentials.clone();
    thread::spawn(move || {
        System::new().block_on(async move { get(&Client::new(&server, credentials), path).await })
    })
}

/// Returns the status of the response to `GET path`, and retries after transient errors.
async fn get_after_backoff(client: &Client, path: &str) -> Result<u16, Error> {
    let retried = async {
        loop {
            match get(client, path).await {
                Err(Error::Transient { .. }) => {
                    actix_rt::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
    };
    within_timeout(retried).await
}

/// Awaits `future`, and panics after [`TEST_TIMEOUT`].
async fn within_timeout<T>(future: impl Future<Output = T>) -> T {
    actix_rt::time::timeout(TEST_TIMEOUT, future).await.unwrap()
}

fn is_transient<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Transient { .. }))
}

/// Returns credentials that record their events, and the record.
fn recording() -> (Credentials, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let recorded = events.clone();
    let record = move |event: &Event| recorded.lock().unwrap().push(event.clone());
    (Credentials::builder().on_event(record).build(), events)
}
