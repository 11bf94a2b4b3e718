//! The section `[limits]`.

use matchbook_settings::{AtLeastOne, Settings, SettingsError};
use serde::Deserialize;

use crate::limits::Options;

#[derive(Deserialize)]
struct Switch {
    enabled: bool,
}

/// The limits, which are used only if they are enabled.
#[derive(Deserialize)]
struct Limits {
    register: AtLeastOne,
    token: AtLeastOne,
    login: AtLeastOne,
    refresh: AtLeastOne,
    session: AtLeastOne,
    logout: AtLeastOne,
    ready: AtLeastOne,
    mail: AtLeastOne,
    register_total: AtLeastOne,
    connections: AtLeastOne,
}

/// Returns `None` if the limits are disabled.
pub(super) fn read(settings: &Settings) -> Result<Option<Options>, SettingsError> {
    let Switch { enabled } = settings.section("limits")?;
    if !enabled {
        return Ok(None);
    }
    let limits: Limits = settings.section("limits")?;
    Ok(Some(Options {
        register: limits.register.0,
        token: limits.token.0,
        login: limits.login.0,
        refresh: limits.refresh.0,
        session: limits.session.0,
        logout: limits.logout.0,
        ready: limits.ready.0,
        mail: limits.mail.0,
        register_total: limits.register_total.0,
        connections: limits.connections.0,
    }))
}
