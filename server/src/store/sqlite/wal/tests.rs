//! The files of a database are copied after each step of its life, as a crash would leave
//! them. The log of each copy belongs to its database, and to no earlier copy.

use std::fs;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::{Connection, RunQueryDsl, SqliteConnection, sql_query};
use uuid::Uuid;

use super::belongs;
use crate::store::sqlite::checkpoint::{renew_id, restart};
use crate::store::sqlite::files::beside;

/// A database in a directory of its own. Dropping this deletes it.
struct Database {
    folder: PathBuf,
    conn: SqliteConnection,
}

impl Database {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("wal-{}", Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let file = folder.join("matchbook.db");
        let mut conn = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
        conn.batch_execute(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; \
             CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)",
        )
        .unwrap();
        Self { folder, conn }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes rows, which takes new pages.
    fn insert(&mut self, rows: usize) {
        for _ in 0..rows {
            let insert = "INSERT INTO t (data) VALUES (randomblob(3000))";
            sql_query(insert).execute(&mut self.conn).unwrap();
        }
    }

    /// Writes to pages that exist.
    fn update(&mut self) {
        let update = "UPDATE t SET data = randomblob(3000) WHERE id % 3 = 0";
        sql_query(update).execute(&mut self.conn).unwrap();
    }

    fn checkpoint(&mut self, mode: &str) {
        self.conn.batch_execute(&format!("PRAGMA wal_checkpoint({mode})")).unwrap();
    }

    /// Copies the files, as a crash would leave them now. Returns the copy of the database.
    fn crash(&self, name: &str) -> PathBuf {
        let copy = self.path(name);
        fs::copy(self.path("matchbook.db"), &copy).unwrap();
        fs::copy(beside(&self.path("matchbook.db"), "-wal"), beside(&copy, "-wal")).unwrap();
        copy
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn fits(database: &Path, log: &Path) -> bool {
    belongs(database, log).unwrap()
}

/// Runs a step.
type Run = fn(&mut Database);

/// The steps between two restarts of the log, those of [`restart`] at the end.
const STEPS: [(Step, Run); 10] = [
    (Step::Writes, |db| db.insert(3)),
    (Step::Writes, |db| db.update()),
    (Step::Copies, |db| db.checkpoint("PASSIVE")),
    (Step::Writes, |db| db.insert(2)),
    (Step::Writes, |db| renew_id(&mut db.conn).unwrap()),
    (Step::Copies, |db| db.checkpoint("PASSIVE")),
    (Step::Writes, |db| db.update()),
    (Step::Writes, |db| renew_id(&mut db.conn).unwrap()),
    (Step::Copies, |db| db.checkpoint("RESTART")),
    (Step::Writes, |db| renew_id(&mut db.conn).unwrap()),
];

#[derive(PartialEq)]
enum Step {
    /// Writes to the log, of which a crash leaves a part.
    Writes,
    /// Copies the log into the database.
    Copies,
}

#[test]
fn log_of_any_crash_belongs_to_its_database_however_much_of_it_was_written() {
    let mut database = Database::new();
    let mut before = Vec::new();
    for round in 0..3 {
        for (number, (step, run)) in STEPS.iter().enumerate() {
            run(&mut database);
            let copy = database.crash(&format!("{round}-{number}.db"));
            let log = beside(&copy, "-wal");
            let after = fs::read(&log).unwrap();
            assert!(fits(&copy, &log), "round {round}, step {number}");
            for twentieths in 0..20 {
                let written = after.len() * twentieths / 20;
                let rest = before.get(written..).unwrap_or_default();
                fs::write(&log, [&after[..written], rest].concat()).unwrap();
                let is_possible = *step == Step::Writes;
                assert!(!is_possible || fits(&copy, &log), "{round}, {number}, {twentieths}");
            }
            before = after;
        }
    }
}

#[test]
fn log_does_not_belong_to_a_copy_from_before_the_last_restart() {
    let mut database = Database::new();
    let mut copies = Vec::new();
    for round in 0..3 {
        for (number, (_, run)) in STEPS.iter().enumerate() {
            run(&mut database);
            let name = format!("{round}-{number}.db");
            // A copy of the file alone, one by `.backup` or `VACUUM INTO`.
            copies.push(database.crash(&name));
            let whole = database.path(&format!("whole-{name}"));
            let vacuum = format!("VACUUM INTO '{}'", whole.display());
            sql_query(vacuum).execute(&mut database.conn).unwrap();
            copies.push(whole);
        }
        let log = beside(&database.path("matchbook.db"), "-wal");
        assert!(fits(&database.path("matchbook.db"), &log));
        // The copies since the restart of the log are up to date.
        for copy in &copies[..copies.len() - 4] {
            assert!(!fits(copy, &log), "{}", copy.display());
        }
        database.insert(1);
        assert!(fits(&database.path("matchbook.db"), &log));
    }
}

#[test]
fn log_does_not_belong_to_a_vacuumed_copy_of_the_same_run() {
    let mut database = Database::new();
    restart(&mut database.conn).unwrap();
    database.insert(5);
    let copy = database.path("copy.db");
    let vacuum = format!("VACUUM INTO '{}'", copy.display());
    sql_query(vacuum).execute(&mut database.conn).unwrap();
    database.insert(5);
    assert!(!fits(&copy, &beside(&database.path("matchbook.db"), "-wal")));
}

#[test]
fn log_does_not_belong_to_another_database_or_to_none() {
    let mut one = Database::new();
    let mut other = Database::new();
    for database in [&mut one, &mut other] {
        restart(&mut database.conn).unwrap();
        database.insert(1);
    }
    let log = beside(&one.path("matchbook.db"), "-wal");
    assert!(!fits(&other.path("matchbook.db"), &log));
    assert!(!fits(&one.path("missing.db"), &log));
    fs::write(one.path("empty.db"), "").unwrap();
    assert!(!fits(&one.path("empty.db"), &log));
}

#[test]
fn log_without_ids_or_without_content_is_accepted() {
    let mut database = Database::new();
    database.insert(2);
    database.checkpoint("TRUNCATE");
    let file = database.path("matchbook.db");
    let log = beside(&file, "-wal");
    assert!(fits(&file, &log), "an empty log");
    database.update();
    assert!(fits(&file, &log), "no page 1 in it");
    fs::write(&log, b"no log").unwrap();
    assert!(fits(&file, &log), "SQLite ignores it");
    assert!(fits(&file, &database.path("missing-wal")));
}
