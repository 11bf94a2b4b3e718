//! Proof Key for Code Exchange (RFC 7636), with S256 only.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::crypto::Digest;

/// Returns whether a text can be an S256 challenge (RFC 7636 §4.2).
pub(super) fn is_challenge(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|digest| digest.len() == 32)
}

/// Returns whether a verifier belongs to a challenge. The comparison reveals nothing: both
/// sides are public or digests.
pub(super) fn verifies(challenge: &str, verifier: &str) -> bool {
    let is_verifier = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    is_verifier && challenge_of(verifier) == challenge
}

/// Returns the challenge of a verifier (RFC 7636 §4.2).
fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Digest::of(&[verifier.as_bytes()]).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7636 Appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    #[test]
    fn verifier_of_the_rfc_belongs_to_its_challenge() {
        assert_eq!(challenge_of(VERIFIER), CHALLENGE);
        assert!(verifies(CHALLENGE, VERIFIER));
        assert!(!verifies(CHALLENGE, &VERIFIER.replace('d', "e")));
        assert!(!verifies(VERIFIER, VERIFIER), "plain");
    }

    #[test]
    fn verifier_has_43_to_128_unreserved_characters() {
        for (verifier, is_valid) in [
            ("a".repeat(42), false),
            ("a".repeat(43), true),
            ("~".repeat(128), true),
            ("a".repeat(129), false),
            ("+".repeat(43), false),
            ("é".repeat(43), false),
        ] {
            assert_eq!(verifies(&challenge_of(&verifier), &verifier), is_valid, "{verifier}");
        }
    }

    #[test]
    fn challenge_is_a_digest_in_base64url() {
        assert!(is_challenge(CHALLENGE));
        for text in
            ["", "abc", &CHALLENGE[1..], &format!("{CHALLENGE}A"), &CHALLENGE.replace('-', "+")]
        {
            assert!(!is_challenge(text), "{text}");
        }
    }
}
