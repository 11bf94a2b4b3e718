-- When the last of a session's access tokens expires, whichever server and
-- whatever settings it was granted with.
ALTER TABLE sessions ADD COLUMN access_until timestamptz;

-- Sessions that have ended while access tokens of theirs are out. Every server
-- publishes in Redis what it finds unpublished here, and all of it when Redis
-- was away. A row goes when the last of those tokens has expired.
CREATE TABLE ends (
    session_id uuid NOT NULL PRIMARY KEY,
    access_until timestamptz NOT NULL,
    published boolean NOT NULL
);

CREATE INDEX ends_unpublished ON ends (session_id) WHERE NOT published;

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
