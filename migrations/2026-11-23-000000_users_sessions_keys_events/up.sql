-- One folder for both databases: SQLite takes PostgreSQL's type names. What it
-- does not take (storage parameters) is set by the server after migrating.

CREATE TABLE users (
    id uuid NOT NULL PRIMARY KEY,
    created_at timestamptz NOT NULL,
    -- When the guest's one sign-in was used up.
    signed_in_at timestamptz
);

-- One row for each session, however often it rotates. Only columns that never
-- change are indexed, so that on PostgreSQL every rotation is a HOT update.
CREATE TABLE sessions (
    id uuid NOT NULL PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    generation bigint NOT NULL,
    secret_digest bytea NOT NULL,
    -- Of the generation before, and what its successor was derived with.
    previous_digest bytea,
    salt bytea,
    attempt_digest bytea,
    rotated_at timestamptz,
    access_jti uuid NOT NULL,
    access_issued_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    idle_expires_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text,
    -- Who signed in or refreshed last.
    user_agent text,
    ip inet,
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);

CREATE INDEX sessions_user_id ON sessions (user_id);

-- The security log: rows are added, and deleted when they are old, never
-- changed. They outlive what they are about, so nothing is referenced. Ids sort
-- by time.
CREATE TABLE events (
    id uuid NOT NULL PRIMARY KEY,
    at timestamptz NOT NULL,
    what text NOT NULL,
    reason text,
    session_id uuid,
    user_id uuid,
    generation bigint,
    ip inet,
    user_agent text
);

CREATE INDEX events_session_id ON events (session_id);

-- Private halves are sealed (AES-256-GCM) under a key that is not in here.
CREATE TABLE signing_keys (
    kid text NOT NULL PRIMARY KEY,
    algorithm text NOT NULL,
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz
);

-- Of several servers that start on an empty database, one makes the first key.
CREATE UNIQUE INDEX signing_keys_active ON signing_keys (algorithm) WHERE retired_at IS NULL;
