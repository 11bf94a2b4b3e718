//! Whether the database is distributed by Citus.
//!
//! A process uses one database. Statements that Citus does not accept have another text
//! there.

use std::sync::atomic::{AtomicBool, Ordering};

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Bool;

/// Set by the first connection, before any statement depends on it.
static IS_CITUS: AtomicBool = AtomicBool::new(false);

/// Returns whether the database of this process is distributed by Citus.
pub(super) fn is_citus() -> bool {
    IS_CITUS.load(Ordering::Relaxed)
}

/// Detects whether the database is distributed by Citus, and remembers the result.
pub(super) fn detect(conn: &mut PgConnection) -> QueryResult<bool> {
    let is_citus = sql::<Bool>("to_regclass('pg_catalog.pg_dist_node') IS NOT NULL");
    let is_citus = diesel::select(is_citus).get_result(conn)?;
    IS_CITUS.store(is_citus, Ordering::Relaxed);
    Ok(is_citus)
}
