DROP INDEX events_user_id;
ALTER TABLE sessions DROP COLUMN claims;
DROP TABLE imported_refresh_tokens;
DROP TABLE backends;
DROP TABLE one_time_links;
DROP TABLE identities;
DROP TABLE recovery_codes;
DROP TABLE accounts;
