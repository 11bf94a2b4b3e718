//! Refreshing before a token fails.

use std::time::Duration;

use matchbook_client::{Client, Credentials, Event, Strategy};
use tokio::sync::mpsc;

use super::script::{Act, Script};
use super::{get, guest, is_transient, soon};

const HALF: f64 = 0.5;

/// A credential, and the counts of its refreshes as they happen.
fn telling(strategy: Strategy) -> (Credentials, mpsc::UnboundedReceiver<u64>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let tell = move |event: &Event| {
        if let Event::Refreshed { count } = event {
            // Whoever listened may have ended.
            let _ = sender.send(*count);
        }
    };
    (Credentials::builder().strategy(strategy).on_event(tell).build(), receiver)
}

/// Waits until less than half of the lifetime remains.
async fn past_half(client: &Client) {
    soon(async {
        loop {
            let status = client.credentials().status().unwrap();
            let (lifetime, remaining) = (status.lifetime.unwrap(), status.remaining.unwrap());
            let Some(wait) = remaining.checked_sub(lifetime / 2) else { break };
            actix_rt::time::sleep(wait + Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[actix_rt::test]
async fn reactive_waits_for_the_401() {
    let script = Script::start();
    script.set_lifetime(0);
    let client = guest(&script, Credentials::default()).await;
    assert_eq!(client.credentials().status().unwrap().remaining, Some(Duration::ZERO));
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 0, "the clock is not asked");
    script.expire();
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 1);
}

#[actix_rt::test]
async fn proactive_refreshes_with_the_next_request_past_the_fraction_and_meets_no_401() {
    let script = Script::start();
    script.set_lifetime(4);
    let (credentials, _) = telling(Strategy::Proactive { fraction: HALF });
    let client = guest(&script, credentials).await;
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 0, "it is early");
    past_half(&client).await;
    let requests = (0..50).map(|_| get(&client, "/user"));
    for outcome in futures_util::future::join_all(requests).await {
        assert_eq!(outcome, Ok(200));
    }
    soon(script.until_asked("/refresh", 1)).await;
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(script.refreshes(), 1, "once for all of them");
    assert_eq!(script.asked("/user").len(), 52, "nothing was sent twice");
}

#[actix_rt::test]
async fn a_proactive_refresh_that_fails_does_not_fail_a_request_whose_token_is_good() {
    let script = Script::start();
    script.set_lifetime(4);
    let (credentials, _) = telling(Strategy::Proactive { fraction: HALF });
    let client = guest(&script, credentials).await;
    past_half(&client).await;
    script.always("/refresh", Act::json(503, "{}"));
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert_eq!(get(&client, "/user").await, Ok(200));
    assert!(script.refreshes() > 0, "it was tried");
}

#[actix_rt::test]
async fn background_refreshes_without_a_request_again_and_again() {
    let script = Script::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = telling(Strategy::Background { fraction: HALF });
    let client = guest(&script, credentials).await;
    for count in 1..=3 {
        assert_eq!(soon(refreshed.recv()).await, Some(count));
    }
    assert!(script.asked("/user").is_empty());
    assert_eq!((script.trades(), script.reuses()), (script.refreshes(), 0));
    drop(client);
}

#[actix_rt::test]
async fn background_gets_over_failures_by_itself() {
    let script = Script::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = telling(Strategy::Background { fraction: HALF });
    script.on("/refresh", [Act::json(503, "{}").with_header("retry-after", "1"), Act::Lose]);
    let client = guest(&script, credentials).await;
    assert_eq!(soon(refreshed.recv()).await, Some(1));
    assert_eq!(soon(refreshed.recv()).await, Some(2));
    assert_eq!(script.reuses(), 0);
    assert!(client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn background_refreshes_once_for_many_sessions_and_threads() {
    let script = Script::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = telling(Strategy::Background { fraction: HALF });
    let client = guest(&script, credentials.clone()).await;
    let others: Vec<_> =
        (0..4).map(|_| Client::new(&script.server(), credentials.clone())).collect();
    for other in &others {
        assert_eq!(get(other, "/user").await, Ok(200));
    }
    for count in 1..=3 {
        assert_eq!(soon(refreshed.recv()).await, Some(count));
    }
    let (trades, refreshes) = (script.trades(), script.refreshes());
    assert!(refreshes <= trades + 1 && refreshes <= 4, "{refreshes} for {trades} generations");
    drop(client);
}

#[actix_rt::test]
async fn background_ends_with_the_session() {
    let script = Script::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = telling(Strategy::Background { fraction: HALF });
    let client = guest(&script, credentials).await;
    assert_eq!(soon(refreshed.recv()).await, Some(1));
    client.log_out().await.unwrap();
    let asked = script.refreshes();
    // Twice as long as it would take.
    actix_rt::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(script.refreshes(), asked);
}

#[actix_rt::test]
async fn background_ends_when_nobody_holds_the_credential_any_more() {
    let script = Script::start();
    script.set_lifetime(1);
    let (credentials, mut refreshed) = telling(Strategy::Background { fraction: HALF });
    let client = guest(&script, credentials).await;
    assert_eq!(soon(refreshed.recv()).await, Some(1));
    drop(client);
    // Its callback, which holds the sender, goes with it.
    soon(async { while refreshed.recv().await.is_some() {} }).await;
}

#[actix_rt::test]
async fn a_strategy_does_not_hide_a_failure_once_the_token_has_expired() {
    let script = Script::start();
    let (credentials, _) = telling(Strategy::Proactive { fraction: HALF });
    let client = guest(&script, credentials).await;
    script.expire();
    script.always("/refresh", Act::json(503, "{}"));
    assert!(is_transient(&get(&client, "/user").await));
}

#[actix_rt::test]
async fn in_the_background_what_is_always_due_is_not_refreshed_all_the_time() {
    let script = Script::start();
    let (credentials, mut counts) = telling(Strategy::Background { fraction: 0.0 });
    let _session = guest(&script, credentials).await;
    for _ in 0..2 {
        soon(counts.recv()).await.unwrap();
    }
    actix_rt::time::sleep(Duration::from_millis(300)).await;
    assert!(script.refreshes() <= 3, "{}", script.refreshes());
}
