//! Sessions by the thousand or million, put into the tables directly, and the
//! refresh tokens that go with them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use matchbook_bench::seed;
use matchbook_server::crypto::Secret;
use matchbook_server::secrets::DerivedKeys;
use matchbook_server::tokens::RefreshToken;
use openssl::sha::sha256;

use crate::stop_if_asked;

/// How many sessions go in at once, so that progress can be seen.
const STEP: u64 = 1_000_000;

/// The most tokens that are written down for a run to choose from.
const TOKENS: u64 = 100_000;

/// Whose sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// Those with an even number.
    Server = 0,
    /// Those with an odd number.
    Floor = 1,
}

/// Fills the tables of a database that a server has migrated.
pub(crate) fn fill(url: &str, sessions: u64) {
    let mut conn = PgConnection::establish(url).unwrap();
    conn.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").unwrap();
    // Foreign keys hold by construction, and checking each takes minutes.
    conn.batch_execute("SET session_replication_role = replica").unwrap();
    for from in (0..sessions).step_by(usize::try_from(STEP).unwrap()) {
        let until = (from + STEP).min(sessions);
        stop_if_asked();
        if sessions > STEP {
            eprintln!("bench: filling, {from} of {sessions} sessions");
        }
        conn.batch_execute(&seed::statements(from, until)).unwrap();
    }
    conn.batch_execute("VACUUM (ANALYZE)").unwrap();
    conn.batch_execute("CHECKPOINT").unwrap();
}

/// Writes refresh tokens of one half of the sessions into a file, in an order
/// in which any number of the first are spread over the whole table.
pub(crate) fn write_tokens(
    folder: &Path,
    name: &str,
    secret: &str,
    sessions: u64,
    half: Half,
) -> PathBuf {
    let derived = DerivedKeys::from_secrets(&secret.to_owned().into(), &[]).unwrap();
    let pairs = sessions / 2;
    let step = step(pairs);
    let mut text = String::new();
    for i in 0..pairs.min(TOKENS) {
        let n = 2 * (i * step % pairs) + half as u64;
        let token = RefreshToken {
            session: seed::session(n),
            generation: 0,
            secret: Secret::from_bytes(sha256(format!("secret {n}").as_bytes())),
        };
        writeln!(text, "{}", token.encode(&derived.token_keys.current)).unwrap();
    }
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// The step by which numbers below `count` are taken, each once: near the golden
/// ratio of them, so that any number of the first lie evenly.
fn step(count: u64) -> u64 {
    let golden = u128::from(count) * 618_033_988_749_894_848 / 1_000_000_000_000_000_000;
    let steps = u64::try_from(golden).unwrap().max(1)..;
    steps.into_iter().find(|step| common_divisor(*step, count) == 1).unwrap()
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::step;

    #[test]
    fn a_step_leads_to_all_numbers_and_the_first_lie_apart() {
        for count in [1, 2, 5, 5000, 50_000] {
            let all: HashSet<u64> = (0..count).map(|i| i * step(count) % count).collect();
            assert_eq!(all.len(), usize::try_from(count).unwrap());
        }
        let mut first: Vec<u64> = (0..16).map(|i| i * step(5000) % 5000).collect();
        first.sort_unstable();
        assert!(first.windows(2).all(|pair| pair[1] - pair[0] > 150), "{first:?}");
    }
}
