//! The OAuth mode against a third-party server: oidc-provider for Node.js.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use matchbook_client::{Client, Credentials, Error, OAuth, RootCerts, Server, TokenResponse};
use serde_json::Value;

/// The process of the provider. Dropping it kills the process.
struct Provider {
    child: Child,
    said: Value,
    _folder: tempfile::TempDir,
}

impl Drop for Provider {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Provider {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc");
        for file in ["package.json", "server.js"] {
            std::fs::copy(files.join(file), folder.path().join(file)).unwrap();
        }
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]);
        let output = npm.current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut node = Command::new("node");
        node.arg("server.js").env("AUTH_METHOD", "client_secret_basic");
        node.current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = node.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.find_map(|line| serde_json::from_str(&line.unwrap()).ok());
        Self { child, said: said.unwrap(), _folder: folder }
    }

    fn text(&self, name: &str) -> String {
        self.said[name].as_str().unwrap().to_owned()
    }

    fn server(&self, client_secret: Option<String>) -> Server {
        let url = self.text("origin");
        let oauth = OAuth {
            token_path: "/token".into(),
            revocation_path: Some("/token/revocation".into()),
            client_id: self.text("clientId"),
            client_secret,
            scope: None,
        };
        Server::new(&url, &RootCerts::System, Duration::from_secs(10))
            .unwrap()
            .oauth(oauth)
            .unwrap()
    }

    /// Returns a client with a refresh token and an invalid access token.
    async fn log_in(&self, index: usize) -> Client {
        let server = self.server(Some(self.text("clientSecret")));
        let client = Client::new(&server, Credentials::default());
        client.log_in_with(self.tokens(index)).await.unwrap();
        client
    }

    fn tokens(&self, index: usize) -> TokenResponse {
        let refresh_token = self.said["refreshTokens"][index].as_str().unwrap().to_owned();
        TokenResponse { token: "none-yet".into(), refresh_token, expires_in: 0 }
    }
}

/// Returns the user that the provider reports.
async fn subject(client: &Client) -> Result<String, Error> {
    let mut response = client.get("/me").send().await?;
    let body: Value = response.json().await.unwrap();
    Ok(body["sub"].as_str().unwrap_or_default().to_owned())
}

/// Tests that need Node.js. `scripts/test` leaves out this module without it.
mod needs_node {
    use super::*;

    #[actix_rt::test]
    #[ignore = "needs Node.js and npm"]
    async fn a_rotating_oidc_provider_refreshes_until_the_session_is_revoked() {
        let provider = Provider::start();

        // The first access token is rejected and refreshed; the second is valid.
        let alice = provider.log_in(0).await;
        assert_eq!(subject(&alice).await.as_deref(), Ok("alice"));
        assert_eq!(alice.credentials().status().unwrap().refreshes, 1);
        assert_eq!(alice.credentials().status().unwrap().lifetime, Some(Duration::from_secs(60)));
        // The rotated refresh token is valid.
        alice.refresh().await.unwrap();
        assert_eq!(subject(&alice).await.as_deref(), Ok("alice"));
        assert_eq!(alice.credentials().status().unwrap().refreshes, 2);

        // The provider ends a session whose rotated refresh token is reused.
        let thief = provider.log_in(0).await;
        assert_eq!(subject(&thief).await, Err(Error::LoggedOut(None)));
        assert_eq!(alice.refresh().await, Err(Error::LoggedOut(None)));
        assert!(!alice.credentials().is_logged_in());

        // A revoked session has ended for each holder of its tokens.
        let bob = provider.log_in(1).await;
        let elsewhere = provider.log_in(1).await;
        bob.log_out().await.unwrap();
        assert_eq!(elsewhere.refresh().await, Err(Error::LoggedOut(None)));
        assert!(!elsewhere.credentials().is_logged_in());

        // A wrong client secret is an error of the application and ends no session.
        let mistaken = Client::new(&provider.server(Some("wrong".into())), Credentials::default());
        mistaken.log_in_with(provider.tokens(1)).await.unwrap();
        let error = mistaken.refresh().await.unwrap_err();
        assert!(matches!(error, Error::UnexpectedResponse(_)), "{error:?}");
        assert!(mistaken.credentials().is_logged_in());
    }
}
