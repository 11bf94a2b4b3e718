CREATE TABLE unnumbered_keys (
    kid text NOT NULL PRIMARY KEY,
    algorithm text NOT NULL,
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz
);

INSERT INTO unnumbered_keys (kid, algorithm, sealed_private_key, created_at)
SELECT kid, algorithm, sealed_private_key, created_at FROM signing_keys
WHERE number = (SELECT max(number) FROM signing_keys);

DROP TABLE signing_keys;
ALTER TABLE unnumbered_keys RENAME TO signing_keys;
CREATE UNIQUE INDEX signing_keys_active ON signing_keys (algorithm) WHERE retired_at IS NULL;

DROP TABLE ends;
ALTER TABLE sessions DROP COLUMN access_until;
