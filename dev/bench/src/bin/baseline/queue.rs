//! Queues of rotations, and the threads that execute them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::{Connection, PgConnection};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::rotation::{Batch, Rotated, Rotation};

/// Maximum rotations per statement.
const MAX_BATCH: usize = 512;

/// A rotation and the channel for its result. Without a row there is no result.
type PendingRotation = (Rotation, oneshot::Sender<Rotated>);

/// Rotations waiting for a thread with a connection.
#[derive(Clone)]
pub(crate) struct RotationQueue(Vec<Sender<PendingRotation>>);

impl RotationQueue {
    /// Creates a queue with one thread per shard. Rotations that arrive during a commit share
    /// the next statement and commit.
    pub(crate) fn batched(database: &str, shards: usize) -> Self {
        Self((0..shards).map(|_| start(database, 1, commit_all)).collect())
    }

    /// Creates a queue with one statement and commit per rotation.
    pub(crate) fn single(database: &str, threads: usize) -> Self {
        Self(vec![start(database, threads, commit_one)])
    }

    /// Rotates and waits for the commit.
    pub(crate) async fn rotate(&self, rotation: Rotation) -> Option<Rotated> {
        let (reply, response) = oneshot::channel();
        let shard = shard(rotation.id, self.0.len());
        self.0[shard].send((rotation, reply)).ok()?;
        response.await.ok()
    }
}

/// Returns the shard of a session. Consecutive ids are spread over all shards.
fn shard(session: Uuid, shards: usize) -> usize {
    let mixed = session.as_u64_pair().1.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).unwrap() % shards
}

type Work = fn(&mut PgConnection, &Mutex<Receiver<PendingRotation>>) -> Option<()>;

fn start(database: &str, threads: usize, work: Work) -> Sender<PendingRotation> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..threads {
        let receiver = receiver.clone();
        let mut conn = connect(database);
        thread::spawn(move || while work(&mut conn, &receiver).is_some() {});
    }
    sender
}

/// Connects with generic plans. Replanning small batches would cost as much as executing
/// them.
pub(crate) fn connect(database: &str) -> PgConnection {
    let mut conn = PgConnection::establish(database).unwrap();
    conn.batch_execute("SET plan_cache_mode = force_generic_plan").unwrap();
    conn
}

fn commit_all(conn: &mut PgConnection, queue: &Mutex<Receiver<PendingRotation>>) -> Option<()> {
    let queue = queue.lock().unwrap();
    let first = queue.recv().ok()?;
    let Ok(second) = queue.try_recv() else {
        // For one row, arrays cost more than they save.
        commit(conn, first);
        return Some(());
    };
    let mut batch = Batch::default();
    let mut replies = Vec::new();
    for (rotation, reply) in [first, second].into_iter().chain(queue.try_iter().take(MAX_BATCH - 2))
    {
        batch.push(rotation);
        replies.push(Some(reply));
    }
    for rotated in batch.get_results::<Rotated>(conn).unwrap() {
        let place = usize::try_from(rotated.0).unwrap() - 1;
        // Fails if the client has disconnected.
        let _ = replies[place].take().unwrap().send(rotated);
    }
    Some(())
}

fn commit_one(conn: &mut PgConnection, queue: &Mutex<Receiver<PendingRotation>>) -> Option<()> {
    let next = queue.lock().unwrap().recv();
    commit(conn, next.ok()?);
    Some(())
}

fn commit(conn: &mut PgConnection, (rotation, reply): PendingRotation) {
    if let Some(rotated) = rotation.get_result(conn).optional().unwrap() {
        let _ = reply.send(rotated);
    }
}
