//! The lifetimes of sessions and the rules of rotation: the sections `[sessions]`,
//! `[rotation]` and `[events]`.

use std::time::Duration;

use matchbook_settings::{OneOf, PositiveDuration, Settings, SettingsError};
use serde::Deserialize;

use crate::sessions::{Policy, ReissueRules};

#[derive(Deserialize)]
struct Sessions {
    idle_lifetime: PositiveDuration,
    absolute_lifetime: PositiveDuration,
    retention: PositiveDuration,
}

#[derive(Deserialize)]
struct Rotation {
    mode: OneOf<Mode>,
    accept_ahead_of_database: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Idempotent,
    Strict,
}

/// The part of `[rotation]` that is used only in the idempotent mode.
#[derive(Deserialize)]
struct Idempotent {
    grace_period: PositiveDuration,
    recovery_window: PositiveDuration,
    same_key_only: bool,
}

#[derive(Deserialize)]
pub(super) struct Events {
    pub(super) retention: PositiveDuration,
}

pub(super) fn read(
    settings: &Settings,
    access_lifetime: Duration,
) -> Result<Policy, SettingsError> {
    let sessions: Sessions = settings.section("sessions")?;
    let rotation: Rotation = settings.section("rotation")?;
    Ok(Policy {
        access_lifetime,
        idle_lifetime: sessions.idle_lifetime.0,
        absolute_lifetime: sessions.absolute_lifetime.0,
        retention: sessions.retention.0,
        reissue: match rotation.mode.0 {
            Mode::Idempotent => Some(reissue_rules(settings)?),
            Mode::Strict => None,
        },
        accept_ahead_of_database: rotation.accept_ahead_of_database,
    })
}

fn reissue_rules(settings: &Settings) -> Result<ReissueRules, SettingsError> {
    let rotation: Idempotent = settings.section("rotation")?;
    Ok(ReissueRules {
        grace_period: rotation.grace_period.0,
        recovery_window: rotation.recovery_window.0,
        same_key_only: rotation.same_key_only,
    })
}
