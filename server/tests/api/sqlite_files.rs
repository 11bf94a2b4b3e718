//! The files of a SQLite database: crashes, replaced files, `backup` and `restore`.

mod backups;
mod leftovers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use matchbook_testkit::{ProcessBuilder, TestEnv};

use crate::support::{Server, Tokens, binary};

/// The directory of a server with SQLite.
struct Files {
    world: TestEnv,
}

impl Files {
    fn new() -> Self {
        Self { world: TestEnv::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.folder().join(name)
    }

    fn database(&self) -> PathBuf {
        self.path("sqlite.db")
    }

    fn log(&self) -> PathBuf {
        self.path("sqlite.db-wal")
    }

    fn builder(&self) -> ProcessBuilder {
        self.world.server(binary()).variable("DATABASE_URL", &self.url())
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.database().display())
    }

    /// Runs a command. Returns its output, or its error.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let Output { status, stdout, stderr } = self.builder().run(arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if status.success() { Ok(text(stdout)) } else { Err(text(stderr)) }
    }

    /// Starts a server on the database. [`stopped`] returns the files again.
    fn start(self) -> Server {
        let url = self.url();
        Server::within(self.world, |launch| launch.variable("DATABASE_URL", &url))
    }
}

/// Kills a server (SIGKILL).
fn killed(mut server: Server) -> Files {
    server.process.kill();
    Files { world: server.world }
}

/// Stops a server.
fn stopped(mut server: Server) -> Files {
    assert!(server.process.stop().success());
    Files { world: server.world }
}

async fn log_in(server: &Server, count: usize) -> Vec<Tokens> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        sessions.push(server.log_in().await);
    }
    sessions
}

/// Checks that sessions continue, and returns their new tokens.
async fn go_on(server: &Server, sessions: &[Tokens]) -> Vec<Tokens> {
    let mut renewed = Vec::new();
    for session in sessions {
        renewed.push(Tokens::of(&server.refresh(&session.refresh).await));
    }
    renewed
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
