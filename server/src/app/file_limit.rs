//! The limit of open files, and how many connections of clients it permits.

/// The limit of open files that is assumed if it cannot be read.
const DEFAULT_FILE_LIMIT: u64 = 1024;

/// The number of files that are neither connections of clients nor of the pool: Redis, the log,
/// and the database connections of background tasks.
const RESERVED_FILES: u64 = 200;

/// The number of files of a connection of the pool: its socket, and the second handle of it.
const FILES_PER_DATABASE_CONNECTION: u64 = 2;

/// Raises the limit of open files to the maximum: each connection is a file.
pub(super) fn raise() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "limit of open files not raised");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(DEFAULT_FILE_LIMIT)
    })
}

/// Returns the number of connections of clients that a limit of open files permits, beside a
/// pool of this size. A connection without a request needs two files.
pub(super) fn connections_for(files: u64, pool_size: u32) -> usize {
    let reserved = RESERVED_FILES + FILES_PER_DATABASE_CONNECTION * u64::from(pool_size);
    let connections = usize::try_from(files.saturating_sub(reserved) / 2).unwrap_or(usize::MAX);
    connections.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_clients_and_of_the_pool_fit_into_the_limit() {
        assert_eq!(connections_for(1024, 16), 396);
        assert_eq!(connections_for(1024, 300), 112);
        assert_eq!(connections_for(1024, u32::MAX), 1);
    }
}
