//! What a token is (RFC 7662), and whose (RFC 7009).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{Error, Issuer, VerifyError};
use crate::clock::{self, Timestamp};
use crate::ids::{ClientId, SessionId, UserId};
use crate::store::sessions::{self, State};
use crate::tokens::{ClientGrant, RefreshToken, VerifiedToken};

/// An access token that is active.
pub struct Introspected {
    pub token: VerifiedToken,
    /// The claims, as they were signed.
    pub claims: Map<String, Value>,
}

impl Introspected {
    /// Returns a claim that is a text.
    #[must_use]
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// Returns whether the token is for this resource server.
    #[must_use]
    pub fn is_for(&self, audience: &str) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one == audience),
            _ => false,
        }
    }
}

/// A refresh token that its client can exchange.
pub struct ActiveRefreshToken {
    pub session: SessionId,
    pub user: UserId,
    pub grant: ClientGrant,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

impl Issuer {
    /// Verifies an access token for any resource server, and returns its claims.
    pub async fn introspect(&self, token: &str) -> Result<Introspected, VerifyError> {
        let verified = self.verify_for_any_audience(token).await?;
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
        Ok(Introspected { token: verified, claims: claims.ok_or(VerifyError::Invalid)? })
    }

    /// Returns a refresh token if this client can exchange it.
    pub async fn introspect_refresh_token(
        &self,
        token: &str,
        client: &ClientId,
    ) -> Result<Option<ActiveRefreshToken>, Error> {
        let Some(RefreshToken { session, generation, secret, .. }) =
            self.authenticate(token, Some(client))
        else {
            return Ok(None);
        };
        if self.status.has_ended(session) {
            return Ok(None);
        }
        let found = self.store.run(move |conn| sessions::find(conn, session)).await?;
        let digest = secret.digest();
        let current = found.filter(|found| {
            found.generation == generation && digest.matches(found.secret_digest.as_bytes())
        });
        let Some(current) = current else { return Ok(None) };
        let expires_at = current.idle_expires_at.min(current.expires_at);
        let is_active = current.state == State::Live && expires_at > clock::now();
        Ok(current.grant.filter(|_| is_active).map(|grant| ActiveRefreshToken {
            session,
            user: current.user,
            grant,
            issued_at: current.access_issued_at,
            expires_at,
        }))
    }

    /// Returns the grant of a client's session, or `None` if there is no such session.
    pub async fn grant_of(&self, session: SessionId) -> Result<Option<ClientGrant>, Error> {
        let found = self.store.run(move |conn| sessions::find(conn, session)).await?;
        Ok(found.and_then(|found| found.grant))
    }
}
