//! Commits that fail: what is told to a client has to be committed.

use matchbook_server::sessions;
use matchbook_server::store::Conn;
use matchbook_server::store::sessions::{rotate, rotate_batch, rotate_from};
use matchbook_server::token::EventId;

use crate::subject::{DEFAULT, Subject, device};

/// Has every transaction fail that changes a session, when it is committed and not
/// before: a row refers to one that is not there, which is checked last.
fn fail_commits(subject: &mut Subject) {
    subject.sql("CREATE TABLE nowhere (id BIGINT PRIMARY KEY)");
    subject.sql(
        "CREATE TABLE orphans (id BIGINT REFERENCES nowhere (id) DEFERRABLE INITIALLY DEFERRED)",
    );
    match subject.conn {
        Conn::Sqlite(_) => {
            subject.sql(
                "CREATE TRIGGER break AFTER UPDATE ON sessions \
                 BEGIN INSERT INTO orphans VALUES (1); END",
            );
        }
        Conn::Postgres(_) => {
            subject.sql(
                "CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN INSERT INTO orphans VALUES (1); RETURN NULL; END'",
            );
            subject.sql(
                "CREATE TRIGGER break AFTER UPDATE ON sessions \
                 FOR EACH ROW EXECUTE FUNCTION break()",
            );
        }
    }
}

#[test]
fn a_write_whose_commit_fails_is_an_error_and_changes_nothing() {
    let mut subject = Subject::new(DEFAULT);
    let (session, pair) = subject.open();
    let (_, other) = subject.open();
    let attempt = subject.attempt(&pair.refresh, None, device());
    let second = subject.attempt(&other.refresh, None, device());
    let standing = subject.standing(session).unwrap();
    fail_commits(&mut subject);

    let (one, two) = (&*attempt.update, &*second.update);
    assert!(rotate(&mut subject.conn, one).is_err());
    assert!(rotate_from(&mut subject.conn, &standing, one).is_err());
    assert!(rotate_batch(&mut subject.conn, &[one]).is_err());
    assert!(rotate_batch(&mut subject.conn, &[one, two]).is_err());
    assert!(subject.settle(&attempt).is_err());
    let event = EventId::new(subject.now).unwrap();
    let (policy, now) = (subject.policy, subject.now);
    let conn = &mut subject.conn;
    assert!(sessions::log_out(conn, session, &device(), event, &policy, now).is_err());
    let user = standing.user;
    let everywhere = sessions::log_out_everywhere(conn, user, None, &device(), event, &policy, now);
    assert!(everywhere.is_err());

    let changed = "SELECT count(*) AS number FROM sessions \
                   WHERE generation <> 0 OR ended_at IS NOT NULL";
    assert_eq!(subject.number(changed), 0);
    // The connection is as good as before.
    subject.sql(match subject.conn {
        Conn::Sqlite(_) => "DROP TRIGGER break",
        Conn::Postgres(_) => "DROP TRIGGER break ON sessions",
    });
    assert!(rotate(&mut subject.conn, one).unwrap().is_some());
}
