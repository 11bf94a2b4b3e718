DROP VIEW signing_keys;
CREATE TABLE signing_keys (
    kid text NOT NULL PRIMARY KEY,
    sequence bigint NOT NULL UNIQUE,
    algorithm text NOT NULL,
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    active_from timestamptz NOT NULL,
    revoked_at timestamptz
);
INSERT INTO signing_keys
    SELECT kid, sequence, algorithm, sealed_private_key, created_at, active_from, revoked_at
    FROM signing_keys_by_purpose WHERE purpose = 'access';
DROP TABLE signing_keys_by_purpose;
DROP TABLE logout_notices;
DROP TABLE device_codes;
DROP TABLE user_groups;
ALTER TABLE sessions DROP COLUMN login_session_id;
ALTER TABLE authorization_codes DROP COLUMN login_session_id;
ALTER TABLE clients DROP COLUMN is_device;
ALTER TABLE clients DROP COLUMN keeps_offline_access;
ALTER TABLE clients DROP COLUMN backchannel_logout_uri;
ALTER TABLE clients DROP COLUMN post_logout_redirect_uris;
