//! The tables as diesel sees them; `migrations/` makes them.

diesel::table! {
    use diesel::sql_types::Nullable;
    use crate::store::types::sql::{Id, PointInTime};

    users (id) {
        id -> Id,
        created_at -> PointInTime,
        signed_in_at -> Nullable<PointInTime>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
    use crate::store::types::sql::{Id, IpAddress, PointInTime};

    sessions (id) {
        id -> Id,
        user_id -> Id,
        generation -> BigInt,
        secret_digest -> Binary,
        previous_digest -> Nullable<Binary>,
        salt -> Nullable<Binary>,
        attempt_digest -> Nullable<Binary>,
        keyed -> Bool,
        floor -> BigInt,
        next_floor -> BigInt,
        floor_at -> Nullable<PointInTime>,
        rotated_at -> Nullable<PointInTime>,
        access_jti -> Id,
        access_issued_at -> PointInTime,
        access_until -> Nullable<PointInTime>,
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
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};
    use crate::store::types::sql::{Id, IpAddress, PointInTime};

    events (id) {
        id -> Id,
        at -> PointInTime,
        what -> Text,
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
        number -> BigInt,
        algorithm -> Text,
        sealed_private_key -> Binary,
        created_at -> PointInTime,
        signs_from -> PointInTime,
        revoked_at -> Nullable<PointInTime>,
    }
}

diesel::table! {
    use diesel::sql_types::BigInt;
    use crate::store::types::sql::{Id, PointInTime};

    ends (session_id) {
        session_id -> Id,
        access_until -> PointInTime,
        txid -> BigInt,
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
diesel::allow_tables_to_appear_in_same_query!(sessions, ends);
