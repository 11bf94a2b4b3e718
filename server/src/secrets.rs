//! The server's secret: where it comes from, and whether it can be guessed.

use std::collections::HashSet;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use crate::crypto::{RngError, Secret};
use crate::data_dir::{self, DataDir};

/// The generated secret, in the data folder.
const FILE: &str = "secret";

/// The fewest characters: 32 hold 128 bits even as hexadecimal digits.
const MIN_LEN: usize = 32;
/// The fewest different characters. 32 random hexadecimal digits have less with
/// a probability of 4 in 100 million.
const MIN_DISTINCT: usize = 8;
/// The length of the pieces that a secret must not consist of.
const PIECE: usize = 4;
/// Words of instructions and examples, and of the first lists that are tried.
const PLACEHOLDERS: [&str; 14] = [
    "changeme",
    "change-me",
    "change_me",
    "placeholder",
    "replaceme",
    "replace-me",
    "replace_me",
    "example",
    "your-secret",
    "your_secret",
    "yoursecret",
    "password",
    "passw0rd",
    "openssl",
];

/// Why there is no secret to start with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
    /// The file with the generated secret was cut short.
    #[error(
        "{} holds no secret: put back the one that it held, or, with an empty database, remove \
         the file", .0.display()
    )]
    Missing(PathBuf),
    /// The file holds a secret that can be guessed.
    #[error("the secret in {} {problem}", path.display())]
    Weak {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RngError),
}

/// Returns the configured secret, or the one that the first start generated.
///
/// # Errors
/// When the data folder cannot be used, or holds a secret that is not good.
pub fn get_or_create(
    configured: Option<&SecretString>,
    data_dir: &DataDir,
) -> Result<SecretString, Error> {
    if let Some(secret) = configured {
        return Ok(secret.clone());
    }
    let make = || Ok::<_, Error>(generate()?.expose_secret().to_owned());
    let generated = data_dir.once(FILE, make)?;
    check_file(data_dir, &generated)
}

/// Generates a secret.
///
/// # Errors
/// When the system has no random bytes.
pub fn generate() -> Result<SecretString, RngError> {
    Ok(Secret::random()?.to_base64().into())
}

/// Puts `secret` in the place of the one that the first start generated; returns
/// where that is.
///
/// # Errors
/// When no start has generated one, or it cannot be replaced.
pub fn replace(data_dir: &DataDir, secret: &SecretString) -> Result<PathBuf, Error> {
    data_dir.read(FILE)?;
    data_dir.replace(FILE, secret.expose_secret(), 0o600)?;
    Ok(data_dir.path(FILE))
}

/// Returns the secret of a server that has run, for the commands beside it,
/// which make nothing.
///
/// # Errors
/// When it is not configured and no start has generated one, or it is not good.
pub fn existing(
    configured: Option<&SecretString>,
    data_dir: &DataDir,
) -> Result<SecretString, Error> {
    match configured {
        Some(secret) => Ok(secret.clone()),
        None => check_file(data_dir, &data_dir.read(FILE)?),
    }
}

fn check_file(data_dir: &DataDir, content: &str) -> Result<SecretString, Error> {
    let secret = content.trim_end();
    if secret.chars().count() < MIN_LEN {
        return Err(Error::Missing(data_dir.path(FILE)));
    }
    if let Err(problem) = check(secret) {
        return Err(Error::Weak { path: data_dir.path(FILE), problem });
    }
    data_dir.check_private(FILE)?;
    Ok(secret.into())
}

/// Checks the form of a secret, which an old one has to have as well.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence.
pub fn check_form(secret: &str) -> Result<(), String> {
    if secret.chars().count() < MIN_LEN {
        return Err(format!("must have at least {MIN_LEN} characters: `openssl rand -base64 32`"));
    }
    // `old_secrets`, where each secret comes one day, is a list with spaces.
    if secret.contains(char::is_whitespace) {
        return Err("must not contain spaces".to_owned());
    }
    Ok(())
}

/// Checks that a secret cannot be guessed.
///
/// # Errors
/// What is wrong with it and what to do, as the rest of a sentence.
pub fn check(secret: &str) -> Result<(), String> {
    check_form(secret)?;
    let weakness = |weakness: &str| {
        Err(format!(
            "can be guessed: it {weakness}; take the output of `openssl rand -base64 32`, and \
             name this one in `old_secrets` where a database was used with it"
        ))
    };
    let lower = secret.to_lowercase();
    if let Some(word) = PLACEHOLDERS.iter().find(|word| lower.contains(**word)) {
        return weakness(&format!("contains \"{word}\", as a placeholder does"));
    }
    let characters: Vec<char> = secret.chars().collect();
    if characters.iter().collect::<HashSet<_>>().len() < MIN_DISTINCT {
        return weakness(&format!("has fewer than {MIN_DISTINCT} different characters"));
    }
    let mut seen = HashSet::new();
    let pieces = characters.windows(PIECE);
    let count = pieces.len();
    let repeated = pieces.filter(|piece| !seen.insert(*piece)).count();
    if repeated * 3 > count {
        return weakness("repeats itself");
    }
    let steps =
        characters.windows(2).map(|pair| i64::from(pair[1] as u32) - i64::from(pair[0] as u32));
    let count = steps.len();
    if steps.filter(|step| step.abs() <= 1).count() * 2 > count {
        return weakness("counts up or down");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_can_be_guessed_is_refused_with_the_reason_and_what_to_do() {
        for (secret, reason) in [
            ("short", "at least 32 characters"),
            ("long enough, but with spaces between", "spaces"),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "different characters"),
            ("0101010101010101010101010101010101010101", "different characters"),
            ("abcdefghabcdefghabcdefghabcdefghabcdefgh", "repeats itself"),
            ("correct-horse-bcorrect-horse-bcorrect-ho", "repeats itself"),
            ("9f86d081884c7d659f86d081884c7d65", "repeats itself"),
            ("9f86d081884c7d65.9f86d081884c7d65", "repeats itself"),
            ("abcdefghijklmnopqrstuvwxyz0123456789", "counts up or down"),
            ("zyxwvutsrqponmlkjihgfedcba9876543210", "counts up or down"),
            ("please-ChangeMe-before-you-go-to-production", "placeholder"),
            ("an-example-of-more-than-thirty-two-chars", "placeholder"),
            ("correct-horse-battery-password-staple-1", "placeholder"),
            ("$(openssl-rand-base64-32)-was-not-run-here", "placeholder"),
        ] {
            let problem = check(secret).unwrap_err();
            assert!(problem.contains(reason), "{secret}: {problem}");
            if !reason.contains("spaces") {
                assert!(problem.contains("openssl rand -base64 32"), "{secret}: {problem}");
            }
        }
    }

    #[test]
    fn a_random_secret_of_any_alphabet_is_good() {
        use base64::Engine;
        for _ in 0..2_000 {
            let mut bytes = [0; 32];
            openssl::rand::rand_bytes(&mut bytes).unwrap();
            let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
            let digit = |half: u8| char::from_digit(half.into(), 16).unwrap();
            let hex: String =
                bytes[..16].iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
            let letters: String = bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
            for secret in [base64, hex, letters] {
                assert_eq!(check(&secret), Ok(()), "{secret}");
            }
        }
    }
}
