//! The tables as diesel sees them; `migrations/` makes them.

diesel::table! {
    use diesel::sql_types::{Nullable, SmallInt};
    use crate::store::types::sql::{Id, PointInTime};

    users (place, id) {
        place -> SmallInt,
        id -> Id,
        created_at -> PointInTime,
        logged_in_at -> Nullable<PointInTime>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Bool, Nullable, SmallInt, Text};
    use crate::store::types::sql::{Id, IpAddress, PointInTime};

    sessions (place, id) {
        place -> SmallInt,
        id -> Id,
        user_id -> Id,
        generation -> BigInt,
        secret_digest -> Binary,
        previous_digest -> Nullable<Binary>,
        successor_salt -> Nullable<Binary>,
        idempotency_key_digest -> Nullable<Binary>,
        has_used_idempotency_key -> Bool,
        oldest_recent_generation -> BigInt,
        next_oldest_recent_generation -> BigInt,
        oldest_recent_moved_at -> Nullable<PointInTime>,
        rotated_at -> Nullable<PointInTime>,
        access_jti -> Id,
        access_issued_at -> PointInTime,
        access_expires_at -> PointInTime,
        created_at -> PointInTime,
        idle_expires_at -> PointInTime,
        expires_at -> PointInTime,
        ended_at -> Nullable<PointInTime>,
        end_reason -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        ip -> Nullable<IpAddress>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Nullable, SmallInt, Text};
    use crate::store::types::sql::{Id, IpAddress, PointInTime};

    events (place, id) {
        place -> SmallInt,
        id -> Id,
        occurred_at -> PointInTime,
        kind -> Text,
        reason -> Nullable<Text>,
        session_id -> Nullable<Id>,
        user_id -> Nullable<Id>,
        generation -> Nullable<BigInt>,
        ip -> Nullable<IpAddress>,
        user_agent -> Nullable<Text>,
        count -> BigInt,
        fold_key -> Nullable<Binary>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};
    use crate::store::types::sql::PointInTime;

    signing_keys (kid) {
        kid -> Text,
        sequence -> BigInt,
        algorithm -> Text,
        sealed_private_key -> Binary,
        created_at -> PointInTime,
        active_from -> PointInTime,
        revoked_at -> Nullable<PointInTime>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, SmallInt};
    use crate::store::types::sql::{Id, PointInTime};

    session_revocations (place, session_id) {
        place -> SmallInt,
        session_id -> Id,
        access_expires_at -> PointInTime,
        transaction_id -> BigInt,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Text};

    servers (id) {
        id -> Text,
        redis -> Text,
        polls -> BigInt,
        applied -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(sessions, users);
diesel::allow_tables_to_appear_in_same_query!(sessions, session_revocations);
