//! The statement alone, executed by dedicated threads.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use diesel::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use matchbook_bench::seed;
use uuid::Uuid;

use crate::queue::connect;
use crate::rotation::{Batch, Rotated, Rotation};

/// Options of `statement`.
#[derive(Args)]
pub(crate) struct Options {
    /// URL of the PostgreSQL database.
    #[arg(long)]
    database: String,
    /// Number of threads, each with its own connection.
    #[arg(long)]
    connections: usize,
    /// Measured time, in seconds.
    #[arg(long)]
    seconds: f64,
    /// Sessions per statement, passed as arrays.
    #[arg(long)]
    batch: Option<usize>,
}

/// Executes the statement repeatedly and prints the result as a line of JSON.
pub(crate) fn drive(options: &Options) {
    let each = options.batch.unwrap_or(1);
    let sessions = sessions(&options.database, options.connections * each);
    let began = Instant::now();
    let length = Duration::from_secs_f64(options.seconds);
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let start = |sessions| {
            scope.spawn(move || {
                let mut conn = connect(&options.database);
                let mut took = Vec::new();
                while began.elapsed() < length {
                    let start = Instant::now();
                    rotate(&mut conn, sessions, options.batch.is_some());
                    took.push(start.elapsed());
                }
                took
            })
        };
        let threads: Vec<_> = sessions.chunks(each).map(start).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_micros();
    println!(
        r#"{{"rows":{},"seconds":{seconds:.3},"p50_us":{},"p99_us":{}}}"#,
        took.len() * each,
        at(50),
        at(99)
    );
}

fn rotate(conn: &mut PgConnection, sessions: &[Uuid], batched: bool) {
    let mut rotations = sessions.iter().map(|id| Rotation::new(*id, 1_800_000_000_000_000, None));
    let rotated: Vec<Rotated> = if batched {
        let mut batch = Batch::default();
        rotations.for_each(|rotation| batch.push(rotation));
        batch.get_results(conn)
    } else {
        rotations.next().unwrap().get_results(conn)
    }
    .unwrap();
    assert_eq!(rotated.len(), sessions.len(), "every session has a row");
}

/// Returns ids of sessions with odd numbers, spread evenly over the table.
fn sessions(database: &str, count: usize) -> Vec<Uuid> {
    let mut conn = connect(database);
    // Excludes sessions that servers have opened since.
    let query = format!("SELECT count(*) FROM sessions WHERE {}", seed::SEEDED);
    let seeded = diesel::dsl::sql::<BigInt>(&query).get_result::<i64>(&mut conn).unwrap();
    let stride = usize::try_from(seeded).unwrap() / count / 2 * 2;
    assert!(stride > 0, "the table has enough sessions");
    (0..count).map(|n| seed::session((1 + n * stride) as u64).0).collect()
}
