//! The rules that the client goes by, against a server that answers as told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use matchbook_client::{Client, Credentials, Error, Event, FileStore};

mod connections;
mod durable;
mod framing;
mod misconfigured;
mod oauth;
mod refusals;
mod requests;
mod script;
mod secrets;
mod sharing;
mod strategies;
mod wire;

use script::{PATIENCE, Script};

/// A session with tokens in memory, logged in.
async fn logged_in(script: &Script) -> Client {
    logged_in_with(script, Credentials::default()).await
}

/// A session with these tokens to be, logged in.
async fn logged_in_with(script: &Script, credentials: Credentials) -> Client {
    let client = Client::new(&script.server(), credentials);
    client.log_in_with(script.sign_in()).await.unwrap();
    client
}

/// A session logged in as a guest: how old its tokens are is known then.
async fn guest(script: &Script, credentials: Credentials) -> Client {
    let client = Client::new(&script.server(), credentials);
    client.log_in_as_guest().await.unwrap();
    client
}

/// What a process has that keeps its tokens in this file.
fn on_file(path: &Path) -> Credentials {
    Credentials::builder().store(FileStore::new(path)).build()
}

/// A folder, and a file in it to be.
fn store() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    (folder, file)
}

/// The status of the answer to `GET path`.
async fn get(client: &Client, path: &str) -> Result<u16, Error> {
    client.get(path).send().await.map(|response| response.status().as_u16())
}

/// The status of the answer to `GET path`, when a refresh that failed may be
/// tried again.
async fn get_after_rest(client: &Client, path: &str) -> Result<u16, Error> {
    let waiting = async {
        loop {
            match get(client, path).await {
                Err(Error::Transient { .. }) => {
                    actix_rt::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
    };
    soon(waiting).await
}

/// What must not take for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    actix_rt::time::timeout(PATIENCE, future).await.unwrap()
}

fn is_transient<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Transient { .. }))
}

/// A credential that notes what happens, and what it notes.
fn noting() -> (Credentials, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let noted = events.clone();
    let note = move |event: &Event| noted.lock().unwrap().push(event.clone());
    (Credentials::builder().on_event(note).build(), events)
}
