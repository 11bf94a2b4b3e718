//! SQLite on a full disk, and on a disk whose `fsync` fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use diesel::connection::SimpleConnection;
use futures_util::future::join_all;
use matchbook_server::store;
use matchbook_testkit::{ProcessBuilder, TestEnv, TestResponse};

use crate::support::{Server, Tokens, eventually};

/// Makes system calls of the server fail as long as a file exists.
const SHIM: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(const char *variable) {
    const char *file = getenv(variable);
    return file && access(file, F_OK) == 0;
}

static int is_full(int fd) {
    struct stat of;
    return fails("TEST_DISK_FULL") && fstat(fd, &of) == 0 && S_ISREG(of.st_mode);
}

static int no(int why) { errno = why; return -1; }

ssize_t write(int fd, const void *from, size_t count) {
    return is_full(fd) ? no(ENOSPC) : syscall(SYS_write, fd, from, count);
}
ssize_t pwrite64(int fd, const void *from, size_t count, off_t at) {
    return is_full(fd) ? no(ENOSPC) : syscall(SYS_pwrite64, fd, from, count, at);
}
ssize_t pwrite(int fd, const void *from, size_t count, off_t at) {
    return pwrite64(fd, from, count, at);
}
int fsync(int fd) { return fails("TEST_DISK_BROKEN") ? no(EIO) : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails("TEST_DISK_BROKEN") ? no(EIO) : syscall(SYS_fdatasync, fd); }
"#;

/// A disk fault.
#[derive(Clone, Copy)]
enum Fault {
    Full,
    Broken,
}

/// The disk of one server.
struct Disk(PathBuf);

impl Disk {
    fn make(folder: &Path) -> Self {
        let source = folder.join("disk.c");
        fs::write(&source, SHIM).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("disk.so")).arg(&source);
        let made = compiler.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(folder.to_owned())
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn under(&self, launch: ProcessBuilder) -> ProcessBuilder {
        launch
            .variable("LD_PRELOAD", &self.path("disk.so"))
            .variable("TEST_DISK_FULL", &self.path("full"))
            .variable("TEST_DISK_BROKEN", &self.path("broken"))
    }

    fn set(&self, fault: Fault, fails: bool) {
        let path = self.path(match fault {
            Fault::Full => "full",
            Fault::Broken => "broken",
        });
        if fails {
            fs::write(path, "").unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Number of sessions that are refreshed concurrently.
const BURST: usize = 40;

fn is_unavailable(response: &TestResponse) {
    assert_eq!(response.status, 503, "{}", response.text);
    assert_eq!(response.field("error"), "temporarily_unavailable");
}

/// A session's refresh chain continues from the tokens that its client holds.
async fn goes_on(server: &Server, tokens: &Tokens) {
    let next = Tokens::of(&server.refresh(&tokens.refresh).await);
    assert_eq!(server.user(&next.access).await, 200);
    let next = Tokens::of(&server.refresh(&next.refresh).await);
    assert_eq!(server.user(&next.access).await, 200);
}

async fn nothing_is_acknowledged_that_is_not_kept(fault: Fault) {
    let world = TestEnv::new();
    let disk = Disk::make(world.folder());
    let url = format!("sqlite://{}", world.folder().join("disk.db").display());
    let server = Server::within(world, |launch| {
        disk.under(launch)
            .variable("DATABASE_URL", &url)
            .set("rotation.accept_ahead_of_database", "true")
    });
    let guest = server.guest().await;
    // The client's token is ahead of the database.
    let first = server.log_in().await;
    let ahead = Tokens::of(&server.refresh(&first.refresh).await);
    store::connect(&url.parse().unwrap())
        .unwrap()
        .batch_execute(
            "UPDATE sessions SET generation = 0, secret_digest = previous_digest, \
             previous_digest = NULL, successor_salt = NULL, rotated_at = NULL",
        )
        .unwrap();
    let (single, leaving) = (server.log_in().await, server.log_in().await);
    let mut burst = Vec::new();
    for _ in 0..BURST {
        burst.push(server.log_in().await);
    }

    disk.set(fault, true);
    is_unavailable(&server.refresh(&single.refresh).await);
    is_unavailable(&server.refresh(&ahead.refresh).await);
    for response in join_all(burst.iter().map(|tokens| server.refresh(&tokens.refresh))).await {
        is_unavailable(&response);
    }
    is_unavailable(&server.http.get("/register").await);
    is_unavailable(&server.http.get(&format!("/token?userId={guest}")).await);
    let form = format!("refresh_token={}", leaving.refresh);
    is_unavailable(&server.http.post("/logout", &form).await);
    let delete =
        |path: String| server.http.request("DELETE", &path).bearer_auth(&leaving.access).send();
    let id = leaving.claims()["sid"].as_str().unwrap().to_owned();
    is_unavailable(&TestResponse::of(delete(format!("/sessions/{id}"))).await);
    is_unavailable(&TestResponse::of(delete("/sessions".to_owned())).await);
    assert_eq!(server.user(&single.access).await, 200, "it can still read");

    disk.set(fault, false);
    eventually(200, async || server.http.get("/register").await.status).await;
    for tokens in [&single, &ahead, &leaving].into_iter().chain(&burst) {
        goes_on(&server, tokens).await;
    }
    let response = server.http.get(&format!("/token?userId={guest}")).await;
    assert_eq!(response.status, 200, "{}", response.text);
}

#[actix_rt::test]
async fn full_disk_loses_no_acknowledged_write() {
    nothing_is_acknowledged_that_is_not_kept(Fault::Full).await;
}

#[actix_rt::test]
async fn failing_fsync_loses_no_acknowledged_write() {
    nothing_is_acknowledged_that_is_not_kept(Fault::Broken).await;
}
