//! Rotations on their way to the database, and who takes them there.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::{Connection, PgConnection};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::rotation::{Batch, Rotated, Rotation};

/// The most rotations in one statement.
const MOST: usize = 512;

/// A rotation and where its answer goes; there is none without a row.
type Waiting = (Rotation, oneshot::Sender<Rotated>);

/// Rotations that wait for a thread with a connection of its own.
#[derive(Clone)]
pub(crate) struct Queue(Vec<Sender<Waiting>>);

impl Queue {
    /// One statement and one commit for all that came while the last one ran, by
    /// one thread for each of `shards` parts of the sessions.
    pub(crate) fn batched(database: &str, shards: usize) -> Self {
        Self((0..shards).map(|_| start(database, 1, commit_all)).collect())
    }

    /// A statement and a commit for each, by as many threads as there are.
    pub(crate) fn single(database: &str, threads: usize) -> Self {
        Self(vec![start(database, threads, commit_one)])
    }

    /// Waits for the commit.
    pub(crate) async fn rotate(&self, rotation: Rotation) -> Option<Rotated> {
        let (answer, answered) = oneshot::channel();
        let shard = shard(rotation.id, self.0.len());
        self.0[shard].send((rotation, answer)).ok()?;
        answered.await.ok()
    }
}

/// Which of the parts a session belongs to: ids in a row are spread over all.
fn shard(session: Uuid, shards: usize) -> usize {
    let mixed = session.as_u64_pair().1.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).unwrap() % shards
}

type Work = fn(&mut PgConnection, &Mutex<Receiver<Waiting>>) -> Option<()>;

fn start(database: &str, threads: usize, work: Work) -> Sender<Waiting> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..threads {
        let receiver = receiver.clone();
        let mut conn = connect(database);
        thread::spawn(move || while work(&mut conn, &receiver).is_some() {});
    }
    sender
}

/// A connection that plans each statement once, also where a batch of few would
/// be planned anew each time, which costs as much as running it.
pub(crate) fn connect(database: &str) -> PgConnection {
    let mut conn = PgConnection::establish(database).unwrap();
    conn.batch_execute("SET plan_cache_mode = force_generic_plan").unwrap();
    conn
}

fn commit_all(conn: &mut PgConnection, queue: &Mutex<Receiver<Waiting>>) -> Option<()> {
    let queue = queue.lock().unwrap();
    let first = queue.recv().ok()?;
    let Ok(second) = queue.try_recv() else {
        // For one row arrays cost more than they save.
        commit(conn, first);
        return Some(());
    };
    let mut batch = Batch::default();
    let mut answers = Vec::new();
    for (rotation, answer) in [first, second].into_iter().chain(queue.try_iter().take(MOST - 2)) {
        batch.push(rotation);
        answers.push(Some(answer));
    }
    for rotated in batch.get_results::<Rotated>(conn).unwrap() {
        let place = usize::try_from(rotated.0).unwrap() - 1;
        // Who has hung up is not answered.
        let _ = answers[place].take().unwrap().send(rotated);
    }
    Some(())
}

fn commit_one(conn: &mut PgConnection, queue: &Mutex<Receiver<Waiting>>) -> Option<()> {
    let next = queue.lock().unwrap().recv();
    commit(conn, next.ok()?);
    Some(())
}

fn commit(conn: &mut PgConnection, (rotation, answer): Waiting) {
    if let Some(rotated) = rotation.get_result(conn).optional().unwrap() {
        let _ = answer.send(rotated);
    }
}
