//! The cache of OAuth clients.

use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use matchbook_server::clients::{Client, ClientKind, ClientRegistry, GracePeriod, LogoutSettings};
use matchbook_server::ids::ClientId;
use matchbook_server::store::{Conn, Store, clients};
use matchbook_server::tokens::{Scope, SecretDigests, client_secret_digest};

use crate::harness::{DEFAULT, Harness, START};

/// Longer than a client is used without a query.
const STALE: Duration = Duration::from_millis(2_100);

fn client(id: &ClientId) -> Client {
    Client {
        id: id.clone(),
        name: "App".to_owned(),
        kind: ClientKind::Public,
        redirect_uris: vec!["https://app.example.com/".to_owned()],
        scope: Scope::parse("read write").unwrap(),
        audiences: vec!["https://api.example.com/".to_owned()],
        is_first_party: true,
        require_pkce: true,
        is_machine: false,
        is_device: false,
        logout: LogoutSettings::default(),
        grace_period: GracePeriod::For(Duration::from_secs(60)),
        created_at: START,
    }
}

/// Occupies the only connection for some time.
fn occupy(store: &Store, time: Duration) -> actix_rt::task::JoinHandle<()> {
    let store = store.clone();
    actix_rt::spawn(async move {
        let sleep = move |_: &mut Conn| {
            thread::sleep(time);
            Ok(())
        };
        store.run(sleep).await.unwrap();
    })
}

#[actix_rt::test]
async fn change_of_a_client_takes_effect_after_two_seconds() {
    let mut harness = Harness::new(DEFAULT);
    let registry = ClientRegistry::new(harness.store_with(|_| ()));
    let id = ClientId::from("app");
    assert!(registry.get(&id).await.unwrap().is_none());
    let first = client(&id);
    assert!(clients::insert(&mut harness.conn, &first).unwrap());
    assert!(!clients::insert(&mut harness.conn, &first).unwrap(), "the id is taken");
    assert!(registry.get(&id).await.unwrap().is_none(), "cached");
    actix_rt::time::sleep(STALE).await;
    let found = registry.get(&id).await.unwrap().unwrap();
    assert_eq!(found.scope, first.scope);
    assert_eq!(found.redirect_uris, first.redirect_uris);
    assert_eq!(found.audiences, first.audiences);
    assert_eq!(found.grace_period, first.grace_period);

    let renamed =
        Client { name: "Renamed".to_owned(), grace_period: GracePeriod::Default, ..first };
    assert!(clients::update(&mut harness.conn, &renamed).unwrap());
    assert_eq!(registry.get(&id).await.unwrap().unwrap().name, "App", "cached");
    actix_rt::time::sleep(STALE).await;
    let found = registry.get(&id).await.unwrap().unwrap();
    assert_eq!((&*found.name, found.grace_period), ("Renamed", GracePeriod::Default));

    assert!(clients::delete(&mut harness.conn, &id).unwrap());
    actix_rt::time::sleep(STALE).await;
    assert!(registry.get(&id).await.unwrap().is_none());
}

#[test]
fn repeated_replacement_of_a_secret_keeps_the_one_before() {
    let conn = &mut Harness::new(DEFAULT).conn;
    let id = ClientId::from("app");
    let [old, new] = ["old", "new"].map(|secret| client_secret_digest(&secret.into()));
    let secrets = SecretDigests { current: old, previous: None };
    let confidential = Client { kind: ClientKind::Confidential(secrets), ..client(&id) };
    clients::insert(conn, &confidential).unwrap();
    assert!(clients::replace_secret(conn, &id, &new).unwrap());
    assert!(!clients::replace_secret(conn, &id, &new).unwrap());
    let kind = clients::find(conn, &id).unwrap().unwrap().kind;
    let secrets = SecretDigests { current: new, previous: Some(old) };
    assert!(kind == ClientKind::Confidential(secrets));
}

#[actix_rt::test]
async fn burst_of_requests_shares_one_query() {
    let mut harness = Harness::new(DEFAULT);
    let id = ClientId::from("app");
    clients::insert(&mut harness.conn, &client(&id)).unwrap();
    // One query may wait for the connection; a second one would fail.
    let store = harness.store_with(|options| options.max_queue = 1);
    let registry = ClientRegistry::new(store.clone());
    let occupied = occupy(&store, Duration::from_millis(300));
    actix_rt::time::sleep(Duration::from_millis(50)).await;
    for found in join_all((0..64).map(|_| registry.get(&id))).await {
        assert_eq!(found.unwrap().unwrap().id, id);
    }
    occupied.await.unwrap();
}

#[actix_rt::test]
async fn client_is_used_while_the_database_is_unavailable_if_it_was_read_before() {
    let mut harness = Harness::new(DEFAULT);
    let [known, unread] = ["known", "unread"].map(ClientId::from);
    for id in [&known, &unread] {
        clients::insert(&mut harness.conn, &client(id)).unwrap();
    }
    let store = harness.store_with(|options| options.acquire_timeout = Duration::from_millis(50));
    let registry = ClientRegistry::new(store.clone());
    assert!(registry.get(&known).await.unwrap().is_some());
    assert!(registry.get(&ClientId::from("unknown")).await.unwrap().is_none());
    actix_rt::time::sleep(STALE).await;
    let occupied = occupy(&store, Duration::from_millis(1_500));
    actix_rt::time::sleep(Duration::from_millis(50)).await;
    let begun = std::time::Instant::now();
    for found in join_all((0..64).map(|_| registry.get(&known))).await {
        assert_eq!(found.unwrap().unwrap().id, known);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "a failure is shared as well");
    for id in [unread.clone(), ClientId::from("unknown")] {
        let error = registry.get(&id).await.err().expect("nothing usable is known");
        assert!(error.is_transient(), "{error}");
    }
    occupied.await.unwrap();
    assert!(registry.get(&unread).await.unwrap().is_some());
}
