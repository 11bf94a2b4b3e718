//! An SMTP server for tests: `aiosmtpd` with a handler that records mails.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::free_port;
use crate::process::Running;

const PROGRAM: &str = include_str!("smtp_server.py");

/// Timeout of a mail to arrive. The first retry of a mail is after two seconds.
const MAIL_TIMEOUT: Duration = Duration::from_secs(30);

/// A running SMTP server. Dropping this stops it.
pub struct SmtpServer {
    running: Running,
    port: u16,
}

impl SmtpServer {
    /// Starts a server that accepts mails without a login and without TLS.
    #[expect(clippy::new_without_default, reason = "has side effects and may panic")]
    pub fn new() -> Self {
        Self::with(&json!({}))
    }

    /// Starts a server with more options of `smtp_server.py`.
    pub fn with(options: &Value) -> Self {
        let port = free_port();
        let mut options = options.clone();
        options["port"] = port.into();
        // An interpreter that has aiosmtpd: `scripts/test` sets the variable.
        let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut command = Command::new(python);
        command.args(["-c", PROGRAM, &options.to_string()]);
        let mut running = Running::start(command);
        running.await_line("ready");
        Self { running, port }
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its URL for `smtp.url`.
    pub fn url(&self) -> String {
        format!("smtp://localhost:{}", self.port)
    }

    /// Returns the mails to an address so far.
    pub fn mails(&self, to: &str) -> Vec<TestMail> {
        let output = self.running.text();
        let lines = output.lines().filter_map(|line| line.strip_prefix("mail "));
        let mails = lines.map(|line| TestMail(serde_json::from_str(line).unwrap()));
        mails.filter(|mail| mail.0["to"] == json!([to])).collect()
    }

    /// Waits for the n-th mail to an address, counted from 1.
    pub fn await_mail(&self, to: &str, n: usize) -> TestMail {
        let started = Instant::now();
        loop {
            let mut mails = self.mails(to);
            if mails.len() >= n {
                return mails.swap_remove(n - 1);
            }
            let output = self.running.text();
            assert!(started.elapsed() < MAIL_TIMEOUT, "no mail {n} to {to}:\n{output}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A mail that an SMTP server accepted, as `smtp_server.py` prints it.
#[derive(Debug, Clone)]
pub struct TestMail(pub Value);

impl TestMail {
    /// Returns the text.
    pub fn text(&self) -> &str {
        self.0["text"].as_str().unwrap()
    }

    /// Returns the one link in the text.
    pub fn link(&self) -> String {
        let mut links = self.text().lines().filter(|line| line.starts_with("http"));
        let link = links.next().unwrap_or_else(|| panic!("no link in {}", self.text()));
        assert_eq!(links.next(), None, "two links in {}", self.text());
        link.to_owned()
    }
}
