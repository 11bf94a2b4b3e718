//! Mistakes that do not pass are told apart from what may, with their cause.

use std::time::Duration;

use matchbook_client::{Client, Error, RootCerts};

use super::script::{Act, Script};
use super::wire::{Do, Wire, certificate, client};
use super::{get, is_transient, logged_in, soon};

const TIMEOUT: Duration = Duration::from_secs(8);

/// Asserts that whatever a session does fails with these words, and keeps its
/// tokens.
async fn assert_misconfigured(client: &Client, words: &[&str]) {
    for outcome in [
        get(client, "/user").await.map(drop),
        soon(client.refresh()).await,
        soon(client.log_out()).await,
        soon(client.log_in_as_guest()).await,
    ] {
        let Err(Error::Misconfigured(problem)) = &outcome else { panic!("{words:?}: {outcome:?}") };
        assert!(words.iter().all(|word| problem.contains(word)), "{words:?}: {problem}");
    }
    assert!(client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn an_address_of_ipv6_is_verified_without_its_brackets() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, acceptor) = certificate(folder.path(), &["::1"], (-1, 1));
    let wire = Wire::serve("[::1]:0", Some(acceptor), |_, _, _| Do::answer("good"));
    let url = format!("https://[::1]:{}", wire.address.port());
    let at_address = client(&url, &RootCerts::File(ca.clone()), TIMEOUT).await;
    assert_eq!(get(&at_address, "/user").await, Ok(200));
    let head = wire.requests().remove(0).to_lowercase();
    assert!(head.contains(&format!("host: [::1]:{}\r\n", wire.address.port())), "{head}");
    // The brackets are gone, and the verification is not.
    let (_, other) = certificate(folder.path(), &["::2"], (-1, 1));
    let wire = Wire::serve("[::1]:0", Some(other), |_, _, _| Do::answer("good"));
    let url = format!("https://[::1]:{}", wire.address.port());
    let at_other = client(&url, &RootCerts::File(ca), TIMEOUT).await;
    assert_misconfigured(&at_other, &["certificate of ::1", "name"]).await;
}

#[actix_rt::test]
async fn a_certificate_that_is_not_accepted_is_a_mistake_with_a_remedy() {
    for (names, days, words) in [
        (["localhost"], (-1, 1), ["is not accepted", "`server.ca_file`"]),
        (["other.example"], (-1, 1), ["is not accepted", "use a name"]),
        (["127.0.0.2"], (-1, 1), ["is not accepted", "use a name"]),
        (["localhost"], (-9, -2), ["expired", "renew"]),
        (["localhost"], (2, 9), ["not yet valid", "clock"]),
    ] {
        let (trusted, shown) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ca, acceptor) = certificate(shown.path(), &names, days);
        let ca = match words[1] {
            "`server.ca_file`" => certificate(trusted.path(), &names, days).0,
            _ => ca,
        };
        let wire = Wire::serve("127.0.0.1:0", Some(acceptor), |_, _, _| Do::answer("good"));
        let url = format!("https://localhost:{}", wire.address.port());
        let client = client(&url, &RootCerts::File(ca), TIMEOUT).await;
        assert_misconfigured(&client, &words).await;
        assert!(wire.requests().is_empty(), "the tokens were sent");
    }
}

#[actix_rt::test]
async fn https_to_a_plain_server_is_a_mistake_with_a_remedy() {
    let script = Script::start();
    let url = script.origin().replace("http://", "https://");
    let client = client(&url, &RootCerts::System, TIMEOUT).await;
    assert_misconfigured(&client, &["does not speak TLS", "`http://`"]).await;
}

#[actix_rt::test]
async fn http_to_a_server_with_tls_is_a_mistake_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (_, acceptor) = certificate(folder.path(), &["localhost"], (-1, 1));
    let wire = Wire::serve("127.0.0.1:0", Some(acceptor), |_, _, _| Do::answer("good"));
    let client = wire.client(TIMEOUT).await;
    assert_misconfigured(&client, &["speaks TLS", "`https://`"]).await;
}

#[actix_rt::test]
async fn a_plain_server_that_hangs_up_or_finds_fault_is_not_taken_for_one_with_tls() {
    let wire = Wire::start(|_, _, _| Do::Close(""));
    let hung_up = get(&wire.client(TIMEOUT).await, "/user").await;
    assert!(is_transient(&hung_up), "{hung_up:?}");
    let wire = Wire::start(|_, _, _| Do::answer_with(400, "content-type: text/html\r\n", "<p>"));
    assert_eq!(get(&wire.client(TIMEOUT).await, "/user").await, Ok(400));
}

#[actix_rt::test]
async fn an_unknown_host_is_a_mistake_with_a_remedy() {
    // No name has a part of more than 63 bytes: no server need be asked.
    let host = format!("{}.example", "x".repeat(64));
    let client = client(&format!("http://{host}"), &RootCerts::System, TIMEOUT).await;
    assert_misconfigured(&client, &["is unknown", &host, "DNS"]).await;
}

#[actix_rt::test]
async fn a_server_that_does_not_listen_may_do_so_later() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = client(&url, &RootCerts::System, TIMEOUT).await;
    let outcome = get(&client, "/user").await;
    assert!(is_transient(&outcome), "{outcome:?}");
    assert!(outcome.unwrap_err().to_string().contains("refused"));
}

#[actix_rt::test]
async fn a_redirect_of_the_servers_names_its_target() {
    for (to, named) in [
        ("/elsewhere?code=hush", "/elsewhere"),
        ("https://127.0.0.1/login#hush", "https://127.0.0.1/login"),
        ("https://user:hush@127.0.0.1:7/", "https://127.0.0.1:7/"),
    ] {
        for status in [301, 302, 303, 307, 308] {
            let script = Script::start();
            let client = logged_in(&script).await;
            for path in ["/refresh", "/logout", "/register"] {
                script.always(path, Act::redirect(status, to));
            }
            for outcome in [
                soon(client.refresh()).await,
                soon(client.log_out()).await,
                soon(client.log_in_as_guest()).await,
            ] {
                let Err(Error::Misconfigured(problem)) = &outcome else { panic!("{outcome:?}") };
                assert!(problem.contains(named) && !problem.contains("hush"), "{problem}");
            }
            assert!(client.credentials().is_logged_in());
        }
    }
}

#[actix_rt::test]
async fn a_redirect_to_another_host_may_be_a_networks_without_tls_and_the_servers_with() {
    let to = "location: https://login.example/?from=hush\r\n";
    let wire = Wire::start(move |_, _, _| Do::answer_with(302, to, ""));
    let outcome = soon(wire.client(TIMEOUT).await.refresh()).await;
    assert!(is_transient(&outcome), "{outcome:?}");
    assert!(outcome.unwrap_err().to_string().contains("https://login.example/,"));

    let folder = tempfile::tempdir().unwrap();
    let (ca, acceptor) = certificate(folder.path(), &["localhost"], (-1, 1));
    let wire = Wire::serve("127.0.0.1:0", Some(acceptor), move |_, _, text| match text {
        text if text.starts_with("POST /refresh") => Do::answer_with(302, to, ""),
        _ => Do::answer_with(302, "location: /moved\r\n", ""),
    });
    let url = format!("https://localhost:{}", wire.address.port());
    let client = client(&url, &RootCerts::File(ca), TIMEOUT).await;
    let outcome = soon(client.refresh()).await.unwrap_err();
    assert!(matches!(&outcome, Error::Misconfigured(said) if said.contains("login.example")));
    let outcome = soon(client.log_out()).await.unwrap_err();
    assert!(outcome.to_string().contains(&format!("{url}/moved")), "{outcome}");
}

#[actix_rt::test]
async fn a_response_that_a_proxy_has_compressed_is_named() {
    for path in ["/refresh", "/logout", "/register"] {
        for status in [200, 401, 503] {
            let script = Script::start();
            let client = logged_in(&script).await;
            let gzip = Act::json(status, "no JSON").with_header("content-encoding", "gzip");
            script.always(path, gzip);
            let outcome = match path {
                "/refresh" => soon(client.refresh()).await,
                "/logout" if status == 200 => continue,
                "/logout" => soon(client.log_out()).await,
                _ => soon(client.log_in_as_guest()).await,
            };
            assert!(client.credentials().is_logged_in());
            assert_eq!(script.asked(path)[0].headers["accept-encoding"], "identity");
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
async fn a_response_that_says_it_is_not_compressed_is_read() {
    for encoding in ["identity", "Identity"] {
        let script = Script::start();
        let client = logged_in(&script).await;
        let guest = Act::json(200, r#""a guest""#).with_header("content-encoding", encoding);
        script.always("/register", guest);
        assert_eq!(soon(client.log_in_as_guest()).await, Ok(()));
    }
}
