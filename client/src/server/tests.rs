use super::*;

fn server(url: &str) -> Result<Server, ServerError> {
    Server::new(url, &RootCerts::System, Duration::ZERO)
}

/// Returns the URL of a target, with the scheme of its connection.
fn url(target: Result<Target, Error>) -> Result<String, Error> {
    let target = target?;
    let url = target.uri.to_string();
    Ok(if target.tls { url.replacen("http", "https", 1) } else { url })
}

#[test]
fn an_access_token_is_sent_to_the_server_and_to_allowed_origins_only() {
    let server = server("https://auth.example:8443/x").unwrap();
    let server = server.allow_origin("https://api.example").unwrap();
    let at = |target| url(server.bearer_target(target));
    assert_eq!(at("/user").unwrap(), "https://auth.example:8443/x/user");
    let endpoint = url(server.target("oauth/token")).unwrap();
    assert_eq!(endpoint, "https://auth.example:8443/x/oauth/token");
    assert_eq!(at("/a?to=https://b/c").unwrap(), "https://auth.example:8443/x/a?to=https://b/c");
    for (allowed, url) in [
        ("https://auth.example:8443/y", "https://auth.example:8443/y"),
        ("https://API.example:443/", "https://api.example/"),
        ("HTTPS://api.example/?q=1", "https://api.example/?q=1"),
        ("https://api.example", "https://api.example/"),
    ] {
        assert_eq!(at(allowed).unwrap(), url);
    }
    for (foreign, origin) in [
        ("http://api.example/", "http://api.example"),
        ("https://auth.example/", "https://auth.example"),
        ("https://api.example.evil/", "https://api.example.evil"),
        ("https://api.example:444/", "https://api.example:444"),
    ] {
        assert_eq!(at(foreign), Err(Error::OriginNotAllowed(origin.to_owned())));
    }
    for bad in [
        "https://api.example@evil.example/",
        "https://api.example\\@evil.example/",
        "https://api.example:99999/",
        "https://api.example:500l/",
        "https://api.example:/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://xn--a/",
        "https://api.example/#a",
        "user",
        "",
        "file:///etc/passwd",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "/user#part",
        "/user name",
        "/user\r\nhost: evil.example",
        "/https://evil.example/",
    ] {
        assert!(matches!(at(bad), Err(Error::Invalid(_))), "{bad}: {:?}", at(bad));
    }
}

#[test]
fn an_invalid_url_is_an_error_before_anything_is_sent() {
    for bad in [
        "https://h:99999",
        "https://h:500l",
        "https://h:",
        "https://h:0",
        "h:5001",
        "https://[::1",
        "https://[fe80::1%25eth0]:5001",
        "https://[fe80::1%eth0]",
        "https://xn--a",
    ] {
        assert!(matches!(server(bad), Err(ServerError::Url(_))), "{bad}");
        let origin = server("https://h").unwrap().allow_origin(bad);
        assert!(matches!(origin, Err(ServerError::Origin(_))), "{bad}");
    }
    let with_path = server("https://h").unwrap().allow_origin("https://api.example/only/here");
    assert!(matches!(with_path, Err(ServerError::OriginWithPath)));
    for bad in ["https://h/token", "//h/token", "/token#", "a b"] {
        for (token_path, revocation_path) in [(bad, None), ("/token", Some(bad.to_owned()))] {
            let oauth = OAuth {
                token_path: token_path.to_owned(),
                revocation_path,
                client_id: "app".to_owned(),
                client_secret: None,
                scope: None,
            };
            let outcome = server("https://h").unwrap().oauth(oauth);
            assert!(matches!(outcome, Err(ServerError::Endpoint(_))), "{bad}");
        }
    }
}

#[test]
fn an_international_host_name_is_the_same_host_in_each_of_its_forms() {
    let forms =
        ["https://bücher.example", "https://BÜCHER.example", "https://xn--bcher-kva.example"];
    for text in forms {
        let server = server(text).unwrap().allow_origin(&text.replace("https", "http")).unwrap();
        let at = |target: &str| url(server.bearer_target(target)).unwrap();
        assert_eq!(at("/user"), "https://xn--bcher-kva.example/user");
        for form in forms {
            assert_eq!(at(&format!("{form}/user")), "https://xn--bcher-kva.example/user");
            let plain = form.replace("https", "http");
            assert_eq!(at(&format!("{plain}/user")), "http://xn--bcher-kva.example/user");
        }
    }
}

#[test]
fn the_host_header_has_the_default_port_of_the_other_scheme() {
    for (text, header) in [
        ("https://h:80", Some("h:80")),
        ("http://h:443", Some("h:443")),
        ("https://h:443", None),
        ("http://h:80", None),
        ("https://h", None),
        ("http://[::1]:5001", None),
    ] {
        let host = server(text).unwrap().target("/").unwrap().host;
        assert_eq!(host.as_ref().map(|host| host.to_str().unwrap()), header, "{text}");
    }
}

#[test]
fn debug_shows_no_client_secret() {
    let oauth = OAuth {
        token_path: "/token".into(),
        revocation_path: None,
        client_id: "app".into(),
        client_secret: Some("secret".into()),
        scope: None,
    };
    let server = server("https://h").unwrap().oauth(oauth.clone()).unwrap();
    assert!(!format!("{oauth:?} {server:?}").contains("secret"));
}
