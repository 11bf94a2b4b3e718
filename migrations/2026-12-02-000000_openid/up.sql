-- OpenID Connect: groups, keys for ID tokens, the device grant, and logout at clients.

-- JSON array of strings.
ALTER TABLE clients ADD COLUMN post_logout_redirect_uris text NOT NULL DEFAULT '[]';
-- Where the client is notified of ended sessions; NULL: it is not.
ALTER TABLE clients ADD COLUMN backchannel_logout_uri text;
-- Whether sessions with `offline_access` continue when their browser logs out.
ALTER TABLE clients ADD COLUMN keeps_offline_access boolean NOT NULL DEFAULT false;
-- Whether it may log users in through another device.
ALTER TABLE clients ADD COLUMN is_device boolean NOT NULL DEFAULT false;

-- The login session of the browser.
ALTER TABLE authorization_codes ADD COLUMN login_session_id uuid;
-- The login session of the browser that opened it.
ALTER TABLE sessions ADD COLUMN login_session_id uuid;

CREATE TABLE user_groups (
    place smallint NOT NULL,
    user_id uuid NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (place, user_id, name),
    FOREIGN KEY (place, user_id) REFERENCES users (place, id) ON DELETE CASCADE
);

-- Requests of devices (RFC 8628), each with a device code and a user code.
CREATE TABLE device_codes (
    -- MAC of the user code, which is too short for a plain digest. The device code contains it.
    user_code_mac bytea NOT NULL PRIMARY KEY,
    -- SHA-256 of the secret of the device code.
    secret_digest bytea NOT NULL,
    client_id text NOT NULL,
    scope text NOT NULL,
    -- JSON array; NULL: the default audience.
    audiences text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Seconds between two polls.
    poll_interval bigint NOT NULL,
    polled_at timestamptz,
    -- The user who decided.
    user_id uuid,
    -- When this user last proved who they are, and the login session of the browser.
    auth_time timestamptz,
    login_session_id uuid,
    approved_at timestamptz,
    denied_at timestamptz,
    -- The session that an approved request opens. Its authorization code is in
    -- authorization_codes.
    session_id uuid
);

CREATE INDEX device_codes_user_id ON device_codes (user_id);

-- Ended sessions of which their client has not been notified yet. Without a foreign key: the
-- notice is sent after the user is deleted as well.
CREATE TABLE logout_notices (
    place smallint NOT NULL,
    session_id uuid NOT NULL,
    user_id uuid NOT NULL,
    client_id text NOT NULL,
    created_at timestamptz NOT NULL,
    -- How many attempts have failed, and how many of these the client has rejected.
    attempts bigint NOT NULL DEFAULT 0,
    rejections bigint NOT NULL DEFAULT 0,
    -- A server that sends a notice moves this ahead first, so that others do not send it.
    next_attempt_at timestamptz NOT NULL,
    PRIMARY KEY (place, session_id)
);

CREATE INDEX logout_notices_next_attempt_at ON logout_notices (next_attempt_at);

-- Keys form one sequence for each purpose: `access` (access tokens) and `id` (ID tokens, while
-- access tokens have another algorithm than RS256).
CREATE TABLE signing_keys_by_purpose (
    kid text NOT NULL PRIMARY KEY,
    purpose text NOT NULL DEFAULT 'access',
    -- Of several servers that rotate at once, one adds the next key.
    sequence bigint NOT NULL,
    algorithm text NOT NULL,
    -- AES-256-GCM under a key that is not in the database.
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    active_from timestamptz NOT NULL,
    revoked_at timestamptz,
    UNIQUE (purpose, sequence)
);
INSERT INTO signing_keys_by_purpose
    (kid, sequence, algorithm, sealed_private_key, created_at, active_from, revoked_at)
    SELECT kid, sequence, algorithm, sealed_private_key, created_at, active_from, revoked_at
    FROM signing_keys;
DROP TABLE signing_keys;
-- Servers of earlier versions read and write it during an upgrade. They would sign access tokens
-- with a key for id_tokens. SQLite permits them only to read.
CREATE VIEW signing_keys AS
    SELECT kid, sequence, algorithm, sealed_private_key, created_at, active_from, revoked_at
    FROM signing_keys_by_purpose WHERE purpose = 'access';
