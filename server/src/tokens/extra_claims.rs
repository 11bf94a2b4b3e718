//! Further claims in the access tokens of a session.

use std::sync::Arc;

use serde_json::{Map, Value};

/// The maximum length of the claims as JSON, in bytes. Requests carry them in a header.
const MAX_LEN: usize = 2048;

/// The claims that this server issues or reserves (RFC 7519 §4.1, RFC 9068 §2.2, RFC 7800,
/// RFC 8693, `OpenID` Connect Core §2).
const RESERVED: [&str; 22] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "client_id",
    "scope",
    "typ",
    "auth_time",
    "acr",
    "amr",
    "azp",
    "nonce",
    "at_hash",
    "c_hash",
    "cnf",
    "act",
    "may_act",
    "events",
];

/// Claims that an application adds to the access tokens of a session: a JSON object that
/// has at least one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraClaims(Arc<str>);

/// Why claims are rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidClaims {
    TooLong,
    Reserved(&'static str),
}

impl ExtraClaims {
    /// Checks claims. Returns `None` for an object without members.
    pub fn new(claims: &Map<String, Value>) -> Result<Option<Self>, InvalidClaims> {
        if let Some(name) = RESERVED.iter().find(|name| claims.contains_key(**name)) {
            return Err(InvalidClaims::Reserved(name));
        }
        let json = Value::Object(claims.clone()).to_string();
        if json.len() > MAX_LEN {
            return Err(InvalidClaims::TooLong);
        }
        Ok((!claims.is_empty()).then(|| Self(json.into())))
    }

    /// Returns the claims of a stored session.
    #[must_use]
    pub fn from_stored(json: String) -> Self {
        Self(json.into())
    }

    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Appends the members to a JSON object that has others.
    pub(crate) fn append_to(&self, object: &mut Vec<u8>) {
        if let Some(members) = self.0.strip_prefix('{')
            && object.pop_if(|last| *last == b'}').is_some()
        {
            object.push(b',');
            object.extend_from_slice(members.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn new(claims: &Value) -> Result<Option<ExtraClaims>, InvalidClaims> {
        ExtraClaims::new(claims.as_object().unwrap())
    }

    #[test]
    fn claims_are_appended_to_those_of_the_server() {
        let claims = new(&json!({ "roles": ["a\"}"], "plan": { "level": 2 } })).unwrap().unwrap();
        let mut object = br#"{"iss":"i"}"#.to_vec();
        claims.append_to(&mut object);
        let object: Value = serde_json::from_slice(&object).unwrap();
        assert_eq!(object, json!({ "iss": "i", "roles": ["a\"}"], "plan": { "level": 2 } }));
    }

    #[test]
    fn reserved_names_and_long_claims_are_rejected() {
        for name in RESERVED {
            assert_eq!(new(&json!({ name: 1 })), Err(InvalidClaims::Reserved(name)));
        }
        assert!(new(&json!({ "a": "x".repeat(MAX_LEN - 8) })).is_ok());
        assert_eq!(new(&json!({ "a": "x".repeat(MAX_LEN - 7) })), Err(InvalidClaims::TooLong));
        assert_eq!(new(&json!({})), Ok(None));
    }
}
