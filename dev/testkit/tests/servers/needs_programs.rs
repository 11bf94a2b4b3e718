//! Starts, stops and pauses PostgreSQL and Redis.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::Text;
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use matchbook_testkit::{Postgres, Redis, Stop};
use redis::{Client, RedisResult};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    value: String,
}

fn value(conn: &mut PgConnection, query: &str) -> String {
    diesel::sql_query(query).get_result::<Row>(conn).unwrap().value
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn a_crashed_postgresql_has_what_it_acknowledged() {
    let mut postgres = Postgres::new();
    let url = postgres.create("kept");
    let mut conn = PgConnection::establish(&url).unwrap();
    conn.batch_execute("CREATE TABLE kept (value text); INSERT INTO kept VALUES ('it')").unwrap();
    postgres.restart(Stop::Immediate);
    assert!(conn.batch_execute("SELECT 1").is_err(), "the connection went with it");
    let mut conn = PgConnection::establish(&url).unwrap();
    assert_eq!(value(&mut conn, "SELECT value FROM kept"), "it");
    postgres.stop(Stop::Fast);
    assert!(PgConnection::establish(&url).is_err());
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn a_paused_postgresql_responds_after_it_is_resumed() {
    let postgres = Postgres::new();
    let mut conn = PgConnection::establish(&postgres.url()).unwrap();
    postgres.pause();
    let asking = std::thread::spawn(move || value(&mut conn, "SELECT 'late' AS value"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!asking.is_finished());
    postgres.resume();
    assert_eq!(asking.join().unwrap(), "late");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn postgresql_takes_settings_and_files() {
    let settings = [("work_mem", "7MB")];
    let files = [("postgresql.auto.conf", "maintenance_work_mem = 9MB\n")];
    let postgres = Postgres::with(&settings, &files);
    let mut conn = PgConnection::establish(&postgres.url()).unwrap();
    let mut show = |name| value(&mut conn, &format!("SELECT current_setting('{name}') AS value"));
    assert_eq!([show("work_mem"), show("maintenance_work_mem")], ["7MB", "9MB"]);
    assert_eq!([show("fsync"), show("synchronous_commit")], ["on", "on"]);
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn redis_restarts_empty_and_does_not_respond_while_it_is_paused() {
    let mut redis = Redis::new();
    let connect = |url: &str| Client::open(url).unwrap().get_connection().unwrap();
    let get = |conn: &mut redis::Connection| -> RedisResult<Option<String>> {
        redis::cmd("GET").arg("key").query(conn)
    };
    let put = |url: &str| redis::cmd("SET").arg(&["key", "it"]).exec(&mut connect(url)).unwrap();

    put(&redis.url());
    redis.kill();
    assert!(Client::open(redis.url()).unwrap().get_connection().is_err());
    redis.start();
    assert_eq!(get(&mut connect(&redis.url())).unwrap(), None);

    put(&redis.url());
    let mut conn = connect(&redis.url());
    conn.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    redis.pause();
    assert!(get(&mut conn).is_err());
    redis.resume();
    assert_eq!(get(&mut connect(&redis.url())).unwrap().as_deref(), Some("it"));
    redis.flush();
    assert_eq!(get(&mut connect(&redis.url())).unwrap(), None);
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn redis_takes_arguments() {
    let user = ["--user", "app", "on", ">secret", "~*", "+@all"];
    let redis = Redis::with(|_| user.map(String::from).into());
    let url = format!("redis://app:secret@127.0.0.1:{}", redis.port());
    let mut conn = Client::open(url).unwrap().get_connection().unwrap();
    assert_eq!(redis::cmd("ACL").arg("WHOAMI").query::<String>(&mut conn).unwrap(), "app");
}
