//! A Citus cluster, whose coordinator `TEST_CITUS_URL` names. `scripts/test` selects the tests by
//! this module's name.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use actix_rt::time::sleep;
use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};
use futures_util::future::{join, join_all};
use matchbook_server::store::distribution::{Distribution, TABLES};
use matchbook_testkit::{Process, TestEnv, TestResponse};

use crate::support::{Server, Tokens, binary, http};

/// A server at the coordinator, which has migrated the database, and one at each worker.
fn start() -> (Server, Vec<Server>) {
    let first = Server::start();
    let workers = first.world.citus_workers();
    assert!(workers.len() >= 2, "TEST_CITUS_URL names a coordinator with two workers");
    let others = workers.iter().map(|url| {
        let launch = first.world.server(binary()).variable("DATABASE_URL", url);
        let process: Process = launch.set("database.migrate", "false").start();
        (http(&first.world, &process), process)
    });
    let others: Vec<_> = others.collect();
    let others = others.into_iter().map(|(http, process)| {
        // The folder and the database belong to the first server.
        Server { http, process, world: TestEnv::without_database() }
    });
    let others = others.collect();
    (first, others)
}

#[derive(QueryableByName, Debug)]
struct DistributedTable {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Nullable<Text>)]
    key: Option<String>,
}

#[actix_rt::test]
#[ignore = "needs Citus: TEST_CITUS_URL"]
async fn tables_are_distributed_as_the_list_says() {
    let (server, _others) = start();
    let tables: Vec<DistributedTable> = diesel::sql_query(
        "SELECT table_name::text AS name, citus_table_type AS kind, \
         nullif(distribution_column, '<none>') AS key FROM citus_tables",
    )
    .load(&mut server.database())
    .unwrap();
    let tables: BTreeMap<String, (String, Option<String>)> =
        tables.into_iter().map(|table| (table.name, (table.kind, table.key))).collect();
    assert_eq!(tables.len(), TABLES.len());
    for (name, distribution) in TABLES {
        let (kind, key) = &tables[name];
        let expected = match distribution {
            Distribution::ByPlace => ("distributed", Some("place")),
            Distribution::ByKey(column) => ("distributed", Some(column)),
            Distribution::OnEachNode => ("reference", None),
            Distribution::OnOneNode => ("distributed", None),
        };
        assert_eq!((kind.as_str(), key.as_deref()), expected, "{name}");
    }
}

#[actix_rt::test]
#[ignore = "needs Citus: TEST_CITUS_URL"]
async fn servers_at_all_nodes_share_sessions_accounts_and_keys() {
    let (first, others) = start();
    let [second, third] = &others[..2] else { panic!("two workers") };
    let tokens = first.log_in().await;
    let tokens = Tokens::of(&second.refresh(&tokens.refresh).await);
    let tokens = Tokens::of(&third.refresh(&tokens.refresh).await);
    for server in [&first, second, third] {
        assert_eq!(server.user(&tokens.access).await, 200);
    }
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(second.http.post("/logout", &form).await.status, 204);
    for server in [&first, second, third] {
        assert_eq!(server.user(&tokens.access).await, 401);
        assert_eq!(server.refresh(&tokens.refresh).await.status, 401);
    }

    second.register("ann", "correct horse battery").await;
    let again = serde_json::json!({ "name": "ann", "password": "correct horse battery" });
    assert_eq!(third.post_json("/register", &again).await.status, 409);
    let tokens = third.log_in_as("ann", "correct horse battery").await;
    assert_eq!(first.user(&tokens.access).await, 200);
    let launch =
        first.world.server(binary()).variable("DATABASE_URL", &first.world.citus_workers()[0]);
    for command in [
        &["users", "list"][..],
        &["users", "show", "ann"],
        &["keys", "rotate"],
        &["sessions", "end", "--all"],
    ] {
        let output = launch.run(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    assert_eq!(second.user(&tokens.access).await, 401);
}

#[actix_rt::test]
#[ignore = "needs Citus: TEST_CITUS_URL"]
async fn one_of_concurrent_refreshes_at_different_nodes_wins() {
    let (first, others) = start();
    let servers: Vec<&Server> = std::iter::once(&first).chain(&others).collect();
    let clients = (0..8).map(async |_| {
        let mut tokens = servers[0].log_in().await;
        for _ in 0..10 {
            let presented = servers.iter().map(|server| server.refresh(&tokens.refresh));
            let responses = join_all(presented).await;
            let all: Vec<Tokens> = responses.iter().map(Tokens::of).collect();
            // Within the grace period all get the same successor.
            assert!(all.iter().all(|tokens| tokens.refresh == all[0].refresh));
            tokens = all[0].clone();
        }
    });
    join_all(clients).await;
    for server in servers {
        assert_eq!(server.process.logged("ERROR"), 0, "{}", server.process.log());
    }
}

#[actix_rt::test]
#[ignore = "needs Citus: TEST_CITUS_URL"]
async fn worker_cannot_migrate_and_says_so() {
    let world = TestEnv::new();
    let worker = world.citus_workers()[0].clone();
    let output = world.server(binary()).variable("DATABASE_URL", &worker).run(&["migrate"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("coordinator"), "{error}");
    let output = world.server(binary()).run(&["migrate"]);
    assert!(output.status.success(), "{output:?}");
}

/// The connections to one worker break again and again, as if it restarted.
#[actix_rt::test]
#[ignore = "needs Citus: TEST_CITUS_URL"]
async fn lost_connections_to_a_worker_log_no_client_out() {
    let (first, others) = start();
    let servers: Vec<&Server> = std::iter::once(&first).chain(&others).collect();
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(first.log_in().await);
    }
    let mut worker = PgConnection::establish(&first.world.citus_workers()[0]).unwrap();
    let breaks = actix_rt::task::spawn_blocking(move || {
        let mut broken = 0;
        for _ in 0..12 {
            broken += diesel::sql_query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND datname = current_database() \
                 AND pid <> pg_backend_pid()",
            )
            .execute(&mut worker)
            .unwrap();
            std::thread::sleep(Duration::from_millis(250));
        }
        broken
    });
    let is_over = Cell::new(false);
    let clients = join_all(sessions.into_iter().enumerate().map(async |(n, mut tokens)| {
        while !is_over.get() {
            let next = &servers[n % servers.len()];
            // The same token again, until there is a response.
            tokens =
                Tokens::of(&until_available(async || next.refresh(&tokens.refresh).await).await);
        }
        tokens
    }));
    let over = async {
        let broken = breaks.await.unwrap();
        is_over.set(true);
        broken
    };
    let (sessions, broken) = join(clients, over).await;
    assert!(broken > 12, "{broken} connections were in use");
    for tokens in sessions {
        let form = format!("refresh_token={}", tokens.refresh);
        let logout = until_available(async || first.http.post("/logout", &form).await).await;
        assert_eq!(logout.status, 204);
        for server in &servers {
            assert_eq!(server.user(&tokens.access).await, 401);
            assert_eq!(server.refresh(&tokens.refresh).await.status, 401);
        }
    }
    for server in servers {
        assert_eq!(server.process.logged("request failed"), 0, "{}", server.process.log());
    }
}

/// Sends a request again until its response is not a `503`.
async fn until_available(request: impl AsyncFn() -> TestResponse) -> TestResponse {
    loop {
        let response = request().await;
        if response.status != 503 {
            return response;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
