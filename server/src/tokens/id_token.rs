//! The claims of an ID token (`OpenID` Connect Core §2), and those about the user, which the
//! userinfo endpoint returns as well (§5.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::StandardScopes;
use crate::crypto::Digest;
use crate::ids::{SessionId, UserId};

/// The claims of an ID token.
#[derive(Serialize)]
pub struct IdTokenClaims<'a> {
    pub iss: &'a str,
    pub sub: UserId,
    /// The client.
    pub aud: &'a str,
    /// The expiry time, in seconds since the Unix epoch.
    pub exp: i64,
    /// The time of issue, in seconds since the Unix epoch.
    pub iat: i64,
    /// When the user last proved who they are, in seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// The nonce of the authorization request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<&'a str>,
    /// Binds the access token of the same response ([`hash_of`]).
    pub at_hash: String,
    /// The session.
    pub sid: SessionId,
    #[serde(flatten)]
    pub user: UserClaims,
}

/// The claims about a user. A claim that has no value is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UserClaims {
    /// The display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The user name, or else the email address: the name that the user logs in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether the user proved that the email address is theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

impl UserClaims {
    /// The claims that a user may have.
    pub const NAMES: [&'static str; 5] =
        ["name", "preferred_username", "email", "email_verified", "groups"];

    /// Returns the claims that these scopes permit (`OpenID` Connect Core §5.4).
    #[must_use]
    pub fn permitted_by(self, scopes: StandardScopes) -> Self {
        let has_profile = scopes.contains(StandardScopes::PROFILE);
        let has_email = scopes.contains(StandardScopes::EMAIL);
        let has_groups = scopes.contains(StandardScopes::GROUPS);
        Self {
            name: self.name.filter(|_| has_profile),
            preferred_username: self.preferred_username.filter(|_| has_profile),
            email: self.email.filter(|_| has_email),
            email_verified: self.email_verified.filter(|_| has_email),
            groups: if has_groups { self.groups } else { Vec::new() },
        }
    }
}

/// Returns the claim `at_hash` for an access token: the left half of its SHA-256 (`OpenID`
/// Connect Core §3.1.3.6), since the ID token is signed with RS256.
#[must_use]
pub fn hash_of(access_token: &str) -> String {
    let digest = Digest::of(&[access_token.as_bytes()]).to_bytes();
    URL_SAFE_NO_PAD.encode(&digest[..digest.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_hash_matches_the_example_of_openid_connect_core() {
        // Appendix A.3.
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(hash_of(token), "77QmUPtjPfzWtF2AnpK9RQ");
    }

    #[test]
    fn scopes_permit_only_their_claims() {
        let all = UserClaims {
            name: Some("Ann".to_owned()),
            preferred_username: Some("ann".to_owned()),
            email: Some("ann@example.com".to_owned()),
            email_verified: Some(true),
            groups: vec!["staff".to_owned()],
        };
        let names = |scopes: &str| {
            let claims = all.clone().permitted_by(StandardScopes::of(scopes));
            let claims = serde_json::to_value(claims).unwrap();
            claims.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert!(names("openid address phone").is_empty());
        assert_eq!(names("openid profile"), ["name", "preferred_username"]);
        assert_eq!(names("email"), ["email", "email_verified"]);
        assert_eq!(names("groups"), ["groups"]);
        let mut all_names = names("profile email groups");
        let mut expected = UserClaims::NAMES;
        all_names.sort();
        expected.sort_unstable();
        assert_eq!(all_names, expected);
    }
}
