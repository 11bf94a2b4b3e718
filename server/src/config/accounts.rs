//! The sections `[accounts]` and `[password]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use matchbook_settings::{ByteSize, OneOf, Optional, Settings, SettingsError};
use serde::Deserialize;

use super::pages;
use crate::accounts::{Options, Registration};

#[derive(Deserialize)]
struct Accounts {
    registration: OneOf<RegistrationMode>,
    guests: bool,
    file: Optional<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RegistrationMode {
    Auto,
    Open,
    Invite,
    Closed,
}

#[derive(Deserialize)]
struct Password {
    min_length: MinLength,
    memory: ByteSize,
}

/// A minimum length of passwords, from 8 (NIST SP 800-63B-4 §3.1.1.2) to 128 characters.
#[derive(Deserialize)]
#[serde(try_from = "usize")]
struct MinLength(usize);

impl TryFrom<usize> for MinLength {
    type Error = &'static str;

    fn try_from(length: usize) -> Result<Self, Self::Error> {
        let is_valid = (8..=128).contains(&length);
        is_valid.then_some(Self(length)).ok_or("must be from 8 to 128")
    }
}

pub(super) fn read(
    settings: &Settings,
    address: SocketAddr,
    public_url: &str,
) -> Result<Options, SettingsError> {
    let accounts: Accounts = settings.section("accounts")?;
    let password: Password = settings.section("password")?;
    Ok(Options {
        registration: match accounts.registration.0 {
            RegistrationMode::Open => Registration::Open,
            RegistrationMode::Auto if address.ip().is_loopback() => Registration::Open,
            RegistrationMode::Auto | RegistrationMode::Invite => Registration::Invite,
            RegistrationMode::Closed => Registration::Closed,
        },
        guests: accounts.guests,
        file: accounts.file.0,
        password_min_length: password.min_length.0,
        password_memory: password.memory.0,
        public_url: public_url.to_owned(),
        login_lifetimes: pages::login_lifetimes(settings)?,
    })
}
