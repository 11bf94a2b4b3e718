//! Checks the version and the encoding of a PostgreSQL database.

use diesel::dsl::sql;
use diesel::sql_types::{Integer, Text};
use diesel::{QueryResult, RunQueryDsl};

use super::Conn;

/// The oldest tested version, as a `server_version_num`.
const MIN_VERSION: i32 = 150_000;

/// Returns a sentence for the operator if the database cannot be used.
pub(super) fn unmet(conn: &mut Conn) -> QueryResult<Option<String>> {
    let Conn::Postgres(conn) = conn else { return Ok(None) };
    let version = sql::<Integer>("current_setting('server_version_num')::int4");
    let encoding = sql::<Text>("current_setting('server_encoding')");
    let (version, encoding): (i32, String) =
        diesel::select((version, encoding)).get_result(conn)?;
    Ok(unmet_by(version, &encoding))
}

fn unmet_by(version: i32, encoding: &str) -> Option<String> {
    if version < MIN_VERSION {
        let version = version / 10_000;
        return Some(format!("it is PostgreSQL {version}, and must be 15 or later: upgrade it"));
    }
    (encoding != "UTF8").then(|| {
        format!(
            "its encoding is {encoding}, and must be UTF8: create it with ENCODING 'UTF8' TEMPLATE \
             template0"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::unmet_by;

    #[test]
    fn old_versions_and_other_encodings_are_rejected() {
        assert_eq!(unmet_by(150_000, "UTF8"), None);
        assert_eq!(unmet_by(180_001, "UTF8"), None);
        assert!(unmet_by(140_013, "UTF8").is_some_and(|problem| problem.contains("PostgreSQL 14")));
        assert!(unmet_by(150_000, "LATIN1").is_some_and(|problem| problem.contains("LATIN1")));
        assert!(unmet_by(150_000, "SQL_ASCII").is_some_and(|problem| problem.contains("UTF8")));
    }
}
