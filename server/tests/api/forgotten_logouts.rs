//! A database that has lost its last commits, and with them a logout. Redis and the memory of
//! the server still know it.

use crate::oauth::{assert_error, exchange_of, server_with, text, tokens};
use crate::support::{Server, Tokens};

impl Server {
    async fn log_out(&self, tokens: &Tokens) {
        let form = format!("refresh_token={}", tokens.refresh);
        assert_eq!(self.http.post("/logout", &form).await.status, 204);
    }

    /// Undoes the end of all sessions, as a failover to a replica that lagged does.
    fn forget_logouts(&self) {
        self.sql("UPDATE sessions SET ended_at = NULL, end_reason = NULL");
        self.sql("DELETE FROM session_revocations");
        self.sql("DELETE FROM events WHERE kind = 'logged_out'");
    }

    /// The number of sessions that ended, of their revocations and of entries in the audit log
    /// that say why.
    fn ended_again(&self) -> (i64, i64, i64) {
        let count = |rows: &str| self.number(&format!("SELECT count(*) AS number FROM {rows}"));
        (
            count("sessions WHERE end_reason = 'logged_out'"),
            count("session_revocations"),
            count("events WHERE kind = 'logged_out' AND reason = 'forgotten_by_database'"),
        )
    }

    async fn assert_logged_out(&self, tokens: &Tokens) {
        assert_eq!(self.user(&tokens.access).await, 401);
        let response = self.refresh(&tokens.refresh).await;
        assert_eq!((response.status, response.field("error").as_str()), (401, "invalid_grant"));
        assert_eq!(response.field("reason"), "logged_out");
    }
}

#[actix_rt::test]
async fn refresh_ends_a_session_again_whose_logout_the_database_has_forgotten() {
    let server = Server::start();
    let tokens = server.log_in().await;
    server.log_out(&tokens).await;
    server.forget_logouts();
    assert_eq!(server.user(&tokens.access).await, 401, "no access token is accepted meanwhile");
    server.assert_logged_out(&tokens).await;
    assert_eq!(server.ended_again(), (1, 1, 1));
    assert_eq!(server.process.logged("logouts forgotten by the database"), 1);
    server.assert_logged_out(&tokens).await;
    assert_eq!(server.ended_again(), (1, 1, 1));
}

#[actix_rt::test]
async fn reissue_of_a_forgotten_session_is_rejected() {
    let server = Server::start();
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    server.log_out(&second).await;
    server.forget_logouts();
    server.assert_logged_out(&Tokens { access: second.access, ..first }).await;
    assert_eq!(server.ended_again(), (1, 1, 1));
}

#[actix_rt::test]
async fn logout_of_a_session_without_valid_access_tokens_is_remembered() {
    let server = Server::with(|launch| launch.set("tokens.access_lifetime", "1s"));
    let tokens = server.log_in().await;
    actix_rt::time::sleep(std::time::Duration::from_secs(2)).await;
    server.log_out(&tokens).await;
    server.forget_logouts();
    server.assert_logged_out(&tokens).await;
}

#[actix_rt::test]
async fn logout_of_a_session_that_the_database_has_lost_ends_its_access_tokens() {
    let server = Server::start();
    let tokens = server.log_in().await;
    assert_eq!(server.user(&tokens.access).await, 200);
    server.sql("DELETE FROM sessions");
    server.log_out(&tokens).await;
    assert_eq!(server.user(&tokens.access).await, 401, "Redis had it as active");
    let revocations = "SELECT count(*) AS number FROM session_revocations";
    assert_eq!(server.number(revocations), 1);
    server.log_out(&tokens).await;
    assert_eq!(server.number(revocations), 1);
}

#[actix_rt::test]
async fn live_sessions_have_no_tombstone() {
    let server = Server::start();
    let (mut kept, ended) = (server.log_in().await, server.log_in().await);
    server.log_out(&ended).await;
    for _ in 0..3 {
        kept = Tokens::of(&server.refresh(&kept.refresh).await);
        assert_eq!(server.user(&kept.access).await, 200);
    }
    assert_eq!(server.process.logged("forgotten"), 0, "{}", server.process.log());
}

#[actix_rt::test]
async fn exchange_of_a_code_opens_no_session_whose_logout_was_forgotten() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    let body = tokens(&server.token(&client, &exchange_of(&code)).await);
    let form = vec![("token", text(&body, "refresh_token").into())];
    assert_eq!(server.as_client("/oauth/revoke", &client, &form).await.status, 200);
    // The database has lost the exchange as well.
    for statement in [
        "DELETE FROM session_revocations",
        "DELETE FROM sessions WHERE client_id IS NOT NULL",
        "UPDATE authorization_codes SET exchanged_at = NULL",
    ] {
        server.sql(statement);
    }
    let again = server.token(&client, &exchange_of(&code)).await;
    assert_error(&again, 400, "invalid_grant");
    assert_eq!(server.ended_again(), (1, 1, 1));
}
