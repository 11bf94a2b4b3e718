//! What users permit clients, and how they take it back.

use std::sync::Arc;

use diesel::Connection;

use super::{AuthorizationRequest, Error, Grants};
use crate::clients::Client;
use crate::clock::{self, Timestamp};
use crate::ids::{ClientId, EventId, UserId};
use crate::sessions::{self, ClientInfo, Context, EndReason};
use crate::store::Conn;
use crate::store::consents::{self, Consent};
use crate::tokens::Scope;

/// A client that a user has permitted something.
pub struct Application {
    pub client: ClientId,
    /// The name of the client; `None` if it was removed.
    pub name: Option<String>,
    pub scope: Scope,
    pub granted_at: Timestamp,
}

impl Grants {
    /// Stores the consent of a user to the scope of a request, besides the scope of before.
    pub async fn consent(&self, user: UserId, request: &AuthorizationRequest) -> Result<(), Error> {
        let client = request.client.id.clone();
        let requested = request.scope.clone();
        let now = clock::now();
        let save = move |conn: &mut Conn| {
            conn.write(|conn| {
                let before = consents::find(conn, user, &client)?;
                let scope = before.map_or(requested.clone(), |it| it.scope.union(&requested));
                let consent = Consent { client: client.clone(), scope, granted_at: now };
                consents::save(conn, user, &consent)
            })
        };
        self.store.write(save).await?;
        tracing::info!(%user, client = %request.client.id, scope = %request.scope, "consent given");
        Ok(())
    }

    /// Returns the clients that a user has permitted something.
    pub async fn applications(&self, user: UserId) -> Result<Vec<Application>, Error> {
        let consents = self.store.run(move |conn| consents::of_user(conn, user)).await?;
        let mut applications = Vec::with_capacity(consents.len());
        for Consent { client, scope, granted_at } in consents {
            let known: Option<Arc<Client>> = self.clients.get(&client).await?;
            let name = known.map(|known| known.name.clone());
            applications.push(Application { client, name, scope, granted_at });
        }
        Ok(applications)
    }

    /// Deletes a consent, and ends the sessions of the user that the client has opened. When
    /// this returns, no server accepts their tokens any more.
    pub async fn revoke_consent(
        &self,
        user: UserId,
        client: ClientId,
        from: ClientInfo,
    ) -> Result<(), Error> {
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        tracing::info!(%user, %client, "consent revoked");
        self.issuer
            .change_and_revoke(EndReason::LoggedOut, move |conn| {
                let cx = Context { policy: &policy, client: &from, event, now };
                conn.transaction(|conn| {
                    consents::delete(conn, user, &client)?;
                    sessions::end_of_client(conn, user, &client, &cx).map(|ended| ((), ended))
                })
            })
            .await
    }
}
