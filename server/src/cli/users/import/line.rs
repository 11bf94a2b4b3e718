//! A line of the file that `users import` reads.

use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::accounts::{DisplayName, LoginName, check_hash};
use crate::clock::Timestamp;
use crate::crypto::{Digest, decode_hex};
use crate::ids::UserId;
use crate::store::import::ImportedUser;

/// A user as the file has it. `docs/accounts.md` documents the fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    id: Option<Uuid>,
    password_hash: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    created_at: Option<OffsetDateTime>,
    display_name: Option<String>,
    #[serde(default)]
    email_verified: bool,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    is_admin: bool,
    refresh_token_sha256: Option<RefreshTokens>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`refresh_token_sha256` must be a digest, or a list of digests")]
enum RefreshTokens {
    One(RefreshToken),
    Several(Vec<RefreshToken>),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a digest is 64 hexadecimal digits, or {\"sha256\": …, \"expires_at\": …}"
)]
enum RefreshToken {
    Digest(String),
    Expiring(ExpiringToken),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpiringToken {
    sha256: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// The times that a line is read with.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) now: Timestamp,
    /// When a refresh token expires whose line does not say it.
    pub(super) tokens_expire_at: Timestamp,
}

/// A user, and how many of its refresh tokens have expired.
pub(super) struct Parsed {
    pub(super) user: ImportedUser,
    pub(super) expired_tokens: usize,
}

/// Parses a line, or returns the reason why it is rejected.
pub(super) fn parse(text: &str, times: Times) -> Result<Parsed, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let name = LoginName::parse(&line.name).map_err(|error| error.to_string())?;
    let display_name = line.display_name.as_deref().filter(|name| !name.is_empty());
    let display_name = display_name.map(DisplayName::parse).transpose();
    let display_name = display_name.map_err(|error| error.to_string())?;
    if let Some(hash) = &line.password_hash {
        check_hash(hash).map_err(|error| error.to_string())?;
    }
    let created_at = line.created_at.map_or(Ok(times.now), to_timestamp)?;
    if created_at > times.now {
        return Err("`created_at` is in the future".to_owned());
    }
    let all = match line.refresh_token_sha256 {
        None => Vec::new(),
        Some(RefreshTokens::One(token)) => vec![token],
        Some(RefreshTokens::Several(tokens)) => tokens,
    };
    let all: Vec<(Digest, Timestamp)> =
        all.into_iter().map(|token| refresh_token(token, times)).collect::<Result<_, _>>()?;
    let given = all.len();
    let refresh_tokens: Vec<_> =
        all.into_iter().filter(|(_, expires_at)| *expires_at > times.now).collect();
    Ok(Parsed {
        expired_tokens: given - refresh_tokens.len(),
        user: ImportedUser {
            user: line.id.map_or_else(UserId::random, UserId),
            name: name.as_str().to_owned(),
            kind: name.kind().as_str(),
            created_at,
            verified_at: line.email_verified.then_some(times.now),
            display_name: display_name.map(|name| name.as_str().to_owned()),
            password_hash: line.password_hash,
            is_admin: line.is_admin,
            disabled_at: line.disabled.then_some(times.now),
            refresh_tokens,
        },
    })
}

fn refresh_token(token: RefreshToken, times: Times) -> Result<(Digest, Timestamp), String> {
    let (digest, expires_at) = match token {
        RefreshToken::Digest(digest) => (digest, times.tokens_expire_at),
        RefreshToken::Expiring(token) => (token.sha256, to_timestamp(token.expires_at)?),
    };
    let bytes = decode_hex(&digest).and_then(|bytes| Digest::from_bytes(&bytes));
    let digest = bytes.ok_or(
        "`refresh_token_sha256` must be the SHA-256 digest of a token: 64 hexadecimal digits",
    )?;
    Ok((digest, expires_at))
}

fn to_timestamp(time: OffsetDateTime) -> Result<Timestamp, String> {
    let micros = i64::try_from(time.unix_timestamp_nanos() / 1000).ok();
    let time = micros.map(Timestamp::from_micros);
    let time = time.filter(|time| (Timestamp::from_secs(0)..Timestamp::END_OF_9999).contains(time));
    time.ok_or_else(|| "a time must be between the years 1970 and 9999".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times {
        now: Timestamp::from_secs(1_800_000_000),
        tokens_expire_at: Timestamp::from_secs(1_900_000_000),
    };

    const DIGEST: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

    #[test]
    fn complete_line_is_parsed() {
        let line = format!(
            r#"{{"name": "Ann@Example.com", "id": "0190aaaa-0000-4000-8000-000000000001",
            "password_hash": "$2b$04$zv/gv3uMoN7X3CuvZ1ga9uncq0Diq4NB6qH68CJ00gnAd.KygdtWa",
            "created_at": "2020-02-29T12:00:00.123456+01:00", "display_name": " Ann ",
            "email_verified": true, "disabled": true, "is_admin": true,
            "refresh_token_sha256": ["{DIGEST}",
            {{"sha256": "{DIGEST}", "expires_at": "2027-01-15T08:00:00Z"}},
            {{"sha256": "{DIGEST}", "expires_at": "2030-01-01T00:00:00Z"}}]}}"#
        );
        let Parsed { user, expired_tokens } = parse(&line, TIMES).unwrap();
        assert_eq!((user.name.as_str(), user.kind), ("ann@example.com", "email"));
        assert_eq!(user.user.to_string(), "0190aaaa-0000-4000-8000-000000000001");
        assert_eq!(user.created_at, Timestamp::from_micros(1_582_974_000_123_456));
        assert_eq!(user.display_name.as_deref(), Some("Ann"));
        assert_eq!(user.verified_at, Some(TIMES.now));
        assert_eq!(user.disabled_at, Some(TIMES.now));
        assert!(user.is_admin);
        let expiries: Vec<Timestamp> = user.refresh_tokens.iter().map(|(_, at)| *at).collect();
        assert_eq!(expiries, [TIMES.tokens_expire_at, Timestamp::from_secs(1_893_456_000)]);
        assert_eq!(expired_tokens, 1);
    }

    #[test]
    fn name_is_enough() {
        let Parsed { user, .. } = parse(r#"{"name": "ann"}"#, TIMES).unwrap();
        assert_eq!((user.kind, user.created_at), ("username", TIMES.now));
        assert!(user.password_hash.is_none() && user.refresh_tokens.is_empty());
        assert!(!user.is_admin && user.disabled_at.is_none() && user.verified_at.is_none());
    }

    #[test]
    fn each_wrong_line_has_a_reason() {
        for (line, reason) in [
            ("", "EOF"),
            ("[]", "invalid length"),
            ("{}", "missing field `name`"),
            (r#"{"name": "a b"}"#, "login name"),
            (r#"{"name": "ann", "password": "x"}"#, "unknown field `password`"),
            (r#"{"name": "ann", "name": "bob"}"#, "duplicate field `name`"),
            (r#"{"name": "ann", "password_hash": "md5$x"}"#, "not supported"),
            (r#"{"name": "ann", "password_hash": "$2b$20$x"}"#, "malformed"),
            (r#"{"name": "ann", "created_at": "yesterday"}"#, "line 1"),
            (r#"{"name": "ann", "created_at": "2100-01-01T00:00:00Z"}"#, "future"),
            (r#"{"name": "ann", "created_at": "1066-01-01T00:00:00Z"}"#, "1970"),
            (r#"{"name": "ann", "display_name": "a\nb"}"#, "display name"),
            (r#"{"name": "ann", "refresh_token_sha256": "0123"}"#, "64 hexadecimal"),
            (r#"{"name": "ann", "refresh_token_sha256": 1}"#, "digest"),
            (r#"{"name": "ann", "refresh_token_sha256": [{"sha256": "x"}]}"#, "digest"),
            (r#"{"name": "ann", "id": "x"}"#, "line 1"),
            (r#"{"name": "ann"} {"name": "bob"}"#, "trailing"),
        ] {
            let error = parse(line, TIMES).err().unwrap_or_default();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
