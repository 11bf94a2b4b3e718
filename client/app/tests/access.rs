//! Who may use the client app, and where the commands keep their tokens: both
//! against a real server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use matchbook_testkit::{Http, Process, ProcessBuilder, TestEnv, TestResponse};

fn server(world: &TestEnv) -> ProcessBuilder {
    let binary = Path::new(env!("CARGO_BIN_EXE_matchbook-client"));
    let binary = binary.with_file_name("matchbook-server");
    assert!(binary.exists(), "build the server first: cargo build -p matchbook-server");
    world.server(&binary).set("tls.mode", "off")
}

fn client(world: &TestEnv, server: &str) -> ProcessBuilder {
    let binary = Path::new(env!("CARGO_BIN_EXE_matchbook-client"));
    ProcessBuilder::new(binary, world.folder(), "MATCHBOOK_CLIENT")
        .set("client.address", "127.0.0.1:0")
        .set("client.workers", "2")
        .set("server.url", server)
}

async fn post(http: &Http, path: &str) -> TestResponse {
    TestResponse::of(http.request("POST", path).send()).await
}

fn http_to(app: &Process) -> Http {
    Http::new(&app.url().replace("0.0.0.0", "127.0.0.1"), None)
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[actix_rt::test]
async fn log_ins_of_one_address_are_limited_and_other_requests_are_not() {
    let world = TestEnv::new();
    let server = server(&world).start();
    let app = client(&world, server.url()).set("client.logins", "2").start();
    let http = http_to(&app);
    assert_eq!(http.get("/login").await.status, 200);
    assert_eq!(post(&http, "/login").await.status, 200);
    let page = http.get("/").await;
    let cookie = page.header("set-cookie").split(';').next().unwrap().to_owned();
    let by_page = http.request("POST", "/api/login").insert_header(("x-matchbook", "page"));
    let by_page = TestResponse::of(by_page.insert_header(("cookie", cookie)).send()).await;
    for refused in [http.get("/login").await, post(&http, "/login").await, by_page] {
        assert_eq!(refused.status, 429, "{}", refused.text);
        assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
        assert!(refused.text.contains("Too many log-ins"), "{}", refused.text);
    }
    assert_eq!(http.get("/info").await.status, 200);
    assert_eq!(server.logged("session opened"), 2);
}

#[actix_rt::test]
async fn off_loopback_nobody_shares_a_guest_and_get_does_not_log_in() {
    let world = TestEnv::new();
    let server = server(&world).start();
    let launch = client(&world, server.url()).set("client.address", "0.0.0.0:0");
    let app = launch.start();
    let http = http_to(&app);
    let by_get = http.get("/login").await;
    assert_eq!((by_get.status, by_get.header("allow")), (405, "POST"));
    assert_eq!(post(&http, "/login").await.status, 401);
    assert_eq!(http.get("/info").await.status, 401);
    let page = http.get("/").await;
    let cookie = page.header("set-cookie").split(';').next().unwrap().to_owned();
    let login = |header: (&'static str, &'static str)| {
        let request = http.request("POST", "/login").insert_header(("cookie", cookie.clone()));
        TestResponse::of(request.insert_header(header).send())
    };
    assert_eq!(login(("sec-fetch-site", "cross-site")).await.status, 403);
    assert_eq!(login(("origin", "http://evil.example")).await.status, 403);
    assert_eq!(server.logged("session opened"), 0);
    assert_eq!(login(("sec-fetch-site", "same-origin")).await.status, 200);

    let shared = launch.set("client.demo", "true").start();
    assert_eq!(http_to(&shared).get("/login").await.status, 200);
    let wrong = client(&world, server.url()).set("client.demo", "maybe").run(&[]);
    assert!(said(&wrong).1.contains("`client.demo`"), "{}", said(&wrong).1);
}

#[actix_rt::test]
async fn a_cookie_of_an_app_that_was_restarted_is_not_reported_as_an_ended_session() {
    let world = TestEnv::new();
    let server = server(&world).start();
    let app = client(&world, server.url()).start();
    let http = http_to(&app);
    let asks = |method: &'static str, path: &'static str| {
        let request = http.request(method, path).insert_header(("x-matchbook", "page"));
        TestResponse::of(request.insert_header(("cookie", "matchbook_client=before")).send())
    };
    for (method, path) in [("GET", "/info"), ("POST", "/login"), ("POST", "/api/info")] {
        let answer = asks(method, path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.text.contains("The app was restarted"), "{}", answer.text);
    }
    let page = asks("GET", "/").await;
    assert!(page.text.contains("<body data-forgotten>") && !page.header("set-cookie").is_empty());
    assert!(!http.get("/").await.text.contains("<body data-forgotten>"), "a new browser");
}

#[actix_rt::test]
async fn sighup_does_not_end_the_app() {
    let world = TestEnv::new();
    let server = server(&world).start();
    let app = client(&world, server.url()).start();
    let hangup = Command::new("kill").args(["-HUP", &app.id().to_string()]).status();
    assert!(hangup.unwrap().success());
    app.await_log("SIGHUP ignored");
    assert_eq!(http_to(&app).get("/health/live").await.status, 200);
}

#[actix_rt::test]
async fn tokens_are_in_the_state_folder_or_where_an_earlier_version_left_them() {
    let world = TestEnv::new();
    let server = server(&world).start();
    let state = world.folder().join("state");
    let home = world.folder().join("home");
    let launch = client(&world, server.url()).variable("HOME", home.to_str().unwrap());
    let in_state = launch.variable("XDG_STATE_HOME", state.to_str().unwrap());
    let path = state.join("matchbook/tokens.json");
    let (code, error) = said(&in_state.run(&["info"]));
    assert_eq!(code, Some(3));
    assert!(error.contains(&format!("no tokens in {}", path.display())), "{error}");
    assert!(in_state.run(&["login"]).status.success());
    assert!(path.exists() && !world.folder().join("data/client").exists());

    let relative = in_state.variable("XDG_STATE_HOME", "state");
    let (_, error) = said(&relative.run(&["info"]));
    assert!(error.contains("home/.local/state/matchbook/tokens.json"), "{error}");

    let old = world.folder().join("data/client");
    fs::create_dir_all(&old).unwrap();
    fs::rename(&path, old.join("tokens.json")).unwrap();
    assert!(relative.run(&["info"]).status.success(), "the old place is found");
    let (_, error) = said(&relative.set("store.path", "elsewhere").run(&["info"]));
    assert!(error.contains("no tokens in elsewhere"), "{error}");
}

#[actix_rt::test]
async fn what_is_in_the_place_of_the_token_file_or_its_lock_is_named_with_a_way_out() {
    let world = TestEnv::new();
    let folder = world.folder();
    let server = server(&world).start();
    let launch = client(&world, server.url());
    fs::create_dir(folder.join("folder")).unwrap();
    fs::write(folder.join("victim"), "").unwrap();
    symlink(folder.join("victim"), folder.join("link")).unwrap();
    symlink(folder.join("victim"), folder.join("locked.lock")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("pipe.lock")).status().unwrap().success());
    for (file, problem) in [
        ("folder", "is a folder: name a file in it"),
        ("link", "is a symbolic link: delete the link, or name the file that it points to"),
        ("locked", "locked.lock is a symbolic link: delete the link"),
        ("pipe", "pipe.lock is not a regular file: delete it"),
    ] {
        let (code, error) = said(&launch.run(&["login", "--store", file]));
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(problem) && error.contains("`--store FILE`"), "{error}");
    }
}

#[actix_rt::test]
async fn a_command_says_why_a_session_has_ended_and_what_does_not_pass_is_not_to_be_tried_again() {
    let world = TestEnv::new();
    let server = server(&world)
        .set("tokens.access_lifetime", "1s")
        .set("sessions.idle_lifetime", "2s")
        .start();
    let launch = client(&world, server.url());
    let file = world.folder().join("data/client/tokens.json");
    let why = |arguments: &[&str]| said(&launch.run(arguments));
    assert!(launch.run(&["login"]).status.success());
    actix_rt::time::sleep(std::time::Duration::from_secs(3)).await;
    let (code, error) = why(&["info"]);
    assert_eq!(code, Some(3));
    assert!(error.contains("because it was not used for longer than"), "{error}");

    assert!(launch.run(&["login"]).status.success());
    let copy = fs::read(&file).unwrap();
    assert!(launch.run(&["logout"]).status.success());
    fs::write(&file, copy).unwrap();
    Command::new("chmod").args(["600", file.to_str().unwrap()]).status().unwrap();
    let (code, error) = why(&["get", "/user"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("because it was logged out"), "{error}");
    assert!(error.contains("run `matchbook-client login`"), "{error}");

    let wrong = client(&world, &server.url().replace("http://", "https://"));
    let (code, error) = said(&wrong.set("server.ca_file", "system").run(&["login"]));
    assert_eq!(code, Some(1), "{error}");
    assert!(!error.contains("try again later"), "{error}");
}
