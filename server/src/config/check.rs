//! The rules about more than one setting.

use std::time::Duration;

use matchbook_settings::{Settings, SettingsError};

use super::Config;

/// The minimum of `keys.publish_ahead`.
const MIN_PUBLISH_AHEAD: Duration = Duration::from_secs(4);

/// Checks settings against each other. The error describes the first that is invalid.
pub(super) fn check(settings: &Settings, config: &Config) -> Result<(), SettingsError> {
    keys(config)
        .and_then(|()| policy(config))
        .and_then(|()| proxy_protocol(config))
        .map_err(|(key, problem)| settings.invalid(key, problem))
}

/// The setting that is invalid, and what it must be.
type Invalid = (&'static str, &'static str);

fn keys(Config { keys, .. }: &Config) -> Result<(), Invalid> {
    // Servers read the keys once a second, and a verifier may fetch the key set from any of them.
    if keys.publish_ahead < MIN_PUBLISH_AHEAD {
        return Err((
            "keys.publish_ahead",
            "must be at least 4s: servers read a new key within two seconds",
        ));
    }
    if keys.rotate_after.is_some_and(|after| after <= keys.publish_ahead) {
        return Err((
            "keys.rotate_after",
            "must be longer than `keys.publish_ahead`: the next key is published while this one \
             signs",
        ));
    }
    Ok(())
}

fn proxy_protocol(config: &Config) -> Result<(), Invalid> {
    if config.proxy_protocol && config.proxies.is_empty() {
        return Err((
            "server.proxy_protocol",
            "needs `server.trusted_proxies`: the addresses of the balancers, the only ones that \
             may connect",
        ));
    }
    Ok(())
}

fn policy(Config { policy, .. }: &Config) -> Result<(), Invalid> {
    if let Some(rules) = &policy.reissue
        && rules.grace_period > rules.recovery_window
    {
        return Err((
            "rotation.grace_period",
            "must not be longer than `rotation.recovery_window`: a request with a key gets at \
             least as long as one without",
        ));
    }
    if policy.access_lifetime > policy.idle_lifetime {
        return Err((
            "tokens.access_lifetime",
            "must not be longer than `sessions.idle_lifetime`: a session would end before its \
             access token does",
        ));
    }
    if policy.idle_lifetime > policy.absolute_lifetime {
        return Err((
            "sessions.idle_lifetime",
            "must not be longer than `sessions.absolute_lifetime`",
        ));
    }
    Ok(())
}
