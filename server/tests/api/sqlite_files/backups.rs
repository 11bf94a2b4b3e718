//! `matchbook-server backup` and `restore`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};

use super::{Files, go_on, killed, log_in, stopped};
use crate::support::{Server, Tokens, binary};

/// The former database that `restore` has kept.
fn former(files: &Files) -> PathBuf {
    let entries = fs::read_dir(files.world.folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut former = entries.filter(|path| {
        let name = path.to_string_lossy();
        name.contains("sqlite.db.before-") && !name.contains("leftover")
    });
    let found = former.next().expect("the former database is kept");
    assert_eq!(former.next(), None);
    found
}

fn no_other_files(files: &Files) {
    for entry in fs::read_dir(files.world.folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("-restoring") && !name.ends_with("-incomplete"), "{name}");
    }
}

#[actix_rt::test]
async fn backup_under_load_is_restored_with_every_acknowledged_session() {
    let server = Rc::new(Files::new().start());
    let sessions = log_in(&server, 20).await;
    let mut rotating = log_in(&server, 4).await;
    let load = actix_rt::spawn({
        let server = server.clone();
        async move {
            for _ in 0..40 {
                rotating = go_on(&server, &rotating).await;
            }
        }
    });
    let url = format!("sqlite://{}", server.world.folder().join("sqlite.db").display());
    let builder = server.world.server(binary()).variable("DATABASE_URL", &url);
    let command = actix_rt::task::spawn_blocking(move || builder.run(&["backup", "copy.db"]));
    let output = command.await.unwrap();
    load.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("with 24 sessions") && text.contains("data/secret"), "{text}");
    let later = server.log_in().await;

    let files = stopped(Rc::into_inner(server).unwrap());
    let mode = fs::metadata(files.path("copy.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = files.run(&["restore", "copy.db"]).unwrap();
    assert!(text.contains("with 24 sessions"), "{text}");
    assert!(text.contains("matchbook-server sessions end --before 20"), "{text}");
    let mode = fs::metadata(files.database()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    no_other_files(&files);
    former(&files);
    let server = files.start();
    go_on(&server, &sessions).await;
    assert_eq!(server.refresh(&later.refresh).await.status, 401);
}

#[actix_rt::test]
async fn former_database_is_complete_although_its_server_was_killed() {
    let server = Files::new().start();
    log_in(&server, 1).await;
    let files = killed(server);
    files.run(&["backup", "copy.db"]).unwrap();
    let server = files.start();
    let later = log_in(&server, 5).await;
    let files = killed(server);
    files.run(&["restore", "copy.db"]).unwrap();
    let former = former(&files);
    // Back again.
    files.run(&["restore", former.to_str().unwrap()]).unwrap();
    go_on(&files.start(), &later).await;
}

#[actix_rt::test]
async fn restore_ends_the_confusion_of_a_leftover_log() {
    let server = Files::new().start();
    let kept = log_in(&server, 2).await;
    let files = killed(server);
    files.run(&["backup", "copy.db"]).unwrap();
    let server = files.start();
    log_in(&server, 2).await;
    let files = killed(server);
    let log = fs::read(files.log()).unwrap();
    fs::copy(files.path("copy.db"), files.database()).unwrap();
    files.run(&["restore", "copy.db"]).unwrap();
    let former = former(&files).to_str().unwrap().to_owned();
    assert!(fs::read(former + ".leftover-wal").unwrap() == log, "the log is kept");
    assert!(!files.log().exists());
    go_on(&files.start(), &kept).await;
}

#[actix_rt::test]
async fn restored_sessions_can_be_ended_by_the_printed_command() {
    let server = Files::new().start();
    let sessions = log_in(&server, 2).await;
    let files = stopped(server);
    files.run(&["backup", "copy.db"]).unwrap();
    // The printed time has a resolution of one second.
    actix_rt::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let text = files.run(&["restore", "copy.db"]).unwrap();
    let (_, command) = text.split_once("`matchbook-server ").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    let arguments: Vec<&str> = command.split(' ').collect();
    assert_eq!(files.run(&arguments).unwrap(), "2 sessions have ended\n");
    let server = files.start();
    for Tokens { refresh, .. } in &sessions {
        assert_eq!(server.refresh(refresh).await.status, 401);
    }
}

#[actix_rt::test]
async fn database_in_use_is_not_replaced() {
    let server = Files::new().start();
    let sessions = log_in(&server, 2).await;
    let files = stopped(server);
    files.run(&["backup", "copy.db"]).unwrap();
    let server = files.start();
    let sessions = go_on(&server, &sessions).await;
    let files = Files { world: server.world };
    let error = files.run(&["restore", "copy.db"]).unwrap_err();
    assert!(error.contains("has the database") && error.contains("stop it"), "{error}");
    no_other_files(&files);
    let server = Server { world: files.world, ..server };
    let sessions = go_on(&server, &sessions).await;
    let files = killed(server);
    go_on(&files.start(), &sessions).await;
}

#[actix_rt::test]
async fn files_that_are_no_intact_database_of_this_server_are_not_restored() {
    let server = Files::new().start();
    let sessions = log_in(&server, 30).await;
    let files = stopped(server);
    files.run(&["backup", "copy.db"]).unwrap();
    fs::write(files.path("text"), "no database, but long enough to have a header").unwrap();
    fs::write(files.path("empty"), "").unwrap();
    let sql = |name: &str, statements: &str| {
        let mut conn = SqliteConnection::establish(files.path(name).to_str().unwrap()).unwrap();
        conn.batch_execute(statements).unwrap();
    };
    sql("other", "CREATE TABLE t (id INTEGER PRIMARY KEY)");
    fs::copy(files.path("copy.db"), files.path("newer")).unwrap();
    sql("newer", NEWER);
    sql("newer", "UPDATE schema_compatibility SET oldest_server = '99990101000000'");
    let mut content = fs::read(files.path("copy.db")).unwrap();
    fs::write(files.path("cut"), &content[..content.len() / 2]).unwrap();
    content[8192..20_480].fill(7);
    fs::write(files.path("damaged"), content).unwrap();
    for (name, problem) in [
        ("text", "is not a SQLite database"),
        ("empty", "is not a SQLite database"),
        ("other", "it has no tables of matchbook-server"),
        ("newer", "99990101000000"),
        ("cut", ""),
        ("damaged", ""),
        ("missing", "does not exist"),
        (".", "does not exist"),
        ("sqlite.db", "is the database itself"),
    ] {
        let error = files.run(&["restore", name]).unwrap_err();
        assert!(error.contains("nothing was changed") && error.contains(problem), "{error}");
        no_other_files(&files);
    }
    go_on(&files.start(), &sessions).await;
}

/// The migration of a version that does not exist yet.
const NEWER: &str = "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')";

#[actix_rt::test]
async fn database_of_a_newer_version_that_this_one_can_use_is_copied_and_restored() {
    let server = Files::new().start();
    let sessions = log_in(&server, 2).await;
    let files = stopped(server);
    let mut conn = SqliteConnection::establish(files.database().to_str().unwrap()).unwrap();
    conn.batch_execute(NEWER).unwrap();
    drop(conn);
    files.run(&["backup", "copy.db"]).unwrap();
    files.run(&["restore", "copy.db"]).unwrap();
    no_other_files(&files);
    go_on(&files.start(), &sessions).await;
}

#[actix_rt::test]
async fn raw_copy_with_its_log_is_restored_and_stays_as_it_is() {
    let server = Files::new().start();
    let sessions = log_in(&server, 3).await;
    let files = killed(server);
    let raw = files.path("raw");
    fs::create_dir(&raw).unwrap();
    for name in ["sqlite.db", "sqlite.db-wal"] {
        fs::copy(files.path(name), raw.join(name)).unwrap();
    }
    let content = || -> Vec<(PathBuf, Vec<u8>)> {
        let paths = fs::read_dir(&raw).unwrap().map(|entry| entry.unwrap().path());
        let mut content: Vec<_> =
            paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        content.sort();
        content
    };
    let before = content();
    assert!(before.len() == 2 && before.iter().all(|(_, content)| !content.is_empty()));
    let text = files.run(&["restore", "raw/sqlite.db"]).unwrap();
    assert!(text.contains("with 3 sessions"), "{text}");
    assert!(content() == before, "the copy has changed");
    no_other_files(&files);
    go_on(&files.start(), &sessions).await;
}

#[actix_rt::test]
async fn backup_overwrites_nothing() {
    let server = Files::new().start();
    log_in(&server, 1).await;
    let files = Files { world: server.world };
    fs::write(files.path("taken"), "content").unwrap();
    let error = files.run(&["backup", "taken"]).unwrap_err();
    assert!(error.contains("exists already"), "{error}");
    assert_eq!(fs::read_to_string(files.path("taken")).unwrap(), "content");
    let error = files.run(&["backup", "no/such/folder"]).unwrap_err();
    assert!(error.contains("cannot be created"), "{error}");
    no_other_files(&files);
}

#[test]
fn tools_of_postgres_are_named() {
    let files = Files::new();
    let postgres = files.builder().variable("DATABASE_URL", "postgres://localhost/none");
    let restore = "pg_restore --no-owner --exit-on-error";
    let manual = include_str!("../../../../docs/operations.md");
    assert!(manual.contains(restore));
    for (command, tool) in [("backup", "pg_dump"), ("restore", restore)] {
        let output = postgres.run(&[command, "file"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(tool), "{error}");
    }
    assert!(!files.path("file").exists());
}
