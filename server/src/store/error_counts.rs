//! Counts the errors of work on the database, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;

/// The class of an error, as an operator has to treat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// No connection could be made.
    Connect,
    /// No connection became free, or the database did not respond in time.
    Timeout,
    /// Too many requests waited already.
    QueueFull,
    /// The connection was lost, or its server no longer accepts writes.
    Unavailable,
    /// The statement may succeed later.
    Transient,
    /// A defect, or a schema of another version.
    Query,
}

impl ErrorClass {
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Timeout,
        Self::QueueFull,
        Self::Unavailable,
        Self::Transient,
        Self::Query,
    ];

    /// Returns the label, which must not change once a version is released.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::QueueFull => "queue_full",
            Self::Unavailable => "unavailable",
            Self::Transient => "transient",
            Self::Query => "query",
        }
    }

    /// Returns `None` for an error that is not the database's.
    fn of(error: &Error) -> Option<Self> {
        Some(match error {
            Error::Connect(..) => Self::Connect,
            Error::AcquireTimeout(_)
            | Error::QueryTimeout(_)
            | Error::TimedOut
            | Error::Canceled => Self::Timeout,
            Error::QueueFull(_) => Self::QueueFull,
            Error::Unavailable(_) => Self::Unavailable,
            Error::Transient(_) => Self::Transient,
            Error::Query(_) | Error::TaskPanicked(_) => Self::Query,
            Error::WrongClock(_) => return None,
            Error::Batch(error) => return Self::of(error),
        })
    }
}

/// How many errors of each class there were since the start.
#[derive(Default)]
pub(super) struct ErrorCounts([AtomicU64; ErrorClass::ALL.len()]);

impl ErrorCounts {
    /// Counts an error, and returns the result.
    pub(super) fn count<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && let Some(class) = ErrorClass::of(error)
            && let Some(count) = self.0.get(class as usize)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    pub(super) fn get(&self, class: ErrorClass) -> u64 {
        self.0.get(class as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_class_counts_its_own_errors() {
        let counts = ErrorCounts::default();
        let of = || ErrorClass::ALL.map(|class| counts.get(class));
        assert_eq!(counts.count(Ok(7)).unwrap(), 7);
        assert_eq!(of(), [0; 6]);
        let batch = Error::Batch(Arc::new(Error::QueueFull(1)));
        let timeout = Error::QueryTimeout(Duration::ZERO);
        for error in [timeout, batch, Error::WrongClock(String::new()), Error::TimedOut] {
            assert!(counts.count(Err::<(), _>(error)).is_err());
        }
        assert_eq!(of(), [0, 2, 1, 0, 0, 0]);
    }
}
