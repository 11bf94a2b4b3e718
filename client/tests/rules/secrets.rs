//! No token is shown, to nobody.

use std::cell::Cell;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use matchbook_client::{Client, Credentials, Event, FileStore, OAuth, RootCerts, Strategy};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, filter, fmt};

use super::script::{Act, Asked, SECRET, Script};
use super::{get, logged_in, noting, on_file, store};

thread_local! {
    /// Whether what this thread logs is kept. The server is in this process as
    /// well, and may log what it was sent.
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// What was written.
#[derive(Clone, Default)]
struct Pages(Arc<Mutex<Vec<u8>>>);

impl Pages {
    /// Keeps what this thread logs, at every level.
    fn of_this_thread() -> Self {
        let pages = Self::default();
        let listening = filter::dynamic_filter_fn(|_, _| LISTENING.get());
        let writer = pages.clone();
        let log = fmt::layer().with_writer(move || writer.clone()).with_filter(listening);
        tracing_subscriber::registry().with(log).init();
        LISTENING.set(true);
        pages
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything that can be shown of a whole life, on one thread.
async fn a_whole_life(script: &Script, credentials: Credentials) -> String {
    let mut shown = Vec::new();
    let client = Client::new(&script.server(), credentials);
    client.log_in_as_guest().await.unwrap();
    script.expire();
    let response = client.post("/user").json(&SECRET.len()).send().await.unwrap();
    shown.push(format!("{:?} {:?}", response.status(), client));
    for act in [Act::json(500, "{}"), Act::Lose, Act::json(200, "{}"), Act::Tear] {
        script.always("/refresh", act);
        let error = client.refresh().await.unwrap_err();
        shown.push(format!("{error} {error:?}"));
        client.log_in_with(script.sign_in()).await.unwrap();
    }
    script.always("/refresh", Act::Do);
    shown.push(format!("{:?}", client.credentials().status()));
    client.log_in_with(script.sign_in()).await.unwrap();
    let url = format!("http://{SECRET}:{SECRET}@localhost/?token={SECRET}");
    for outcome in [get(&client, &url).await, get(&client, &format!("/ {SECRET}")).await] {
        let error = outcome.unwrap_err();
        shown.push(format!("{error} {error:?}"));
    }
    client.log_out().await.unwrap();
    client.log_in_with(script.sign_in()).await.unwrap();
    // What a server says may hold what it was sent.
    let tokens = script.sign_in();
    let echo =
        format!(r#"{{"error":"invalid_request","message":"what is {}"}}"#, tokens.refresh_token);
    client.log_in_with(tokens).await.unwrap();
    script.on("/refresh", [Act::json(400, &echo).marked()]);
    let error = client.refresh().await.unwrap_err();
    shown.push(format!("{error} {error:?}"));
    for status in [400, 403, 404, 409, 418, 429, 500, 503] {
        let tokens = script.sign_in();
        let form = serde_urlencoded::to_string([("refresh_token", &tokens.refresh_token)]).unwrap();
        let quote = format!("{form} {} Bearer {}", tokens.refresh_token, tokens.token);
        let echo = serde_json::json!({ "error": "odd", "message": format!("\x1b[2J{quote}") });
        client.log_in_with(tokens).await.unwrap();
        for path in ["/refresh", "/logout", "/sessions"] {
            script.on(path, vec![Act::json(status, &echo.to_string()).marked(); 5]);
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
    client.log_in_with(script.sign_in()).await.unwrap();
    script.on("/refresh", [Act::invalid_grant()]);
    let error = client.refresh().await.unwrap_err();
    shown.push(format!("{error} {error:?}"));
    shown.concat()
}

#[actix_rt::test]
async fn neither_a_log_at_trace_nor_an_event_nor_an_error_shows_a_token() {
    let pages = Pages::of_this_thread();
    let script = Script::start();
    let (credentials, events) = noting();
    let shown = a_whole_life(&script, credentials).await;
    let events = format!("{:?}", events.lock().unwrap());
    let log = pages.text();
    for said in ["/register", "/token", "/refresh", "/logout"] {
        assert!(log.contains(said) && events.contains(said), "{said} is missing:\n{log}\n{events}");
    }
    let keys: Vec<_> = script.asked("/refresh").iter().filter_map(Asked::key).collect();
    for text in [&shown, &events, &log] {
        assert!(!text.contains(SECRET), "{text}");
        assert!(!text.contains("mb_rt_"), "{text}");
        // With the key and the token that it belongs to, the grant can be had.
        assert!(!keys.iter().any(|key| text.contains(key)), "{text}");
    }
}

#[actix_rt::test]
async fn the_debug_of_no_type_shows_a_token_or_a_secret() {
    let (script, (_folder, file)) = (Script::start(), store());
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
        format!("{:?}", script.server().oauth(oauth.clone()).unwrap()),
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
