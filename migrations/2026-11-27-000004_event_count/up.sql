-- How often it happened within the minute: a token that is presented again and
-- again is one row a minute.
ALTER TABLE events ADD COLUMN count bigint NOT NULL DEFAULT 1;
