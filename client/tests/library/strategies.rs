//! Refreshes before the access token expires.

use std::time::Duration;

use matchbook_client::{Client, Credentials, Event, Strategy};
use matchbook_testkit::{Reaction, ScriptedServer};
use tokio::sync::mpsc;

use super::{get, guest, is_transient, server_at, within_timeout};

const HALF: f64 = 0.5;

/// Returns credentials, and a receiver of the count of each refresh.
fn counting(strategy: Strategy) -> (Credentials, mpsc::UnboundedReceiver<u64>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let send = move |event: &Event| {
        if let Event::Refreshed { count } = event {
            // The receiver may have been dropped.
            let _ = sender.send(*count);
        }
    };
    (Credentials::builder().strategy(strategy).on_event(send).build(), receiver)
}

/// Waits until less than half of the lifetime remains.
async fn past_half(client: &Client) {
    within_timeout(async {
        loop {
            let status = client.credentials().status().unwrap();
            let lifetime = status.lifetime.unwrap();
            let remaining = status.remaining.unwrap();
            let Some(wait) = remaining.checked_sub(lifetime / 2) else { break };
            actix_rt::time::sleep(wait + Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[actix_rt::test]
async fn a_reactive_refresh_follows_a_401() {
    let script = ScriptedServer::start();
    script.set_lifetime(0);
    let client = guest(&script, Credentials::default()).await;
    assert_eq!(client.credentials().status().unwrap().remaining, Some(Duration::ZERO));
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 0, "an expired lifetime alone causes no refresh");
    script.expire();
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 1);
}

#[actix_rt::test]
async fn a_proactive_refresh_precedes_the_next_request_after_the_fraction() {
    let script = ScriptedServer::start();
    script.set_lifetime(4);
    let (credentials, _) = counting(Strategy::Proactive { fraction: HALF });
    let client = guest(&script, credentials).await;
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 0, "before the fraction");
    past_half(&client).await;
    let requests = (0..50).map(|_| get(&client, "/user"));
    for outcome in futures_util::future::join_all(requests).await {
        assert_eq!(outcome, Ok(200));
    }
    within_timeout(script.until_received("/refresh", 1)).await;
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 1, "one refresh for all requests");
    assert_eq!(script.received("/user").len(), 52, "no request was sent twice");
}

#[actix_rt::test]
async fn a_failed_proactive_refresh_does_not_fail_a_request_with_a_valid_token() {
    let script = ScriptedServer::start();
    script.set_lifetime(4);
    let (credentials, _) = counting(Strategy::Proactive { fraction: HALF });
    let client = guest(&script, credentials).await;
    past_half(&client).await;
    script.always("/refresh", Reaction::json(503, "{}"));
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert!(script.refreshes() > 0, "a refresh was tried");
}

#[actix_rt::test]
async fn a_background_task_refreshes_repeatedly_without_requests() {
    let script = ScriptedServer::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = counting(Strategy::Background { fraction: HALF });
    let client = guest(&script, credentials).await;
    for count in 1..=3 {
        assert_eq!(within_timeout(refreshed.recv()).await, Some(count));
    }
    assert!(script.received("/user").is_empty());
    assert_eq!((script.rotations(), script.reuses()), (script.refreshes(), 0));
    drop(client);
}

#[actix_rt::test]
async fn a_background_task_recovers_from_failures() {
    let script = ScriptedServer::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = counting(Strategy::Background { fraction: HALF });
    script.on(
        "/refresh",
        [Reaction::json(503, "{}").with_header("retry-after", "1"), Reaction::DropConnection],
    );
    let client = guest(&script, credentials).await;
    assert_eq!(within_timeout(refreshed.recv()).await, Some(1));
    assert_eq!(within_timeout(refreshed.recv()).await, Some(2));
    assert_eq!(script.reuses(), 0);
    assert!(client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn a_background_task_refreshes_once_for_many_clients() {
    let script = ScriptedServer::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = counting(Strategy::Background { fraction: HALF });
    let client = guest(&script, credentials.clone()).await;
    let others: Vec<_> =
        (0..4).map(|_| Client::new(&server_at(&script), credentials.clone())).collect();
    for other in &others {
        assert_eq!(get(other, "/user").await, Ok(200));
    }
    for count in 1..=3 {
        assert_eq!(within_timeout(refreshed.recv()).await, Some(count));
    }
    let rotations = script.rotations();
    let refreshes = script.refreshes();
    assert!(
        refreshes <= rotations + 1 && refreshes <= 4,
        "{refreshes} for {rotations} generations"
    );
    drop(client);
}

#[actix_rt::test]
async fn a_background_task_stops_refreshing_after_a_logout() {
    let script = ScriptedServer::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = counting(Strategy::Background { fraction: HALF });
    let client = guest(&script, credentials).await;
    assert_eq!(within_timeout(refreshed.recv()).await, Some(1));
    client.log_out().await.unwrap();
    let received = script.refreshes();
    // Twice the time until the next refresh.
    actix_rt::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(script.refreshes(), received);
}

#[actix_rt::test]
async fn a_background_task_ends_when_the_credentials_are_dropped() {
    let script = ScriptedServer::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = counting(Strategy::Background { fraction: HALF });
    let client = guest(&script, credentials).await;
    assert_eq!(within_timeout(refreshed.recv()).await, Some(1));
    drop(client);
    // The hook, which owns the sender, is dropped with the credentials.
    within_timeout(async { while refreshed.recv().await.is_some() {} }).await;
}

#[actix_rt::test]
async fn a_proactive_refresh_failure_is_reported_if_the_token_has_expired() {
    let script = ScriptedServer::start();
    let (credentials, _) = counting(Strategy::Proactive { fraction: HALF });
    let client = guest(&script, credentials).await;
    script.expire();
    script.always("/refresh", Reaction::json(503, "{}"));
    assert!(is_transient(&get(&client, "/user").await));
}

#[actix_rt::test]
async fn a_background_task_delays_refreshes_that_are_always_due() {
    let script = ScriptedServer::start();
    let (credentials, mut counts) = counting(Strategy::Background { fraction: 0.0 });
    let _client = guest(&script, credentials).await;
    for _ in 0..2 {
        within_timeout(counts.recv()).await.unwrap();
    }
    actix_rt::time::sleep(Duration::from_millis(300)).await;
    assert!(script.refreshes() <= 3, "{}", script.refreshes());
}
