//! Seeds the database with sessions and creates refresh tokens for them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use matchbook_bench::seed;
use matchbook_server::crypto::Secret;
use matchbook_server::ids::ClientId;
use matchbook_server::secrets::DerivedKeys;
use matchbook_server::tokens::RefreshToken;
use openssl::sha::sha256;

use crate::interrupt::stop_if_interrupted;

/// Sessions per statement, to show progress.
const ROWS_PER_STATEMENT: u64 = 1_000_000;

/// Maximum number of tokens per file.
const MAX_TOKENS: u64 = 100_000;

/// The OAuth client, and its secret.
pub(crate) const CLIENT_ID: &str = "bench";
pub(crate) const CLIENT_SECRET: &str = "for-measurements-alone-and-of-no-worth";

/// Number of sessions of the OAuth client.
const CLIENT_SESSIONS: u64 = 256;

/// The program that uses a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Even session numbers.
    Server = 0,
    /// Odd session numbers.
    Baseline = 1,
}

/// Seeds a migrated database.
pub(crate) fn fill(url: &str, sessions: u64) {
    let mut conn = PgConnection::establish(url).unwrap();
    conn.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").unwrap();
    // Skips foreign key checks, which would take minutes.
    conn.batch_execute("SET session_replication_role = replica").unwrap();
    for from in (0..sessions).step_by(usize::try_from(ROWS_PER_STATEMENT).unwrap()) {
        let until = (from + ROWS_PER_STATEMENT).min(sessions);
        stop_if_interrupted();
        if sessions > ROWS_PER_STATEMENT {
            eprintln!("bench: seeding, {from} of {sessions} sessions");
        }
        conn.batch_execute(&seed::statements(from, until)).unwrap();
    }
    conn.batch_execute(&seed::statements(sessions, sessions + CLIENT_SESSIONS)).unwrap();
    conn.batch_execute(&client_statements(sessions)).unwrap();
    conn.batch_execute("VACUUM (ANALYZE)").unwrap();
    conn.batch_execute("CHECKPOINT").unwrap();
}

/// Inserts the OAuth client, and gives it the sessions from the number `from`.
fn client_statements(from: u64) -> String {
    let first = seed::user(from);
    let last = seed::user(from + CLIENT_SESSIONS);
    format!(
        "INSERT INTO clients (id, name, secret_digest, redirect_uris, scopes, audiences,
             is_first_party, require_pkce, is_machine, created_at)
         VALUES ('{CLIENT_ID}', 'Benchmark', sha256('{CLIENT_SECRET}'),
             '[\"https://bench.example/cb\"]', '[\"read\"]', '[]', true, true, false, now());
         UPDATE sessions SET client_id = '{CLIENT_ID}', scope = 'read', auth_time = now()
         WHERE user_id >= '{first}' AND user_id < '{last}'"
    )
}

/// Writes the refresh tokens of the OAuth client to a file.
pub(crate) fn write_client_tokens(
    folder: &Path,
    name: &str,
    secret: &str,
    sessions: u64,
) -> PathBuf {
    let numbers = sessions..sessions + CLIENT_SESSIONS;
    write_file(folder, name, secret, numbers.map(|n| (n, Some(ClientId::from(CLIENT_ID)))))
}

/// Writes refresh tokens of one owner to a file. The order spreads any prefix evenly over
/// the table.
pub(crate) fn write_tokens(
    folder: &Path,
    name: &str,
    secret: &str,
    sessions: u64,
    owner: Owner,
) -> PathBuf {
    let pairs = sessions / 2;
    let stride = stride(pairs);
    let number = |i| 2 * (i * stride % pairs) + owner as u64;
    write_file(folder, name, secret, (0..pairs.min(MAX_TOKENS)).map(|i| (number(i), None)))
}

/// Writes the first refresh tokens of sessions, each with its client.
fn write_file(
    folder: &Path,
    name: &str,
    secret: &str,
    sessions: impl Iterator<Item = (u64, Option<ClientId>)>,
) -> PathBuf {
    let derived = DerivedKeys::from_secrets(&secret.to_owned().into(), &[]).unwrap();
    let mut text = String::new();
    for (n, client) in sessions {
        let token = RefreshToken {
            session: seed::session(n),
            generation: 0,
            secret: Secret::from_bytes(sha256(format!("secret {n}").as_bytes())),
            client,
        };
        writeln!(text, "{}", token.encode(&derived.token_keys.current)).unwrap();
    }
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// Returns a stride that visits each number below `count` once. It is near the golden ratio,
/// which spreads any prefix evenly.
fn stride(count: u64) -> u64 {
    let golden = u128::from(count) * 618_033_988_749_894_848 / 1_000_000_000_000_000_000;
    let strides = u64::try_from(golden).unwrap().max(1)..;
    strides.into_iter().find(|stride| common_divisor(*stride, count) == 1).unwrap()
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::stride;

    #[test]
    fn a_stride_visits_all_numbers_and_spreads_the_first() {
        for count in [1, 2, 5, 5000, 50_000] {
            let all: HashSet<u64> = (0..count).map(|i| i * stride(count) % count).collect();
            assert_eq!(all.len(), usize::try_from(count).unwrap());
        }
        let mut first: Vec<u64> = (0..16).map(|i| i * stride(5000) % 5000).collect();
        first.sort_unstable();
        assert!(first.windows(2).all(|pair| pair[1] - pair[0] > 150), "{first:?}");
    }
}
