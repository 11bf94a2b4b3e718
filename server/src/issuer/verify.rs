//! Verification of access tokens.

use super::{Error, Issuer};
use crate::clock;
use crate::keys;
use crate::token_status::Source;
use crate::tokens::VerifiedToken;

/// Why an access token is rejected.
#[derive(Debug)]
pub enum VerifyError {
    /// Malformed, only for other audiences, or not signed by a published key.
    Invalid,
    Expired,
    /// Its session has ended.
    Revoked,
    Failed(Error),
}

impl Issuer {
    /// Verifies an access token for this server: its signature, its audience and its expiry,
    /// and that its session is live.
    pub async fn verify(&self, token: &str) -> Result<VerifiedToken, VerifyError> {
        let verified = self.verify_for_any_audience(token).await?;
        if verified.is_for_this_server { Ok(verified) } else { Err(VerifyError::Invalid) }
    }

    /// Verifies an access token as [`Self::verify`] does, except that it may be for other
    /// resource servers.
    pub async fn verify_for_any_audience(&self, token: &str) -> Result<VerifiedToken, VerifyError> {
        let now = clock::now();
        let verified = self.keys.verify(token, now).await.map_err(|error| match error {
            keys::VerifyError::Invalid => VerifyError::Invalid,
            keys::VerifyError::Expired => VerifyError::Expired,
            keys::VerifyError::Unavailable(error) => VerifyError::Failed(error.into()),
        })?;
        let status = self.status.check(&verified, now).await;
        let status = status.map_err(|error| VerifyError::Failed(error.into()))?;
        self.metrics.record_check(match status.source {
            Source::Cache => "hit",
            Source::Database => "miss",
            Source::DatabaseFallback => "fallback",
        });
        if status.active { Ok(verified) } else { Err(VerifyError::Revoked) }
    }
}
