//! A database that lost its last commits, as after a failover to a lagging
//! replica.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary};
use matchbook_server::sessions::Policy;
use matchbook_shared::InvalidGrantReason;

use crate::harness::{DEFAULT, Harness, MINUTE, Outcome, TokenPair};

/// A session that was rotated twice, after the database lost both rotations,
/// and the tokens of the three generations.
fn set_back(policy: Policy) -> (Harness, [TokenPair; 3]) {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        generation: i64,
        #[diesel(sql_type = Binary)]
        secret_digest: Vec<u8>,
    }
    let mut harness = Harness::new(policy);
    let (_, first) = harness.open();
    let query = "SELECT generation, secret_digest FROM sessions";
    let before: Row = diesel::sql_query(query).get_result(&mut harness.conn).unwrap();
    let mut pairs = vec![first];
    for _ in 0..2 {
        let Outcome::Rotated(pair) = harness.present(&pairs.last().unwrap().refresh, None) else {
            panic!("it rotates")
        };
        pairs.push(pair);
    }
    let digest = hex(&before.secret_digest);
    let digest = match harness.conn {
        matchbook_server::store::Conn::Postgres(_) => format!("decode('{digest}', 'hex')"),
        matchbook_server::store::Conn::Sqlite(_) => format!("x'{digest}'"),
    };
    harness.sql(&format!(
        "UPDATE sessions SET generation = {}, secret_digest = {digest}, previous_digest = NULL, \
         successor_salt = NULL, rotated_at = NULL",
        before.generation
    ));
    (harness, pairs.try_into().unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[test]
fn token_ahead_of_the_database_is_rejected_and_its_session_continues() {
    let (mut harness, [first, second, third]) = set_back(DEFAULT);
    assert_eq!(
        harness.present(&third.refresh, None),
        Outcome::Rejected(InvalidGrantReason::Unknown)
    );
    assert_eq!(
        harness.present(&second.refresh, None),
        Outcome::Rejected(InvalidGrantReason::Unknown)
    );
    assert!(matches!(harness.present(&first.refresh, None), Outcome::Rotated(_)));
}

#[test]
fn token_ahead_of_the_database_is_accepted_if_configured() {
    let (mut harness, [first, second, third]) =
        set_back(Policy { accept_ahead_of_database: true, ..DEFAULT });
    let Outcome::Rotated(fourth) = harness.present(&third.refresh, None) else {
        panic!("it is taken as the live one")
    };
    assert_eq!(harness.parse(&fourth.refresh).generation, 3);
    // From then on the usual rules apply.
    assert!(
        matches!(harness.present(&third.refresh, None), Outcome::Reissued(pair) if pair == fourth)
    );
    for old in [&first, &second] {
        assert_eq!(
            harness.present(&old.refresh, None),
            Outcome::Rejected(InvalidGrantReason::Superseded)
        );
    }
    assert!(matches!(harness.present(&fourth.refresh, None), Outcome::Rotated(_)));
    harness.wait(2 * MINUTE);
    assert_eq!(harness.present(&third.refresh, None), Outcome::Rejected(InvalidGrantReason::Reuse));
}

#[test]
fn ended_session_does_not_accept_a_token_ahead_of_the_database() {
    let (mut harness, [_, _, third]) =
        set_back(Policy { accept_ahead_of_database: true, ..DEFAULT });
    let session = harness.parse(&third.refresh).session;
    assert!(harness.log_out(session));
    assert_eq!(
        harness.present(&third.refresh, None),
        Outcome::Rejected(InvalidGrantReason::LoggedOut)
    );
}

#[test]
fn second_token_of_one_generation_ends_the_session() {
    let (mut harness, [first, second, _]) =
        set_back(Policy { accept_ahead_of_database: true, ..DEFAULT });
    // Rotated again from the restored state.
    assert!(matches!(harness.present(&first.refresh, None), Outcome::Rotated(_)));
    assert_eq!(
        harness.present(&second.refresh, None),
        Outcome::Rejected(InvalidGrantReason::Reuse)
    );
}
