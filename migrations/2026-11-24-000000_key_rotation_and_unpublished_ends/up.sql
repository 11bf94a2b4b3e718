-- Ends of sessions that Redis may not know of yet. Every server publishes what
-- it finds here, and then takes it away.
CREATE TABLE unpublished_ends (
    session_id uuid NOT NULL PRIMARY KEY,
    ended_at timestamptz NOT NULL
);

-- What has to be published again when Redis was away. No rotation changes it.
CREATE INDEX sessions_ended_at ON sessions (ended_at) WHERE ended_at IS NOT NULL;

-- Keys follow each other by number. What a key is at a time, pending, active
-- or retiring, is told by when it and the next one begin to sign.
CREATE TABLE numbered_keys (
    kid text NOT NULL PRIMARY KEY,
    -- Of several servers that rotate at once, one adds the next number.
    number bigint NOT NULL UNIQUE,
    algorithm text NOT NULL,
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    signs_from timestamptz NOT NULL,
    revoked_at timestamptz
);

INSERT INTO numbered_keys (kid, number, algorithm, sealed_private_key, created_at, signs_from)
SELECT kid, 1, algorithm, sealed_private_key, created_at, created_at FROM signing_keys;

DROP TABLE signing_keys;
ALTER TABLE numbered_keys RENAME TO signing_keys;
