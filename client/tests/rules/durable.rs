//! What outlives a lost answer, a slow one, and the process.

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

use super::script::{Act, Asked, Script};
use super::{get, get_after_rest, is_transient, logged_in, logged_in_with, on_file, soon, store};

fn keys(script: &Script) -> Vec<Option<String>> {
    script.asked("/refresh").iter().map(Asked::key).collect()
}

/// All refreshes were one attempt, made more than once.
fn assert_one_key(script: &Script) {
    let keys = keys(script);
    assert!(keys.len() > 1 && keys[0].is_some(), "{keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[actix_rt::test]
async fn an_answer_that_was_lost_is_had_again_with_the_same_key() {
    for act in [Act::Lose, Act::Tear] {
        let script = Script::start();
        let client = logged_in(&script).await;
        script.expire();
        script.always("/refresh", act);
        assert!(is_transient(&get(&client, "/user").await));
        script.always("/refresh", Act::Do);
        assert_eq!(get_after_rest(&client, "/user").await, Ok(200));
        assert_one_key(&script);
        assert_eq!((script.trades(), script.reuses()), (1, 0));
    }
}

#[actix_rt::test]
async fn each_generation_has_a_key_of_its_own_that_is_long_enough_for_the_server() {
    let script = Script::start();
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
async fn the_key_is_in_the_store_before_the_server_is_asked() {
    let (script, (_folder, file)) = (Script::start(), store());
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Act::Do.held()]);
    let asking = actix_rt::spawn(async move { get(&client, "/user").await });
    script.until_asked("/refresh", 1).await;
    let written = std::fs::read_to_string(&file).unwrap();
    let key = keys(&script)[0].clone().unwrap();
    assert!(written.contains(&key), "an attempt that the file does not know cannot be repeated");
    script.release();
    assert_eq!(soon(asking).await.unwrap(), Ok(200));
}

#[actix_rt::test]
async fn tokens_at_rest_have_no_key_and_old_files_with_one_are_read() {
    let (script, (_folder, file)) = (Script::start(), store());
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
    let next = Client::new(&script.server(), on_file(&file));
    next.refresh().await.unwrap();
    assert_eq!(keys(&script).last().unwrap().as_deref(), Some(old));
    assert_eq!(at_rest().idempotency_key, None);
}

#[actix_rt::test]
async fn another_process_repeats_the_attempt_whose_answer_the_one_before_never_got() {
    let (script, (_folder, file)) = (Script::start(), store());
    let first = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.always("/refresh", Act::Lose);
    assert!(is_transient(&get(&first, "/user").await));
    drop(first);
    script.always("/refresh", Act::Do);

    let next = Client::new(&script.server(), on_file(&file));
    assert_eq!(get_after_rest(&next, "/user").await, Ok(200));
    assert_one_key(&script);
    assert_eq!((script.trades(), script.reuses()), (1, 0));
}

#[actix_rt::test]
async fn a_sign_in_outlives_its_process_in_a_file_that_nobody_else_reads() {
    let (script, (folder, file)) = (Script::start(), store());
    let first = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    assert_eq!(get(&first, "/user").await, Ok(200));
    drop(first);
    let next = Client::new(&script.server(), on_file(&file));
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
async fn a_file_that_is_no_store_is_told_of_and_not_overwritten_by_a_request() {
    for garbage in ["", "{", "null", r#"{"version":1}"#, "\0\0\0\0"] {
        let (script, (_folder, file)) = (Script::start(), store());
        std::fs::write(&file, garbage).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let client = Client::new(&script.server(), on_file(&file));
        assert!(get(&client, "/user").await.is_err(), "{garbage:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), garbage);
        assert!(script.asked_in_all().is_empty());
    }
}

#[actix_rt::test]
async fn a_store_that_cannot_be_written_stops_a_refresh_before_the_server_is_asked() {
    let (script, (folder, file)) = (Script::start(), store());
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    // A folder that is gone can be written to by nobody, root included.
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert!(get(&client, "/user").await.is_err());
    assert_eq!(script.trades(), 0, "what is granted could not be kept");
}

#[actix_rt::test]
async fn a_lifetime_runs_from_when_the_request_was_sent_however_slow_the_answer() {
    const LIFETIME: Duration = Duration::from_secs(60);
    let script = Script::start();
    let client = Client::new(&script.server(), Credentials::default());
    for path in ["/token", "/refresh"] {
        script.on(path, [Act::Do.held()]);
        let asking = actix_rt::spawn({
            let client = client.clone();
            async move {
                if path == "/token" {
                    client.log_in_as_guest().await
                } else {
                    client.refresh().await
                }
            }
        });
        script.until_asked(path, 1).await;
        actix_rt::time::sleep(Duration::from_millis(700)).await;
        script.release();
        soon(asking).await.unwrap().unwrap();
        let status = client.credentials().status().unwrap();
        let since = script.asked(path)[0].at.elapsed();
        assert_eq!(status.lifetime, Some(LIFETIME));
        let remaining = status.remaining.unwrap();
        assert!(remaining + Duration::from_millis(700) <= LIFETIME, "{path}: {remaining:?}");
        // It was sent before it arrived; `since` was read after `remaining`.
        assert!(
            remaining + since <= LIFETIME + Duration::from_millis(100),
            "{path}: {remaining:?}"
        );
        assert!(remaining > LIFETIME / 2, "{path}: {remaining:?}");
    }
    assert!(client.credentials().status().unwrap().age >= Duration::from_millis(700));
}

/// A file on a disk that is full at times.
struct Full {
    file: FileStore,
    /// How often it can be written to before it is.
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
async fn tokens_that_could_not_be_kept_are_kept_before_they_are_traded() {
    let (script, (_folder, file)) = (Script::start(), store());
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let disk = Full { file: FileStore::new(&file), left: left.clone() };
    let client = logged_in_with(&script, Credentials::builder().store(disk).build()).await;

    // For the key of the refresh, and not for what it grants.
    left.store(1, Ordering::SeqCst);
    client.refresh().await.unwrap();
    assert_eq!(get(&client, "/user").await, Ok(200), "they are good all the same");
    let kept = FileStore::new(&file).read().unwrap().unwrap();
    assert_eq!(kept.generation, 0);
    assert!(matches!(client.refresh().await, Err(Error::Store(_))), "not kept, not traded");
    assert_eq!(script.refreshes(), 1);

    left.store(usize::MAX, Ordering::SeqCst);
    soon(async {
        while client.refresh().await.is_err() {
            actix_rt::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let shown: Vec<_> =
        script.asked("/refresh").iter().map(|asked| asked.field("refresh_token")).collect();
    assert_eq!(shown.len(), 2);
    assert_ne!(shown[0], shown[1], "the newer ones were traded");
    assert_eq!(FileStore::new(&file).read().unwrap().unwrap().generation, 2);
    assert_eq!(script.reuses(), 0);
}
