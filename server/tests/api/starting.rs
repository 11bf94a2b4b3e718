//! Starting, several at once, and stopping.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use matchbook_bench::{Process, World};

use crate::support::{Server, binary, http};

#[actix_rt::test]
async fn several_servers_start_at_once_on_an_empty_database_and_agree() {
    let world = World::new();
    let launch = world.server(binary());
    let mut processes: Vec<Process> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| launch.start())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut kids = BTreeSet::new();
    for process in &processes {
        let jwks = http(&world, process).get("/.well-known/jwks.json").await.json();
        assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
        kids.insert(jwks["keys"][0]["kid"].as_str().unwrap().to_owned());
    }
    assert_eq!(kids.len(), 1, "one key for all: {kids:?}");
    // What one grants, the others take.
    let mut servers: Vec<_> = processes.iter().map(|process| http(&world, process)).collect();
    let last = servers.pop().unwrap();
    let id = last.get("/register").await.json().as_str().unwrap().to_owned();
    let tokens = last.get(&format!("/token?userId={id}")).await;
    let mut refresh = tokens.field("refreshToken");
    for server in &servers {
        assert_eq!(server.get_as("/user", &tokens.field("token")).await.status, 200);
        let answer = server.post("/refresh", &format!("refresh_token={refresh}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        refresh = answer.field("refreshToken");
    }

    let mut migrated = 0;
    for process in &mut processes {
        assert!(process.stop().success());
        migrated += usize::from(process.logged("database migrated") > 0);
    }
    assert_eq!(migrated, 1, "one of them migrates");
}

#[actix_rt::test]
async fn an_end_at_one_server_holds_at_the_other_at_once() {
    let here = Server::start();
    let process = here.world.server(binary()).start();
    let there = http(&here.world, &process);
    let tokens = here.log_in().await;
    assert_eq!(there.get_as("/user", &tokens.access).await.status, 200);
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(here.http.post("/logout", &form).await.status, 204);
    assert_eq!(there.get_as("/user", &tokens.access).await.status, 401);
}

#[actix_rt::test]
async fn an_address_that_is_taken_stops_the_start() {
    let server = Server::start();
    let taken = server.process.url().rsplit('/').next().unwrap().to_owned();
    let output = server.world.server(binary()).set("server.address", &taken).run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        error.contains(&format!("{taken} cannot be listened on (`server.address`)")),
        "{error}"
    );
}

#[actix_rt::test]
async fn a_database_that_is_not_there_stops_the_start_without_its_password() {
    let world = World::new();
    let url = "postgres://me:hush@127.0.0.1:1/matchbook";
    let output = world.server(binary()).variable("DATABASE_URL", url).run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("postgres://me:********@127.0.0.1:1/matchbook"), "{error}");
    assert!(error.contains("cannot be opened") && !error.contains("hush"), "{error}");
}

#[actix_rt::test]
async fn asked_to_stop_a_server_ends_in_good_order() {
    let mut server = Server::start();
    server.log_in().await;
    assert_eq!(server.process.stop().code(), Some(0));
    assert_eq!(server.process.logged("stopped"), 1);
}

#[actix_rt::test]
async fn what_the_server_generates_is_for_its_own_eyes() {
    let server = Server::start();
    let mode = |name: &str| {
        let path = server.world.folder().join("data").join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("secret"), 0o600);
    assert_eq!(mode("development-ca.pem"), 0o600);
    assert_eq!(mode("tls/ca.pem"), 0o644);
    let public = std::fs::read_to_string(server.world.folder().join("data/tls/ca.pem")).unwrap();
    assert!(!public.contains("PRIVATE KEY"));
}
