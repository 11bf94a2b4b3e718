//! The commands of an operator, while the servers run.

use std::path::PathBuf;

use matchbook_testkit::ProcessBuilder;
use openssl::sha::sha256;
use serde_json::json;

/// Runs commands on the database of the cluster.
pub(super) struct Operator {
    /// The server with its settings, and a direct connection to the database.
    binary: ProcessBuilder,
    /// Directory for files to import.
    folder: PathBuf,
}

impl Operator {
    pub(super) fn new(binary: ProcessBuilder, folder: PathBuf) -> Self {
        Self { binary, folder }
    }

    /// Disables an account. Returns whether the command succeeded; if not, it may have
    /// disabled the account nevertheless.
    pub(super) async fn disable(&self, name: &str) -> bool {
        self.run(&["users", "disable", name]).await
    }

    /// Enables an account.
    pub(super) async fn enable(&self, name: &str) -> bool {
        self.run(&["users", "enable", name]).await
    }

    /// Imports a new user with a refresh token of another server.
    pub(super) async fn import(&self, name: &str, token: &str) -> bool {
        let digest = sha256(token.as_bytes());
        let digits =
            |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
        let digest: String = digest.iter().flat_map(digits).flatten().collect();
        let file = self.folder.join(format!("{name}.jsonl"));
        let line = json!({ "name": name, "refresh_token_sha256": digest });
        std::fs::write(&file, line.to_string()).unwrap();
        self.run(&["users", "import", file.to_str().unwrap()]).await
    }

    async fn run(&self, arguments: &[&str]) -> bool {
        let binary = self.binary.clone();
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            binary.run(&arguments).status.success()
        };
        actix_rt::task::spawn_blocking(run).await.unwrap()
    }
}
