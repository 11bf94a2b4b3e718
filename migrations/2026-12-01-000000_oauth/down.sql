DROP INDEX sessions_client_id;
ALTER TABLE sessions DROP COLUMN auth_time;
ALTER TABLE sessions DROP COLUMN audiences;
ALTER TABLE sessions DROP COLUMN scope;
ALTER TABLE sessions DROP COLUMN client_id;
DROP TABLE consents;
DROP TABLE login_sessions;
DROP TABLE authorization_codes;
DROP TABLE clients;
