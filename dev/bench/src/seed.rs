//! Users and sessions that are inserted directly, found by their number.

use matchbook_server::ids::{SessionId, UserId};
use uuid::Uuid;

/// The id of the user with number 0.
const FIRST_USER: u128 = 0x0190_0000_0000_4000_8000_0000_0000_0000;
/// The id of the session with number 0, at place 0.
const FIRST_SESSION: u128 = 0x0190_0000_0000_7000_8000_0000_0000_0000;

/// Selects the sessions that were seeded. Servers open others with later ids.
pub const SEEDED: &str = "id < '01900000-0000-7000-c000-000000000000'";

/// Returns the id of the user with this number.
#[must_use]
pub fn user(number: u64) -> UserId {
    UserId(Uuid::from_u128(FIRST_USER + u128::from(number)))
}

/// Returns the id of the session of the user with this number.
#[must_use]
pub fn session(number: u64) -> SessionId {
    // Byte 8 of a session id carries the place.
    let place = u128::from(user(number).place().value().unsigned_abs()) << 56;
    SessionId(Uuid::from_u128(FIRST_SESSION + place + u128::from(number)))
}

/// Inserts users and sessions with the numbers from `from` to before `until`.
#[must_use]
pub fn statements(from: u64, until: u64) -> String {
    let numbers = format!(
        "(SELECT n, user_id, get_byte(sha256(uuid_send(user_id)), 0) & 63 AS place FROM \
         (SELECT n, ('01900000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS user_id \
          FROM generate_series({from}, {}) AS n) AS users) AS numbers",
        until - 1
    );
    format!(
        "INSERT INTO users (place, id, created_at, logged_in_at)
             SELECT place, user_id, now(), now() FROM {numbers};
         INSERT INTO sessions (place, id, user_id, generation, secret_digest, access_jti,
             access_issued_at, access_expires_at, created_at, idle_expires_at, expires_at,
             user_agent, ip)
         SELECT place,
             ('01900000-0000-7000-' || to_hex(128 + place) || '00-' || lpad(to_hex(n), 12, '0'))::uuid,
             user_id, 0, sha256(sha256(('secret ' || n)::bytea)), gen_random_uuid(), now(),
             now() + interval '15 minutes', now(), now() + interval '30 days',
             now() + interval '90 days', 'matchbook-load', '127.0.0.1'
         FROM {numbers}"
    )
}
