//! Permanent errors of the configuration, with cause and remedy.

use std::time::Duration;

use matchbook_client::{Client, Error, RootCerts};
use matchbook_testkit::{Reaction, ScriptedServer};

use super::wire::{Do, Wire, certificate, client};
use super::{get, is_transient, logged_in, within_timeout};

const TIMEOUT: Duration = Duration::from_secs(8);

/// Asserts that each call fails with these words and keeps the tokens.
async fn assert_misconfigured(client: &Client, words: &[&str]) {
    for outcome in [
        get(client, "/user").await.map(drop),
        within_timeout(client.refresh()).await,
        within_timeout(client.log_out()).await,
        within_timeout(client.log_in_as_guest()).await,
    ] {
        let Err(Error::Misconfigured(problem)) = &outcome else { panic!("{words:?}: {outcome:?}") };
        assert!(words.iter().all(|word| problem.contains(word)), "{words:?}: {problem}");
    }
    assert!(client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn an_ipv6_address_is_verified_without_brackets() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, acceptor) = certificate(folder.path(), &["::1"], (-1, 1));
    let wire = Wire::serve("[::1]:0", Some(acceptor), |_, _, _| Do::respond("good"));
    let url = format!("https://[::1]:{}", wire.address.port());
    let at_address = client(&url, &RootCerts::File(ca.clone()), TIMEOUT).await;
    assert_eq!(get(&at_address, "/user").await, Ok(200));
    let head = wire.requests().remove(0).to_lowercase();
    assert!(head.contains(&format!("host: [::1]:{}\r\n", wire.address.port())), "{head}");
    // Another address is still rejected.
    let (_, other) = certificate(folder.path(), &["::2"], (-1, 1));
    let wire = Wire::serve("[::1]:0", Some(other), |_, _, _| Do::respond("good"));
    let url = format!("https://[::1]:{}", wire.address.port());
    let at_other = client(&url, &RootCerts::File(ca), TIMEOUT).await;
    assert_misconfigured(&at_other, &["certificate of ::1", "name"]).await;
}

#[actix_rt::test]
async fn an_untrusted_certificate_is_misconfigured_with_a_remedy() {
    for (names, days, words) in [
        (["localhost"], (-1, 1), ["is not accepted", "`server.ca_file`"]),
        (["other.example"], (-1, 1), ["is not accepted", "use a name"]),
        (["127.0.0.2"], (-1, 1), ["is not accepted", "use a name"]),
        (["localhost"], (-9, -2), ["expired", "renew"]),
        (["localhost"], (2, 9), ["not yet valid", "clock"]),
    ] {
        let trusted = tempfile::tempdir().unwrap();
        let shown = tempfile::tempdir().unwrap();
        let (ca, acceptor) = certificate(shown.path(), &names, days);
        let ca = match words[1] {
            "`server.ca_file`" => certificate(trusted.path(), &names, days).0,
            _ => ca,
        };
        let wire = Wire::serve("127.0.0.1:0", Some(acceptor), |_, _, _| Do::respond("good"));
        let url = format!("https://localhost:{}", wire.address.port());
        let client = client(&url, &RootCerts::File(ca), TIMEOUT).await;
        assert_misconfigured(&client, &words).await;
        assert!(wire.requests().is_empty(), "the tokens were sent");
    }
}

#[actix_rt::test]
async fn https_to_a_plain_server_is_misconfigured_with_a_remedy() {
    let script = ScriptedServer::start();
    let url = script.origin().replace("http://", "https://");
    let client = client(&url, &RootCerts::System, TIMEOUT).await;
    assert_misconfigured(&client, &["does not speak TLS", "`http://`"]).await;
}

#[actix_rt::test]
async fn http_to_a_tls_server_is_misconfigured_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (_, acceptor) = certificate(folder.path(), &["localhost"], (-1, 1));
    let wire = Wire::serve("127.0.0.1:0", Some(acceptor), |_, _, _| Do::respond("good"));
    let client = wire.client(TIMEOUT).await;
    assert_misconfigured(&client, &["speaks TLS", "`https://`"]).await;
}

#[actix_rt::test]
async fn a_plain_server_that_closes_or_responds_400_is_not_mistaken_for_a_tls_server() {
    let wire = Wire::start(|_, _, _| Do::Close(""));
    let hung_up = get(&wire.client(TIMEOUT).await, "/user").await;
    assert!(is_transient(&hung_up), "{hung_up:?}");
    let wire = Wire::start(|_, _, _| Do::respond_with(400, "content-type: text/html\r\n", "<p>"));
    assert_eq!(get(&wire.client(TIMEOUT).await, "/user").await, Ok(400));
}

#[actix_rt::test]
async fn an_unknown_host_is_misconfigured_with_a_remedy() {
    // A label of more than 63 bytes is invalid, so the resolver sends no query.
    let host = format!("{}.example", "x".repeat(64));
    let client = client(&format!("http://{host}"), &RootCerts::System, TIMEOUT).await;
    assert_misconfigured(&client, &["is unknown", &host, "DNS"]).await;
}

#[actix_rt::test]
async fn a_refused_connection_is_transient() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = client(&url, &RootCerts::System, TIMEOUT).await;
    let outcome = get(&client, "/user").await;
    assert!(is_transient(&outcome), "{outcome:?}");
    assert!(outcome.unwrap_err().to_string().contains("refused"));
}

#[actix_rt::test]
async fn the_error_of_a_redirect_names_its_target() {
    for (to, named) in [
        ("/elsewhere?code=hush", "/elsewhere"),
        ("https://127.0.0.1/login#hush", "https://127.0.0.1/login"),
        ("https://user:hush@127.0.0.1:7/", "https://127.0.0.1:7/"),
    ] {
        for status in [301, 302, 303, 307, 308] {
            let script = ScriptedServer::start();
            let client = logged_in(&script).await;
            for path in ["/refresh", "/logout", "/register"] {
                script.always(path, Reaction::redirect(status, to));
            }
            for outcome in [
                within_timeout(client.refresh()).await,
                within_timeout(client.log_out()).await,
                within_timeout(client.log_in_as_guest()).await,
            ] {
                let Err(Error::Misconfigured(problem)) = &outcome else { panic!("{outcome:?}") };
                assert!(problem.contains(named) && !problem.contains("hush"), "{problem}");
            }
            assert!(client.credentials().is_logged_in());
        }
    }
}

#[actix_rt::test]
async fn a_redirect_to_another_host_is_transient_without_tls_and_misconfigured_with_tls() {
    let to = "location: https://login.example/?from=hush\r\n";
    let wire = Wire::start(move |_, _, _| Do::respond_with(302, to, ""));
    let outcome = within_timeout(wire.client(TIMEOUT).await.refresh()).await;
    assert!(is_transient(&outcome), "{outcome:?}");
    assert!(outcome.unwrap_err().to_string().contains("https://login.example/,"));

    let folder = tempfile::tempdir().unwrap();
    let (ca, acceptor) = certificate(folder.path(), &["localhost"], (-1, 1));
    let wire = Wire::serve("127.0.0.1:0", Some(acceptor), move |_, _, text| match text {
        text if text.starts_with("POST /refresh") => Do::respond_with(302, to, ""),
        _ => Do::respond_with(302, "location: /moved\r\n", ""),
    });
    let url = format!("https://localhost:{}", wire.address.port());
    let client = client(&url, &RootCerts::File(ca), TIMEOUT).await;
    let outcome = within_timeout(client.refresh()).await.unwrap_err();
    assert!(matches!(&outcome, Error::Misconfigured(said) if said.contains("login.example")));
    let outcome = within_timeout(client.log_out()).await.unwrap_err();
    assert!(outcome.to_string().contains(&format!("{url}/moved")), "{outcome}");
}

#[actix_rt::test]
async fn a_compressed_response_is_misconfigured() {
    for path in ["/refresh", "/logout", "/register"] {
        for status in [200, 401, 503] {
            let script = ScriptedServer::start();
            let client = logged_in(&script).await;
            let gzip = Reaction::json(status, "no JSON").with_header("content-encoding", "gzip");
            script.always(path, gzip);
            let outcome = match path {
                "/refresh" => within_timeout(client.refresh()).await,
                "/logout" if status == 200 => continue,
                "/logout" => within_timeout(client.log_out()).await,
                _ => within_timeout(client.log_in_as_guest()).await,
            };
            assert!(client.credentials().is_logged_in());
            assert_eq!(script.received(path)[0].headers["accept-encoding"], "identity");
            if status == 503 {
                assert!(is_transient(&outcome), "{path}: {outcome:?}");
                continue;
            }
            let Err(Error::Misconfigured(problem)) = &outcome else {
                panic!("{path} {status}: {outcome:?}")
            };
            assert!(problem.contains("gzip") && problem.contains("proxy"), "{problem}");
        }
    }
}

#[actix_rt::test]
async fn a_response_with_the_encoding_identity_is_read() {
    for encoding in ["identity", "Identity"] {
        let script = ScriptedServer::start();
        let client = logged_in(&script).await;
        let guest = Reaction::json(200, r#""a guest""#).with_header("content-encoding", encoding);
        script.always("/register", guest);
        assert_eq!(within_timeout(client.log_in_as_guest()).await, Ok(()));
    }
}
