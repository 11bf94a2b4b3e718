//! The table `backends`: applications that open sessions for users of their own database.

use diesel::prelude::*;

use super::Conn;
use super::schema::backends;
use crate::clock::Timestamp;
use crate::crypto::Digest;

/// A backend.
#[derive(Debug, Clone, Queryable)]
pub struct Backend {
    pub id: String,
    pub name: String,
    /// SHA-256 of its secret.
    pub secret_digest: Vec<u8>,
    /// The same of the secret before, which is accepted as well.
    pub previous_secret_digest: Option<Vec<u8>>,
    pub created_at: Timestamp,
}

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_if_free {
    ($conn:expr, $backend:expr) => {
        diesel::insert_into(backends::table)
            .values((
                backends::id.eq(&$backend.id),
                backends::name.eq(&$backend.name),
                backends::secret_digest.eq(&$backend.secret_digest),
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
    backends::table.find(id).first(conn).optional()
}

/// Returns all backends in the order of their names.
pub fn all(conn: &mut Conn) -> QueryResult<Vec<Backend>> {
    backends::table.order(backends::name).load(conn)
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
