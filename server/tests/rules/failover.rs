//! A database that lost its last commits, as after a failover to a replica that
//! lagged.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary};
use matchbook_server::sessions::Policy;
use matchbook_shared::Reason;

use crate::subject::{Answer, DEFAULT, MINUTE, Pair, Subject};

/// A session that was rotated twice, of which the database knows nothing any
/// more, and the tokens of the three generations.
fn set_back(policy: Policy) -> (Subject, [Pair; 3]) {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        generation: i64,
        #[diesel(sql_type = Binary)]
        secret_digest: Vec<u8>,
    }
    let mut subject = Subject::new(policy);
    let (_, first) = subject.open();
    let query = "SELECT generation, secret_digest FROM sessions";
    let before: Row = diesel::sql_query(query).get_result(&mut subject.conn).unwrap();
    let mut pairs = vec![first];
    for _ in 0..2 {
        let Answer::Rotated(pair) = subject.show(&pairs.last().unwrap().refresh, None) else {
            panic!("it rotates")
        };
        pairs.push(pair);
    }
    let digest = hex(&before.secret_digest);
    let digest = match subject.conn {
        matchbook_server::store::Conn::Postgres(_) => format!("decode('{digest}', 'hex')"),
        matchbook_server::store::Conn::Sqlite(_) => format!("x'{digest}'"),
    };
    subject.sql(&format!(
        "UPDATE sessions SET generation = {}, secret_digest = {digest}, previous_digest = NULL, \
         salt = NULL, rotated_at = NULL",
        before.generation
    ));
    (subject, pairs.try_into().unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[test]
fn a_token_ahead_of_the_database_is_unknown_and_its_session_goes_on() {
    let (mut subject, [first, second, third]) = set_back(DEFAULT);
    assert_eq!(subject.show(&third.refresh, None), Answer::Refused(Reason::Unknown));
    assert_eq!(subject.show(&second.refresh, None), Answer::Refused(Reason::Unknown));
    assert!(matches!(subject.show(&first.refresh, None), Answer::Rotated(_)));
}

#[test]
fn a_token_ahead_of_the_database_is_adopted_where_the_settings_say_so() {
    let (mut subject, [first, second, third]) =
        set_back(Policy { accept_ahead_of_database: true, ..DEFAULT });
    let Answer::Rotated(fourth) = subject.show(&third.refresh, None) else {
        panic!("it is taken as the live one")
    };
    assert_eq!(subject.parse(&fourth.refresh).generation, 3);
    // From then on all is as ever.
    assert!(matches!(subject.show(&third.refresh, None), Answer::Repeated(pair) if pair == fourth));
    for old in [&first, &second] {
        assert_eq!(subject.show(&old.refresh, None), Answer::Refused(Reason::Superseded));
    }
    assert!(matches!(subject.show(&fourth.refresh, None), Answer::Rotated(_)));
    subject.wait(2 * MINUTE);
    assert_eq!(subject.show(&third.refresh, None), Answer::Refused(Reason::Reuse));
}

#[test]
fn what_has_ended_is_not_adopted() {
    let (mut subject, [_, _, third]) =
        set_back(Policy { accept_ahead_of_database: true, ..DEFAULT });
    let session = subject.parse(&third.refresh).session;
    assert!(subject.log_out(session));
    assert_eq!(subject.show(&third.refresh, None), Answer::Refused(Reason::LoggedOut));
}

#[test]
fn of_two_tokens_of_one_generation_the_wrong_one_ends_the_session() {
    let (mut subject, [first, second, _]) =
        set_back(Policy { accept_ahead_of_database: true, ..DEFAULT });
    // Rotated again from where the database was set back to.
    assert!(matches!(subject.show(&first.refresh, None), Answer::Rotated(_)));
    assert_eq!(subject.show(&second.refresh, None), Answer::Refused(Reason::Reuse));
}
