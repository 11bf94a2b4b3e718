//! The event hook of an application.

use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;

use actix_rt::System;
use matchbook_client::{Credentials, Error, Event, Server};
use matchbook_testkit::{Reaction, ScriptedServer};

use super::{TEST_TIMEOUT, get, logged_in_with, on_a_thread, server_at};

/// Runs `work` on a thread, and panics after a timeout: a deadlock would block the test.
fn assert_ends(work: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let working = thread::spawn(move || {
        work();
        sender.send(()).unwrap();
    });
    let ended = receiver.recv_timeout(TEST_TIMEOUT);
    assert_ne!(ended, Err(mpsc::RecvTimeoutError::Timeout), "deadlock");
    working.join().unwrap();
}

#[test]
fn an_event_hook_can_read_the_status() {
    assert_ends(|| {
        let own = Arc::new(OnceLock::<Credentials>::new());
        let seen = Arc::<Mutex<Vec<(String, bool)>>>::default();
        let credentials = Credentials::builder()
            .on_event({
                let own = own.clone();
                let seen = seen.clone();
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
            let script = ScriptedServer::start();
            let client = logged_in_with(&script, credentials).await;
            script.expire();
            assert_eq!(get(&client, "/user").await, Ok(200));
            script.expire();
            script.on("/refresh", [Reaction::invalid_grant()]);
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
fn an_event_hook_can_wait_for_a_request_of_another_thread() {
    assert_ends(|| {
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
                        let outcome = on_a_thread(server, credentials, "/hook");
                        waited.send(outcome.join().unwrap()).unwrap();
                    }
                }
            })
            .build();
        System::new().block_on(async move {
            let script = ScriptedServer::start();
            own.set((server_at(&script), credentials.clone())).unwrap();
            let client = logged_in_with(&script, credentials).await;
            script.expire();
            assert_eq!(get(&client, "/user").await, Ok(200));
            script.expire();
            script.on("/refresh", [Reaction::invalid_grant()]);
            assert!(matches!(get(&client, "/user").await, Err(Error::LoggedOut(_))));
        });
        let waits: Vec<_> = waits.try_iter().collect();
        assert_eq!(waits, [Ok(200), Ok(200), Err(Error::NotLoggedIn)]);
    });
}
