-- One folder for both databases: SQLite accepts PostgreSQL's type names. The server
-- sets what SQLite does not accept (storage parameters) after it has migrated.
--
-- `place` is a hash of the user id into 64 values, and a session id carries it. It comes
-- first in the keys of all tables whose rows belong to a user, so that a distributed
-- database (Citus) stores all rows of a user on one node. Every statement that finds rows
-- by key names it.

CREATE TABLE users (
    place smallint NOT NULL,
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    -- When the guest used its one login.
    logged_in_at timestamptz,
    PRIMARY KEY (place, id)
);

-- One row per session, however often it rotates. Only columns that never change are
-- indexed, so that every rotation is a HOT update on PostgreSQL.
CREATE TABLE sessions (
    place smallint NOT NULL,
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    generation bigint NOT NULL,
    -- SHA-256 of the current refresh token's secret.
    secret_digest bytea NOT NULL,
    -- The same of the generation before, and the salt that its successor was derived
    -- with. Without the salt the successor cannot be reissued.
    previous_digest bytea,
    successor_salt bytea,
    -- Of the last rotation, if its request had an idempotency key.
    idempotency_key_digest bytea,
    -- Whether any rotation of the session had an idempotency key.
    has_used_idempotency_key boolean NOT NULL DEFAULT false,
    -- The oldest generation that was current within the last grace periods. An older
    -- token is reuse. The value moves at most once per grace period, to the next one.
    oldest_recent_generation bigint NOT NULL DEFAULT 0,
    next_oldest_recent_generation bigint NOT NULL DEFAULT 0,
    oldest_recent_moved_at timestamptz,
    rotated_at timestamptz,
    access_jti uuid NOT NULL,
    access_issued_at timestamptz NOT NULL,
    -- When the last access token of the session expires, whichever server issued it
    -- under whichever settings.
    access_expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    idle_expires_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text,
    -- Of the last login or refresh.
    user_agent text,
    ip inet,
    PRIMARY KEY (place, id),
    FOREIGN KEY (place, user_id) REFERENCES users (place, id) ON DELETE CASCADE,
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);

CREATE INDEX sessions_user_id ON sessions (place, user_id);

-- Revoked sessions whose access tokens have not all expired. Every server reads new
-- rows and enforces them. A row is deleted when the last access token has expired.
CREATE TABLE session_revocations (
    place smallint NOT NULL,
    session_id uuid NOT NULL,
    access_expires_at timestamptz NOT NULL,
    -- The transaction that wrote the row, 0 on SQLite. A poll reads the rows of
    -- transactions that were running or had not begun when the previous poll began.
    transaction_id bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (place, session_id)
);

CREATE INDEX session_revocations_transaction_id ON session_revocations (transaction_id);

-- The audit log. Rows outlive users and sessions, so nothing is referenced. Ids sort
-- by time.
CREATE TABLE events (
    -- Of the session.
    place smallint NOT NULL,
    id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    kind text NOT NULL,
    reason text,
    session_id uuid,
    user_id uuid,
    generation bigint,
    ip inet,
    user_agent text,
    -- How often the event occurred within its minute: a token that is presented again
    -- and again adds one row per minute.
    count bigint NOT NULL DEFAULT 1,
    -- Digest of the values that events counted in one row have in common, so that
    -- concurrent servers find the same row. NULL for events that are never counted.
    fold_key bytea,
    PRIMARY KEY (place, id)
);

CREATE INDEX events_session_id ON events (place, session_id);
CREATE UNIQUE INDEX events_fold_key ON events (place, fold_key);

-- Keys follow each other in their sequence. The phase of a key (pending, active,
-- retiring) follows from its own `active_from` and that of the next one.
CREATE TABLE signing_keys (
    kid text NOT NULL PRIMARY KEY,
    -- Of several servers that rotate at once, one adds the next key.
    sequence bigint NOT NULL UNIQUE,
    algorithm text NOT NULL,
    -- AES-256-GCM under a key that is not in the database.
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    active_from timestamptz NOT NULL,
    revoked_at timestamptz
);

-- The servers that use Redis. A logout is acknowledged when each of them has the
-- revocation, or reads the Redis that has it.
CREATE TABLE servers (
    id text NOT NULL PRIMARY KEY,
    -- Identifies the Redis, its primaries and their runs.
    redis text NOT NULL,
    -- How many polls have begun, and the last one whose revocations are in force.
    polls bigint NOT NULL,
    applied bigint NOT NULL
);
