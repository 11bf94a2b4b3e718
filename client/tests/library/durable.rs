//! Recovery of lost responses, and tokens in a file.

use std::collections::HashSet;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use matchbook_client::{
    Client, Credentials, Error, FileStore, StoreGuard, StoredTokens, TokenStore,
};
use matchbook_testkit::{Reaction, Received, ScriptedServer};

use super::{
    get, get_after_backoff, is_transient, logged_in, logged_in_with, on_file, server_at, store,
    within_timeout,
};

fn keys(script: &ScriptedServer) -> Vec<Option<String>> {
    script.received("/refresh").iter().map(Received::key).collect()
}

/// Asserts that all refreshes were one, sent several times with one key.
fn assert_one_key(script: &ScriptedServer) {
    let keys = keys(script);
    assert!(keys.len() > 1 && keys[0].is_some(), "{keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[actix_rt::test]
async fn a_lost_response_is_recovered_with_the_same_key() {
    for reaction in [Reaction::DropConnection, Reaction::TruncateBody] {
        let script = ScriptedServer::start();
        let client = logged_in(&script).await;
        script.expire();
        script.always("/refresh", reaction);
        assert!(is_transient(&get(&client, "/user").await));
        script.always("/refresh", Reaction::Serve);
        assert_eq!(get_after_backoff(&client, "/user").await, Ok(200));
        assert_one_key(&script);
        assert_eq!((script.rotations(), script.reuses()), (1, 0));
    }
}

#[actix_rt::test]
async fn each_generation_has_an_idempotency_key_that_the_server_accepts() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    for _ in 0..5 {
        client.refresh().await.unwrap();
    }
    let keys: HashSet<_> = keys(&script).into_iter().map(Option::unwrap).collect();
    assert_eq!(keys.len(), 5);
    for key in keys {
        let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(visible && (16..=128).contains(&key.len()), "{key}");
    }
}

#[actix_rt::test]
async fn the_idempotency_key_is_stored_before_the_refresh_is_sent() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Reaction::Serve.held()]);
    let request = actix_rt::spawn(async move { get(&client, "/user").await });
    script.until_received("/refresh", 1).await;
    let written = std::fs::read_to_string(&file).unwrap();
    let key = keys(&script)[0].clone().unwrap();
    assert!(written.contains(&key), "a refresh whose key is not stored cannot be recovered");
    script.release();
    assert_eq!(within_timeout(request).await.unwrap(), Ok(200));
}

#[actix_rt::test]
async fn stored_tokens_have_no_key_after_a_refresh_and_an_old_key_is_used() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let client = logged_in_with(&script, on_file(&file)).await;
    let at_rest = || FileStore::new(&file).read().unwrap().unwrap();
    assert_eq!(at_rest().idempotency_key, None);
    for _ in 0..2 {
        client.refresh().await.unwrap();
        assert_eq!(at_rest().idempotency_key, None);
    }
    let old = "a-key-that-an-older-version-stored";
    let tokens = StoredTokens { idempotency_key: Some(old.to_owned()), ..at_rest() };
    FileStore::new(&file).write(Some(&tokens)).unwrap();
    let next = Client::new(&server_at(&script), on_file(&file));
    next.refresh().await.unwrap();
    assert_eq!(keys(&script).last().unwrap().as_deref(), Some(old));
    assert_eq!(at_rest().idempotency_key, None);
}

#[actix_rt::test]
async fn another_process_recovers_a_lost_response() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let first = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.always("/refresh", Reaction::DropConnection);
    assert!(is_transient(&get(&first, "/user").await));
    drop(first);
    script.always("/refresh", Reaction::Serve);

    let next = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get_after_backoff(&next, "/user").await, Ok(200));
    assert_one_key(&script);
    assert_eq!((script.rotations(), script.reuses()), (1, 0));
}

#[actix_rt::test]
async fn a_login_survives_its_process_in_a_file_that_only_the_owner_reads() {
    let script = ScriptedServer::start();
    let (folder, file) = store();
    let first = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    assert_eq!(get(&first, "/user").await, Ok(200));
    drop(first);
    let next = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get(&next, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 1);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", entry.path().display());
    }
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[actix_rt::test]
async fn a_damaged_file_is_an_error_and_is_not_overwritten() {
    for garbage in ["", "{", "null", r#"{"version":1}"#, "\0\0\0\0"] {
        let script = ScriptedServer::start();
        let (_folder, file) = store();
        std::fs::write(&file, garbage).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let client = Client::new(&server_at(&script), on_file(&file));
        assert!(get(&client, "/user").await.is_err(), "{garbage:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), garbage);
        assert!(script.all_received().is_empty());
    }
}

#[actix_rt::test]
async fn a_store_that_cannot_be_written_prevents_the_refresh() {
    let script = ScriptedServer::start();
    let (folder, file) = store();
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    // Not even root can write to a deleted folder.
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert!(get(&client, "/user").await.is_err());
    assert_eq!(script.rotations(), 0, "the new tokens could not be stored");
}

#[actix_rt::test]
async fn a_lifetime_starts_when_the_request_is_sent_even_if_the_response_is_slow() {
    const LIFETIME: Duration = Duration::from_secs(60);
    let script = ScriptedServer::start();
    let client = Client::new(&server_at(&script), Credentials::default());
    for path in ["/token", "/refresh"] {
        script.on(path, [Reaction::Serve.held()]);
        let request = actix_rt::spawn({
            let client = client.clone();
            async move {
                if path == "/token" {
                    client.log_in_as_guest().await
                } else {
                    client.refresh().await
                }
            }
        });
        script.until_received(path, 1).await;
        actix_rt::time::sleep(Duration::from_millis(700)).await;
        script.release();
        within_timeout(request).await.unwrap().unwrap();
        let status = client.credentials().status().unwrap();
        let since = script.received(path)[0].at.elapsed();
        assert_eq!(status.lifetime, Some(LIFETIME));
        let remaining = status.remaining.unwrap();
        assert!(remaining + Duration::from_millis(700) <= LIFETIME, "{path}: {remaining:?}");
        // The request was sent before it arrived, and `since` was read after `remaining`.
        assert!(
            remaining + since <= LIFETIME + Duration::from_millis(100),
            "{path}: {remaining:?}"
        );
        assert!(remaining > LIFETIME / 2, "{path}: {remaining:?}");
    }
    assert!(client.credentials().status().unwrap().age >= Duration::from_millis(700));
}

/// A store on a disk that can be full.
struct Full {
    file: FileStore,
    /// The number of writes before the disk is full.
    left: Arc<AtomicUsize>,
}

impl TokenStore for Full {
    fn lock(&self, wait_timeout: Duration) -> io::Result<StoreGuard> {
        self.file.lock(wait_timeout)
    }

    fn read(&self) -> io::Result<Option<StoredTokens>> {
        self.file.read()
    }

    fn write(&self, tokens: Option<&StoredTokens>) -> io::Result<()> {
        let less = |left: usize| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => self.file.write(tokens),
            Err(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

#[actix_rt::test]
async fn tokens_that_were_not_stored_are_stored_before_their_refresh() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let disk = Full { file: FileStore::new(&file), left: left.clone() };
    let client = logged_in_with(&script, Credentials::builder().store(disk).build()).await;

    // One write is left, for the idempotency key but not for the new tokens.
    left.store(1, Ordering::SeqCst);
    client.refresh().await.unwrap();
    assert_eq!(get(&client, "/user").await, Ok(200), "the new tokens are valid");
    let kept = FileStore::new(&file).read().unwrap().unwrap();
    assert_eq!(kept.generation, 0);
    assert!(
        matches!(client.refresh().await, Err(Error::Store(_))),
        "tokens that are not stored are not refreshed"
    );
    assert_eq!(script.refreshes(), 1);

    left.store(usize::MAX, Ordering::SeqCst);
    within_timeout(async {
        while client.refresh().await.is_err() {
            actix_rt::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let shown: Vec<_> = script
        .received("/refresh")
        .iter()
        .map(|received| received.field("refresh_token"))
        .collect();
    assert_eq!(shown.len(), 2);
    assert_ne!(shown[0], shown[1], "the newer tokens were refreshed");
    assert_eq!(FileStore::new(&file).read().unwrap().unwrap().generation, 2);
    assert_eq!(script.reuses(), 0);
}
