//! The tokens of a client: by its refresh token, and for itself.

use std::sync::Arc;

use super::code_exchange::CodeError;
use super::device::DeviceError;
use super::request::permits_audiences;
use super::{Error, Grants};
use crate::clients::Client;
use crate::crypto::IdempotencyKey;
use crate::ids::ClientId;
use crate::issuer::{IssuedTokens, Narrowing, RefreshError, RefreshTerms};
use crate::sessions::{ClientInfo, InvalidGrant, PresentedToken};
use crate::tokens::{ClientGrant, RefreshToken, Scope};

/// Why a client gets no tokens.
#[derive(Debug)]
pub enum TokenError {
    /// The code or the refresh token is not valid.
    InvalidGrant(InvalidGrant),
    Code(CodeError),
    Device(DeviceError),
    /// The client may not use this grant type.
    NotPermitted,
    InvalidScope,
    InvalidTarget,
    Failed(Error),
}

impl From<RefreshError> for TokenError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::InvalidGrant(reason) => Self::InvalidGrant(reason),
            RefreshError::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<Error> for TokenError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A refresh token, and its request by the authenticated client that it is bound to.
pub struct RefreshByClient {
    pub client: Arc<Client>,
    pub token: RefreshToken,
    pub idempotency_key: Option<IdempotencyKey>,
    pub scope: Option<Scope>,
    pub audiences: Vec<String>,
    pub from: ClientInfo,
}

/// A request of an authenticated client for a token for itself.
pub struct MachineTokens {
    pub client: Arc<Client>,
    pub scope: Option<Scope>,
    pub audiences: Vec<String>,
    pub from: ClientInfo,
}

impl Grants {
    /// Returns whether this server issued the code to this client. Makes no query.
    #[must_use]
    pub fn is_code(&self, code: &str, client: &ClientId) -> bool {
        self.issuer.authenticate_code(code, client).is_some()
    }

    /// Refreshes the tokens of a client under its own policy (RFC 6749 §6). What the client
    /// may not request is rejected before the refresh token is used.
    pub async fn refresh(&self, request: RefreshByClient) -> Result<IssuedTokens, TokenError> {
        let RefreshByClient { client, token, idempotency_key, scope, audiences, from } = request;
        let mut narrowing = Narrowing::default();
        if (scope.is_some() || !audiences.is_empty())
            && let Some(grant) = self.issuer.grant_of(token.session).await?
        {
            if scope.as_ref().is_some_and(|scope| !scope.is_within(&grant.scope)) {
                return Err(TokenError::InvalidScope);
            }
            let audiences = narrowed_audiences(&audiences, &grant.audiences, &self.audience)?;
            narrowing = Narrowing { scope, audiences };
        }
        let policy = self.issuer.policy().with_grace_period(client.grace_period(&self.options));
        let presented = PresentedToken { token, idempotency_key, client: from };
        let terms = RefreshTerms { policy, narrowing, nonce: None };
        Ok(self.issuer.refresh_on(presented, &terms).await?)
    }

    /// Issues an access token to a client that acts for itself (RFC 6749 §4.4).
    pub async fn issue_to_machine(
        &self,
        request: MachineTokens,
    ) -> Result<IssuedTokens, TokenError> {
        let MachineTokens { client, scope, audiences, from } = request;
        if !client.is_machine || client.is_public() {
            return Err(TokenError::NotPermitted);
        }
        let scope = scope.unwrap_or_else(|| client.scope.clone());
        if !scope.is_within(&client.scope) {
            return Err(TokenError::InvalidScope);
        }
        if !permits_audiences(&client, &audiences, &self.audience) {
            return Err(TokenError::InvalidTarget);
        }
        let grant = ClientGrant { client: client.id.clone(), scope, audiences, auth_time: None };
        Ok(self.issuer.issue_to_machine(grant, from).await?)
    }
}

/// Returns the audiences that a token request selects from those of the grant (RFC 8707 §2.2).
pub(super) fn narrowed_audiences(
    requested: &[String],
    granted: &[String],
    default: &str,
) -> Result<Vec<String>, TokenError> {
    let is_granted = |audience: &String| match granted {
        [] => audience == default,
        granted => granted.contains(audience),
    };
    if requested.iter().all(is_granted) {
        Ok(requested.to_vec())
    } else {
        Err(TokenError::InvalidTarget)
    }
}
