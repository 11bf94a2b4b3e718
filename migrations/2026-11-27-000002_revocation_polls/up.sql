-- Servers may use different Redis servers, so one flag for all of them says
-- nothing: each server publishes every revocation to its own Redis.
DROP INDEX ends_unpublished;
ALTER TABLE ends DROP COLUMN published;

-- The transaction that wrote the row, 0 on SQLite. A poll asks for the rows of
-- transactions that were running or to come when the previous poll began.
ALTER TABLE ends ADD COLUMN txid bigint NOT NULL DEFAULT 0;
CREATE INDEX ends_txid ON ends (txid);

-- The servers that use a Redis. A logout is acknowledged when each of them has
-- the revocation, or reads the Redis that has it.
CREATE TABLE servers (
    id text NOT NULL PRIMARY KEY,
    -- Identifies the Redis, its primaries and their runs.
    redis text NOT NULL,
    -- How many polls have begun, and the last one whose revocations are in force.
    polls bigint NOT NULL,
    applied bigint NOT NULL
);
