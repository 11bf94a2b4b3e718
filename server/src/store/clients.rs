//! The table `clients`: the OAuth clients.

use std::time::Duration;

use diesel::prelude::*;

use super::schema::{authorization_codes, clients, consents};
use super::types::secret_digests;
use super::{Conn, device_codes};
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::ClientId;
use crate::tokens::{Scope, SecretDigests};

/// An OAuth client (RFC 6749 §2).
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings")]
pub struct Client {
    pub id: ClientId,
    pub name: String,
    pub kind: ClientKind,
    pub redirect_uris: Vec<String>,
    /// The scope that it may request.
    pub scope: Scope,
    /// The resource servers that its access tokens may be for, besides the default audience
    /// (RFC 8707).
    pub audiences: Vec<String>,
    /// Whether it belongs to the operator, so that users are not asked for their consent.
    pub is_first_party: bool,
    /// Whether an authorization request needs a code challenge (RFC 7636).
    pub require_pkce: bool,
    /// Whether it may get access tokens for itself (RFC 6749 §4.4).
    pub is_machine: bool,
    /// Whether it may log users in through another device (RFC 8628).
    pub is_device: bool,
    pub logout: LogoutSettings,
    pub grace_period: GracePeriod,
    pub created_at: Timestamp,
}

/// How a client takes part in logouts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogoutSettings {
    /// Where a logout that it initiates may return to (RP-Initiated Logout 1.0 §3.1).
    pub redirect_uris: Vec<String>,
    /// Where it is notified of ended sessions (Back-Channel Logout 1.0 §2.2).
    pub backchannel_uri: Option<String>,
    /// Whether its sessions with `offline_access` continue when their browser logs out.
    pub keeps_offline_access: bool,
}

/// How a client authenticates (RFC 6749 §2.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// It cannot keep a secret.
    Public,
    Confidential(SecretDigests),
}

/// How long a rotated refresh token of a client can be exchanged again for the same
/// successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GracePeriod {
    /// As `oauth.grace_period` says.
    Default,
    /// Never.
    Strict,
    For(Duration),
}

#[derive(Queryable)]
#[expect(clippy::struct_excessive_bools, reason = "independent columns")]
struct Row {
    id: String,
    name: String,
    secret_digest: Option<Vec<u8>>,
    previous_secret_digest: Option<Vec<u8>>,
    redirect_uris: String,
    scopes: String,
    audiences: String,
    is_first_party: bool,
    require_pkce: bool,
    is_machine: bool,
    grace_period: Option<i64>,
    created_at: Timestamp,
    post_logout_redirect_uris: String,
    backchannel_logout_uri: Option<String>,
    keeps_offline_access: bool,
    is_device: bool,
}

impl TryFrom<Row> for Client {
    type Error = diesel::result::Error;

    fn try_from(row: Row) -> QueryResult<Self> {
        let kind = match &row.secret_digest {
            None => ClientKind::Public,
            Some(current) => ClientKind::Confidential(secret_digests(
                current,
                row.previous_secret_digest.as_deref(),
            )?),
        };
        let scopes = from_json(&row.scopes)?;
        let scope = Scope::from_tokens(scopes.iter().map(String::as_str)).map_err(unreadable)?;
        Ok(Self {
            id: row.id.into(),
            name: row.name,
            kind,
            redirect_uris: from_json(&row.redirect_uris)?,
            scope,
            audiences: from_json(&row.audiences)?,
            is_first_party: row.is_first_party,
            require_pkce: row.require_pkce,
            is_machine: row.is_machine,
            is_device: row.is_device,
            logout: LogoutSettings {
                redirect_uris: from_json(&row.post_logout_redirect_uris)?,
                backchannel_uri: row.backchannel_logout_uri,
                keeps_offline_access: row.keeps_offline_access,
            },
            grace_period: match row.grace_period {
                None => GracePeriod::Default,
                Some(..=0) => GracePeriod::Strict,
                Some(seconds) => GracePeriod::For(Duration::from_secs(seconds.unsigned_abs())),
            },
            created_at: row.created_at,
        })
    }
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> diesel::result::Error {
    diesel::result::Error::DeserializationError(Box::new(error))
}

fn from_json(text: &str) -> QueryResult<Vec<String>> {
    serde_json::from_str(text).map_err(unreadable)
}

fn to_json<'a>(texts: impl Iterator<Item = &'a str>) -> QueryResult<String> {
    serde_json::to_string(&texts.collect::<Vec<_>>())
        .map_err(|error| diesel::result::Error::SerializationError(Box::new(error)))
}

/// The columns that can be changed.
#[derive(AsChangeset)]
#[diesel(table_name = clients, treat_none_as_null = true)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings")]
struct Settings<'a> {
    name: &'a str,
    redirect_uris: String,
    scopes: String,
    audiences: String,
    is_first_party: bool,
    require_pkce: bool,
    is_machine: bool,
    is_device: bool,
    post_logout_redirect_uris: String,
    backchannel_logout_uri: Option<String>,
    keeps_offline_access: bool,
    grace_period: Option<i64>,
}

impl<'a> Settings<'a> {
    fn of(client: &'a Client) -> QueryResult<Self> {
        Ok(Self {
            name: &client.name,
            redirect_uris: to_json(client.redirect_uris.iter().map(String::as_str))?,
            scopes: to_json(client.scope.tokens())?,
            audiences: to_json(client.audiences.iter().map(String::as_str))?,
            is_first_party: client.is_first_party,
            require_pkce: client.require_pkce,
            is_machine: client.is_machine,
            is_device: client.is_device,
            post_logout_redirect_uris: to_json(
                client.logout.redirect_uris.iter().map(String::as_str),
            )?,
            backchannel_logout_uri: client.logout.backchannel_uri.clone(),
            keeps_offline_access: client.logout.keeps_offline_access,
            grace_period: match client.grace_period {
                GracePeriod::Default => None,
                GracePeriod::Strict => Some(0),
                GracePeriod::For(time) => Some(i64::try_from(time.as_secs()).unwrap_or(i64::MAX)),
            },
        })
    }
}

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_if_free {
    ($conn:expr, $client:expr, $settings:expr) => {
        diesel::insert_into(clients::table)
            .values((
                clients::id.eq($client.id.as_str()),
                clients::name.eq($settings.name),
                clients::secret_digest.eq(current_digest($client)),
                clients::redirect_uris.eq(&$settings.redirect_uris),
                clients::scopes.eq(&$settings.scopes),
                clients::audiences.eq(&$settings.audiences),
                clients::is_first_party.eq($settings.is_first_party),
                clients::require_pkce.eq($settings.require_pkce),
                clients::is_machine.eq($settings.is_machine),
                clients::is_device.eq($settings.is_device),
                clients::post_logout_redirect_uris.eq(&$settings.post_logout_redirect_uris),
                clients::backchannel_logout_uri.eq(&$settings.backchannel_logout_uri),
                clients::keeps_offline_access.eq($settings.keeps_offline_access),
                clients::grace_period.eq($settings.grace_period),
                clients::created_at.eq($client.created_at),
            ))
            .on_conflict_do_nothing()
            .execute($conn)
    };
}

fn current_digest(client: &Client) -> Option<&[u8]> {
    match &client.kind {
        ClientKind::Public => None,
        ClientKind::Confidential(secrets) => Some(secrets.current.as_bytes()),
    }
}

/// Inserts a client. Returns `false` if its id is taken.
pub fn insert(conn: &mut Conn, client: &Client) -> QueryResult<bool> {
    let settings = Settings::of(client)?;
    let inserted = match conn {
        Conn::Postgres(conn) => insert_if_free!(conn, client, settings)?,
        Conn::Sqlite(conn) => insert_if_free!(conn, client, settings)?,
    };
    Ok(inserted == 1)
}

/// Finds a client by its id.
pub fn find(conn: &mut Conn, id: &ClientId) -> QueryResult<Option<Client>> {
    let found = clients::table.find(id.as_str()).first::<Row>(conn).optional()?;
    found.map(Client::try_from).transpose()
}

/// Returns where a client is notified of ended sessions.
pub fn backchannel_logout_uri(conn: &mut Conn, id: &ClientId) -> QueryResult<Option<String>> {
    let uri = clients::table.find(id.as_str()).select(clients::backchannel_logout_uri);
    Ok(uri.first::<Option<String>>(conn).optional()?.flatten())
}

/// Returns all clients in the order of their names.
pub fn all(conn: &mut Conn) -> QueryResult<Vec<Client>> {
    let rows: Vec<Row> = clients::table.order((clients::name, clients::id)).load(conn)?;
    rows.into_iter().map(Client::try_from).collect()
}

/// Replaces everything about a client except its id and its secret. Returns `false` if there
/// is no such client.
pub fn update(conn: &mut Conn, client: &Client) -> QueryResult<bool> {
    let row = clients::table.find(client.id.as_str());
    Ok(diesel::update(row).set(&Settings::of(client)?).execute(conn)? == 1)
}

/// Replaces the secret of a confidential client. The one before is accepted until the next
/// replacement. Returns `false` if there is no such client, if it is public, or if it has
/// this secret already.
pub fn replace_secret(conn: &mut Conn, id: &ClientId, digest: &Digest) -> QueryResult<bool> {
    // Without the comparison a repetition would reject the secret before.
    let row = clients::table.find(id.as_str()).filter(clients::secret_digest.ne(digest.as_bytes()));
    let changed = diesel::update(row)
        .set((
            clients::previous_secret_digest.eq(clients::secret_digest),
            clients::secret_digest.eq(digest.as_bytes()),
        ))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Deletes a client with its authorization codes, requests of devices and the consents of
/// users. Returns `false` if there is no such client. Needs a transaction.
pub fn delete(conn: &mut Conn, id: &ClientId) -> QueryResult<bool> {
    let deleted = diesel::delete(clients::table.find(id.as_str())).execute(conn)?;
    // Before the codes: a poll that has locked its request issues one.
    device_codes::delete_of_client(conn, id)?;
    let id = id.as_str();
    let codes = authorization_codes::table.filter(authorization_codes::client_id.eq(id));
    diesel::delete(codes).execute(conn)?;
    diesel::delete(consents::table.filter(consents::client_id.eq(id))).execute(conn)?;
    Ok(deleted == 1)
}
