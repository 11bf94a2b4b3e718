//! Verification of access tokens.

use super::{Error, Issuer};
use crate::clock;
use crate::keys;
use crate::token_status::Source;
use crate::tokens::VerifiedToken;

/// Why an access token is rejected.
#[derive(Debug)]
pub enum VerifyError {
    /// Malformed, for another audience, or not signed by a published key.
    Invalid,
    Expired,
    /// Its session has ended.
    Revoked,
    Failed(Error),
}

impl Issuer {
    /// Verifies the signature and the expiry of an access token, and that its session
    /// is live.
    pub async fn verify(&self, token: &str) -> Result<VerifiedToken, VerifyError> {
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
