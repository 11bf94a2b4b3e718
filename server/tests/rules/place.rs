//! The routing column: every row of a user is found by the place of the user.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_types::Text;
use matchbook_server::clock::Timestamp;
use matchbook_server::ids::{SessionId, UserId};
use matchbook_server::store::Conn;
use matchbook_server::store::distribution::{Distribution, TABLES};
use proptest::prelude::*;
use uuid::Uuid;

use crate::harness::{DEFAULT, Harness};

proptest! {
    #[test]
    fn every_session_id_of_a_user_carries_the_place_of_the_user(
        user in any::<u128>(),
        seconds in 0..=4_000_000_000_i64,
    ) {
        let user = UserId(Uuid::from_u128(user));
        let session = SessionId::new(user, Timestamp::from_secs(seconds)).unwrap();
        prop_assert_eq!(session.place(), user.place());
        prop_assert!((0..64).contains(&user.place().value()));
        prop_assert_eq!(session.0.get_version_num(), 7);
    }
}

#[derive(QueryableByName)]
struct Key {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    columns: String,
}

/// The primary key of each table, as columns separated by commas.
fn primary_keys(conn: &mut Conn) -> BTreeMap<String, String> {
    let query = match conn {
        Conn::Postgres(_) => {
            "SELECT conrelid::regclass::text AS name, \
             (SELECT string_agg(attname, ', ' ORDER BY ordinality) \
              FROM unnest(conkey) WITH ORDINALITY AS key (attnum, ordinality) \
              JOIN pg_attribute USING (attnum) WHERE attrelid = conrelid) AS columns \
             FROM pg_constraint WHERE contype = 'p' AND connamespace = 'public'::regnamespace"
        }
        Conn::Sqlite(_) => {
            "SELECT tables.name AS name, \
             (SELECT group_concat(name, ', ') FROM (SELECT name FROM \
              pragma_table_info(tables.name) WHERE pk > 0 ORDER BY pk)) AS columns \
             FROM sqlite_schema AS tables WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        }
    };
    let keys: Vec<Key> = diesel::sql_query(query).load(conn).unwrap();
    keys.into_iter().map(|key| (key.name, key.columns)).collect()
}

/// The decision about each table.
fn decisions() -> BTreeMap<&'static str, Distribution> {
    TABLES.into_iter().collect()
}

#[test]
fn each_table_has_a_decision_by_which_key_it_is_distributed() {
    let mut harness = Harness::new(DEFAULT);
    let keys = primary_keys(&mut harness.conn);
    let mut decisions = decisions();
    for (table, columns) in &keys {
        let decision = decisions.remove(table.as_str());
        let decision = decision.unwrap_or_else(|| panic!("add {table} to `distribution::TABLES`"));
        let begins_with_place = columns.starts_with("place, ");
        match decision {
            Distribution::ByPlace => assert!(begins_with_place, "{table}: {columns}"),
            Distribution::ByKey(column) => assert_eq!(columns, column, "{table}"),
            Distribution::OnEachNode | Distribution::OnOneNode => {
                assert!(!begins_with_place, "{table}: {columns}");
            }
        }
    }
    assert!(decisions.is_empty(), "no such tables: {decisions:?}");
}

/// Citus checks uniqueness and foreign keys within one shard.
#[test]
#[ignore = "needs PostgreSQL: make test"]
fn unique_indexes_and_foreign_keys_contain_the_key_by_which_their_table_is_distributed() {
    let mut harness = Harness::new(DEFAULT);
    let decisions = decisions();
    let query = "SELECT indrelid::regclass::text AS name, (SELECT string_agg(attname, ', ') \
         FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY (indkey)) AS columns \
         FROM pg_index JOIN pg_class ON pg_class.oid = indrelid \
         WHERE indisunique AND relnamespace = 'public'::regnamespace";
    let indexes: Vec<Key> = diesel::sql_query(query).load(&mut harness.conn).unwrap();
    assert!(indexes.len() >= TABLES.len(), "one for each primary key at least");
    for Key { name, columns } in indexes {
        let has = |column| columns.split(", ").any(|of_index| of_index == column);
        match decisions[name.as_str()] {
            Distribution::ByPlace => assert!(has("place"), "{name}: {columns}"),
            Distribution::ByKey(column) => assert!(has(column), "{name}: {columns}"),
            Distribution::OnEachNode | Distribution::OnOneNode => {}
        }
    }

    let query = "SELECT conrelid::regclass::text AS name, pg_get_constraintdef(oid) AS columns \
         FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace";
    let foreign: Vec<Key> = diesel::sql_query(query).load(&mut harness.conn).unwrap();
    assert!(!foreign.is_empty());
    for Key { name, columns } in foreign {
        // "FOREIGN KEY (place, user_id) REFERENCES users(place, id) ON DELETE CASCADE"
        let (own, target) = columns.split_once(" REFERENCES ").unwrap();
        let (table, _) = target.split_once('(').unwrap();
        assert!(own.starts_with("FOREIGN KEY (place, "), "{name}: {columns}");
        assert!(target.contains("(place, "), "{name}: {columns}");
        assert_eq!(decisions[name.as_str()], Distribution::ByPlace, "{name}");
        assert_eq!(decisions[table], Distribution::ByPlace, "{table}");
    }
}

/// Every row that a login, rotations, a logout and a detected reuse write.
#[test]
fn rows_have_the_place_of_their_user() {
    let mut harness = Harness::new(DEFAULT);
    let mut users = Vec::new();
    for _ in 0..20 {
        let user = UserId::random();
        let (session, first) = harness.open_as(user);
        harness.present(&first.refresh, None);
        harness.log_out(session);
        users.push((user, session));
    }
    for (user, session) in users {
        for (table, column, id) in [
            ("users", "id", user.0),
            ("sessions", "id", session.0),
            ("session_revocations", "session_id", session.0),
            ("events", "session_id", session.0),
        ] {
            let id = match harness.conn {
                Conn::Postgres(_) => format!("'{id}'"),
                Conn::Sqlite(_) => format!("x'{}'", id.simple()),
            };
            let query = format!(
                "SELECT CAST(min(place) + 1000 * max(place) AS bigint) AS number FROM {table} \
                 WHERE {column} = {id}"
            );
            let place = i64::from(user.place().value());
            assert_eq!(harness.number(&query), 1001 * place, "{table}");
        }
    }
}
