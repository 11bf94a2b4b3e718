-- OAuth 2.1: clients, the grants that users gave them, and the browsers that are logged in at
-- the server's own pages.

CREATE TABLE clients (
    -- `client_id`
    id text NOT NULL PRIMARY KEY,
    name text NOT NULL,
    -- SHA-256 of the secret, and of the one before, which is accepted as well. NULL: the client
    -- is public.
    secret_digest bytea,
    previous_secret_digest bytea,
    -- JSON arrays of strings.
    redirect_uris text NOT NULL,
    scopes text NOT NULL,
    -- The resource servers that its access tokens may be for (RFC 8707).
    audiences text NOT NULL,
    -- Whether it belongs to the operator, so that users are not asked for their consent.
    is_first_party boolean NOT NULL,
    require_pkce boolean NOT NULL,
    -- Whether it may get access tokens for itself (`client_credentials`).
    is_machine boolean NOT NULL,
    -- Seconds; 0: a rotated token is never accepted again; NULL: as the settings say.
    grace_period bigint,
    created_at timestamptz NOT NULL
);

-- Authorization codes. A code is the token before the first refresh token of its session.
CREATE TABLE authorization_codes (
    place smallint NOT NULL,
    -- The session that the code opens.
    session_id uuid NOT NULL,
    -- SHA-256 of its secret.
    secret_digest bytea NOT NULL,
    client_id text NOT NULL,
    user_id uuid NOT NULL,
    redirect_uri text NOT NULL,
    -- S256 (RFC 7636 §4.2).
    code_challenge text,
    scope text NOT NULL,
    -- JSON array; NULL: the default audience.
    audiences text,
    nonce text,
    -- When the user last proved who they are.
    auth_time timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    exchanged_at timestamptz,
    PRIMARY KEY (place, session_id),
    FOREIGN KEY (place, user_id) REFERENCES users (place, id) ON DELETE CASCADE
);

CREATE INDEX authorization_codes_user_id ON authorization_codes (place, user_id);

-- Browsers that are logged in at the pages of the server. A row is deleted when its login ends.
CREATE TABLE login_sessions (
    place smallint NOT NULL,
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    -- SHA-256 of the secret in the cookie.
    secret_digest bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- When the user last proved who they are.
    auth_time timestamptz NOT NULL,
    idle_expires_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Of the last login.
    user_agent text,
    ip inet,
    PRIMARY KEY (place, id),
    FOREIGN KEY (place, user_id) REFERENCES users (place, id) ON DELETE CASCADE
);

CREATE INDEX login_sessions_user_id ON login_sessions (place, user_id);

-- What a user permits a client.
CREATE TABLE consents (
    place smallint NOT NULL,
    user_id uuid NOT NULL,
    client_id text NOT NULL,
    -- Separated by spaces.
    scope text NOT NULL,
    granted_at timestamptz NOT NULL,
    PRIMARY KEY (place, user_id, client_id),
    FOREIGN KEY (place, user_id) REFERENCES users (place, id) ON DELETE CASCADE
);

-- Of a session that an OAuth client opened; NULL for the native endpoints.
ALTER TABLE sessions ADD COLUMN client_id text;
-- Separated by spaces.
ALTER TABLE sessions ADD COLUMN scope text;
-- JSON array; NULL: the default audience.
ALTER TABLE sessions ADD COLUMN audiences text;
ALTER TABLE sessions ADD COLUMN auth_time timestamptz;

-- Finds the sessions of a client that is removed.
CREATE INDEX sessions_client_id ON sessions (client_id, place, id) WHERE client_id IS NOT NULL;
