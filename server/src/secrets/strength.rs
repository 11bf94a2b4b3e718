//! Checks that a secret cannot be guessed.

use std::collections::HashSet;

/// The minimum number of characters: 32 hexadecimal digits hold 128 bits.
pub(super) const MIN_LEN: usize = 32;
/// The minimum number of different characters. 32 random hexadecimal digits have fewer with
/// a probability of 4 in 100 million.
const MIN_DISTINCT: usize = 8;
/// The length of the substrings that are searched for repetitions.
const SUBSTRING_LEN: usize = 4;
/// Words of instructions, examples and common password lists.
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

/// Checks the form of a secret, which old secrets must have too. The error is the rest of a
/// sentence that begins with the setting.
pub fn check_form(secret: &str) -> Result<(), String> {
    if secret.chars().count() < MIN_LEN {
        return Err(format!("must have at least {MIN_LEN} characters: `openssl rand -base64 32`"));
    }
    // Every secret becomes an entry of `old_secrets`, a list separated by spaces.
    if secret.contains(char::is_whitespace) {
        return Err("must not contain spaces".to_owned());
    }
    Ok(())
}

/// Checks that a secret cannot be guessed. The error is the rest of a sentence that begins
/// with the setting, and says what to do.
pub fn check(secret: &str) -> Result<(), String> {
    check_form(secret)?;
    let weakness = |weakness: &str| {
        Err(format!(
            "can be guessed: it {weakness}; use the output of `openssl rand -base64 32`, and add \
             this one to `old_secrets` if a database was used with it"
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
    let substrings = characters.windows(SUBSTRING_LEN);
    let count = substrings.len();
    let repeated = substrings.filter(|substring| !seen.insert(*substring)).count();
    if repeated * 3 > count {
        return weakness("repeats itself");
    }
    let steps =
        characters.windows(2).map(|pair| i64::from(pair[1] as u32) - i64::from(pair[0] as u32));
    let count = steps.len();
    // Two thirds: with half, one in 100,000 random hexadecimal secrets would be rejected.
    if steps.filter(|step| step.abs() <= 1).count() * 3 > count * 2 {
        return weakness("counts up or down");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessable_secret_is_rejected_with_the_reason_and_the_remedy() {
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
    fn random_secret_of_any_alphabet_is_accepted() {
        use base64::Engine;
        for _ in 0..2_000 {
            let bytes: [u8; 32] = crate::crypto::random().unwrap();
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
