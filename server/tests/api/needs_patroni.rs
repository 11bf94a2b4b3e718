//! PostgreSQL servers that Patroni manages: switchovers, and a primary that is killed, under
//! load.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::task::{JoinHandle, spawn_blocking};
use actix_rt::time::sleep;
use matchbook_testkit::{Patroni, TestEnv};

use crate::support::{Server, Tokens, eventually};

/// Sessions that are refreshed one time after the other, without idempotency keys. A failed
/// refresh is repeated with the same token.
struct Load {
    statuses: Rc<RefCell<BTreeMap<u16, u32>>>,
    is_over: Rc<Cell<bool>>,
    clients: Vec<JoinHandle<Tokens>>,
}

impl Load {
    async fn begin(server: &Rc<Server>, sessions: usize) -> Self {
        let statuses = Rc::<RefCell<BTreeMap<u16, u32>>>::default();
        let is_over = Rc::<Cell<bool>>::default();
        let mut clients = Vec::new();
        for _ in 0..sessions {
            let mut tokens = server.log_in().await;
            let (server, statuses, is_over) = (server.clone(), statuses.clone(), is_over.clone());
            clients.push(actix_rt::spawn(async move {
                while !is_over.get() {
                    let response = server.refresh(&tokens.refresh).await;
                    *statuses.borrow_mut().entry(response.status).or_default() += 1;
                    if response.status == 200 {
                        tokens = Tokens::of(&response);
                    }
                    sleep(Duration::from_millis(50)).await;
                }
                tokens
            }));
        }
        Self { statuses, is_over, clients }
    }

    /// Stops it. Returns the last tokens of each session, and how often there was each status.
    async fn end(self) -> (Vec<Tokens>, BTreeMap<u16, u32>) {
        self.is_over.set(true);
        let mut tokens = Vec::new();
        for client in self.clients {
            tokens.push(client.await.unwrap());
        }
        (tokens, self.statuses.take())
    }
}

#[actix_rt::test]
#[ignore = "needs Patroni and etcd: make test"]
async fn switchover_and_killed_primary_log_no_client_out() {
    let patroni = Arc::new(Patroni::new());
    patroni.create("matchbook");
    let url = format!("postgres://postgres@{}/matchbook", patroni.addresses().join(","));
    let server = Rc::new(Server::within(TestEnv::new(), |launch| {
        launch
            .variable("DATABASE_URL", &url)
            .set("database.acquire_timeout", "500ms")
            .set("database.query_timeout", "2s")
            .set("limits.enabled", "false")
    }));
    for fault in [Patroni::switch_over, Patroni::kill_primary, Patroni::switch_over] {
        let load = Load::begin(&server, 6).await;
        sleep(Duration::from_secs(1)).await;
        let of_fault = patroni.clone();
        // The load goes on meanwhile.
        let injected = spawn_blocking(move || {
            of_fault.await_standby();
            fault(&of_fault);
        });
        injected.await.unwrap();
        eventually(200, async || server.http.get("/health/ready").await.status).await;
        sleep(Duration::from_secs(1)).await;
        let (sessions, statuses) = load.end().await;
        assert!(statuses.keys().all(|status| [200, 503].contains(status)), "{statuses:?}");
        assert!(statuses[&200] > 6, "{statuses:?}");
        for tokens in sessions {
            let next = Tokens::of(&server.refresh(&tokens.refresh).await);
            assert_eq!(server.user(&next.access).await, 200);
        }
    }
}
