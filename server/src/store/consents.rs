//! The table `consents`: what users permit OAuth clients.

use diesel::prelude::*;

use super::Conn;
use super::schema::consents;
use crate::clock::Timestamp;
use crate::ids::{ClientId, UserId};
use crate::tokens::Scope;

/// What a user permits a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    pub client: ClientId,
    pub scope: Scope,
    pub granted_at: Timestamp,
}

/// [`save`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! save {
    ($conn:expr, $user:expr, $consent:expr) => {
        diesel::insert_into(consents::table)
            .values((
                consents::place.eq($user.place().value()),
                consents::user_id.eq($user),
                consents::client_id.eq($consent.client.as_str()),
                consents::scope.eq($consent.scope.as_str()),
                consents::granted_at.eq($consent.granted_at),
            ))
            .on_conflict((consents::place, consents::user_id, consents::client_id))
            .do_update()
            .set((
                consents::scope.eq($consent.scope.as_str()),
                consents::granted_at.eq($consent.granted_at),
            ))
            .execute($conn)
            .map(drop)
    };
}

/// Stores a consent, in place of an earlier one.
pub fn save(conn: &mut Conn, user: UserId, consent: &Consent) -> QueryResult<()> {
    match conn {
        Conn::Postgres(conn) => save!(conn, user, consent),
        Conn::Sqlite(conn) => save!(conn, user, consent),
    }
}

/// Locks a consent until the end of the transaction. Returns `false` if it was deleted.
pub fn lock(conn: &mut Conn, user: UserId, client: &ClientId) -> QueryResult<bool> {
    let unchanged = consents::scope.eq(consents::scope);
    let consent = consents::table.find((user.place().value(), user, client.as_str()));
    Ok(diesel::update(consent).set(unchanged).execute(conn)? == 1)
}

/// Returns what a user permits a client.
pub fn find(conn: &mut Conn, user: UserId, client: &ClientId) -> QueryResult<Option<Consent>> {
    let row: Option<(String, Timestamp)> = consents::table
        .find((user.place().value(), user, client.as_str()))
        .select((consents::scope, consents::granted_at))
        .first(conn)
        .optional()?;
    Ok(row.map(|(scope, granted_at)| Consent {
        client: client.clone(),
        scope: Scope::from_stored(&scope),
        granted_at,
    }))
}

/// Returns what a user permits all clients, by their ids.
pub fn of_user(conn: &mut Conn, user: UserId) -> QueryResult<Vec<Consent>> {
    let rows: Vec<(String, String, Timestamp)> = consents::table
        .filter(consents::place.eq(user.place().value()))
        .filter(consents::user_id.eq(user))
        .order(consents::client_id)
        .select((consents::client_id, consents::scope, consents::granted_at))
        .load(conn)?;
    let consent = |(client, scope, granted_at): (String, String, Timestamp)| Consent {
        client: client.into(),
        scope: Scope::from_stored(&scope),
        granted_at,
    };
    Ok(rows.into_iter().map(consent).collect())
}

/// Deletes a consent. Returns `false` if it does not exist.
pub fn delete(conn: &mut Conn, user: UserId, client: &ClientId) -> QueryResult<bool> {
    let consent = consents::table.find((user.place().value(), user, client.as_str()));
    Ok(diesel::delete(consent).execute(conn)? == 1)
}
