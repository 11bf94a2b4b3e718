//! Migrations: by the server, by the command, and beside servers of other versions.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use matchbook_testkit::{ProcessBuilder, TestEnv};

use crate::support::{Server, binary};

/// The last migration, and one of a future version.
const LAST: &str = "20261203000000";
const FUTURE: &str = "20991231000000";

/// A server that may not migrate.
fn restricted(world: &TestEnv) -> ProcessBuilder {
    world.server(binary()).set("database.migrate", "false")
}

/// The output of a command that succeeds.
fn output_of(launch: &ProcessBuilder, arguments: &[&str]) -> String {
    let output = launch.run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error of a command that fails.
fn error_of(launch: &ProcessBuilder, arguments: &[&str]) -> String {
    let output = launch.run(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?}: {error}");
    error
}

/// A migrated database, whose server has stopped.
async fn migrated() -> Server {
    let mut server = Server::start();
    // It handles signals by now.
    server.log_in().await;
    assert!(server.process.stop().success());
    server
}

/// Makes the last migration pending.
fn revert_last(server: &Server) {
    server.sql(&format!("DELETE FROM __diesel_schema_migrations WHERE version = '{LAST}'"));
    // Afterwards a connection of the tests would be rejected.
    let revert =
        include_str!("../../../migrations/2026-12-03-000000_schema_compatibility/down.sql");
    match server.world.database_url() {
        url if url.starts_with("postgres") => {
            PgConnection::establish(&url).unwrap().batch_execute(revert).unwrap();
        }
        url => {
            let path = url.strip_prefix("sqlite://").unwrap();
            let mut conn = diesel::SqliteConnection::establish(path).unwrap();
            conn.batch_execute(revert).unwrap();
        }
    }
}

/// Records a migration of a future version that needs a server with `oldest`.
fn migrate_to_the_future(server: &Server, oldest: &str) {
    server.sql(&format!("UPDATE schema_compatibility SET oldest_server = '{oldest}'"));
    server.sql(&format!("INSERT INTO __diesel_schema_migrations (version) VALUES ('{FUTURE}')"));
}

#[actix_rt::test]
async fn the_command_creates_the_tables_for_a_server_that_may_not() {
    let world = TestEnv::new();
    let launch = restricted(&world);
    let error = error_of(&launch, &[]);
    assert!(error.contains("it has no tables of matchbook-server"), "{error}");
    assert!(error.contains("run `matchbook-server migrate`"), "{error}");
    let error = error_of(&launch, &["keys", "list"]);
    assert!(error.contains("or run `matchbook-server migrate`"), "{error}");

    let output = output_of(&launch, &["migrate"]);
    assert_eq!(output.lines().last(), Some(format!("migrated to {LAST}").as_str()), "{output}");
    assert_eq!(output_of(&launch, &["migrate"]), "nothing to migrate\n");
    let server = Server::within(world, |launch| launch.set("database.migrate", "false"));
    server.log_in().await;
    assert_eq!(server.process.logged("database migrated"), 0);
}

#[actix_rt::test]
async fn pending_migration_stops_a_server_that_may_not_migrate_and_each_command() {
    let server = migrated().await;
    revert_last(&server);
    let launch = restricted(&server.world);
    let error = error_of(&launch, &[]);
    assert!(error.contains("one migration is pending, and `database.migrate` is false"), "{error}");
    let error = error_of(&launch, &["keys", "list"]);
    assert!(error.contains("one migration is pending: start this version"), "{error}");

    let other = server.world.server(binary()).start();
    assert_eq!(other.logged("database migrated"), 1, "{}", other.log());
    output_of(&launch, &["keys", "list"]);
}

#[actix_rt::test]
async fn schema_that_needs_a_newer_server_is_rejected_with_a_sentence() {
    let server = migrated().await;
    migrate_to_the_future(&server, FUTURE);
    let launch = server.world.server(binary());
    for arguments in [&[][..], &["keys", "list"], &["users", "list"], &["migrate"]] {
        let error = error_of(&launch, arguments);
        assert!(error.contains("a newer version of matchbook-server has migrated it"), "{error}");
        assert!(error.contains(LAST) && error.contains(FUTURE), "{error}");
        assert!(error.contains("upgrade matchbook-server"), "{error}");
    }
}

#[actix_rt::test]
async fn newer_schema_that_permits_this_version_is_used_as_it_is() {
    let server = migrated().await;
    migrate_to_the_future(&server, LAST);
    assert_eq!(output_of(&restricted(&server.world), &["migrate"]), "nothing to migrate\n");
    let server = Server::within(server.world, |launch| launch);
    let tokens = server.log_in().await;
    assert_eq!(server.refresh(&tokens.refresh).await.status, 200);
    assert_eq!(server.process.logged("database migrated"), 0);
}

/// Waits until a connection of a server waits for a lock, or does not.
fn await_lock_wait(conn: &mut PgConnection, waits: bool) {
    use diesel::prelude::*;
    let query = diesel::dsl::sql::<diesel::sql_types::Bool>(
        "EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'matchbook' AND wait_event_type = 'Lock')",
    );
    let started = Instant::now();
    while diesel::select(query.clone()).get_result::<bool>(conn).unwrap() != waits {
        assert!(started.elapsed() < Duration::from_secs(60), "waits for a lock: not {waits}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn migration_that_gets_no_lock_gives_up_and_tries_again() {
    let server = migrated().await;
    revert_last(&server);
    let url = server.world.database_url();
    let mut long = PgConnection::establish(&url).unwrap();
    long.batch_execute("BEGIN; LOCK TABLE __diesel_schema_migrations IN SHARE MODE").unwrap();
    let launch = server.world.server(binary());
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| launch.start());
        let mut watcher = PgConnection::establish(&url).unwrap();
        await_lock_wait(&mut watcher, true);
        // It gives up before the lock is released.
        await_lock_wait(&mut watcher, false);
        long.batch_execute("COMMIT").unwrap();
        let process = starting.join().unwrap();
        assert!(process.logged("migration failed, trying again") > 0, "{}", process.log());
        assert_eq!(process.logged("database migrated"), 1, "{}", process.log());
    });
}
