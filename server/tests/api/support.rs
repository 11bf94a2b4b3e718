//! A server under test, and helpers for requests and assertions.

use std::path::Path;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use matchbook_server::store::{self, Conn};
use matchbook_testkit::{Http, Process, ProcessBuilder, TestEnv, TestResponse};

/// The binary under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_matchbook-server"))
}

/// A running server and an HTTP client for it.
pub(crate) struct Server {
    pub(crate) http: Http,
    pub(crate) process: Process,
    pub(crate) world: TestEnv,
}

impl Server {
    /// Starts a server with the default settings.
    pub(crate) fn start() -> Self {
        Self::with(|launch| launch)
    }

    /// Starts a server with changed settings.
    pub(crate) fn with(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Self {
        Self::within(TestEnv::new(), settings)
    }

    /// Starts a server with the database and the folder of `world`.
    pub(crate) fn within(
        world: TestEnv,
        settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder,
    ) -> Self {
        let process = settings(world.server(binary())).start();
        Self { http: http(&world, &process), process, world }
    }

    /// Registers a guest and returns its id.
    pub(crate) async fn guest(&self) -> String {
        let response = self.http.get("/register").await;
        assert_eq!(response.status, 200, "{}", response.text);
        response.json().as_str().expect("a JSON string").to_owned()
    }

    /// Logs a new guest in.
    pub(crate) async fn log_in(&self) -> Tokens {
        let id = self.guest().await;
        Tokens::of(&self.http.get(&format!("/token?userId={id}")).await)
    }

    /// Presents a refresh token.
    pub(crate) async fn refresh(&self, refresh_token: &str) -> TestResponse {
        self.http.post("/refresh", &format!("refresh_token={refresh_token}")).await
    }

    /// Presents a refresh token with an idempotency key.
    pub(crate) async fn refresh_with(&self, refresh_token: &str, key: &str) -> TestResponse {
        let request = self.http.request("POST", "/refresh").insert_header(("Idempotency-Key", key));
        let form = [("refresh_token", refresh_token)];
        TestResponse::of(request.send_form(&form)).await
    }

    /// Strict mode: each refresh token is valid once.
    pub(crate) fn strict() -> Self {
        Self::with(|launch| launch.set("rotation.mode", "strict"))
    }

    /// The database.
    pub(crate) fn database(&self) -> Conn {
        store::connect(&self.world.database_url().parse().unwrap()).unwrap()
    }

    /// Returns the column `number` of a query.
    pub(crate) fn number(&self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        diesel::sql_query(query).get_result::<Row>(&mut self.database()).unwrap().number
    }

    /// Runs a statement on the database.
    pub(crate) fn sql(&self, statement: &str) {
        diesel::sql_query(statement).execute(&mut self.database()).unwrap();
    }

    /// Adds a server that reads another Redis and does not poll.
    pub(crate) fn add_silent_server(&self) {
        self.sql(
            "INSERT INTO servers (id, redis, polls, applied) VALUES ('silent', 'another', 1, 0)",
        );
    }

    /// Stops that server.
    pub(crate) fn stop_silent_server(&self) {
        self.sql("UPDATE servers SET polls = 2, redis = '' WHERE id = 'silent'");
    }

    /// Runs a command on the database of the server, and parses its JSON output.
    pub(crate) fn command_json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.world.server(binary()).run(arguments);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The status of `GET /user` with this access token.
    pub(crate) async fn user(&self, token: &str) -> u16 {
        self.http.get_as("/user", token).await.status
    }
}

/// An HTTP client that trusts the CA in the folder of `world`.
pub(crate) fn http(world: &TestEnv, process: &Process) -> Http {
    let url = process.url().replace("127.0.0.1", "localhost");
    let ca = world.folder().join("data/tls/ca.pem");
    Http::new(&url, url.starts_with("https").then_some(&ca))
}

/// The tokens of a response.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) expires_in: u64,
}

impl Tokens {
    /// Parses a token response and checks its headers.
    pub(crate) fn of(response: &TestResponse) -> Self {
        assert_eq!(response.status, 200, "{}", response.text);
        assert_eq!(response.header("cache-control"), "no-store");
        assert_eq!(response.header("content-type"), "application/json");
        Self {
            access: response.field("token"),
            refresh: response.field("refreshToken"),
            expires_in: response.json()["expiresIn"].as_u64().expect("a number of seconds"),
        }
    }

    /// The claims of the access token, not verified.
    pub(crate) fn claims(&self) -> serde_json::Value {
        let part = self.access.split('.').nth(1).unwrap();
        serde_json::from_slice(&decode(part)).unwrap()
    }
}

/// Decodes base64url.
pub(crate) fn decode(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// Encodes base64url.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Repeats a request until the response is as expected; returns the last one after a
/// timeout.
pub(crate) async fn eventually<T: PartialEq + std::fmt::Debug>(
    wanted: T,
    mut ask: impl AsyncFnMut() -> T,
) {
    for _ in 0..600 {
        if ask().await == wanted {
            return;
        }
        actix_rt::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ask().await, wanted, "even after a minute");
}
