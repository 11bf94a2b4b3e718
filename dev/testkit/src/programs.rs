//! Finds installed programs and free ports.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// Directories of programs that may not be on `PATH`.
const EXTRA_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/opt/homebrew/bin"];

/// Ports below the ephemeral range. A client that retries an ephemeral port could get that
/// port as its own and connect to itself. A Redis cluster also uses each port plus 10 000, so
/// the range is no longer than that.
const PORTS: std::ops::Range<u16> = 12_000..CLUSTER_BUS_OFFSET + 12_000;

/// How far the port of a cluster's bus is above the port of the Redis server.
const CLUSTER_BUS_OFFSET: u16 = 10_000;

/// Finds a program on `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(EXTRA_DIRECTORIES.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Finds the directory of PostgreSQL's programs: on `PATH`, or the newest of the packages of
/// Debian, Fedora or Homebrew.
pub(crate) fn postgres_programs() -> PathBuf {
    let on_path = program("postgres").and_then(|file| std::fs::canonicalize(file).ok());
    let is_complete = |folder: &Path| folder.join("initdb").is_file();
    let on_path = on_path.and_then(|file| file.parent().map(Path::to_owned));
    let found = on_path.filter(|folder| is_complete(folder)).or_else(|| {
        let versions = ["/usr/lib/postgresql", "/usr", "/opt/homebrew/opt", "/usr/local/opt"];
        let folders = versions.iter().flat_map(|folder| subfolders(Path::new(folder)));
        let folders = folders.map(|folder| folder.join("bin")).filter(|bin| is_complete(bin));
        folders.max_by_key(|bin| version(bin))
    });
    found.expect("PostgreSQL's programs are not installed (Debian: apt-get install postgresql)")
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Returns the version in the path of an installation, like 15 in `…/15/bin`.
fn version(bin: &Path) -> u32 {
    let text = bin.to_string_lossy();
    let number = text.chars().skip_while(|c| !c.is_ascii_digit());
    let digits: String = number.take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Returns a free port, with a free port for the bus of a Redis cluster. Unlike a port that
/// the system selects, it is not reused for outgoing connections after its server has ended.
///
/// # Panics
/// When 100 random ports are in use.
pub fn free_port() -> u16 {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let free = |port: &u16| is_free(*port) && is_free(*port + CLUSTER_BUS_OFFSET);
    let mut random = std::iter::repeat_with(|| fastrand::u16(PORTS)).take(100);
    random.find(free).expect("one of 100 ports is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_free_port_is_the_bus_port_of_another_or_an_ephemeral_port() {
        for _ in 0..100 {
            let bus = free_port() + CLUSTER_BUS_OFFSET;
            assert!(!PORTS.contains(&bus) && bus < 32_768, "{bus}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let of = |bin: &str| version(Path::new(bin));
        assert!(of("/usr/lib/postgresql/15/bin") > of("/usr/lib/postgresql/9.6/bin"));
        assert_eq!(of("/opt/homebrew/opt/postgresql@17/bin"), 17);
    }
}
