//! Metrics and request ids.

use std::time::Duration;

use matchbook_server::clock;
use matchbook_testkit::{Http, ProcessBuilder, TestEnv, TestResponse};

use crate::support::{Server, Tokens, binary, eventually, http};

/// Fetches the metrics of a server that serves them.
pub(crate) async fn metrics(server: &Server) -> String {
    let line = server.process.await_log("/metrics");
    let url = line.split("url=").nth(1).unwrap().trim().to_owned();
    let response = Http::new(&url, None).get("").await;
    assert_eq!(response.status, 200);
    assert!(response.header("content-type").starts_with("application/openmetrics-text"));
    response.text
}

pub(crate) fn with_metrics(launch: ProcessBuilder) -> ProcessBuilder {
    launch.set("metrics.address", "127.0.0.1:0")
}

#[actix_rt::test]
async fn metrics_count_every_outcome() {
    let server = Server::with(with_metrics);
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    Tokens::of(&server.refresh(&first.refresh).await);
    assert_eq!(server.refresh("junk").await.status, 401);
    assert_eq!(server.user(&second.access).await, 200);
    let form = format!("refresh_token={}", second.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    assert_eq!(server.refresh(&second.refresh).await.status, 401);
    assert_eq!(server.user(&second.access).await, 401);
    let made_up = server.http.request("BREW", "/user").send();
    assert_eq!(TestResponse::of(made_up).await.status, 405);
    assert_eq!(server.http.get("/nothing/here").await.status, 404);

    let text = metrics(&server).await;
    let has = |line: &str| assert!(text.lines().any(|l| l.starts_with(line)), "{line} in\n{text}");
    has("matchbook_sessions_opened_total 1");
    has(r#"matchbook_sessions_ended_total{reason="logged_out"} 1"#);
    for outcome in ["rotated", "reissued", "unrecognized", "logged_out"] {
        has(&format!(r#"matchbook_refreshes_total{{outcome="{outcome}"}} 1"#));
    }
    has(
        r#"matchbook_request_duration_seconds_count{method="POST",route="/refresh",status="401"} 2"#,
    );
    has(r#"matchbook_request_duration_seconds_count{method="other",route="/user",status="405"} 1"#);
    has(r#"matchbook_request_duration_seconds_count{method="GET",route="",status="404"} 1"#);
    has("matchbook_signing_duration_seconds_count 3");
    has(r#"matchbook_database_connections{state="idle"}"#);
    // On a busy machine the lease of Redis may have expired.
    let checks = text.lines().filter_map(|line| {
        let (source, count) =
            line.strip_prefix("matchbook_access_checks_total{")?.split_once(' ')?;
        // The server remembers the session that has ended.
        let is_possible = server.world.redis_url().is_some() || !source.contains("miss");
        is_possible.then(|| count.parse::<u32>().unwrap())
    });
    assert_eq!(checks.sum::<u32>(), 2, "{text}");
    assert!(!text.contains("nothing"), "no path of a client's making");
    assert!(text.ends_with("# EOF\n"));
}

/// The table of metrics in the documentation: name, names of labels, and meaning.
fn documented() -> Vec<(String, Vec<String>, String)> {
    let document = include_str!("../../../docs/operations.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter(|row| row.starts_with("matchbook_") || row.starts_with("process_"));
    let metric = |row: &str| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap().trim_end_matches('`').to_owned();
        let labels = cells.next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned);
        (name, labels.collect(), cells.next().unwrap().to_owned())
    };
    rows.map(metric).collect()
}

/// Returns the names of the metrics as their time series have them.
fn names(text: &str) -> Vec<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let name = |line: &str| match line.split_once(' ').unwrap() {
        (name, "counter") => format!("{name}_total"),
        (name, "info") => format!("{name}_info"),
        (name, _) => name.to_owned(),
    };
    types.map(name).collect()
}

#[actix_rt::test]
async fn all_documented_metrics_exist_before_the_first_request_and_no_others() {
    let server = Server::with(with_metrics);
    let text = metrics(&server).await;
    let mut existing = names(&text);
    let mut expected: Vec<String> = documented().into_iter().map(|(name, ..)| name).collect();
    existing.sort();
    expected.sort();
    assert_eq!(existing, expected);
    for (name, labels, meaning) in documented() {
        let is_series = |line: &&str| {
            let rest = line.strip_prefix(&name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
        };
        let series: Vec<&str> = text.lines().filter(is_series).collect();
        assert!(!series.is_empty(), "{name} has no series in\n{text}");
        for label in &labels {
            assert!(
                series.iter().any(|line| line.contains(&format!("{label}=\""))),
                "{name} {label}"
            );
        }
        // The values that the documentation lists.
        if let [label] = labels.as_slice() {
            let values = meaning.split('`').skip(1).step_by(2);
            for value in
                values.filter(|value| value.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            {
                let pair = format!("{label}=\"{value}\"");
                assert!(series.iter().any(|line| line.contains(&pair)), "{name} {pair}");
            }
        }
    }
    assert!(text.contains("matchbook_build_info{version=\"0"), "{text}");
}

#[test]
fn alerts_use_documented_metrics_only() {
    let alerts = include_str!("../../../docs/examples/prometheus/alerts.yml");
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = alerts
        .split(|c: char| !is_part(c))
        .filter(|word| word.starts_with("matchbook_") || word.starts_with("process_"));
    let documented: Vec<String> = documented().into_iter().map(|(name, ..)| name).collect();
    let mut found = 0;
    for word in words {
        found += 1;
        assert!(documented.iter().any(|name| name == word), "{word} does not exist");
    }
    assert!(found > 10, "{found} metrics were found");
}

#[actix_rt::test]
async fn metrics_describe_the_process_the_keys_and_the_certificate() {
    let server = Server::with(with_metrics);
    let text = metrics(&server).await;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<f64>().unwrap()
    };
    let now = Duration::from_millis(clock::now().as_unix_millis()).as_secs_f64();
    let since = |name: &str| now - value(name);
    assert!((-5.0..600.0).contains(&since("process_start_time_seconds")), "{text}");
    assert!(value("process_resident_memory_bytes") > 1e6, "{text}");
    assert!(value("process_cpu_seconds_total") > 0.0, "{text}");
    assert!(value("process_open_fds") > 5.0, "{text}");
    assert!(value("process_max_fds") > value("process_open_fds"), "{text}");
    assert!((-5.0..600.0).contains(&since("matchbook_signing_key_active_from_timestamp_seconds")));
    let day = 86_400.0;
    let rotation = -since("matchbook_signing_key_rotation_timestamp_seconds") / day;
    assert!((89.0..91.0).contains(&rotation), "90 days by default: {rotation}");
    assert!(-since("matchbook_certificate_expiry_timestamp_seconds") > day, "{text}");
    assert!(value("matchbook_database_up") > 0.0, "{text}");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn metrics_show_an_outage_of_the_database() {
    let world = TestEnv::new();
    let (relay, url) = world.database_proxy();
    let process = with_metrics(world.server(binary())).variable("DATABASE_URL", &url).start();
    let server = Server { http: http(&world, &process), process, world };
    let tokens = server.log_in().await;
    let has = async |line: &str| metrics(&server).await.lines().any(|own| own == line);
    assert!(has("matchbook_database_up 1").await);
    assert!(has("matchbook_responses_total{class=\"unavailable\"} 0").await);
    relay.disconnect();
    assert_eq!(server.refresh(&tokens.refresh).await.status, 503);
    assert!(has("matchbook_database_up 0").await);
    assert!(has("matchbook_responses_total{class=\"unavailable\"} 1").await);
    let text = metrics(&server).await;
    let errors = text.lines().filter(|line| line.starts_with("matchbook_database_errors_total"));
    let counted = errors.filter(|line| !line.ends_with(" 0"));
    assert!(counted.count() > 0, "{text}");
    relay.restore();
    eventually(true, async || has("matchbook_database_up 1").await).await;
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and Redis: make test"]
async fn revocations_are_unpublished_until_redis_and_the_database_are_back() {
    let world = TestEnv::new();
    let (database, database_url) = world.database_proxy();
    let (redis, redis_url) = world.redis_proxy();
    let launch = with_metrics(world.server(binary()).variable("DATABASE_URL", &database_url));
    let process = launch.variable("REDIS_URL", &redis_url).start();
    let server = Server { http: http(&world, &process), process, world };
    let tokens = server.log_in().await;
    let unpublished = async || {
        let text = metrics(&server).await;
        let name = "matchbook_unpublished_revocations ";
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<u32>().unwrap()
    };
    redis.disconnect();
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    assert_eq!(unpublished().await, 1);
    // Redis is back, and the revocations of the database cannot be read.
    database.disconnect();
    redis.restore();
    server.process.await_log("that it may have missed cannot be read");
    assert_eq!(unpublished().await, 1);
    database.restore();
    server.process.await_log("redis connection restored");
    eventually(0, async || unpublished().await).await;
}

#[actix_rt::test]
async fn rejected_guesses_are_counted_from_zero() {
    let server = Server::with(with_metrics);
    let count = async |limit: &str| {
        let text = metrics(&server).await;
        let name = format!("matchbook_limited_total{{limit=\"{limit}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<u32>().unwrap()
    };
    for limit in ["register", "connections", "guessed_passwords", "guessed_codes"] {
        assert_eq!(count(limit).await, 0, "{limit}");
    }
    for _ in 0..6 {
        let response = server.try_log_in_as("ann", "marble lantern drifts north").await;
        assert_eq!(response.status, 401);
    }
    let guesses = (0..3).map(|_| server.try_log_in_as("ann", "marble lantern drifts north"));
    let responses = futures_util::future::join_all(guesses).await;
    let rejected = responses.iter().filter(|response| response.status == 429).count();
    assert!(rejected > 0);
    assert_eq!(count("guessed_passwords").await as usize, rejected);
    assert_eq!(count("guessed_codes").await, 0);
}

#[actix_rt::test]
async fn metrics_are_not_served_on_the_public_address() {
    let server = Server::with(with_metrics);
    assert_eq!(server.http.get("/metrics").await.status, 404);
}

#[actix_rt::test]
async fn request_id_is_in_the_response_and_in_the_log() {
    let mut server = Server::with(|launch| {
        launch.set("log.level", "debug").set("server.trusted_proxies", "127.0.0.1")
    });
    let own = server.http.get("/register").await.header("x-request-id").to_owned();
    assert_eq!(own.len(), 36);
    let ask = async |id: &str| {
        let request = server.http.request("GET", "/register").insert_header(("x-request-id", id));
        TestResponse::of(request.send()).await.header("x-request-id").to_owned()
    };
    assert_eq!(ask("of-the-proxy.1:2").await, "of-the-proxy.1:2");
    for unfit in ["", "a b", "{evil}", &"x".repeat(65)] {
        assert_eq!(ask(unfit).await.len(), 36, "{unfit}");
    }
    let missing = server.http.get("/nothing").await;
    assert_eq!((missing.status, missing.header("x-request-id").len()), (404, 36));
    assert!(server.process.stop().success());
    assert!(server.process.logged(&own) > 0);
    assert!(server.process.logged("of-the-proxy.1:2") > 0);
    assert_eq!(server.process.logged("evil"), 0);
}

#[actix_rt::test]
async fn request_id_from_an_untrusted_peer_is_ignored() {
    let server = Server::start();
    let request = server.http.request("GET", "/register").insert_header(("x-request-id", "mine"));
    assert_ne!(TestResponse::of(request.send()).await.header("x-request-id"), "mine");
}

#[actix_rt::test]
async fn every_response_says_that_it_is_from_the_server() {
    let server = Server::start();
    let tokens = server.log_in().await;
    let user = server.http.get_as("/user", &tokens.access).await;
    let etag = server.http.get("/.well-known/jwks.json").await.header("etag").to_owned();
    let unchanged = server.http.request("GET", "/.well-known/jwks.json");
    let unchanged = TestResponse::of(unchanged.insert_header(("if-none-match", etag)).send()).await;
    let method = TestResponse::of(server.http.request("BREW", "/user").send()).await;
    let large = server.http.post("/refresh", &"x".repeat(100_000)).await;
    let form = format!("refresh_token={}", tokens.refresh);
    for (status, response) in [
        (200, user),
        (304, unchanged),
        (405, method),
        (413, large),
        (404, server.http.get("/nothing/here").await),
        (401, server.http.get("/user").await),
        (400, server.http.post("/refresh", "").await),
        (401, server.refresh("junk").await),
        (204, server.http.post("/logout", &form).await),
        (200, server.http.get("/health/live").await),
    ] {
        assert_eq!((response.status, response.header("matchbook-server")), (status, "1"));
    }
}
