DROP INDEX events_fold_key;
ALTER TABLE events DROP COLUMN fold_key;
