//! One sign-in, many requests: threads, processes, callbacks.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use actix_rt::{Arbiter, System};
use matchbook_client::{Client, Credentials, Error, Event, FileStore, Server};
use tokio::sync::oneshot;

use super::script::{Act, Asked, PATIENCE, Script};
use super::{
    get, get_after_rest, is_transient, logged_in, logged_in_with, noting, on_file, soon, store,
};

/// What `GET path` comes to on a thread of its own.
fn on_a_thread(
    server: &Server,
    credentials: &Credentials,
    path: &'static str,
) -> JoinHandle<Result<u16, Error>> {
    let (server, credentials) = (server.clone(), credentials.clone());
    thread::spawn(move || {
        System::new().block_on(async move { get(&Client::new(&server, credentials), path).await })
    })
}

/// Begins what a thread then leaves undone: it ends within it, like a process
/// that is killed.
async fn begun_and_left(script: &Script, credentials: &Credentials) {
    let (server, credentials) = (script.server(), credentials.clone());
    let asked = script.refreshes() + 1;
    let (leave, left) = oneshot::channel();
    let leaving = thread::spawn(move || {
        System::new().block_on(async move {
            let client = Client::new(&server, credentials);
            tokio::select! {
                _ = get(&client, "/user") => panic!("the refresh is held"),
                _ = left => {}
            }
        });
    });
    script.until_asked("/refresh", asked).await;
    leave.send(()).unwrap();
    leaving.join().unwrap();
}

#[actix_rt::test]
async fn what_triggers_a_refresh_is_the_token_that_failed_not_the_401() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.on("/slow", [Act::Do.held()]);
    let slow = actix_rt::spawn({
        let client = client.clone();
        async move { get(&client, "/slow").await }
    });
    script.until_asked("/slow", 1).await;
    script.expire();
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 1);

    script.release();
    assert_eq!(soon(slow).await.unwrap(), Ok(200));
    assert_eq!(script.refreshes(), 1, "the token that failed had been replaced already");
    let bearers: Vec<_> = script.asked("/slow").iter().map(Asked::bearer).collect();
    assert_ne!(bearers[0], bearers[1]);
    assert_eq!(bearers[1], script.asked("/user").last().unwrap().bearer());
}

#[actix_rt::test]
async fn where_the_store_holds_another_token_the_request_is_sent_again_without_a_refresh() {
    let (script, (_folder, file)) = (Script::start(), store());
    let one = logged_in_with(&script, on_file(&file)).await;
    let other = Client::new(&script.server(), on_file(&file));
    assert_eq!(get(&other, "/other").await, Ok(200));
    script.expire();
    assert_eq!(get(&one, "/user").await, Ok(200));
    assert_eq!(get(&other, "/other").await, Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (1, 0));
    let seen = script.asked("/other");
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].bearer(), seen[1].bearer());
    assert_eq!(seen[2].bearer(), script.asked("/user").last().unwrap().bearer());
}

#[actix_rt::test]
async fn who_rests_after_a_failure_uses_the_tokens_that_another_process_got_meanwhile() {
    let (script, (_folder, file)) = (Script::start(), store());
    let one = logged_in_with(&script, on_file(&file)).await;
    let other = Client::new(&script.server(), on_file(&file));
    script.expire();
    script.on("/refresh", [Act::json(429, "{}").with_header("retry-after", "60")]);
    assert!(is_transient(&get(&one, "/user").await));
    assert_eq!(get(&other, "/user").await, Ok(200));
    assert_eq!(get(&one, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 2);
}

#[actix_rt::test]
async fn a_sign_in_in_another_process_is_found_in_the_store() {
    let (script, (_folder, file)) = (Script::start(), store());
    let early = Client::new(&script.server(), on_file(&file));
    assert_eq!(get(&early, "/user").await, Err(Error::NotLoggedIn));
    let other = logged_in_with(&script, on_file(&file)).await;
    assert_eq!(get(&early, "/user").await, Ok(200));
    assert_eq!(get(&other, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn however_many_requests_on_however_many_threads_meet_the_401_there_is_one_refresh() {
    const EACH: usize = 50;
    let script = Script::start();
    let (credentials, events) = noting();
    let here = logged_in_with(&script, credentials.clone()).await;
    let arbiters: Vec<Arbiter> = (0..4).map(|_| Arbiter::new()).collect();
    for round in 1..=3 {
        script.expire();
        script.on("/refresh", [Act::Do.held()]);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let fifty = {
            let (server, credentials) = (script.server(), credentials.clone());
            move || async move {
                let client = Client::new(&server, credentials);
                let requests = (0..EACH).map(|_| get(&client, "/user"));
                for outcome in futures_util::future::join_all(requests).await {
                    sender.send(outcome).unwrap();
                }
            }
        };
        for arbiter in &arbiters {
            assert!(arbiter.spawn_fn({
                let fifty = fifty.clone();
                move || drop(actix_rt::spawn(fifty()))
            }));
        }
        let systems = (0..4).map(|_| {
            let fifty = fifty.clone();
            thread::spawn(move || System::new().block_on(fifty()))
        });
        let systems: Vec<_> = systems.collect();
        drop(fifty);
        // Each of the four hundred has met its 401 before the refresh is granted.
        let asked_before = (round - 1) * 2 * 8 * EACH;
        script.until_asked("/user", asked_before + 8 * EACH).await;
        script.release();
        let mut answers = 0;
        while let Some(outcome) = soon(receiver.recv()).await {
            assert_eq!(outcome, Ok(200));
            answers += 1;
        }
        assert_eq!(answers, 8 * EACH);
        for system in systems {
            system.join().unwrap();
        }
        assert_eq!(script.refreshes(), round, "one for each generation");
        assert_eq!(script.asked("/user").len(), round * 2 * 8 * EACH, "nothing is asked in vain");
    }
    assert_eq!(get(&here, "/user").await, Ok(200));
    let refreshed = |event: &&Event| matches!(event, Event::Refreshed { .. });
    assert_eq!(events.lock().unwrap().iter().filter(refreshed).count(), 3);
    assert_eq!(here.credentials().status().unwrap().refreshes, 3);
}

#[actix_rt::test]
async fn a_refresh_that_is_asked_for_joins_the_one_under_way() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.on("/refresh", [Act::Do.held()]);
    let refreshes: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            actix_rt::spawn(async move { client.refresh().await })
        })
        .collect();
    script.until_asked("/refresh", 1).await;
    script.release();
    for refresh in refreshes {
        assert_eq!(soon(refresh).await.unwrap(), Ok(()));
    }
    assert_eq!(script.refreshes(), 1);
    client.refresh().await.unwrap();
    assert_eq!(script.refreshes(), 2, "a later one is another");
}

#[actix_rt::test]
async fn many_credentials_on_one_file_refresh_once() {
    let (script, (_folder, file)) = (Script::start(), store());
    let first = logged_in_with(&script, on_file(&file)).await;
    for round in 1..=3 {
        script.expire();
        let (server, file) = (script.server(), &file);
        let processes: Vec<_> =
            (0..8).map(|_| on_a_thread(&server, &on_file(file), "/user")).collect();
        for process in processes {
            assert_eq!(process.join().unwrap(), Ok(200));
        }
        assert_eq!((script.refreshes(), script.reuses()), (round, 0));
    }
    assert_eq!(get(&first, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 3);
}

#[actix_rt::test]
async fn whoever_asked_for_a_refresh_may_give_up_and_the_others_get_its_outcome() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    script.on("/refresh", [Act::Do.held()]);
    let ask = |path: &'static str| {
        let client = client.clone();
        actix_rt::spawn(async move { get(&client, path).await })
    };
    let first = ask("/first");
    script.until_asked("/refresh", 1).await;
    let second = ask("/second");
    script.until_asked("/second", 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    script.release();
    assert_eq!(soon(second).await.unwrap(), Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (1, 0));
}

#[actix_rt::test]
async fn a_thread_that_ends_within_a_refresh_leaves_nobody_waiting_and_nothing_lost() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    script.on("/refresh", [Act::Lose.held()]);
    begun_and_left(&script, client.credentials()).await;
    script.release();
    assert_eq!(get_after_rest(&client, "/user").await, Ok(200));
    assert_eq!((script.trades(), script.reuses()), (1, 0));
}

#[actix_rt::test]
async fn a_process_that_ends_within_a_refresh_leaves_no_other_waiting_and_nothing_lost() {
    let (script, (_folder, file)) = (Script::start(), store());
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Act::Lose.held()]);
    begun_and_left(&script, &on_file(&file)).await;
    script.release();
    assert_eq!(get_after_rest(&client, "/user").await, Ok(200));
    assert_eq!((script.trades(), script.reuses()), (1, 0));
    let keys: HashSet<_> = script.asked("/refresh").iter().map(Asked::key).collect();
    assert_eq!(keys.len(), 1, "the attempt that was left is repeated");
}

/// A sign-in while a refresh is held, which it may have to wait for; and its
/// access token.
async fn sign_in_meanwhile(
    script: &Script,
    client: &Client,
) -> (actix_rt::task::JoinHandle<Result<(), Error>>, String) {
    let (client, tokens) = (client.clone(), script.sign_in());
    let access = tokens.token.clone();
    let signing_in = actix_rt::spawn(async move { client.log_in_with(tokens).await });
    let first = async {
        while !signing_in.is_finished() {
            actix_rt::task::yield_now().await;
        }
    };
    // Where it does not wait, it comes before the answer to the refresh.
    let _ = actix_rt::time::timeout(Duration::from_millis(100), first).await;
    (signing_in, access)
}

#[actix_rt::test]
async fn a_refusal_of_the_old_tokens_does_not_erase_those_of_a_new_sign_in() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    script.on("/refresh", [Act::invalid_grant().held()]);
    let old = actix_rt::spawn({
        let client = client.clone();
        async move { get(&client, "/old").await }
    });
    script.until_asked("/refresh", 1).await;
    let (signing_in, new) = sign_in_meanwhile(&script, &client).await;
    script.release();
    assert_eq!(soon(signing_in).await.unwrap(), Ok(()));
    // What was asked as the old one may end or go on as the new one.
    let outcome = soon(old).await.unwrap();
    assert!(matches!(outcome, Err(Error::LoggedOut(_)) | Ok(200)), "{outcome:?}");

    assert!(client.credentials().is_logged_in());
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.asked("/user").last().unwrap().bearer(), Some(new));
    assert_eq!(script.refreshes(), 1);
}

#[actix_rt::test]
async fn a_grant_for_the_old_tokens_does_not_replace_those_of_a_new_sign_in() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    script.on("/refresh", [Act::Do.held()]);
    let old = actix_rt::spawn({
        let client = client.clone();
        async move { get(&client, "/old").await }
    });
    script.until_asked("/refresh", 1).await;
    let (signing_in, new) = sign_in_meanwhile(&script, &client).await;
    script.release();
    assert_eq!(soon(signing_in).await.unwrap(), Ok(()));
    soon(old).await.unwrap().unwrap();
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.asked("/user").last().unwrap().bearer(), Some(new));
}

#[actix_rt::test]
async fn a_refusal_in_one_process_does_not_erase_a_new_sign_in_in_another() {
    let (script, (_folder, file)) = (Script::start(), store());
    let one = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Act::invalid_grant().held()]);
    let old = actix_rt::spawn(async move { get(&one, "/old").await });
    script.until_asked("/refresh", 1).await;
    let other = Client::new(&script.server(), on_file(&file));
    let (signing_in, new) = sign_in_meanwhile(&script, &other).await;
    script.release();
    let outcome = soon(old).await.unwrap();
    assert!(matches!(outcome, Err(Error::LoggedOut(_)) | Ok(200)), "{outcome:?}");
    assert_eq!(soon(signing_in).await.unwrap(), Ok(()));

    let third = Client::new(&script.server(), on_file(&file));
    assert_eq!(get(&third, "/user").await, Ok(200));
    assert_eq!(script.asked("/user").last().unwrap().bearer(), Some(new));
}

#[actix_rt::test]
async fn a_log_out_during_a_refresh_stays_logged_out() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.expire();
    script.on("/refresh", [Act::Do.held()]);
    let refreshing = actix_rt::spawn({
        let client = client.clone();
        async move { get(&client, "/user").await }
    });
    script.until_asked("/refresh", 1).await;
    let ending = actix_rt::spawn({
        let client = client.clone();
        async move { client.log_out().await }
    });
    actix_rt::time::sleep(Duration::from_millis(100)).await;
    script.release();
    // The request may have been answered before the end.
    let _ = soon(refreshing).await.unwrap();
    assert_eq!(soon(ending).await.unwrap(), Ok(()));
    assert!(!client.credentials().is_logged_in());
    assert_eq!(get(&client, "/user").await, Err(Error::NotLoggedIn));
}

/// Runs it on a thread, and fails where it does not end: a deadlock would hold
/// up a test for ever.
fn ends(work: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let working = thread::spawn(move || {
        work();
        sender.send(()).unwrap();
    });
    let ended = receiver.recv_timeout(PATIENCE);
    assert_ne!(ended, Err(mpsc::RecvTimeoutError::Timeout), "it is locked up");
    working.join().unwrap();
}

#[test]
fn a_callback_may_ask_for_the_status_at_every_event() {
    ends(|| {
        let own = Arc::new(OnceLock::<Credentials>::new());
        let seen = Arc::<Mutex<Vec<(String, bool)>>>::default();
        let credentials = Credentials::builder()
            .on_event({
                let (own, seen) = (own.clone(), seen.clone());
                move |event| {
                    let Some(own) = own.get() else { return };
                    assert_eq!(own.status().is_some(), own.is_logged_in());
                    let name = format!("{event:?}");
                    let name = name.split([' ', '(']).next().unwrap().to_owned();
                    seen.lock().unwrap().push((name, own.is_logged_in()));
                }
            })
            .build();
        own.set(credentials.clone()).unwrap();
        System::new().block_on(async move {
            let script = Script::start();
            let client = logged_in_with(&script, credentials).await;
            script.expire();
            assert_eq!(get(&client, "/user").await, Ok(200));
            script.expire();
            script.on("/refresh", [Act::invalid_grant()]);
            assert!(matches!(get(&client, "/user").await, Err(Error::LoggedOut(_))));
        });
        let seen = seen.lock().unwrap();
        for (name, logged_in) in
            [("LoggedIn", true), ("Refreshed", true), ("Retried", true), ("LoggedOut", false)]
        {
            assert!(seen.contains(&(name.to_owned(), logged_in)), "{name}: {seen:?}");
        }
        assert!(seen.iter().any(|(name, _)| name == "Exchange"), "{seen:?}");
    });
}

#[test]
fn a_callback_may_wait_for_a_request_of_another_thread() {
    ends(|| {
        let own = Arc::new(OnceLock::<(Server, Credentials)>::new());
        let (waited, waits) = mpsc::channel();
        let credentials = Credentials::builder()
            .on_event({
                let own = own.clone();
                move |event| {
                    let Some((server, credentials)) = own.get() else { return };
                    if matches!(
                        event,
                        Event::LoggedIn | Event::Refreshed { .. } | Event::LoggedOut(_)
                    ) {
                        let outcome = on_a_thread(server, credentials, "/callback");
                        waited.send(outcome.join().unwrap()).unwrap();
                    }
                }
            })
            .build();
        System::new().block_on(async move {
            let script = Script::start();
            own.set((script.server(), credentials.clone())).unwrap();
            let client = logged_in_with(&script, credentials).await;
            script.expire();
            assert_eq!(get(&client, "/user").await, Ok(200));
            script.expire();
            script.on("/refresh", [Act::invalid_grant()]);
            assert!(matches!(get(&client, "/user").await, Err(Error::LoggedOut(_))));
        });
        let waits: Vec<_> = waits.try_iter().collect();
        assert_eq!(waits, [Ok(200), Ok(200), Err(Error::NotLoggedIn)]);
    });
}

#[actix_rt::test]
async fn whoever_waits_gives_up_in_the_end_and_does_not_refresh_by_itself() {
    let script = Script::start();
    let wait_timeout = Duration::from_millis(300);
    let client =
        logged_in_with(&script, Credentials::builder().wait_timeout(wait_timeout).build()).await;
    script.expire();
    script.on("/refresh", [Act::Do.held()]);
    let first = actix_rt::spawn({
        let client = client.clone();
        async move { get(&client, "/first").await }
    });
    script.until_asked("/refresh", 1).await;
    let asked = Instant::now();
    let outcome = soon(get(&client, "/second")).await;
    assert!(is_transient(&outcome), "{outcome:?}");
    assert!(asked.elapsed() >= Duration::from_millis(250), "it waited: {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    assert_eq!(script.refreshes(), 1, "it did not refresh by itself");
    script.release();
    let _ = soon(first).await.unwrap();
    assert_eq!(get_after_rest(&client, "/second").await, Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (1, 0), "what came late was kept");
}

#[actix_rt::test]
async fn a_process_that_waits_for_another_gives_up_in_the_end_and_does_not_refresh_by_itself() {
    let (script, (_folder, file)) = (Script::start(), store());
    let one = logged_in_with(&script, on_file(&file)).await;
    let wait_timeout = Duration::from_millis(300);
    let other =
        Credentials::builder().store(FileStore::new(&file)).wait_timeout(wait_timeout).build();
    let other = Client::new(&script.server(), other);
    assert_eq!(get(&other, "/user").await, Ok(200));
    script.expire();
    script.on("/refresh", [Act::Do.held()]);
    let first = actix_rt::spawn(async move { get(&one, "/first").await });
    script.until_asked("/refresh", 1).await;
    let asked = Instant::now();
    let outcome = soon(get(&other, "/second")).await;
    assert!(is_transient(&outcome), "{outcome:?}");
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    assert_eq!(script.refreshes(), 1, "it did not refresh by itself");
    script.release();
    assert_eq!(soon(first).await.unwrap(), Ok(200));
    assert_eq!(get_after_rest(&other, "/second").await, Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (1, 0));
}

#[actix_rt::test]
async fn what_one_user_has_begun_is_not_sent_again_as_another() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.on("/transfer", [Act::say(401, "text/plain", "").held()]);
    let transfer = actix_rt::spawn({
        let client = client.clone();
        async move { client.post("/transfer").body("all of it").send().await.map(|_| ()) }
    });
    script.until_asked("/transfer", 1).await;
    client.log_in_with(script.sign_in()).await.unwrap();
    script.release();
    assert_eq!(soon(transfer).await.unwrap(), Err(Error::SupersededByLogin));
    assert_eq!(script.asked("/transfer").len(), 1);
    assert_eq!(get(&client, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn a_logout_reaches_the_server_also_when_the_file_is_gone() {
    let (script, (_folder, file)) = (Script::start(), store());
    let client = logged_in_with(&script, on_file(&file)).await;
    std::fs::remove_file(&file).unwrap();
    client.log_out().await.unwrap();
    assert_eq!(script.asked("/logout").len(), 1);
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn tokens_that_others_left_in_the_store_may_have_expired_as_well() {
    let (script, (_folder, file)) = (Script::start(), store());
    let first = logged_in_with(&script, on_file(&file)).await;
    Client::new(&script.server(), on_file(&file)).refresh().await.unwrap();
    script.expire();
    assert_eq!(get(&first, "/user").await, Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (2, 0));
}
