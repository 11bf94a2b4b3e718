//! The table `backends`: applications that open sessions for users of their own database.

use diesel::prelude::*;

use super::Conn;
use super::schema::backends;
use super::types::secret_digests;
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::tokens::SecretDigests;

/// A backend.
#[derive(Clone)]
pub struct Backend {
    pub id: String,
    pub name: String,
    pub secrets: SecretDigests,
    pub created_at: Timestamp,
}

type Row = (String, String, Vec<u8>, Option<Vec<u8>>, Timestamp);

impl TryFrom<Row> for Backend {
    type Error = diesel::result::Error;

    fn try_from((id, name, current, previous, created_at): Row) -> QueryResult<Self> {
        Ok(Self { id, name, secrets: secret_digests(&current, previous.as_deref())?, created_at })
    }
}

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_if_free {
    ($conn:expr, $backend:expr) => {
        diesel::insert_into(backends::table)
            .values((
                backends::id.eq(&$backend.id),
                backends::name.eq(&$backend.name),
                backends::secret_digest.eq($backend.secrets.current.as_bytes()),
                backends::created_at.eq($backend.created_at),
            ))
            .on_conflict_do_nothing()
            .execute($conn)
    };
}

/// Inserts a backend. Returns `false` if its name is taken.
pub fn insert(conn: &mut Conn, backend: &Backend) -> QueryResult<bool> {
    let inserted = match conn {
        Conn::Postgres(conn) => insert_if_free!(conn, backend)?,
        Conn::Sqlite(conn) => insert_if_free!(conn, backend)?,
    };
    Ok(inserted == 1)
}

/// Finds a backend by its id.
pub fn find(conn: &mut Conn, id: &str) -> QueryResult<Option<Backend>> {
    let found = backends::table.find(id).first::<Row>(conn).optional()?;
    found.map(Backend::try_from).transpose()
}

/// Returns all backends in the order of their names.
pub fn all(conn: &mut Conn) -> QueryResult<Vec<Backend>> {
    let rows: Vec<Row> = backends::table.order(backends::name).load(conn)?;
    rows.into_iter().map(Backend::try_from).collect()
}

/// Replaces the secret of a backend. The one before is accepted until the next
/// replacement. Returns `false` if there is no such backend.
pub fn replace_secret(conn: &mut Conn, id: &str, digest: &Digest) -> QueryResult<bool> {
    let changed = diesel::update(backends::table.find(id))
        .set((
            backends::previous_secret_digest.eq(backends::secret_digest.nullable()),
            backends::secret_digest.eq(digest.as_bytes()),
        ))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Deletes a backend. Returns `false` if there is no such backend.
pub fn delete(conn: &mut Conn, id: &str) -> QueryResult<bool> {
    Ok(diesel::delete(backends::table.find(id)).execute(conn)? == 1)
}
