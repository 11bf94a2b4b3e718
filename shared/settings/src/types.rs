//! The types of settings. Each deserializes from the text or number that a file or variable
//! has, and its error completes the sentence "the setting must …".

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::StringDeserializer;
use serde::de::{DeserializeOwned, Error, IntoDeserializer};
use serde::{Deserialize, Deserializer};

use super::{NONE, SYSTEM, available_cpus};

/// Minimum of a duration.
const MIN_DURATION: Duration = Duration::from_millis(1);
/// Maximum of a duration. Longer ones would overflow stored timestamps.
const MAX_DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A duration with a unit, like `15m`, `30d` or `1h 30m`: at least a millisecond, and less
/// than a hundred years.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct PositiveDuration(pub Duration);

impl TryFrom<String> for PositiveDuration {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match humantime::parse_duration(&text) {
            Ok(duration) if (MIN_DURATION..MAX_DURATION).contains(&duration) => Ok(Self(duration)),
            Ok(_) => Err("must be between 1 ms and 100 years"),
            Err(_) => Err("must be a duration with a unit, like `90s`, `15m` or `30d`"),
        }
    }
}

/// A [`PositiveDuration`] without fractions of a second.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "PositiveDuration")]
pub struct WholeSeconds(pub Duration);

impl TryFrom<PositiveDuration> for WholeSeconds {
    type Error = &'static str;

    fn try_from(PositiveDuration(duration): PositiveDuration) -> Result<Self, Self::Error> {
        if duration.subsec_nanos() == 0 {
            Ok(Self(duration))
        } else {
            Err("must be in whole seconds")
        }
    }
}

/// An address to bind to, with a port.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct BindAddress(pub SocketAddr);

impl TryFrom<String> for BindAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let expected = "must be an IP address and a port, like `127.0.0.1:5001` or `[::1]:5001`";
        text.parse().map(Self).map_err(|_| expected)
    }
}

/// A base URL: `https` or `http`, with a host, without query or fragment (as required for an
/// issuer by RFC 8414 §2).
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct BaseUrl(pub String);

impl TryFrom<String> for BaseUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match matchbook_shared::base_url(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(format!("{error}; write it like `https://auth.example.com`")),
        }
    }
}

/// A number of threads. 0 means the number of CPUs.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(from = "u16")]
pub struct Threads(pub usize);

impl From<u16> for Threads {
    fn from(number: u16) -> Self {
        Self(if number == 0 { available_cpus() } else { number.into() })
    }
}

/// A number that is not 0.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u32")]
pub struct AtLeastOne(pub NonZeroU32);

impl TryFrom<u32> for AtLeastOne {
    type Error = &'static str;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        NonZeroU32::new(number).map(Self).ok_or("must be at least 1")
    }
}

/// An amount of memory in bytes: a whole number of MiB or GiB.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct ByteSize(pub usize);

impl TryFrom<String> for ByteSize {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let units = [("MiB", 1_usize << 20), ("GiB", 1 << 30)];
        let bytes = units.iter().find_map(|(unit, bytes)| {
            let number: usize = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(*bytes)
        });
        let bytes = bytes.filter(|bytes| *bytes > 0);
        bytes.map(Self).ok_or("must be a size, like `64MiB` or `1GiB`")
    }
}

/// A value that can be unset: by "none", which overrides the file and the default, or by
/// an empty text.
#[derive(Debug, Clone)]
pub struct Optional<T>(pub Option<T>);

impl<'de, T: TryFrom<String, Error: Display>> Deserialize<'de> for Optional<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text == NONE {
            return Ok(Self(None));
        }
        T::try_from(text).map(|value| Self(Some(value))).map_err(D::Error::custom)
    }
}

/// A file with CAs. `None` means the CAs of the system: "system" or empty.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "String")]
pub struct CaFile(pub Option<PathBuf>);

impl From<String> for CaFile {
    fn from(text: String) -> Self {
        Self(Some(text).filter(|text| !text.is_empty() && text != SYSTEM).map(PathBuf::from))
    }
}

/// One of several words: the names of the variants of `T`, an enum without data.
#[derive(Debug, Clone, Copy)]
pub struct OneOf<T>(pub T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for OneOf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word: StringDeserializer<WordError> =
            String::deserialize(deserializer)?.into_deserializer();
        T::deserialize(word).map(Self).map_err(D::Error::custom)
    }
}

/// The text is not the name of a variant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WordError(String);

impl Error for WordError {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn unknown_variant(_: &str, words: &'static [&'static str]) -> Self {
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        Self(match quoted.split_last() {
            Some((last, [])) => format!("must be {last}"),
            Some((last, others)) => format!("must be {} or {last}", others.join(", ")),
            None => "has no valid value".to_owned(),
        })
    }
}
