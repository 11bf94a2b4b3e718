ALTER TABLE sessions DROP COLUMN keyed;
ALTER TABLE sessions DROP COLUMN floor_at;
ALTER TABLE sessions DROP COLUMN next_floor;
ALTER TABLE sessions DROP COLUMN floor;
