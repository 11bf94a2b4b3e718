-- A digest of what entries that are counted together have in common, so that servers
-- that write at once find the same row. Entries that are never counted have none.
ALTER TABLE events ADD COLUMN fold_key bytea;

CREATE UNIQUE INDEX events_fold_key ON events (fold_key);
