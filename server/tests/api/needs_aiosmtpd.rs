//! Tests that need Python with aiosmtpd. `scripts/test` selects tests by this module's name.

mod delivery;
mod registration;
mod reset;

use matchbook_testkit::{SmtpServer, TestMail};

use crate::support::Server;

pub(crate) const SENDER: &str = "Matchbook <auth@matchbook.example>";
pub(crate) const PUBLIC_URL: &str = "https://auth.matchbook.example";

/// Starts a server that sends its mail to `smtp`.
fn server_with(smtp: &SmtpServer) -> Server {
    Server::with(|launch| {
        launch
            .set("smtp.url", &smtp.url())
            .set("mail.from", SENDER)
            .set("server.public_url", PUBLIC_URL)
            .set("log.level", "debug")
    })
}

/// Returns the token in the link of a mail.
fn token(mail: &TestMail, page: &str) -> String {
    let link = mail.link();
    let token = link.strip_prefix(&format!("{PUBLIC_URL}/{page}?token="));
    token.unwrap_or_else(|| panic!("{link} is no link to {page}")).to_owned()
}

/// Asserts that the log has none of these texts.
fn assert_not_logged(server: &Server, secrets: &[&str]) {
    let log = server.process.log();
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(!log.contains("mb_ln_"), "a token of a link is in the log");
}
