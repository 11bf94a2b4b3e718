//! Whether a PostgreSQL server and database can be used.

use diesel::dsl::sql;
use diesel::sql_types::{Integer, Text};
use diesel::{QueryResult, RunQueryDsl};

use super::Conn;

/// The oldest version that is tested, as `server_version_num` counts.
const OLDEST: i32 = 150_000;

/// Returns what is wrong with the database, if anything is, as a sentence for an
/// operator.
///
/// # Errors
/// When the query fails.
pub(super) fn problem(conn: &mut Conn) -> QueryResult<Option<String>> {
    let Conn::Postgres(conn) = conn else { return Ok(None) };
    let version = sql::<Integer>("current_setting('server_version_num')::int4");
    let encoding = sql::<Text>("current_setting('server_encoding')");
    let (version, encoding): (i32, String) =
        diesel::select((version, encoding)).get_result(conn)?;
    Ok(judge(version, &encoding))
}

fn judge(version: i32, encoding: &str) -> Option<String> {
    if version < OLDEST {
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
    use super::judge;

    #[test]
    fn old_versions_and_other_encodings_are_refused() {
        assert_eq!(judge(150_000, "UTF8"), None);
        assert_eq!(judge(180_001, "UTF8"), None);
        assert!(judge(140_013, "UTF8").is_some_and(|said| said.contains("PostgreSQL 14")));
        assert!(judge(150_000, "LATIN1").is_some_and(|said| said.contains("LATIN1")));
        assert!(judge(150_000, "SQL_ASCII").is_some_and(|said| said.contains("UTF8")));
    }
}
