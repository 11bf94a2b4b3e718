-- Which older generations were current a short time ago. A token from before
-- `floor` is reuse; `floor` moves up as the windows pass, whoever rotates.
ALTER TABLE sessions ADD COLUMN floor bigint NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN next_floor bigint NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN floor_at timestamptz;

-- Whether the session was ever rotated with an idempotency key.
ALTER TABLE sessions ADD COLUMN keyed boolean NOT NULL DEFAULT false;
