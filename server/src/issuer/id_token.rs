//! The ID tokens of clients, and the claims about users (`OpenID` Connect Core §2, §5).

use diesel::QueryResult;

use super::{Error, Issuer};
use crate::clock::Timestamp;
use crate::ids::UserId;
use crate::keys::{IdTokenHint, TokenType};
use crate::sessions::TokenGrant;
use crate::store::{Conn, accounts, identities, user_groups};
use crate::tokens::{ClientGrant, IdTokenClaims, Scope, StandardScopes, UserClaims, hash_of};

/// What an ID token is about.
pub(super) struct IdTokenSubject<'a> {
    pub(super) grant: &'a TokenGrant,
    pub(super) client: &'a ClientGrant,
    /// The scope of the access token.
    pub(super) scope: &'a Scope,
    pub(super) nonce: Option<&'a str>,
}

impl Issuer {
    /// Signs the ID token that belongs to an access token. It expires with it.
    pub(super) async fn sign_id_token(
        &self,
        subject: IdTokenSubject<'_>,
        access_token: &str,
        now: Timestamp,
    ) -> Result<String, Error> {
        let IdTokenSubject { grant, client, scope, nonce } = subject;
        let scopes = StandardScopes::of(scope.as_str());
        let claims = IdTokenClaims {
            iss: &self.name,
            sub: grant.user,
            aud: client.client.as_str(),
            exp: grant.access.expires_at.as_secs(),
            iat: grant.access.issued_at.as_secs(),
            auth_time: client.auth_time.map(Timestamp::as_secs),
            nonce,
            at_hash: hash_of(access_token),
            sid: grant.session,
            user: self.user_claims(grant.user, scopes).await?,
        };
        Ok(self.keys.sign_for_client(TokenType::Id, &claims, now)?)
    }

    /// Returns the claims about a user that these scopes permit.
    pub async fn user_claims(
        &self,
        user: UserId,
        scopes: StandardScopes,
    ) -> Result<UserClaims, Error> {
        if !scopes.has_claims() {
            return Ok(UserClaims::default());
        }
        let claims = self.store.run(move |conn| read(conn, user)).await?;
        Ok(claims.permitted_by(scopes))
    }

    /// Verifies an ID token that a client presents as a hint. Returns `None` for a token that
    /// this server did not sign, or whose key is no longer published.
    pub async fn verify_id_token(&self, token: &str) -> Result<Option<IdTokenHint>, Error> {
        Ok(self.keys.verify_id_token(token).await?)
    }
}

fn read(conn: &mut Conn, user: UserId) -> QueryResult<UserClaims> {
    let names = identities::of_user(conn, user)?;
    let first_of = |kind: &str| names.iter().find(|name| name.kind == kind);
    let email = first_of("email");
    Ok(UserClaims {
        name: accounts::find(conn, user)?.and_then(|account| account.display_name),
        // Programs name their users by it.
        preferred_username: first_of("username").or(email).map(|name| name.name.clone()),
        email: email.map(|name| name.name.clone()),
        email_verified: email.map(|name| name.verified_at.is_some()),
        groups: user_groups::of_user(conn, user)?,
    })
}
