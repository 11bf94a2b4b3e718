//! The access tokens and their signing keys: the sections `[tokens]` and `[keys]`.

use std::time::Duration;

use matchbook_settings::{
    BaseUrl, OneOf, Optional, PositiveDuration, Settings, SettingsError, WholeSeconds,
};
use serde::Deserialize;

use crate::keys::{Algorithm, Options};

#[derive(Deserialize)]
struct Tokens {
    issuer: BaseUrl,
    audience: Optional<String>,
    access_lifetime: WholeSeconds,
    algorithm: OneOf<AlgorithmName>,
    rsa_bits: RsaBits,
}

#[derive(Deserialize)]
enum AlgorithmName {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

#[derive(Deserialize)]
#[serde(try_from = "u32")]
struct RsaBits(u32);

impl TryFrom<u32> for RsaBits {
    type Error = &'static str;

    fn try_from(bits: u32) -> Result<Self, Self::Error> {
        match bits {
            2048 | 3072 | 4096 => Ok(Self(bits)),
            _ => Err("must be 2048, 3072 or 4096"),
        }
    }
}

#[derive(Deserialize)]
struct Keys {
    publish_ahead: WholeSeconds,
    rotate_after: RotateAfter,
}

/// A duration, or `None` for "never".
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct RotateAfter(Option<Duration>);

impl TryFrom<String> for RotateAfter {
    type Error = <PositiveDuration as TryFrom<String>>::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "never" {
            return Ok(Self(None));
        }
        PositiveDuration::try_from(text).map(|PositiveDuration(after)| Self(Some(after)))
    }
}

pub(super) fn read(settings: &Settings) -> Result<Options, SettingsError> {
    let tokens: Tokens = settings.section("tokens")?;
    let keys: Keys = settings.section("keys")?;
    let audience = tokens.audience.0;
    Ok(Options {
        algorithm: match tokens.algorithm.0 {
            AlgorithmName::Rs256 => Algorithm::Rs256 { bits: tokens.rsa_bits.0 },
            AlgorithmName::Es256 => Algorithm::Es256,
            AlgorithmName::EdDsa => Algorithm::EdDsa,
        },
        rsa_bits: tokens.rsa_bits.0,
        publish_ahead: keys.publish_ahead.0,
        rotate_after: keys.rotate_after.0,
        issuer: tokens.issuer.0,
        audience: audience
            .ok_or_else(|| settings.invalid("tokens.audience", "must not be empty"))?,
        access_lifetime: tokens.access_lifetime.0,
    })
}
