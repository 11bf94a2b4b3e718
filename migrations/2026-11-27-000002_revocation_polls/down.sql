DROP TABLE servers;
DROP INDEX ends_txid;
ALTER TABLE ends DROP COLUMN txid;
ALTER TABLE ends ADD COLUMN published boolean NOT NULL DEFAULT false;
CREATE INDEX ends_unpublished ON ends (session_id) WHERE NOT published;
