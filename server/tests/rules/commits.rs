//! Failing commits: a success that a client sees must have been committed.

use matchbook_server::ids::EventId;
use matchbook_server::sessions::{self, Context, EndReason, Keep, UserSessions};
use matchbook_server::store::Conn;
use matchbook_server::store::sessions::{rotate, rotate_batch, rotate_from};

use crate::harness::{DEFAULT, Harness, device};

/// Makes every transaction that changes a session fail at its commit, not
/// before: a deferred foreign key refers to a row that does not exist.
fn fail_commits(harness: &mut Harness) {
    harness.sql("CREATE TABLE nowhere (id BIGINT PRIMARY KEY)");
    harness.sql(
        "CREATE TABLE orphans (id BIGINT REFERENCES nowhere (id) DEFERRABLE INITIALLY DEFERRED)",
    );
    match harness.conn {
        Conn::Sqlite(_) => {
            harness.sql(
                "CREATE TRIGGER break AFTER UPDATE ON sessions \
                 BEGIN INSERT INTO orphans VALUES (1); END",
            );
        }
        Conn::Postgres(_) => {
            harness.sql(
                "CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN INSERT INTO orphans VALUES (1); RETURN NULL; END'",
            );
            harness.sql(
                "CREATE TRIGGER break AFTER UPDATE ON sessions \
                 FOR EACH ROW EXECUTE FUNCTION break()",
            );
        }
    }
}

#[test]
fn failed_commit_is_an_error_and_changes_nothing() {
    let mut harness = Harness::new(DEFAULT);
    let (session, pair) = harness.open();
    let (_, other) = harness.open();
    let attempt = harness.prepare(&pair.refresh, None, device());
    let second = harness.prepare(&other.refresh, None, device());
    let row = harness.session(session).unwrap();
    fail_commits(&mut harness);

    let (one, two) = (&*attempt.update, &*second.update);
    assert!(rotate(&mut harness.conn, one).is_err());
    assert!(rotate_from(&mut harness.conn, &row, one).is_err());
    assert!(rotate_batch(&mut harness.conn, &[one]).is_err());
    assert!(rotate_batch(&mut harness.conn, &[one, two]).is_err());
    assert!(harness.resolve_conflict(&attempt).is_err());
    let event = EventId::new(harness.now).unwrap();
    let (policy, now) = (harness.policy, harness.now);
    let conn = &mut harness.conn;
    let client = device();
    let cx = Context { policy: &policy, client: &client, event, now };
    assert!(sessions::revoke(conn, session, &cx).is_err());
    let user = row.user;
    let all = UserSessions { user, keep: Keep::Nothing, reason: EndReason::LoggedOut };
    assert!(sessions::revoke_all(conn, all, &cx).is_err());

    let changed = "SELECT count(*) AS number FROM sessions \
                   WHERE generation <> 0 OR ended_at IS NOT NULL";
    assert_eq!(harness.number(changed), 0);
    // The connection is still usable.
    harness.sql(match harness.conn {
        Conn::Sqlite(_) => "DROP TRIGGER break",
        Conn::Postgres(_) => "DROP TRIGGER break ON sessions",
    });
    assert!(rotate(&mut harness.conn, one).unwrap().is_some());
}
