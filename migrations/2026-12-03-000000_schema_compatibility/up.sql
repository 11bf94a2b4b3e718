-- Which versions of the server may use the tables. A migration that an older version could not
-- work with updates the one row.
CREATE TABLE schema_compatibility (
    id smallint NOT NULL PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    -- The last migration that the oldest permitted version of the server contains.
    oldest_server text NOT NULL
);
INSERT INTO schema_compatibility (oldest_server) VALUES ('20261202000000');
