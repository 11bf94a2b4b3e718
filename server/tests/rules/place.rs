//! The routing column: every row of a user is found by the place of the user.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_types::Text;
use matchbook_server::clock::Timestamp;
use matchbook_server::ids::{SessionId, UserId};
use matchbook_server::store::Conn;
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

/// The columns of the primary key of each table.
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
    let ours = keys.into_iter().filter(|key| !key.name.starts_with("__diesel"));
    ours.map(|key| (key.name, key.columns)).collect()
}

#[test]
fn tables_of_users_are_distributed_by_place_and_all_others_by_their_own_key() {
    let mut harness = Harness::new(DEFAULT);
    let keys = primary_keys(&mut harness.conn);
    let keys: Vec<(&str, &str)> =
        keys.iter().map(|(name, columns)| (name.as_str(), columns.as_str())).collect();
    assert_eq!(
        keys,
        [
            ("accounts", "place, user_id"),
            ("authorization_codes", "place, session_id"),
            ("backends", "id"),
            ("clients", "id"),
            ("consents", "place, user_id, client_id"),
            ("device_codes", "user_code_mac"),
            ("events", "place, id"),
            ("identities", "name"),
            ("imported_refresh_tokens", "digest"),
            ("login_sessions", "place, id"),
            ("logout_notices", "place, session_id"),
            ("one_time_links", "digest"),
            ("recovery_codes", "place, user_id, digest"),
            ("servers", "id"),
            ("session_revocations", "place, session_id"),
            ("sessions", "place, id"),
            ("signing_keys_by_purpose", "kid"),
            ("user_groups", "place, user_id, name"),
            ("users", "place, id"),
        ]
    );
}

/// A distributed database checks uniqueness and foreign keys on one node alone.
#[test]
#[ignore = "needs PostgreSQL: make test"]
fn unique_indexes_and_foreign_keys_of_distributed_tables_begin_with_the_place() {
    let mut harness = Harness::new(DEFAULT);
    let query = "SELECT indexrelid::regclass::text AS name, \
         pg_get_indexdef(indexrelid, 1, true) AS columns FROM pg_index \
         WHERE indisunique AND indrelid IN ('users'::regclass, 'sessions'::regclass, \
         'session_revocations'::regclass, 'events'::regclass, 'accounts'::regclass, \
         'recovery_codes'::regclass, 'authorization_codes'::regclass, \
         'login_sessions'::regclass, 'consents'::regclass, 'logout_notices'::regclass, \
         'user_groups'::regclass) \
         UNION ALL SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint \
         WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY name";
    let keys: Vec<Key> = diesel::sql_query(query).load(&mut harness.conn).unwrap();
    let keys: Vec<(&str, &str)> =
        keys.iter().map(|key| (key.name.as_str(), key.columns.as_str())).collect();
    let account =
        "FOREIGN KEY (place, user_id) REFERENCES accounts(place, user_id) ON DELETE CASCADE";
    let reference = "FOREIGN KEY (place, user_id) REFERENCES users(place, id) ON DELETE CASCADE";
    assert_eq!(
        keys,
        [
            ("accounts_pkey", "place"),
            ("accounts_place_user_id_fkey", reference),
            ("authorization_codes_pkey", "place"),
            ("authorization_codes_place_user_id_fkey", reference),
            ("consents_pkey", "place"),
            ("consents_place_user_id_fkey", reference),
            ("events_fold_key", "place"),
            ("events_pkey", "place"),
            ("login_sessions_pkey", "place"),
            ("login_sessions_place_user_id_fkey", reference),
            ("logout_notices_pkey", "place"),
            ("recovery_codes_pkey", "place"),
            ("recovery_codes_place_user_id_fkey", account),
            ("session_revocations_pkey", "place"),
            ("sessions_pkey", "place"),
            ("sessions_place_user_id_fkey", reference),
            ("user_groups_pkey", "place"),
            ("user_groups_place_user_id_fkey", reference),
            ("users_pkey", "place"),
        ]
    );
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
