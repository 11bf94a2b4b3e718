//! Access tokens of clients that act for themselves (RFC 6749 §4.4).

use diesel::QueryResult;

use super::{Error, IssuedTokens, Issuer};
use crate::ids::UserId;
use crate::sessions::{ClientInfo, Context, Policy};
use crate::store::{Conn, users};
use crate::tokens::ClientGrant;

impl Issuer {
    /// Issues an access token to a client that acts for itself. It has a session of its own,
    /// which ends with the token, so that it can be revoked like any other. Its refresh token
    /// is not given out.
    pub(crate) async fn issue_to_machine(
        &self,
        grant: ClientGrant,
        client: ClientInfo,
    ) -> Result<IssuedTokens, Error> {
        let lifetime = self.policy.access_lifetime;
        let policy = Policy { idle_lifetime: lifetime, absolute_lifetime: lifetime, ..self.policy };
        let user = UserId::of_client(&grant.client);
        let admit = move |conn: &mut Conn, cx: &Context<'_>| -> QueryResult<Result<(), Error>> {
            users::insert_or_use(conn, user, cx.now)?;
            Ok(Ok(()))
        };
        let opening = super::log_in::Opening { user, claims: None, grant: Some(grant), policy };
        self.open_session_on(opening, client, admit).await?
    }
}
