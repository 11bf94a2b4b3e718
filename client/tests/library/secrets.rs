//! No token is shown in logs, events, errors or `Debug`.

use std::cell::Cell;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use matchbook_client::{Client, Credentials, Event, FileStore, OAuth, RootCerts, Strategy};
use matchbook_testkit::{Reaction, Received, ScriptedServer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, filter, fmt};

use super::{SECRET, get, logged_in, on_file, recording, server_at, store};

thread_local! {
    /// Whether the log of this thread is captured. The scripted server runs in this process too,
    /// and may log requests.
    static CAPTURING: Cell<bool> = const { Cell::new(false) };
}

/// The captured log.
#[derive(Clone, Default)]
struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    /// Captures the log of this thread at every level.
    fn capture_this_thread() -> Self {
        let captured = Self::default();
        let capturing = filter::dynamic_filter_fn(|_, _| CAPTURING.get());
        let writer = captured.clone();
        let log = fmt::layer().with_writer(move || writer.clone()).with_filter(capturing);
        tracing_subscriber::registry().with(log).init();
        CAPTURING.set(true);
        captured
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns everything that a session shows, on one thread.
async fn a_whole_session(script: &ScriptedServer, credentials: Credentials) -> String {
    let mut shown = Vec::new();
    let client = Client::new(&server_at(script), credentials);
    client.log_in_as_guest().await.unwrap();
    script.expire();
    let response = client.post("/user").json(&SECRET.len()).send().await.unwrap();
    shown.push(format!("{:?} {:?}", response.status(), client));
    for reaction in [
        Reaction::json(500, "{}"),
        Reaction::DropConnection,
        Reaction::json(200, "{}"),
        Reaction::TruncateBody,
    ] {
        script.always("/refresh", reaction);
        let error = client.refresh().await.unwrap_err();
        shown.push(format!("{error} {error:?}"));
        client.log_in_with(script.log_in()).await.unwrap();
    }
    script.always("/refresh", Reaction::Serve);
    shown.push(format!("{:?}", client.credentials().status()));
    client.log_in_with(script.log_in()).await.unwrap();
    let url = format!("http://{SECRET}:{SECRET}@localhost/?token={SECRET}");
    for outcome in [get(&client, &url).await, get(&client, &format!("/ {SECRET}")).await] {
        let error = outcome.unwrap_err();
        shown.push(format!("{error} {error:?}"));
    }
    client.log_out().await.unwrap();
    client.log_in_with(script.log_in()).await.unwrap();
    // A response may quote the request.
    let tokens = script.log_in();
    let echo = format!(
        r#"{{"error":"invalid_request","message":"unknown token {}"}}"#,
        tokens.refresh_token
    );
    client.log_in_with(tokens).await.unwrap();
    script.on("/refresh", [Reaction::json(400, &echo).marked()]);
    let error = client.refresh().await.unwrap_err();
    shown.push(format!("{error} {error:?}"));
    for status in [400, 403, 404, 409, 418, 429, 500, 503] {
        let tokens = script.log_in();
        let form = serde_urlencoded::to_string([("refresh_token", &tokens.refresh_token)]).unwrap();
        let quote = format!("{form} {} Bearer {}", tokens.refresh_token, tokens.token);
        let echo = serde_json::json!({ "error": "odd", "message": format!("\x1b[2J{quote}") });
        client.log_in_with(tokens).await.unwrap();
        for path in ["/refresh", "/logout", "/sessions"] {
            script.on(path, vec![Reaction::json(status, &echo.to_string()).marked(); 5]);
        }
        for error in [
            client.refresh().await.unwrap_err(),
            client.log_out().await.unwrap_err(),
            client.log_out_everywhere().await.unwrap_err(),
        ] {
            let text = format!("{error} {error:?}");
            assert!(!text.contains('\x1b') && text.len() < 1000, "{text}");
            shown.push(text);
        }
        for path in ["/refresh", "/logout", "/sessions"] {
            script.forget(path);
        }
    }
    client.log_in_with(script.log_in()).await.unwrap();
    script.on("/refresh", [Reaction::invalid_grant()]);
    let error = client.refresh().await.unwrap_err();
    shown.push(format!("{error} {error:?}"));
    shown.concat()
}

#[actix_rt::test]
async fn logs_at_trace_events_and_errors_show_no_token() {
    let captured = CapturedLog::capture_this_thread();
    let script = ScriptedServer::start();
    let (credentials, events) = recording();
    let shown = a_whole_session(&script, credentials).await;
    let events = format!("{:?}", events.lock().unwrap());
    let log = captured.text();
    for path in ["/register", "/token", "/refresh", "/logout"] {
        assert!(log.contains(path) && events.contains(path), "{path} is missing:\n{log}\n{events}");
    }
    let keys: Vec<_> = script.received("/refresh").iter().filter_map(Received::key).collect();
    for text in [&shown, &events, &log] {
        assert!(!text.contains(SECRET), "{text}");
        assert!(!text.contains("mb_rt_"), "{text}");
        // The key together with its token is enough for a refresh.
        assert!(!keys.iter().any(|key| text.contains(key)), "{text}");
    }
}

#[actix_rt::test]
async fn debug_shows_no_token_and_no_secret() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    let oauth = OAuth {
        token_path: "/oauth/token".into(),
        revocation_path: None,
        client_id: "an app".into(),
        client_secret: Some(SECRET.into()),
        scope: None,
    };
    let client = logged_in(&script).await;
    let on_disk = super::logged_in_with(&script, on_file(&file)).await;
    let event = Event::Exchange {
        method: "GET".into(),
        path: "/user".into(),
        status: None,
        began: std::time::Instant::now(),
        took: Duration::ZERO,
    };
    let shown = [
        format!("{oauth:?}"),
        format!("{:?}", server_at(&script).oauth(oauth.clone()).unwrap()),
        format!("{client:?} {on_disk:?}"),
        format!("{:?} {:?}", client.credentials(), on_disk.credentials()),
        format!("{:?}", on_disk.credentials().status()),
        format!("{:?}", FileStore::new(&file)),
        format!("{event:?}"),
        format!("{:?} {:?}", Strategy::Background { fraction: 0.5 }, RootCerts::System),
    ];
    for shown in shown {
        assert!(!shown.contains(SECRET) && !shown.contains("mb_rt_"), "{shown}");
    }
}
