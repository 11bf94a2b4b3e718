//! A `-wal` file that a crash has left: of the same database, or of a replaced one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use matchbook_testkit::Http;

use super::{Files, go_on, killed, len, log_in};
use crate::support::http;

/// Logs guests in until the server is gone.
async fn load(http: Http) {
    loop {
        let registered = http.request("GET", "/register").send().await;
        let Ok(mut registered) = registered else { return };
        let Ok(body) = registered.body().await else { return };
        let id = String::from_utf8_lossy(&body).replace('"', "");
        if http.request("GET", &format!("/token?userId={id}")).send().await.is_err() {
            return;
        }
    }
}

#[actix_rt::test]
async fn server_starts_after_each_kill_and_keeps_what_it_acknowledged() {
    let mut files = Files::new();
    let mut sessions = Vec::new();
    let mut with_log = 0;
    for round in 0..12 {
        let server = files.start();
        sessions = go_on(&server, &sessions).await;
        sessions.extend(log_in(&server, 1).await);
        let base = http(&server.world, &server.process);
        let loads: Vec<_> = (0..3).map(|_| actix_rt::spawn(load(base.clone()))).collect();
        // A different moment each time, also while the server still restarts the log.
        actix_rt::time::sleep(Duration::from_millis(round * 23 % 300)).await;
        files = killed(server);
        for load in loads {
            load.await.unwrap();
        }
        with_log += u32::from(len(&files.log()) > 0);
    }
    assert!(with_log > 6, "the log was left {with_log} times");
    go_on(&files.start(), &sessions).await;
}

/// Copies a database by SQLite itself, as `sqlite3 FILE 'VACUUM INTO …'` does.
fn vacuum(from: &Path, to: &Path) {
    let mut conn = SqliteConnection::establish(from.to_str().unwrap()).unwrap();
    conn.batch_execute(&format!("VACUUM INTO '{}'", to.display())).unwrap();
}

/// No command and no server starts, and no file changes.
fn nothing_starts(files: &Files) {
    let read = || (fs::read(files.database()).unwrap(), fs::read(files.log()).unwrap());
    let before = read();
    for command in ["serve", "keys list", "sessions end --all", "backup other.db"] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let error = files.run(&arguments).unwrap_err();
        assert!(error.contains("sqlite.db-wal was left by another database"), "{error}");
        assert!(error.contains("matchbook-server restore"), "{error}");
    }
    assert!(read() == before, "the files changed");
    assert!(!files.path("other.db").exists());
}

#[actix_rt::test]
async fn log_of_a_replaced_database_is_not_applied_until_it_is_moved_away() {
    let server = Files::new().start();
    let kept = log_in(&server, 3).await;
    let files = killed(server);
    assert!(files.run(&["backup", "by-command.db"]).is_ok());
    vacuum(&files.database(), &files.path("by-sqlite.db"));
    let server = files.start();
    log_in(&server, 3).await;
    // A copy of the same run.
    vacuum(&files_of(&server), &server.world.folder().join("of-this-run.db"));
    log_in(&server, 3).await;
    let files = killed(server);
    assert!(len(&files.log()) > 0);
    for copy in ["by-sqlite.db", "of-this-run.db", "by-command.db"] {
        fs::copy(files.path(copy), files.database()).unwrap();
        nothing_starts(&files);
    }
    fs::rename(files.log(), files.path("moved-away")).unwrap();
    go_on(&files.start(), &kept).await;
}

fn files_of(server: &crate::support::Server) -> std::path::PathBuf {
    server.world.folder().join("sqlite.db")
}

#[actix_rt::test]
async fn log_without_its_database_is_not_discarded() {
    let server = Files::new().start();
    log_in(&server, 2).await;
    let files = killed(server);
    fs::write(files.database(), "").unwrap();
    nothing_starts(&files);
}
