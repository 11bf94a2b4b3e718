//! Startup, of several servers at once, and shutdown.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use matchbook_testkit::{Process, ProcessBuilder, TestEnv};

use crate::support::{Server, binary, http};

#[actix_rt::test]
async fn servers_starting_at_once_on_an_empty_database_agree() {
    let world = TestEnv::new();
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
    // Tokens issued by one server are accepted by the others.
    let mut servers: Vec<_> = processes.iter().map(|process| http(&world, process)).collect();
    let last = servers.pop().unwrap();
    let id = last.get("/register").await.json().as_str().unwrap().to_owned();
    let tokens = last.get(&format!("/token?userId={id}")).await;
    let mut refresh = tokens.field("refreshToken");
    for server in &servers {
        assert_eq!(server.get_as("/user", &tokens.field("token")).await.status, 200);
        let response = server.post("/refresh", &format!("refresh_token={refresh}")).await;
        assert_eq!(response.status, 200, "{}", response.text);
        refresh = response.field("refreshToken");
    }

    let mut migrated = 0;
    for process in &mut processes {
        assert!(process.stop().success());
        migrated += usize::from(process.logged("database migrated") > 0);
    }
    assert_eq!(migrated, 1, "one of them migrates");
}

#[actix_rt::test]
async fn logout_at_one_server_holds_at_the_other_at_once() {
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
async fn address_in_use_stops_startup() {
    let server = Server::start();
    let taken = server.process.url().rsplit('/').next().unwrap().to_owned();
    let output = server.world.server(binary()).set("server.address", &taken).run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains(&format!("cannot bind to {taken} (`server.address`)")), "{error}");
}

#[actix_rt::test]
async fn unavailable_database_stops_startup_without_printing_its_password() {
    let world = TestEnv::new();
    let url = "postgres://me:hush@127.0.0.1:1/matchbook";
    let launch = world.server(binary()).variable("DATABASE_URL", url);
    let output = launch.set("database.start_timeout", "10ms").run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("postgres://me:********@127.0.0.1:1/matchbook"), "{error}");
    assert!(error.contains("cannot open the database") && !error.contains("hush"), "{error}");
}

#[actix_rt::test]
async fn server_shuts_down_gracefully_on_sigterm() {
    let mut server = Server::start();
    server.log_in().await;
    assert_eq!(server.process.stop().code(), Some(0));
    assert_eq!(server.process.logged("stopped"), 1);
}

/// The standard error of a server that does not start.
fn refusal(launch: &ProcessBuilder) -> String {
    let output = launch.run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it started");
    assert_eq!(error.lines().filter(|line| line.starts_with("matchbook-server: ")).count(), 1);
    error
}

fn set_mode(world: &TestEnv, name: &str, mode: u32) {
    std::fs::set_permissions(world.folder().join(name), Permissions::from_mode(mode)).unwrap();
}

#[actix_rt::test]
async fn server_without_local_files_needs_no_data_folder() {
    let world = TestEnv::new();
    let nowhere = world.server(binary()).set("data_dir", "/proc/nowhere");
    let launch = nowhere
        .clone()
        .set("tls.mode", "off")
        .set("secret", "a-secret-of-more-than-thirty-two-characters");
    let process = launch.start();
    assert_eq!(http(&world, &process).get("/register").await.status, 200);
    assert!(!world.folder().join("data").exists());

    // A feature that needs the folder names it, with its setting.
    for needs in [
        nowhere.clone(),
        nowhere.clone().set("tls.mode", "off"),
        nowhere.set("secret", "a-secret-of-more-than-thirty-two-characters"),
        launch.clone().variable("DATABASE_URL", "sqlite://{data_dir}/matchbook.db"),
    ] {
        let error = refusal(&needs);
        assert!(error.contains("/proc/nowhere cannot be created"), "{error}");
        assert!(error.contains("`data_dir`"), "{error}");
    }
    let nowhere = launch.variable("DATABASE_URL", "sqlite://nowhere/x.db");
    let error = refusal(&nowhere);
    let path = world.folder().join("nowhere/x.db");
    let said =
        format!("cannot create the database file {} (`database.url`): No such", path.display());
    assert!(error.contains(&said), "{error}");
    let folder = world.folder().join("in/the/way");
    std::fs::write(world.folder().join("in"), "a file").unwrap();
    let error = refusal(&world.server(binary()).set("data_dir", "in/the/way"));
    assert!(error.contains(&format!("{} cannot be created", folder.display())), "{error}");
}

#[actix_rt::test]
async fn complete_read_only_data_folder_is_sufficient() {
    let mut server = Server::start();
    assert!(server.process.stop().success());
    let world = server.world;
    let modified = |name: &str| std::fs::metadata(world.folder().join(name)).unwrap().modified();
    let before = ["data", "data/tls", "data/tls/ca.pem"].map(|name| modified(name).unwrap());
    let process = world.server(binary()).start();
    assert_eq!(http(&world, &process).get("/register").await.status, 200);
    let after = ["data", "data/tls", "data/tls/ca.pem"].map(|name| modified(name).unwrap());
    assert_eq!(before, after, "nothing was written there");
}

#[actix_rt::test]
async fn sqlite_files_are_not_readable_by_other_users() {
    let world = TestEnv::new();
    let launch =
        world.server(binary()).variable("DATABASE_URL", "sqlite://{data_dir}/matchbook.db");
    let files = ["matchbook.db", "matchbook.db-wal", "matchbook.db-shm"];
    let modes = || {
        files.map(|name| {
            let path = world.folder().join("data").join(name);
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777
        })
    };
    let mut process = launch.start();
    http(&world, &process).get("/register").await;
    assert_eq!(modes(), [0o600; 3]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    assert!(status.contains("Umask:\t0077"), "{status}");
    // Like files of a version that did not restrict them. A killed server leaves them all.
    process.kill();
    for name in files {
        set_mode(&world, &format!("data/{name}"), 0o644);
    }
    let process = launch.start();
    http(&world, &process).get("/register").await;
    assert_eq!(modes(), [0o600; 3]);
    assert_eq!(process.logged("database file closed to other users"), 3, "{}", process.log());
}

#[actix_rt::test]
async fn private_file_readable_by_others_stops_startup() {
    let mut server = Server::start();
    assert!(server.process.stop().success());
    let launch = server.world.server(binary());
    for name in ["data/secret", "data/development-ca.pem"] {
        for mode in [0o640, 0o604, 0o644] {
            set_mode(&server.world, name, mode);
            let error = refusal(&launch);
            let path = server.world.folder().join(name);
            assert!(error.contains("other users can read"), "{error}");
            assert!(error.contains(&format!("`chmod 600 {}`", path.display())), "{error}");
        }
        if name == "data/secret" {
            let error = String::from_utf8(launch.run(&["keys", "rotate"]).stderr).unwrap();
            assert!(error.contains("other users can read"), "{error}");
        }
        set_mode(&server.world, name, 0o400);
    }
    set_mode(&server.world, "data", 0o777);
    std::fs::remove_file(server.world.folder().join("data/tls/ca.pem")).unwrap();
    let error = refusal(&launch);
    assert!(error.contains("every user can write to the folder"), "{error}");
    set_mode(&server.world, "data", 0o755);
    launch.start();
}

#[actix_rt::test]
async fn weak_secret_stops_startup() {
    let world = TestEnv::new();
    let weak = "abcdefghabcdefghabcdefghabcdefghabcdefgh";
    let error = refusal(&world.server(binary()).set("secret", weak));
    assert!(error.contains("`secret` (MATCHBOOK__SECRET): can be guessed: it repeats"), "{error}");
    assert!(error.contains("openssl rand -base64 32") && !error.contains(weak), "{error}");
    // The remedy: list it as an old secret, beside a strong one.
    let launch = world.server(binary()).set("old_secrets", weak);
    launch.set("secret", "a-secret-of-more-than-thirty-two-characters").start();

    let world = TestEnv::new();
    std::fs::create_dir(world.folder().join("data")).unwrap();
    std::fs::write(world.folder().join("data/secret"), weak).unwrap();
    set_mode(&world, "data/secret", 0o600);
    let error = refusal(&world.server(binary()));
    assert!(error.contains("data/secret can be guessed: it repeats itself"), "{error}");
    assert!(!error.contains(weak), "{error}");
}

#[actix_rt::test]
async fn generated_files_are_readable_by_the_server_only() {
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
