//! The statement alone, from threads that do nothing else.

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

/// How it is driven.
#[derive(Args)]
pub(crate) struct Options {
    /// The PostgreSQL database.
    #[arg(long)]
    database: String,
    /// Threads, each with a connection of its own.
    #[arg(long)]
    connections: usize,
    /// How long, in seconds.
    #[arg(long)]
    seconds: f64,
    /// Rotate so many sessions with each statement, from arrays.
    #[arg(long)]
    batch: Option<usize>,
}

/// Drives it and prints what came of it as one line of JSON.
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

/// The ids of so many sessions with an odd number, spread evenly over the table.
fn sessions(database: &str, count: usize) -> Vec<Uuid> {
    let mut conn = connect(database);
    // Servers may have opened others since.
    let all = format!("SELECT count(*) FROM sessions WHERE {}", seed::SEEDED);
    let all = diesel::dsl::sql::<BigInt>(&all).get_result::<i64>(&mut conn).unwrap();
    let step = usize::try_from(all).unwrap() / count / 2 * 2;
    assert!(step > 0, "there are too few sessions");
    (0..count).map(|n| seed::session((1 + n * step) as u64).0).collect()
}
