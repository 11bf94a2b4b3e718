//! One login, many requests: threads, processes, callbacks.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use actix_rt::task::JoinHandle;
use actix_rt::{Arbiter, System};
use matchbook_client::{Client, Credentials, Error, Event, FileStore};
use matchbook_testkit::{Reaction, Received, ScriptedServer};
use tokio::sync::oneshot;

use super::{
    get, get_after_backoff, hold_refresh, is_transient, logged_in, logged_in_with, on_a_thread,
    on_file, recording, server_at, spawn_get, store, within_timeout,
};

/// Starts a refresh on a thread that ends while the server holds it, like a killed process.
async fn abandon_refresh(script: &ScriptedServer, credentials: &Credentials) {
    let server = server_at(script);
    let credentials = credentials.clone();
    let refreshes = script.refreshes() + 1;
    let (end, ended) = oneshot::channel();
    let thread = thread::spawn(move || {
        System::new().block_on(async move {
            let client = Client::new(&server, credentials);
            tokio::select! {
                _ = get(&client, "/user") => panic!("the refresh is held"),
                _ = ended => {}
            }
        });
    });
    script.until_received("/refresh", refreshes).await;
    end.send(()).unwrap();
    thread.join().unwrap();
}

#[actix_rt::test]
async fn the_rejected_token_triggers_a_refresh_and_not_the_401() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.on("/slow", [Reaction::Serve.held()]);
    let slow = spawn_get(&client, "/slow");
    script.until_received("/slow", 1).await;
    script.expire();
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 1);

    script.release();
    assert_eq!(within_timeout(slow).await.unwrap(), Ok(200));
    assert_eq!(script.refreshes(), 1, "the rejected token was replaced already");
    let bearers: Vec<_> = script.received("/slow").iter().map(Received::bearer).collect();
    assert_ne!(bearers[0], bearers[1]);
    assert_eq!(bearers[1], script.received("/user").last().unwrap().bearer());
}

#[actix_rt::test]
async fn a_newer_token_in_the_store_is_used_without_a_refresh() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let one = logged_in_with(&script, on_file(&file)).await;
    let other = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get(&other, "/other").await, Ok(200));
    script.expire();
    assert_eq!(get(&one, "/user").await, Ok(200));
    assert_eq!(get(&other, "/other").await, Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (1, 0));
    let seen = script.received("/other");
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].bearer(), seen[1].bearer());
    assert_eq!(seen[2].bearer(), script.received("/user").last().unwrap().bearer());
}

#[actix_rt::test]
async fn backoff_does_not_block_tokens_refreshed_by_another_process() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let one = logged_in_with(&script, on_file(&file)).await;
    let other = Client::new(&server_at(&script), on_file(&file));
    script.expire();
    script.on("/refresh", [Reaction::json(429, "{}").with_header("retry-after", "60")]);
    assert!(is_transient(&get(&one, "/user").await));
    assert_eq!(get(&other, "/user").await, Ok(200));
    assert_eq!(get(&one, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 2);
}

#[actix_rt::test]
async fn a_login_of_another_process_is_read_from_the_store() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let early = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get(&early, "/user").await, Err(Error::NotLoggedIn));
    let other = logged_in_with(&script, on_file(&file)).await;
    assert_eq!(get(&early, "/user").await, Ok(200));
    assert_eq!(get(&other, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn many_requests_on_many_threads_cause_one_refresh() {
    const EACH: usize = 50;
    let script = ScriptedServer::start();
    let (credentials, events) = recording();
    let here = logged_in_with(&script, credentials.clone()).await;
    let arbiters: Vec<Arbiter> = (0..4).map(|_| Arbiter::new()).collect();
    for round in 1..=3 {
        script.expire();
        script.on("/refresh", [Reaction::Serve.held()]);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let fifty = {
            let server = server_at(&script);
            let credentials = credentials.clone();
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
        // All four hundred requests get their 401 before the server responds to the refresh.
        let received_before = (round - 1) * 2 * 8 * EACH;
        script.until_received("/user", received_before + 8 * EACH).await;
        script.release();
        let mut responses = 0;
        while let Some(outcome) = within_timeout(receiver.recv()).await {
            assert_eq!(outcome, Ok(200));
            responses += 1;
        }
        assert_eq!(responses, 8 * EACH);
        for system in systems {
            system.join().unwrap();
        }
        assert_eq!(script.refreshes(), round, "one refresh for each generation");
        assert_eq!(
            script.received("/user").len(),
            round * 2 * 8 * EACH,
            "no request is sent a third time"
        );
    }
    assert_eq!(get(&here, "/user").await, Ok(200));
    let refreshed = |event: &&Event| matches!(event, Event::Refreshed { .. });
    assert_eq!(events.lock().unwrap().iter().filter(refreshed).count(), 3);
    assert_eq!(here.credentials().status().unwrap().refreshes, 3);
}

#[actix_rt::test]
async fn an_explicit_refresh_joins_the_refresh_in_progress() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.on("/refresh", [Reaction::Serve.held()]);
    let refreshes: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            actix_rt::spawn(async move { client.refresh().await })
        })
        .collect();
    script.until_received("/refresh", 1).await;
    script.release();
    for refresh in refreshes {
        assert_eq!(within_timeout(refresh).await.unwrap(), Ok(()));
    }
    assert_eq!(script.refreshes(), 1);
    client.refresh().await.unwrap();
    assert_eq!(script.refreshes(), 2, "a later call refreshes again");
}

#[actix_rt::test]
async fn many_processes_with_one_file_refresh_once() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let first = logged_in_with(&script, on_file(&file)).await;
    for round in 1..=3 {
        script.expire();
        let server = server_at(&script);
        let file = &file;
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
async fn a_canceled_request_does_not_cancel_its_refresh() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    let first = hold_refresh(&script, &client, "/first", Reaction::Serve).await;
    let second = spawn_get(&client, "/second");
    script.until_received("/second", 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    script.release();
    assert_eq!(within_timeout(second).await.unwrap(), Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (1, 0));
}

#[actix_rt::test]
async fn a_thread_that_ends_during_a_refresh_blocks_no_other_and_loses_no_tokens() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.expire();
    script.on("/refresh", [Reaction::DropConnection.held()]);
    abandon_refresh(&script, client.credentials()).await;
    script.release();
    assert_eq!(get_after_backoff(&client, "/user").await, Ok(200));
    assert_eq!((script.rotations(), script.reuses()), (1, 0));
}

#[actix_rt::test]
async fn a_process_that_ends_during_a_refresh_blocks_no_other_and_loses_no_tokens() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let client = logged_in_with(&script, on_file(&file)).await;
    script.expire();
    script.on("/refresh", [Reaction::DropConnection.held()]);
    abandon_refresh(&script, &on_file(&file)).await;
    script.release();
    assert_eq!(get_after_backoff(&client, "/user").await, Ok(200));
    assert_eq!((script.rotations(), script.reuses()), (1, 0));
    let keys: HashSet<_> = script.received("/refresh").iter().map(Received::key).collect();
    assert_eq!(keys.len(), 1, "the abandoned refresh is repeated with its key");
}

/// Gives a task that should wait for a held refresh the time to finish without waiting.
async fn give_time_to_finish<T>(task: &JoinHandle<T>) {
    let finished = async {
        while !task.is_finished() {
            actix_rt::task::yield_now().await;
        }
    };
    let _ = actix_rt::time::timeout(Duration::from_millis(100), finished).await;
}

/// Starts a login while a refresh is held. Returns the login and its access token.
async fn log_in_meanwhile(
    script: &ScriptedServer,
    client: &Client,
) -> (JoinHandle<Result<(), Error>>, String) {
    let client = client.clone();
    let tokens = script.log_in();
    let access_token = tokens.token.clone();
    let login = actix_rt::spawn(async move { client.log_in_with(tokens).await });
    give_time_to_finish(&login).await;
    (login, access_token)
}

#[actix_rt::test]
async fn a_rejection_of_old_tokens_does_not_erase_those_of_a_new_login() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    let old = hold_refresh(&script, &client, "/old", Reaction::invalid_grant()).await;
    let (login, new) = log_in_meanwhile(&script, &client).await;
    script.release();
    assert_eq!(within_timeout(login).await.unwrap(), Ok(()));
    // The request of the old login may fail, or succeed with the new tokens.
    let outcome = within_timeout(old).await.unwrap();
    assert!(matches!(outcome, Err(Error::LoggedOut(_)) | Ok(200)), "{outcome:?}");

    assert!(client.credentials().is_logged_in());
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.received("/user").last().unwrap().bearer(), Some(new));
    assert_eq!(script.refreshes(), 1);
}

#[actix_rt::test]
async fn a_refresh_of_old_tokens_does_not_replace_those_of_a_new_login() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    let old = hold_refresh(&script, &client, "/old", Reaction::Serve).await;
    let (login, new) = log_in_meanwhile(&script, &client).await;
    script.release();
    assert_eq!(within_timeout(login).await.unwrap(), Ok(()));
    within_timeout(old).await.unwrap().unwrap();
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.received("/user").last().unwrap().bearer(), Some(new));
}

#[actix_rt::test]
async fn a_rejection_in_one_process_does_not_erase_a_new_login_in_another() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let one = logged_in_with(&script, on_file(&file)).await;
    let old = hold_refresh(&script, &one, "/old", Reaction::invalid_grant()).await;
    let other = Client::new(&server_at(&script), on_file(&file));
    let (login, new) = log_in_meanwhile(&script, &other).await;
    script.release();
    let outcome = within_timeout(old).await.unwrap();
    assert!(matches!(outcome, Err(Error::LoggedOut(_)) | Ok(200)), "{outcome:?}");
    assert_eq!(within_timeout(login).await.unwrap(), Ok(()));

    let third = Client::new(&server_at(&script), on_file(&file));
    assert_eq!(get(&third, "/user").await, Ok(200));
    assert_eq!(script.received("/user").last().unwrap().bearer(), Some(new));
}

#[actix_rt::test]
async fn a_logout_during_a_refresh_stays_logged_out() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    let refreshing = hold_refresh(&script, &client, "/user", Reaction::Serve).await;
    let logout = actix_rt::spawn({
        let client = client.clone();
        async move { client.log_out().await }
    });
    give_time_to_finish(&logout).await;
    assert!(!logout.is_finished(), "the logout waits for the refresh");
    script.release();
    assert_eq!(within_timeout(logout).await.unwrap(), Ok(()));
    // The server may have responded before the logout.
    let _ = within_timeout(refreshing).await.unwrap();
    assert!(!client.credentials().is_logged_in());
    assert_eq!(get(&client, "/user").await, Err(Error::NotLoggedIn));
}

#[actix_rt::test]
async fn a_request_waits_for_a_refresh_until_its_timeout_and_does_not_refresh_itself() {
    let script = ScriptedServer::start();
    let wait_timeout = Duration::from_millis(300);
    let client =
        logged_in_with(&script, Credentials::builder().wait_timeout(wait_timeout).build()).await;
    let first = hold_refresh(&script, &client, "/first", Reaction::Serve).await;
    let started_at = Instant::now();
    let outcome = within_timeout(get(&client, "/second")).await;
    assert!(is_transient(&outcome), "{outcome:?}");
    assert!(
        started_at.elapsed() >= Duration::from_millis(250),
        "it waited: {:?}",
        started_at.elapsed()
    );
    assert!(started_at.elapsed() < Duration::from_secs(8), "{:?}", started_at.elapsed());
    assert_eq!(script.refreshes(), 1, "it did not refresh itself");
    script.release();
    let _ = within_timeout(first).await.unwrap();
    assert_eq!(get_after_backoff(&client, "/second").await, Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (1, 0), "the late response was kept");
}

#[actix_rt::test]
async fn a_process_waits_for_another_until_its_timeout_and_does_not_refresh_itself() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let one = logged_in_with(&script, on_file(&file)).await;
    let wait_timeout = Duration::from_millis(300);
    let other =
        Credentials::builder().store(FileStore::new(&file)).wait_timeout(wait_timeout).build();
    let other = Client::new(&server_at(&script), other);
    assert_eq!(get(&other, "/user").await, Ok(200));
    let first = hold_refresh(&script, &one, "/first", Reaction::Serve).await;
    let started_at = Instant::now();
    let outcome = within_timeout(get(&other, "/second")).await;
    assert!(is_transient(&outcome), "{outcome:?}");
    assert!(started_at.elapsed() < Duration::from_secs(8), "{:?}", started_at.elapsed());
    assert_eq!(script.refreshes(), 1, "it did not refresh itself");
    script.release();
    assert_eq!(within_timeout(first).await.unwrap(), Ok(200));
    assert_eq!(get_after_backoff(&other, "/second").await, Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (1, 0));
}

#[actix_rt::test]
async fn a_request_of_one_login_is_not_sent_again_under_another() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.on("/transfer", [Reaction::respond(401, "text/plain", "").held()]);
    let transfer = actix_rt::spawn({
        let client = client.clone();
        async move { client.post("/transfer").body("everything").send().await.map(|_| ()) }
    });
    script.until_received("/transfer", 1).await;
    client.log_in_with(script.log_in()).await.unwrap();
    script.release();
    assert_eq!(within_timeout(transfer).await.unwrap(), Err(Error::SupersededByLogin));
    assert_eq!(script.received("/transfer").len(), 1);
    assert_eq!(get(&client, "/user").await, Ok(200));
}

#[actix_rt::test]
async fn a_logout_reaches_the_server_even_if_the_file_was_deleted() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let client = logged_in_with(&script, on_file(&file)).await;
    std::fs::remove_file(&file).unwrap();
    client.log_out().await.unwrap();
    assert_eq!(script.received("/logout").len(), 1);
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn expired_tokens_in_the_store_are_refreshed() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let first = logged_in_with(&script, on_file(&file)).await;
    Client::new(&server_at(&script), on_file(&file)).refresh().await.unwrap();
    script.expire();
    assert_eq!(get(&first, "/user").await, Ok(200));
    assert_eq!((script.refreshes(), script.reuses()), (2, 0));
}
