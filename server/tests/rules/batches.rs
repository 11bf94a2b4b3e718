//! Rotations that queue while another one commits.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::task::Poll;
use std::time::{Duration, Instant};

use actix_rt::task::JoinHandle;
use diesel::QueryResult;
use diesel::connection::SimpleConnection;
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use futures_util::future::join_all;
use matchbook_server::clock;
use matchbook_server::ids::UserId;
use matchbook_server::sessions::{ClientInfo, Refresh, RefreshOutcome};
use matchbook_server::store::sessions::{RotatedSession, StoredGrant};
use matchbook_server::store::{Affected, BatchOutcome, Conn, Error, FollowUp, Store};

use crate::harness::{DEFAULT, Harness, MINUTE, SECOND, device};

/// Starts all rotations concurrently: all but the first of a shard wait for it.
async fn rotate_batch(store: &Store, attempts: &[Refresh]) -> Vec<Result<BatchOutcome, Error>> {
    join_all(attempts.iter().map(|attempt| store.rotate(attempt.update.clone()))).await
}

/// Opens `count` sessions and prepares a refresh of each.
fn attempts(harness: &mut Harness, count: usize) -> Vec<Refresh> {
    let pairs: Vec<_> = (0..count).map(|_| harness.open().1).collect();
    pairs.iter().map(|pair| harness.prepare(&pair.refresh, None, device())).collect()
}

fn rotated(harness: &mut Harness) -> i64 {
    harness.number("SELECT count(*) AS number FROM sessions WHERE generation = 1")
}

#[actix_rt::test]
async fn rotations_that_queue_during_a_commit_share_the_next_one() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| options.pool_size = 4);
    let attempts = attempts(&mut harness, 40);
    for (attempt, outcome) in attempts.iter().zip(rotate_batch(&store, &attempts).await) {
        let row = harness.session(attempt.update.session).unwrap();
        let rotated = RotatedSession {
            user: row.user,
            expires_at: row.expires_at,
            claims: None,
            grant: StoredGrant::NATIVE,
        };
        assert_eq!(outcome.unwrap(), BatchOutcome::Rotated(rotated));
        assert_eq!(row.generation, 1);
        assert!(attempt.update.successor.matches(row.secret_digest.as_bytes()));
        assert_eq!(row.access, attempt.update.access);
        assert_eq!(row.user_agent.as_deref(), Some("test"));
    }
    if let Conn::Postgres(_) = harness.conn {
        let commits = "SELECT count(DISTINCT xmin::text) AS number FROM sessions";
        let commits = harness.number(commits);
        assert!((1..10).contains(&commits), "{commits} commits for 40 rotations");
    }
}

#[actix_rt::test]
async fn token_presented_concurrently_is_rotated_once() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| options.pool_size = 4);
    let (session, pair) = harness.open();
    let attempt = |_| harness.prepare(&pair.refresh, None, device());
    let attempts: Vec<Refresh> = (0..20).map(attempt).collect();
    let outcomes = rotate_batch(&store, &attempts).await;
    let mut winners =
        attempts.iter().zip(outcomes).filter(|(_, o)| matches!(o, Ok(BatchOutcome::Rotated(_))));
    let (winner, _) = winners.next().expect("one rotation is first");
    assert!(winners.next().is_none());
    let row = harness.session(session).unwrap();
    assert_eq!(row.generation, 1);
    assert!(winner.update.successor.matches(row.secret_digest.as_bytes()));
}

#[actix_rt::test]
async fn failing_row_does_not_affect_the_rest_of_its_batch() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store();
    // PostgreSQL rejects such text, and a trigger makes SQLite reject it.
    let bad = "a\0b";
    if let Conn::Sqlite(conn) = &mut harness.conn {
        conn.batch_execute(
            "CREATE TRIGGER reject BEFORE UPDATE ON sessions \
             WHEN hex(new.user_agent) = '610062' BEGIN SELECT RAISE(ABORT, 'rejected'); END",
        )
        .unwrap();
    }
    let mut attempts = attempts(&mut harness, 12);
    let pair = harness.open().1;
    let device = ClientInfo { user_agent: Some(bad.to_owned()), ..device() };
    attempts.insert(7, harness.prepare(&pair.refresh, None, device));
    let outcomes = rotate_batch(&store, &attempts).await;
    assert!(
        outcomes.iter().any(|outcome| matches!(outcome, Ok(BatchOutcome::RolledBack))),
        "its batch fails"
    );
    for (n, (attempt, outcome)) in attempts.iter().zip(outcomes).enumerate() {
        if outcome.unwrap() == BatchOutcome::RolledBack {
            // Each session is resolved individually.
            let resolved = harness.resolve_conflict(attempt);
            assert_eq!(resolved.is_ok_and(|it| matches!(it, RefreshOutcome::Rotated(_))), n != 7);
        }
    }
    assert_eq!(rotated(&mut harness), 12);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn locked_session_does_not_block_other_rotations() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| options.pool_size = 4);
    let attempts = attempts(&mut harness, 20);
    let held = &attempts[4].update.session;
    let mut other = harness.connection();
    let lock = format!("BEGIN; SELECT * FROM sessions WHERE id = '{held}' FOR UPDATE");
    other.batch_execute(&lock).unwrap();
    // In a batch, and individually.
    for attempts in [&attempts[..], &attempts[4..5]] {
        for (attempt, outcome) in attempts.iter().zip(rotate_batch(&store, attempts).await) {
            let is_locked = outcome.unwrap() == BatchOutcome::NoMatch;
            assert_eq!(is_locked, attempt.update.session == *held);
        }
    }
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(rotated(&mut harness), 19);
    assert!(matches!(harness.resolve_conflict(&attempts[4]).unwrap(), RefreshOutcome::Rotated(_)));
}

#[actix_rt::test]
async fn timed_out_rotation_gets_an_error_and_is_not_executed() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| {
        options.pool_size = 4;
        options.acquire_timeout = Duration::from_millis(300);
        options.query_timeout = MINUTE;
    });
    let mut attempts = attempts(&mut harness, 40);
    let others = attempts.split_off(20);
    let mut other = harness.connection();
    let (lock, unlock) = match other {
        Conn::Postgres(_) => ("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE", "ROLLBACK"),
        Conn::Sqlite(_) => ("BEGIN IMMEDIATE", "ROLLBACK"),
    };
    other.batch_execute(lock).unwrap();
    // The first rotations wait for the lock, the others queue behind them.
    let first = queued(&store, attempts).await;
    await_empty_queue(&store).await;
    let others = queued(&store, others).await;
    assert!(store.pool_stats().waiting > 0);
    await_empty_queue(&store).await;
    other.batch_execute(unlock).unwrap();
    let (mut done, mut notified) = (0, 0);
    for outcome in first.await.unwrap().into_iter().chain(others.await.unwrap()) {
        match outcome {
            Ok(BatchOutcome::Rotated(_)) => done += 1,
            Err(error @ Error::AcquireTimeout(_)) if error.is_transient() => notified += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(done >= 20 && notified > 0, "{done} done, {notified} notified");
    assert_eq!(rotated(&mut harness), done);
}

/// Queues all rotations, and drives them in the background.
async fn queued(
    store: &Store,
    attempts: Vec<Refresh>,
) -> JoinHandle<Vec<Result<BatchOutcome, Error>>> {
    let store = store.clone();
    let mut all = Box::pin(async move { rotate_batch(&store, &attempts).await });
    assert!(is_pending(&mut all).await);
    actix_rt::spawn(all)
}

/// Work that lasts until it is released.
fn until_released() -> (Sender<()>, impl FnOnce(&mut Conn) -> QueryResult<()> + Send + 'static) {
    let (release, held) = channel();
    let work = move |_: &mut Conn| {
        held.recv().unwrap();
        Ok(())
    };
    (release, work)
}

async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_pending())).await
}

async fn await_empty_queue(store: &Store) {
    let asked = Instant::now();
    while store.pool_stats().waiting > 0 {
        assert!(asked.elapsed() < MINUTE, "they wait without a limit");
        actix_rt::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix_rt::test]
async fn rotations_beyond_the_queue_are_rejected() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| {
        options.pool_size = 4;
        options.max_queue = 2;
    });
    let attempts = attempts(&mut harness, 30);
    let (mut done, mut notified) = (0, 0);
    for outcome in rotate_batch(&store, &attempts).await {
        match outcome {
            Ok(BatchOutcome::Rotated(_)) => done += 1,
            Err(error @ Error::QueueFull(2)) if error.is_transient() => notified += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(done >= 3 && notified >= 10, "{done} done, {notified} notified");
    assert_eq!(rotated(&mut harness), done);
}

#[actix_rt::test]
async fn batch_leader_waits_for_a_connection_even_if_the_queue_is_full() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| {
        options.pool_size = 1;
        options.max_queue = 1;
    });
    let attempt = attempts(&mut harness, 1).remove(0);
    let (release, hold) = until_released();
    let mut holding = Box::pin(store.run(hold));
    assert!(is_pending(&mut holding).await);
    let mut queued = Box::pin(store.run(|_| Ok(())));
    assert!(is_pending(&mut queued).await);
    assert!(matches!(store.run(|_| Ok(())).await, Err(Error::QueueFull(1))));
    let mut rotating = Box::pin(store.rotate(attempt.update.clone()));
    assert!(is_pending(&mut rotating).await);
    release.send(()).unwrap();
    holding.await.unwrap();
    queued.await.unwrap();
    assert!(matches!(rotating.await, Ok(BatchOutcome::Rotated(_))));
}

#[actix_rt::test]
async fn pending_rotations_of_a_stopped_thread_are_taken_over() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| options.pool_size = 1);
    let pair = harness.open().1;
    let theirs = harness.prepare(&pair.refresh, None, device());
    let ours = harness.prepare(&pair.refresh, None, device());
    // The only connection is in use, so the batch leader waits for it.
    let (release, hold) = until_released();
    let mut holding = Box::pin(store.run(hold));
    assert!(is_pending(&mut holding).await);
    let (to_us, from_them) = channel();
    let (to_them, from_us) = channel();
    let their_store = store.clone();
    let stopping = std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let mut rotating = Box::pin(their_store.rotate(theirs.update.clone()));
            assert!(is_pending(&mut rotating).await);
            to_us.send(()).unwrap();
            from_us.recv().unwrap();
        });
    });
    from_them.recv().unwrap();
    let mut rotating = Box::pin(store.rotate(ours.update.clone()));
    assert!(is_pending(&mut rotating).await);
    to_them.send(()).unwrap();
    stopping.join().unwrap();
    release.send(()).unwrap();
    holding.await.unwrap();
    assert!(matches!(rotating.await, Ok(BatchOutcome::Rotated(_))));
    assert_eq!(rotated(&mut harness), 1);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn unresponsive_batch_blocks_its_shard_no_longer_than_the_timeout() {
    let mut harness = Harness::new(DEFAULT);
    let (relay, url) = harness.relay();
    let store = harness.store_with(|options| {
        options.url = url.parse().unwrap();
        options.pool_size = 4;
        options.acquire_timeout = Duration::from_millis(200);
        options.query_timeout = Duration::from_millis(300);
    });
    // Both are of one session, so that they use one shard.
    let pair = harness.open().1;
    relay.drop_responses_to("a response to lose");
    let lost = ClientInfo { user_agent: Some("a response to lose".to_owned()), ..device() };
    let attempt = harness.prepare(&pair.refresh, None, lost);
    let stuck = store.rotate(attempt.update.clone()).await.unwrap_err();
    assert!(matches!(stuck, Error::QueryTimeout(_)) && stuck.is_transient(), "{stuck:?}");
    // The second rotation also goes to the database, without waiting for the first.
    let attempt = harness.prepare(&pair.refresh, None, device());
    assert_eq!(store.rotate(attempt.update.clone()).await.unwrap(), BatchOutcome::NoMatch);
    assert_eq!(rotated(&mut harness), 1, "what went to the database is done");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn rotation_waiting_for_a_lock_is_canceled_and_not_executed_later() {
    let mut harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| {
        options.pool_size = 4;
        options.acquire_timeout = Duration::from_millis(200);
        options.query_timeout = Duration::from_millis(300);
    });
    let pair = harness.open().1;
    let mut other = harness.connection();
    other.batch_execute("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE").unwrap();
    for _ in 0..2 {
        let attempt = harness.prepare(&pair.refresh, None, device());
        let canceled = store.rotate(attempt.update.clone()).await.unwrap_err();
        assert!(canceled.is_transient(), "{canceled:?}");
    }
    let waiting = "SELECT count(*) AS number FROM pg_locks WHERE NOT granted \
                   AND relation = 'sessions'::regclass";
    let asked = Instant::now();
    while harness.number(waiting) > 0 {
        assert!(asked.elapsed() < MINUTE, "it waits without a limit");
        actix_rt::time::sleep(Duration::from_millis(1)).await;
    }
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(rotated(&mut harness), 0);
}

#[actix_rt::test]
async fn work_committed_after_its_caller_gave_up_is_undone() {
    let harness = Harness::new(DEFAULT);
    let store = harness.store();
    let (release, hold) = until_released();
    let user = UserId::random();
    let attempts = Arc::new(AtomicU32::new(0));
    let counter = attempts.clone();
    let undo = FollowUp::new(Affected::User(user), move |_: &mut Conn| {
        match counter.fetch_add(1, Ordering::SeqCst) {
            // Another transaction has a lock.
            0 => Ok(false),
            // More than a single call retries.
            1..10 => Err(QueryError::DatabaseError(
                DatabaseErrorKind::SerializationFailure,
                Box::new("conflict".to_owned()),
            )),
            _ => Ok(true),
        }
    });
    let (begin, begun) = channel();
    let work = move |conn: &mut Conn| {
        begin.send(()).unwrap();
        hold(conn)
    };
    let mut writing = Box::pin(store.write_or_undo(work, undo));
    assert!(is_pending(&mut writing).await);
    begun.recv_timeout(MINUTE).unwrap();
    drop(writing);
    release.send(()).unwrap();
    assert!(store.is_being_undone(user) && !store.is_idle());
    until(async || store.pool_stats().busy == 0).await;
    actix_rt::spawn(store.clone().run_follow_ups());
    until(async || !store.is_being_undone(user)).await;
    until(async || store.is_idle()).await;
    assert!(attempts.load(Ordering::SeqCst) > 10);
    // If the caller gets the outcome, nothing is undone.
    let undo = FollowUp::new(Affected::User(user), |_: &mut Conn| panic!("its caller waits"));
    store.write_or_undo(|_| Ok(()), undo).await.unwrap();
    assert!(store.is_idle());
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let asked = Instant::now();
    while !is_so().await {
        assert!(asked.elapsed() < MINUTE, "not within a minute");
        actix_rt::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn lost_rotation_is_dated_although_requests_use_all_connections() {
    let mut harness = Harness::new(DEFAULT);
    harness.now = clock::now().before(MINUTE);
    let (relay, url) = harness.relay();
    let store = harness.store_with(|options| {
        options.url = url.parse().unwrap();
        options.max_queue = 0;
        options.query_timeout = SECOND;
    });
    let (session, pair) = harness.open();
    relay.drop_responses_to("a response to lose");
    let lost = ClientInfo { user_agent: Some("a response to lose".to_owned()), ..device() };
    let attempt = harness.prepare(&pair.refresh, None, lost);
    store.rotate(attempt.update.clone()).await.unwrap_err();
    relay.restore();
    assert!(store.is_unsettled(session) && !store.is_idle());
    until(async || store.pool_stats().busy == 0).await;
    let (release, hold) = until_released();
    let mut holding = Box::pin(store.run(hold));
    assert!(is_pending(&mut holding).await);
    assert!(matches!(store.run(|_| Ok(())).await, Err(Error::QueueFull(0))));
    actix_rt::spawn(store.clone().settle_rotations());
    until(async || !store.is_unsettled(session)).await;
    release.send(()).unwrap();
    let rotated_at = harness.session(session).unwrap().rotated_at().unwrap();
    assert!(rotated_at > harness.now.after(30 * SECOND));
}

#[actix_rt::test]
async fn sqlite_writers_queue_in_fifo_order_and_readers_do_not_wait() {
    let harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| options.pool_size = 3);
    let (release, hold) = until_released();
    let mut writing = Box::pin(store.write_once(hold));
    assert!(is_pending(&mut writing).await);
    let mut next = Box::pin(store.write(|_| Ok(())));
    let waits = is_pending(&mut next).await && store.pool_stats().waiting == 1;
    assert_eq!(waits, matches!(harness.conn, Conn::Sqlite(_)), "PostgreSQL has many writers");
    let reading = join_all((0..2).map(|_| store.run(|_| Ok(())))).await;
    assert!(reading.into_iter().all(|read| read.is_ok()));
    release.send(()).unwrap();
    writing.await.unwrap();
    next.await.unwrap();
}
