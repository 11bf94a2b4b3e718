//! The settings without a section: the data directory and the secrets.

use std::path::PathBuf;

use matchbook_settings::{Optional, Settings, SettingsError};
use secrecy::SecretString;
use serde::Deserialize;

use crate::secrets;

pub(super) struct General {
    pub(super) data_dir: PathBuf,
    /// `None` if the server generates one.
    pub(super) secret: Option<SecretString>,
    pub(super) old_secrets: Vec<SecretString>,
}

#[derive(Deserialize)]
struct Section {
    data_dir: Optional<PathBuf>,
    secret: Optional<StrongSecret>,
    old_secrets: Optional<OldSecrets>,
}

impl General {
    pub(super) fn read(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Section = settings.section("")?;
        let data_dir = section.data_dir.0;
        Ok(Self {
            data_dir: data_dir.ok_or_else(|| settings.invalid("data_dir", "must name a folder"))?,
            secret: section.secret.0.map(|StrongSecret(secret)| secret),
            old_secrets: section.old_secrets.0.map_or_else(Vec::new, |OldSecrets(list)| list),
        })
    }
}

/// A secret that cannot be guessed.
struct StrongSecret(SecretString);

impl TryFrom<String> for StrongSecret {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        secrets::check(&text)?;
        Ok(Self(text.into()))
    }
}

/// Secrets separated by spaces. Weak ones are permitted, so that they can be replaced.
struct OldSecrets(Vec<SecretString>);

impl TryFrom<String> for OldSecrets {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let secret = |text: &str| secrets::check_form(text).map(|()| text.into());
        text.split_whitespace().map(secret).collect::<Result<_, _>>().map(Self)
    }
}
