//! A server with a wrong clock (by libfaketime) must not affect the other servers,
//! and must report the clock.

use std::path::{Path, PathBuf};

use matchbook_testkit::{ProcessBuilder, TestResponse};

use crate::support::{Server, Tokens, binary, eventually, http};

/// The library that changes the clock of a process.
fn library() -> &'static str {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
    ];
    places.into_iter().find(|path| Path::new(path).exists()).expect("libfaketime is installed")
}

/// The clock of one server.
struct Clock(PathBuf);

impl Clock {
    fn new(folder: &Path, offset: &str) -> Self {
        let clock = Self(folder.join("clock"));
        clock.set(offset);
        clock
    }

    /// Shifts the clock by `+10` (seconds), `-3d` and the like.
    fn set(&self, offset: &str) {
        let aside = self.0.with_extension("new");
        std::fs::write(&aside, offset).unwrap();
        std::fs::rename(&aside, &self.0).unwrap();
    }

    fn on(&self, launch: ProcessBuilder) -> ProcessBuilder {
        launch
            .variable("LD_PRELOAD", library())
            .variable("FAKETIME_TIMESTAMP_FILE", self.0.to_str().unwrap())
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .set("tls.mode", "off")
    }
}

fn is_unavailable(response: &TestResponse) {
    assert_eq!(response.status, 503, "{}", response.text);
    assert_eq!(response.field("error"), "temporarily_unavailable");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and libfaketime: make test"]
async fn server_with_a_clock_far_off_changes_nothing() {
    let good = Server::start();
    let clock = Clock::new(good.world.folder(), "+0");
    let process = clock.on(good.world.server(binary())).start();
    let wrong = http(&good.world, &process);
    let status = async || wrong.get("/health/ready").await.field("status");
    eventually("ready".to_owned(), status).await;
    let mut tokens = good.log_in().await;
    let guest = good.guest().await;

    for (times, (offset, direction)) in (1..).zip([("+38d", "ahead of"), ("-38d", "behind")]) {
        clock.set(offset);
        // Right at the start, before the clock is compared with the database's.
        let form = format!("refresh_token={}", tokens.refresh);
        is_unavailable(&wrong.post("/refresh", &form).await);
        is_unavailable(&wrong.get("/register").await);
        is_unavailable(&wrong.get(&format!("/token?userId={guest}")).await);
        is_unavailable(&wrong.post("/logout", &form).await);
        is_unavailable(&wrong.get_as("/user", &tokens.access).await);
        let ready = wrong.get("/health/ready").await;
        assert_eq!(ready.status, 503, "{}", ready.text);
        assert!(ready.text.contains(direction), "{}", ready.text);
        // By now the sweeper, the key ring and the monitor have run.
        process.await_log(&format!("{direction} the database's"));
        actix_rt::time::sleep(std::time::Duration::from_secs(3)).await;
        assert_eq!(good.number("SELECT count(*) AS number FROM sessions"), 1);
        assert_eq!(good.number("SELECT count(*) AS number FROM signing_keys_by_purpose"), 1);
        tokens = Tokens::of(&good.refresh(&tokens.refresh).await);
        assert_eq!(good.user(&tokens.access).await, 200);
        // Once, by the monitor; the rejected requests name the reason as well.
        assert_eq!(process.logged("nothing is written until then"), times, "{}", process.log());
        clock.set("+0");
        eventually("ready".to_owned(), status).await;
        eventually(true, async || process.logged("in step") == times).await;
        let form = format!("refresh_token={}", tokens.refresh);
        tokens = Tokens::of(&wrong.post("/refresh", &form).await);
    }
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and libfaketime: make test"]
async fn server_with_a_clock_slightly_off_reports_it_and_works() {
    let good = Server::start();
    for offset in ["+10", "-10"] {
        let clock = Clock::new(good.world.folder(), offset);
        let launch = clock.on(good.world.server(binary()));
        // Shorter than the clock's error: a deadline by this clock has passed, or never passes.
        let launch =
            launch.set("database.acquire_timeout", "1s").set("database.query_timeout", "1s");
        let process = launch.start();
        let slightly = http(&good.world, &process);
        eventually("degraded".to_owned(), async || {
            slightly.get("/health/ready").await.field("status")
        })
        .await;
        let tokens = good.log_in().await;
        let form = format!("refresh_token={}", tokens.refresh);
        let tokens = Tokens::of(&slightly.post("/refresh", &form).await);
        assert_eq!(good.user(&tokens.access).await, 200);
    }
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and libfaketime: make test"]
async fn clock_a_day_off_is_reported_at_startup_and_rejected_by_commands() {
    let good = Server::start();
    let clock = Clock::new(good.world.folder(), "-1d");
    let process = clock.on(good.world.server(binary())).start();
    process.await_log("behind the database's");
    for command in [["keys", "rotate"].as_slice(), &["sessions", "end", "--all"]] {
        let output = clock.on(good.world.server(binary())).run(command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("nothing was changed"), "{said}");
    }
}
