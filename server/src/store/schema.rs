//! The tables that `migrations/` creates, as diesel declares them.

diesel::table! {
    use diesel::sql_types::{Nullable, SmallInt};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    users (place, id) {
        place -> SmallInt,
        id -> SqlUuid,
        created_at -> SqlTimestamp,
        logged_in_at -> Nullable<SqlTimestamp>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Bool, Nullable, SmallInt, Text};
    use crate::store::types::sql::{SqlUuid, SqlInet, SqlTimestamp};

    sessions (place, id) {
        place -> SmallInt,
        id -> SqlUuid,
        user_id -> SqlUuid,
        generation -> BigInt,
        secret_digest -> Binary,
        previous_digest -> Nullable<Binary>,
        successor_salt -> Nullable<Binary>,
        idempotency_key_digest -> Nullable<Binary>,
        has_used_idempotency_key -> Bool,
        oldest_recent_generation -> BigInt,
        next_oldest_recent_generation -> BigInt,
        oldest_recent_moved_at -> Nullable<SqlTimestamp>,
        rotated_at -> Nullable<SqlTimestamp>,
        access_jti -> SqlUuid,
        access_issued_at -> SqlTimestamp,
        access_expires_at -> SqlTimestamp,
        created_at -> SqlTimestamp,
        idle_expires_at -> SqlTimestamp,
        expires_at -> SqlTimestamp,
        ended_at -> Nullable<SqlTimestamp>,
        end_reason -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        ip -> Nullable<SqlInet>,
        claims -> Nullable<Text>,
        client_id -> Nullable<Text>,
        scope -> Nullable<Text>,
        audiences -> Nullable<Text>,
        auth_time -> Nullable<SqlTimestamp>,
        login_session_id -> Nullable<SqlUuid>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Nullable, SmallInt, Text};
    use crate::store::types::sql::{SqlUuid, SqlInet, SqlTimestamp};

    events (place, id) {
        place -> SmallInt,
        id -> SqlUuid,
        occurred_at -> SqlTimestamp,
        kind -> Text,
        reason -> Nullable<Text>,
        session_id -> Nullable<SqlUuid>,
        user_id -> Nullable<SqlUuid>,
        generation -> Nullable<BigInt>,
        ip -> Nullable<SqlInet>,
        user_agent -> Nullable<Text>,
        count -> BigInt,
        fold_key -> Nullable<Binary>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};
    use crate::store::types::sql::SqlTimestamp;

    signing_keys_by_purpose (kid) {
        kid -> Text,
        purpose -> Text,
        sequence -> BigInt,
        algorithm -> Text,
        sealed_private_key -> Binary,
        created_at -> SqlTimestamp,
        active_from -> SqlTimestamp,
        revoked_at -> Nullable<SqlTimestamp>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, SmallInt};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    session_revocations (place, session_id) {
        place -> SmallInt,
        session_id -> SqlUuid,
        access_expires_at -> SqlTimestamp,
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

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Bool, Nullable, SmallInt, Text};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    accounts (place, user_id) {
        place -> SmallInt,
        user_id -> SqlUuid,
        created_at -> SqlTimestamp,
        display_name -> Nullable<Text>,
        password_hash -> Nullable<Text>,
        is_admin -> Bool,
        disabled_at -> Nullable<SqlTimestamp>,
        last_login_at -> Nullable<SqlTimestamp>,
        totp_secret -> Nullable<Binary>,
        totp_confirmed_at -> Nullable<SqlTimestamp>,
        totp_last_step -> Nullable<BigInt>,
    }
}

diesel::table! {
    use diesel::sql_types::{Binary, Nullable, SmallInt};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    recovery_codes (place, user_id, digest) {
        place -> SmallInt,
        user_id -> SqlUuid,
        digest -> Binary,
        used_at -> Nullable<SqlTimestamp>,
    }
}

diesel::table! {
    use diesel::sql_types::{Nullable, Text};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    identities (name) {
        name -> Text,
        kind -> Text,
        user_id -> SqlUuid,
        created_at -> SqlTimestamp,
        verified_at -> Nullable<SqlTimestamp>,
    }
}

diesel::table! {
    use diesel::sql_types::{Binary, Bool, Nullable, Text};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    one_time_links (digest) {
        digest -> Binary,
        purpose -> Text,
        user_id -> SqlUuid,
        name -> Nullable<Text>,
        password_hash -> Nullable<Text>,
        is_admin -> Bool,
        is_mailed -> Bool,
        created_at -> SqlTimestamp,
        expires_at -> SqlTimestamp,
        used_at -> Nullable<SqlTimestamp>,
    }
}

diesel::table! {
    use diesel::sql_types::{Binary, Nullable, Text};
    use crate::store::types::sql::SqlTimestamp;

    backends (id) {
        id -> Text,
        name -> Text,
        secret_digest -> Binary,
        previous_secret_digest -> Nullable<Binary>,
        created_at -> SqlTimestamp,
    }
}

diesel::table! {
    use diesel::sql_types::{Binary, Nullable};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    imported_refresh_tokens (digest) {
        digest -> Binary,
        user_id -> SqlUuid,
        created_at -> SqlTimestamp,
        expires_at -> SqlTimestamp,
        exchanged_at -> Nullable<SqlTimestamp>,
        session_id -> Nullable<SqlUuid>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
    use crate::store::types::sql::SqlTimestamp;

    clients (id) {
        id -> Text,
        name -> Text,
        secret_digest -> Nullable<Binary>,
        previous_secret_digest -> Nullable<Binary>,
        redirect_uris -> Text,
        scopes -> Text,
        audiences -> Text,
        is_first_party -> Bool,
        require_pkce -> Bool,
        is_machine -> Bool,
        grace_period -> Nullable<BigInt>,
        created_at -> SqlTimestamp,
        post_logout_redirect_uris -> Text,
        backchannel_logout_uri -> Nullable<Text>,
        keeps_offline_access -> Bool,
        is_device -> Bool,
    }
}

diesel::table! {
    use diesel::sql_types::{Binary, Nullable, SmallInt, Text};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    authorization_codes (place, session_id) {
        place -> SmallInt,
        session_id -> SqlUuid,
        secret_digest -> Binary,
        client_id -> Text,
        user_id -> SqlUuid,
        redirect_uri -> Text,
        code_challenge -> Nullable<Text>,
        scope -> Text,
        audiences -> Nullable<Text>,
        nonce -> Nullable<Text>,
        auth_time -> SqlTimestamp,
        created_at -> SqlTimestamp,
        expires_at -> SqlTimestamp,
        exchanged_at -> Nullable<SqlTimestamp>,
        login_session_id -> Nullable<SqlUuid>,
    }
}

diesel::table! {
    use diesel::sql_types::{Binary, Nullable, SmallInt, Text};
    use crate::store::types::sql::{SqlUuid, SqlInet, SqlTimestamp};

    login_sessions (place, id) {
        place -> SmallInt,
        id -> SqlUuid,
        user_id -> SqlUuid,
        secret_digest -> Binary,
        created_at -> SqlTimestamp,
        auth_time -> SqlTimestamp,
        idle_expires_at -> SqlTimestamp,
        expires_at -> SqlTimestamp,
        user_agent -> Nullable<Text>,
        ip -> Nullable<SqlInet>,
    }
}

diesel::table! {
    use diesel::sql_types::{SmallInt, Text};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    consents (place, user_id, client_id) {
        place -> SmallInt,
        user_id -> SqlUuid,
        client_id -> Text,
        scope -> Text,
        granted_at -> SqlTimestamp,
    }
}

diesel::table! {
    use diesel::sql_types::{SmallInt, Text};
    use crate::store::types::sql::SqlUuid;

    user_groups (place, user_id, name) {
        place -> SmallInt,
        user_id -> SqlUuid,
        name -> Text,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    device_codes (user_code_mac) {
        user_code_mac -> Binary,
        secret_digest -> Binary,
        client_id -> Text,
        scope -> Text,
        audiences -> Nullable<Text>,
        created_at -> SqlTimestamp,
        expires_at -> SqlTimestamp,
        poll_interval -> BigInt,
        polled_at -> Nullable<SqlTimestamp>,
        user_id -> Nullable<SqlUuid>,
        auth_time -> Nullable<SqlTimestamp>,
        login_session_id -> Nullable<SqlUuid>,
        approved_at -> Nullable<SqlTimestamp>,
        denied_at -> Nullable<SqlTimestamp>,
        session_id -> Nullable<SqlUuid>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, SmallInt, Text};
    use crate::store::types::sql::{SqlUuid, SqlTimestamp};

    logout_notices (place, session_id) {
        place -> SmallInt,
        session_id -> SqlUuid,
        user_id -> SqlUuid,
        client_id -> Text,
        created_at -> SqlTimestamp,
        attempts -> BigInt,
        rejections -> BigInt,
        next_attempt_at -> SqlTimestamp,
    }
}

diesel::allow_tables_to_appear_in_same_query!(accounts, users, sessions);
diesel::allow_tables_to_appear_in_same_query!(sessions, session_revocations);
diesel::allow_tables_to_appear_in_same_query!(sessions, clients);

diesel::table! {
    schema_compatibility (id) {
        id -> SmallInt,
        oldest_server -> Text,
    }
}
