DROP TABLE servers;
DROP TABLE signing_keys;
DROP TABLE events;
DROP TABLE session_revocations;
DROP TABLE sessions;
DROP TABLE users;
