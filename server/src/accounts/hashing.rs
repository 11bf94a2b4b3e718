//! Hashes and verifies passwords on threads of their own, so that logins delay no refresh.
//!
//! A hash needs a fixed amount of memory. The number of threads follows from the memory
//! that hashing may use, and each thread keeps its memory. They leave one processor to the
//! rest of the server, and to a database on the same machine. They have a low priority: the
//! operating system prefers everything else. Requests that find the queue full are rejected
//! at once.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use argon2::Block;
use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::gettid;
use tokio::sync::oneshot;

use super::password::Password;
use super::password_hash::{self, BLOCKS, HashError, MEMORY_PER_HASH};

/// How many requests wait for each thread. A request at the end of the queue waits for
/// about two seconds.
const QUEUE_PER_THREAD: usize = 64;

/// How much lower the priority of the threads is, in steps of `nice`. Without any share of a
/// busy machine (`SCHED_IDLE`), logins would wait until their clients time out.
const NICENESS: i32 = 10;

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too many requests wait.
    #[error("too many passwords wait to be hashed")]
    Busy,
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("the thread that hashes passwords has ended")]
    Stopped,
}

/// Whether a password fits a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Wrong,
    Right,
    /// Right, and the hash should be replaced: it is of another format, or weaker.
    RightButOutdated,
}

type Job = Box<dyn FnOnce(&mut [Block]) + Send>;

/// Hands passwords to the threads. Clones share them.
#[derive(Clone)]
pub struct PasswordHasher {
    queue: SyncSender<Job>,
    /// A hash of no password, verified where there is no account.
    dummy: Arc<str>,
}

impl PasswordHasher {
    /// Starts as many threads as `memory` bytes and the processors permit, at least one.
    pub fn start(memory: usize) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = (memory / MEMORY_PER_HASH).min(processors - 1).max(1);
        let (queue, jobs) = mpsc::sync_channel(threads * QUEUE_PER_THREAD);
        let jobs = Arc::new(Mutex::new(jobs));
        for n in 0..threads {
            let jobs = jobs.clone();
            thread::Builder::new().name(format!("password-{n}")).spawn(move || work(&jobs))?;
        }
        Ok(Self { queue, dummy: password_hash::dummy().into() })
    }

    /// Hashes a password. Returns the PHC string.
    pub async fn hash(&self, password: Password) -> Result<String, Error> {
        Ok(self.run(move |memory| password_hash::create(&password, memory)).await??)
    }

    /// Verifies a password. Without a hash it takes the same time, and the password is wrong.
    pub async fn verify(&self, password: Password, hash: Option<&str>) -> Result<Verdict, Error> {
        let exists = hash.is_some();
        let hash = hash.unwrap_or(&self.dummy).to_owned();
        let is_right =
            self.run(move |memory| password_hash::verify(&password, &hash, memory)).await??;
        Ok(if exists { is_right } else { Verdict::Wrong })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut [Block]) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |memory| {
            // The client may have disconnected while the job waited.
            if !sender.is_closed() {
                let _ = sender.send(work(memory));
            }
        });
        match self.queue.try_send(job) {
            Ok(()) => receiver.await.map_err(|_| Error::Stopped),
            Err(TrySendError::Full(_)) => Err(Error::Busy),
            Err(TrySendError::Disconnected(_)) => Err(Error::Stopped),
        }
    }
}

/// Runs jobs until the queue is closed.
fn work(jobs: &Mutex<Receiver<Job>>) {
    if let Err(error) = lower_priority() {
        tracing::warn!(%error, "priority of a password thread not lowered");
    }
    let mut memory = vec![Block::default(); BLOCKS];
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        job(&mut memory);
    }
}

/// Lowers the priority of this thread. On Linux each thread has its own.
fn lower_priority() -> rustix::io::Result<()> {
    let thread: Pid = gettid();
    let priority = getpriority_process(Some(thread))?;
    setpriority_process(Some(thread), priority + NICENESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::presented(&text.to_owned().into()).unwrap()
    }

    #[actix_rt::test]
    async fn only_the_same_password_fits_a_hash() {
        let hasher = PasswordHasher::start(MEMORY_PER_HASH).unwrap();
        let hash = hasher.hash(password("one")).await.unwrap();
        assert_ne!(hash, hasher.hash(password("one")).await.unwrap(), "the salt is random");
        for (text, expected) in [("one", Verdict::Right), ("two", Verdict::Wrong)] {
            let verdict = hasher.verify(password(text), Some(&hash)).await.unwrap();
            assert_eq!(verdict, expected, "{text}");
        }
    }

    #[actix_rt::test]
    async fn without_a_hash_every_password_is_wrong() {
        let hasher = PasswordHasher::start(MEMORY_PER_HASH).unwrap();
        for text in ["", "one"] {
            assert_eq!(hasher.verify(password(text), None).await.unwrap(), Verdict::Wrong);
        }
    }

    #[actix_rt::test]
    async fn full_queue_is_reported_at_once() {
        let hasher = PasswordHasher::start(MEMORY_PER_HASH).unwrap();
        let (resume, paused) = mpsc::channel::<()>();
        hasher.queue.try_send(Box::new(move |_| assert!(paused.recv().is_err()))).unwrap();
        while hasher.queue.try_send(Box::new(|_| ())).is_ok() {}
        assert!(matches!(hasher.hash(password("one")).await, Err(Error::Busy)));
        let unknown = hasher.verify(password("one"), None).await;
        assert!(matches!(unknown, Err(Error::Busy)), "a password without a hash waits as well");
        drop(resume);
        while let Err(error) = hasher.hash(password("one")).await {
            assert!(matches!(error, Error::Busy), "{error}");
        }
    }
}
