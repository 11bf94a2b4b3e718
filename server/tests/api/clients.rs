//! `matchbook-server clients`: the OAuth clients.

use std::thread;
use std::time::Duration;

use matchbook_server::clients::{AuthenticationError, ClientCredentials, ClientRegistry};
use matchbook_server::store::{Options, Store};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::support::{Server, Tokens, binary};

const PASSWORD: &str = "violet tractor seven hums";
const CALLBACK: &str = "https://app.example.com/callback";

impl Server {
    /// Adds a client.
    fn add_client(&self, options: &[&str]) -> Value {
        self.command_json(&[&["clients", "add"], options, &["--json"]].concat())
    }

    /// Runs a command that fails, and returns its message.
    fn client_error(&self, arguments: &[&str]) -> String {
        let output = self.world.server(binary()).run(&[&["clients"], arguments].concat());
        assert!(!output.status.success(), "{arguments:?} {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The clients as another server on the database sees them.
    pub(crate) fn client_registry(&self) -> ClientRegistry {
        let url = self.world.database_url().parse().unwrap();
        let second = Duration::from_secs(1);
        let options = Options {
            url,
            pool_size: 1,
            acquire_timeout: second * 10,
            max_queue: 10,
            query_timeout: second * 10,
            start_timeout: second * 10,
            migrate: true,
        };
        ClientRegistry::new(Store::open(&options).unwrap())
    }

    /// Makes a session one of a client.
    fn assign_session(&self, tokens: &Tokens, client: &str) {
        let user = tokens.claims()["sub"].as_str().unwrap().to_owned();
        let is_postgres = self.world.database_url().starts_with("postgres");
        let user =
            if is_postgres { format!("'{user}'") } else { format!("x'{}'", user.replace('-', "")) };
        self.sql(&format!("UPDATE sessions SET client_id = '{client}' WHERE user_id = {user}"));
        self.sql(&format!(
            "INSERT INTO consents (place, user_id, client_id, scope, granted_at) \
             SELECT place, user_id, client_id, 'read', created_at FROM sessions WHERE user_id = {user}"
        ));
    }
}

#[actix_rt::test]
async fn added_client_is_shown_and_listed_without_its_secret() {
    let server = Server::start();
    let public = server.add_client(&["Web", "--public", "--redirect-uri", CALLBACK]);
    assert_eq!(public.as_object().unwrap().len(), 1, "{public}");
    let id = public["client_id"].as_str().unwrap();
    assert!(id.starts_with("cl_"), "{id}");
    let shown = server.command_json(&["clients", "show", id, "--json"]);
    let expected = json!({
        "client_id": id,
        "name": "Web",
        "type": "public",
        "redirect_uris": [CALLBACK],
        "scopes": [],
        "audiences": [],
        "first_party": false,
        "require_pkce": true,
        "machine": false,
        "device": false,
        "post_logout_redirect_uris": [],
        "backchannel_logout_uri": null,
        "keep_offline_access": false,
        "grace_period": "default",
        "has_previous_secret": false,
        "created_at": shown["created_at"],
    });
    assert_eq!(shown, expected);

    let api = "https://api.example.com/";
    let confidential = server.add_client(&[
        "App",
        "--confidential",
        "--id",
        "app",
        "--redirect-uri",
        CALLBACK,
        "--redirect-uri",
        "http://127.0.0.1/cb",
        "--scope",
        "read write",
        "--scope",
        "admin",
        "--audience",
        api,
        "--first-party",
        "--machine",
        "--no-pkce",
        "--device",
        "--post-logout-redirect-uri",
        "https://app.example.com/bye",
        "--backchannel-logout-uri",
        "https://app.example.com/ended",
        "--keep-offline-access",
        "--grace-period",
        "90s",
    ]);
    assert_eq!(confidential["client_id"], "app");
    let secret = confidential["client_secret"].as_str().unwrap();
    assert!(secret.starts_with("mb_cs_") && secret.len() == 49, "{secret}");
    let shown = server.command_json(&["clients", "show", "app", "--json"]);
    for (field, value) in [
        ("type", json!("confidential")),
        ("redirect_uris", json!([CALLBACK, "http://127.0.0.1/cb"])),
        ("scopes", json!(["read", "write", "admin"])),
        ("audiences", json!([api])),
        ("first_party", json!(true)),
        ("require_pkce", json!(false)),
        ("machine", json!(true)),
        ("device", json!(true)),
        ("post_logout_redirect_uris", json!(["https://app.example.com/bye"])),
        ("backchannel_logout_uri", json!("https://app.example.com/ended")),
        ("keep_offline_access", json!(true)),
        ("grace_period", json!("90s")),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let listed = server.command_json(&["clients", "list", "--json"]);
    let names: Vec<&Value> = listed.as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["App", "Web"]);
    for arguments in [["clients", "show", "app"].as_slice(), &["clients", "list"]] {
        let output = server.world.server(binary()).run(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("app") && text.contains("confidential"), "{text}");
        assert!(!text.contains(secret));
    }
    let stored = "SELECT count(*) AS number FROM clients WHERE secret_digest IS NOT NULL";
    assert_eq!(server.number(stored), 1);
}

#[actix_rt::test]
async fn contradictory_clients_are_rejected_with_the_reason() {
    let server = Server::start();
    let add = |options: &[&str]| server.client_error(&[&["add", "X"], options].concat());
    let uuid = "0190f1de-8f2c-7c3a-9b1a-3f3a4b5c6d7e";
    for (options, reason) in [
        (["--redirect-uri", CALLBACK].as_slice(), "--public"),
        (&["--public", "--confidential", "--redirect-uri", CALLBACK], "cannot be used with"),
        (&["--public", "--machine"], "a public client cannot be a machine"),
        (&["--public", "--no-pkce", "--redirect-uri", CALLBACK], "needs PKCE"),
        (&["--public"], "add a redirect URI"),
        (&["--confidential"], "add a redirect URI"),
        (&["--public", "--redirect-uri", "http://app.example.com/"], "without TLS"),
        (&["--public", "--redirect-uri", "http://localhost/cb"], "oauth.allow_localhost"),
        (&["--public", "--redirect-uri", "https://app.example.com/#x"], "fragment"),
        (&["--public", "--redirect-uri", "javascript:alert(1)"], "scheme"),
        (&["--public", "--redirect-uri", CALLBACK, "--redirect-uri", CALLBACK], "listed twice"),
        (&["--public", "--redirect-uri", CALLBACK, "--id", uuid], "must not be a UUID"),
        (&["--public", "--redirect-uri", CALLBACK, "--id", "matchbook"], "native endpoints"),
        (&["--public", "--redirect-uri", CALLBACK, "--id", "a/b"], "letters, digits"),
        (&["--public", "--redirect-uri", CALLBACK, "--scope", "ä"], "the scope has a character"),
        (&["--public", "--redirect-uri", CALLBACK, "--audience", "api"], "absolute URI"),
        (&["--public", "--redirect-uri", CALLBACK, "--grace-period", "11m"], "10m"),
    ] {
        let error = add(options);
        assert!(error.contains(reason), "{options:?}: {error}");
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM clients"), 0);
    server.add_client(&["App", "--public", "--redirect-uri", CALLBACK, "--id", "app"]);
    let taken = add(&["--public", "--redirect-uri", CALLBACK, "--id", "app"]);
    assert!(taken.contains("already a client app"), "{taken}");
    assert!(server.client_error(&["rotate-secret", "app"]).contains("public client"));
    for command in ["show", "rotate-secret", "remove"] {
        assert!(server.client_error(&[command, "other"]).contains("no client \"other\""));
    }
    let localhost = server.world.server(binary()).set("oauth.allow_localhost", "true");
    let uri = "http://localhost:3000/cb";
    let output = localhost.run(&["clients", "add", "Dev", "--public", "--redirect-uri", uri]);
    assert!(output.status.success(), "{output:?}");
}

#[actix_rt::test]
async fn two_secrets_are_valid_at_once() {
    let server = Server::start();
    let add = ["App", "--confidential", "--id", "app", "--redirect-uri", CALLBACK];
    let mut secrets = vec![server.add_client(&add)["client_secret"].clone()];
    for _ in 0..2 {
        let rotated = server.command_json(&["clients", "rotate-secret", "app", "--json"]);
        assert_eq!(rotated["client_id"], "app");
        secrets.push(rotated["client_secret"].clone());
    }
    let registry = server.client_registry();
    let accepts = async |id: &str, secret: &str| {
        let credentials = ClientCredentials::Basic { id: id.into(), secret: secret.into() };
        match registry.authenticate(&credentials).await {
            Ok(client) => client.id.as_str() == id,
            Err(AuthenticationError::Invalid) => false,
            Err(AuthenticationError::Failed(error)) => panic!("{error}"),
        }
    };
    let secrets: Vec<&str> = secrets.iter().map(|secret| secret.as_str().unwrap()).collect();
    assert!(!accepts("app", secrets[0]).await, "replaced twice");
    assert!(accepts("app", secrets[1]).await);
    assert!(accepts("app", secrets[2]).await);
    assert!(!accepts("app", "").await);
    assert!(!accepts("other", secrets[2]).await);
    assert!(!accepts("a\0b", secrets[2]).await);
    let shown = server.command_json(&["clients", "show", "app", "--json"]);
    assert_eq!(shown["has_previous_secret"], true);
}

#[actix_rt::test]
async fn removal_ends_all_sessions_of_the_client_and_no_others() {
    let server = Server::start();
    for id in ["app", "web"] {
        server.add_client(&["X", "--public", "--id", id, "--redirect-uri", CALLBACK]);
    }
    let [own, other, late] = [server.log_in().await, server.log_in().await, server.log_in().await];
    server.assign_session(&own, "app");
    server.assign_session(&other, "web");
    server.register("ann", PASSWORD).await;
    let browser = Browser::at(&server);
    browser.log_in("ann", PASSWORD).await;
    let launch = server.world.server(binary());
    let command = thread::spawn(move || launch.run(&["clients", "remove", "app", "--json"]));
    crate::support::eventually(401, async || server.user(&own.access).await).await;
    // A server that has the client in its cache opens a session.
    server.assign_session(&late, "app");
    let output = command.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    let removed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(removed, json!({ "client_id": "app", "ended": 2 }));
    assert_eq!(server.user(&own.access).await, 401);
    assert_eq!(server.user(&late.access).await, 401);
    assert_eq!(server.user(&other.access).await, 200);
    assert!(browser.is_logged_in().await);
    assert_eq!(server.number("SELECT count(*) AS number FROM clients"), 1);
    assert_eq!(server.number("SELECT count(*) AS number FROM consents"), 1);
    let events = "SELECT count(*) AS number FROM events \
                  WHERE kind = 'logged_out' AND reason = 'client_removed'";
    assert_eq!(server.number(events), 2);
    assert!(server.client_error(&["remove", "app"]).contains("no client"));
}
