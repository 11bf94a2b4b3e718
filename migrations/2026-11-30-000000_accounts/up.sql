-- Accounts: users that can log in again. A user without a row in `accounts` is a guest.

CREATE TABLE accounts (
    place smallint NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    display_name text,
    -- A PHC string, or the format of another server that the next login replaces. NULL: the
    -- account has no password.
    password_hash text,
    is_admin boolean NOT NULL DEFAULT false,
    disabled_at timestamptz,
    last_login_at timestamptz,
    -- The secret of the second factor, encrypted under a key that is not in the database.
    -- It counts once it is confirmed.
    totp_secret bytea,
    totp_confirmed_at timestamptz,
    -- The time step of the last accepted code: each code is accepted once.
    totp_last_step bigint,
    PRIMARY KEY (place, user_id),
    FOREIGN KEY (place, user_id) REFERENCES users (place, id) ON DELETE CASCADE
);

-- SHA-256 of codes that replace the second factor, each once.
CREATE TABLE recovery_codes (
    place smallint NOT NULL,
    user_id uuid NOT NULL,
    digest bytea NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (place, user_id, digest),
    FOREIGN KEY (place, user_id) REFERENCES accounts (place, user_id) ON DELETE CASCADE
);

-- The names that accounts log in with, normalized. The table is distributed by name, so a
-- name is unique without a unique index on a table of users, and nothing is referenced.
CREATE TABLE identities (
    name text NOT NULL PRIMARY KEY,
    -- email, username or subject
    kind text NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    -- When the user proved that the email address is theirs.
    verified_at timestamptz
);

CREATE INDEX identities_user_id ON identities (user_id);

-- Links that work once: invitations, verifications of an email address, password resets.
CREATE TABLE one_time_links (
    -- SHA-256 of the token in the link.
    digest bytea NOT NULL PRIMARY KEY,
    purpose text NOT NULL,
    -- The user that the link is about, or that it will create.
    user_id uuid NOT NULL,
    -- The login name that the link is about, normalized.
    name text,
    -- Of a registration that waits for the verification of its email address.
    password_hash text,
    is_admin boolean NOT NULL DEFAULT false,
    -- Whether the link was only sent to the email address in `name`, so that its use proves
    -- that the address is the user's.
    is_mailed boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

CREATE INDEX one_time_links_user_id ON one_time_links (user_id);
CREATE INDEX one_time_links_expires_at ON one_time_links (expires_at);

-- Other applications that open sessions for users of their own database.
CREATE TABLE backends (
    id text NOT NULL PRIMARY KEY,
    name text NOT NULL UNIQUE,
    -- SHA-256 of the secret, and of the one before, which is accepted as well.
    secret_digest bytea NOT NULL,
    previous_secret_digest bytea,
    created_at timestamptz NOT NULL
);

-- Refresh tokens that another server issued. Each is exchanged for one of ours, once.
CREATE TABLE imported_refresh_tokens (
    -- SHA-256 of the token.
    digest bytea NOT NULL PRIMARY KEY,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- The session that the first exchange opened. The token is generation 0 of it.
    exchanged_at timestamptz,
    session_id uuid
);

CREATE INDEX imported_refresh_tokens_user_id ON imported_refresh_tokens (user_id);

-- Further claims of the access tokens of a session (JSON object), set by a backend.
ALTER TABLE sessions ADD COLUMN claims text;

-- Events of a user, for `users show`.
CREATE INDEX events_user_id ON events (place, user_id);
