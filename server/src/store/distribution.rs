//! How Citus distributes the tables over its nodes.
//!
//! All rows of a user have the same place, and so are on one node: a transaction on them needs
//! no other node, and foreign keys between them hold.

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

/// How the rows of a table are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// By the place of their user.
    ByPlace,
    /// By the value of this column, which is the primary key.
    ByKey(&'static str),
    /// Each node has all rows: there are few, they are read often and seldom written.
    OnEachNode,
    /// One node has all rows: there are few, and they are written often.
    OnOneNode,
}

use Distribution::{ByKey, ByPlace, OnEachNode, OnOneNode};

/// All tables, those that others refer to first. A test compares the list with the schema.
pub const TABLES: [(&str, Distribution); 21] = [
    ("users", ByPlace),
    ("accounts", ByPlace),
    ("recovery_codes", ByPlace),
    ("login_sessions", ByPlace),
    ("authorization_codes", ByPlace),
    ("consents", ByPlace),
    ("user_groups", ByPlace),
    ("sessions", ByPlace),
    ("session_revocations", ByPlace),
    ("logout_notices", ByPlace),
    ("events", ByPlace),
    ("identities", ByKey("name")),
    ("one_time_links", ByKey("digest")),
    ("imported_refresh_tokens", ByKey("digest")),
    ("device_codes", ByKey("user_code_mac")),
    ("clients", OnEachNode),
    ("backends", OnEachNode),
    ("signing_keys_by_purpose", OnEachNode),
    ("schema_compatibility", OnEachNode),
    ("__diesel_schema_migrations", OnEachNode),
    ("servers", OnOneNode),
];

#[derive(QueryableByName)]
struct Table {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Returns the tables that are not distributed yet.
pub(super) fn undistributed(conn: &mut PgConnection) -> QueryResult<Vec<String>> {
    let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
    let names = names.join("', '");
    let tables: Vec<Table> = diesel::sql_query(format!(
        "SELECT name FROM unnest(ARRAY['{names}']) AS name WHERE NOT EXISTS \
         (SELECT 1 FROM pg_dist_partition WHERE logicalrelid = to_regclass(name))"
    ))
    .load(conn)?;
    Ok(tables.into_iter().map(|table| table.name).collect())
}

/// Returns whether this node is the coordinator, which alone changes tables.
pub(super) fn is_coordinator(conn: &mut PgConnection) -> QueryResult<bool> {
    let query = sql::<Bool>("(SELECT groupid = 0 FROM pg_dist_local_group)");
    diesel::select(query).get_result(conn)
}

/// Distributes the tables that are not distributed yet, with their rows. Needs a transaction,
/// on the coordinator.
pub(super) fn distribute(conn: &mut PgConnection) -> QueryResult<()> {
    let undistributed = undistributed(conn)?;
    if undistributed.is_empty() {
        return Ok(());
    }
    // Tables of one node and of all nodes change in one transaction.
    conn.batch_execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")?;
    for (name, distribution) in TABLES {
        if !undistributed.iter().any(|table| table == name) {
            continue;
        }
        let statement = match distribution {
            ByPlace if name == "users" => {
                "create_distributed_table('users', 'place', colocate_with => 'none')".to_owned()
            }
            ByPlace => {
                format!("create_distributed_table('{name}', 'place', colocate_with => 'users')")
            }
            ByKey(column) => {
                format!("create_distributed_table('{name}', '{column}', colocate_with => 'none')")
            }
            OnEachNode => format!("create_reference_table('{name}')"),
            OnOneNode => format!("create_distributed_table('{name}', NULL)"),
        };
        conn.batch_execute(&format!("SELECT {statement}"))?;
        tracing::info!(table = name, "table distributed");
    }
    Ok(())
}
