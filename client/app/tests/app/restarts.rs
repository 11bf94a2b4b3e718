//! Browsers stay logged in over restarts and crashes of the app.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use matchbook_testkit::{
    Http, Process, ProcessBuilder, Reaction, Received, ScriptedServer, TestEnv,
};
use serde_json::json;

use super::support::{Browser, Setup, assert_error, client, wait_for_expiry};

/// Returns the files of the browser sessions with this extension.
fn files(env: &TestEnv, extension: &str) -> Vec<PathBuf> {
    let folder = fs::read_dir(env.folder().join("data/client/browsers")).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// Starts the next process, and returns the browser that used the last one.
fn restart(builder: &ProcessBuilder, browser: &Browser) -> (Process, Browser) {
    let app = builder.start();
    let browser = Browser::with_cookie(&app, browser.cookie());
    (app, browser)
}

#[actix_rt::test]
async fn browsers_stay_logged_in_when_the_app_is_stopped_or_killed() {
    let setup = Setup::start(|server| server.set("tokens.access_lifetime", "2s"));
    let builder = client(&setup.env, setup.server.url()).set("store.browsers", "browsers");
    let mut app = builder.start();
    let mut guest = Browser::open(&app).await;
    let mut account = Browser::open(&app).await;
    guest.log_in().await;
    let form = json!({ "name": "anna", "password": "violet tractor seven hums" });
    assert_eq!(account.submit("/api/account/register", &form).await.status, 200);
    let users = [guest.user().await, account.user().await];
    for round in 0..4 {
        if round % 2 == 0 {
            app.kill();
        } else {
            assert!(app.stop().success());
        }
        wait_for_expiry(2).await;
        (app, guest) = restart(&builder, &guest);
        account = Browser::with_cookie(&app, account.cookie());
        assert_eq!(guest.events().await.state().await["loggedIn"], true);
        assert_eq!([guest.user().await, account.user().await], users, "round {round}");
        // The cookie of a new login is known to the next process.
        if round == 1 {
            assert_eq!(account.submit("/api/account/login", &form).await.status, 204);
        }
    }
    assert_eq!(setup.server.logged("refresh rejected"), 0, "{}", setup.server.log());
    assert_eq!(guest.call("POST", "/api/logout").await.status, 204);
    app.kill();
    let (_app, guest) = restart(&builder, &guest);
    assert_error(&guest.call("POST", "/api/info").await, 401, "no_cookie");
}

#[actix_rt::test]
async fn an_app_killed_during_a_refresh_is_continued_by_the_next_with_the_same_key() {
    let script = ScriptedServer::start();
    let env = TestEnv::new();
    let builder = client(&env, script.origin());
    let mut app = builder.start();
    let mut browser = Browser::open(&app).await;
    browser.log_in().await;
    for round in 1..=5 {
        script.expire();
        script.on("/refresh", [Reaction::Serve.held()]);
        let refresh = actix_rt::spawn({
            let browser = Browser::with_cookie(&app, browser.cookie());
            // The app dies before it responds.
            async move {
                browser
                    .bare("POST", "/api/refresh")
                    .insert_header(("x-matchbook", "page"))
                    .send()
                    .await
                    .is_err()
            }
        });
        script.until_received("/refresh", 2 * round - 1).await;
        app.kill();
        assert!(refresh.await.unwrap());
        // The server serves the request of the killed app: its response is lost.
        script.release();
        (app, browser) = restart(&builder, &browser);
        assert_eq!(browser.call("POST", "/api/refresh").await.status, 204);
        let keys: Vec<_> = script.received("/refresh").iter().map(Received::key).collect();
        assert_eq!(keys.len(), 2 * round);
        assert!(keys[2 * round - 2].is_some());
        assert_eq!(keys[2 * round - 2], keys[2 * round - 1]);
        assert_eq!((script.rotations(), script.reuses()), (round, 0));
    }
}

#[actix_rt::test]
async fn clients_without_a_cookie_stay_logged_in_over_a_restart() {
    let setup = Setup::start(|server| server);
    let builder = client(&setup.env, setup.server.url()).set("store.browsers", "browsers");
    let mut app = builder.start();
    assert_eq!(Http::new(app.url(), None).get("/login").await.status, 200);
    let before = Http::new(app.url(), None).get("/info").await;
    assert!(before.text.starts_with("User Id: "), "{}", before.text);
    app.kill();
    let app = builder.start();
    let after = Http::new(app.url(), None).get("/info").await;
    assert_eq!((after.status, after.text), (200, before.text));
}

#[actix_rt::test]
async fn an_app_killed_at_any_time_loses_no_session() {
    let setup = Setup::start(|server| server.set("tokens.access_lifetime", "2s"));
    let builder = client(&setup.env, setup.server.url()).set("store.browsers", "browsers");
    let mut app = builder.start();
    let mut browser = Browser::open(&app).await;
    browser.log_in().await;
    let user = browser.user().await;
    for round in 0..8 {
        wait_for_expiry(2).await;
        let refreshing: Vec<_> = (0..4)
            .map(|_| {
                let request = browser.bare("POST", "/api/info");
                actix_rt::spawn(request.insert_header(("x-matchbook", "page")).send())
            })
            .collect();
        actix_rt::time::sleep(Duration::from_millis(4 * round)).await;
        app.kill();
        for request in refreshing {
            let _ = request.await.unwrap();
        }
        (app, browser) = restart(&builder, &browser);
        assert_eq!(browser.user().await, user, "round {round}");
    }
    let log = setup.server.log();
    assert_eq!(setup.server.logged("refresh rejected"), 0, "{log}");
    assert_eq!(setup.server.logged("refresh token reused"), 0, "{log}");
}

#[actix_rt::test]
async fn unreadable_files_are_moved_aside_with_a_warning_and_the_app_starts() {
    let script = ScriptedServer::start();
    let env = TestEnv::new();
    let builder = client(&env, script.origin());
    let mut app = builder.start();
    let damaged = Browser::open(&app).await;
    damaged.log_in().await;
    let [file] = &files(&env, "browser")[..] else { panic!("a browser has a file") };
    let kept = Browser::open(&app).await;
    kept.log_in().await;
    assert!(app.stop().success());
    let bytes = fs::read(file).unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains(ScriptedServer::SECRET));
    fs::write(file, &bytes[..bytes.len() - 1]).unwrap();

    let (mut app, damaged) = restart(&builder, &damaged);
    app.await_log("renamed to *.unreadable");
    assert_error(&damaged.call("POST", "/api/info").await, 401, "no_cookie");
    let kept = Browser::with_cookie(&app, kept.cookie());
    assert_eq!(kept.call("POST", "/api/refresh").await.status, 204);
    assert_eq!((files(&env, "browser").len(), files(&env, "unreadable").len()), (1, 1));

    // A key of another folder.
    assert!(app.stop().success());
    fs::write(env.folder().join("data/client/browsers/key"), [1; 32]).unwrap();
    let (_app, kept) = restart(&builder, &kept);
    assert_error(&kept.call("POST", "/api/refresh").await, 401, "no_cookie");
    assert_eq!((files(&env, "browser").len(), files(&env, "unreadable").len()), (0, 2));
}

#[actix_rt::test]
async fn a_second_app_in_the_same_folder_keeps_its_tokens_in_memory() {
    let setup = Setup::start(|server| server);
    let builder = client(&setup.env, setup.server.url());
    let second = builder.start();
    second.await_log("another app uses this folder");
    second.await_log("browser sessions kept in memory only");
    let browser = Browser::open(&second).await;
    browser.log_in().await;
    assert!(files(&setup.env, "browser").is_empty());
    let in_memory = builder.set("store.browsers", "none").start();
    Browser::open(&in_memory).await.log_in().await;
    assert_eq!(in_memory.logged("in memory only"), 0);
}
