//! Attacks on authorization requests and codes (RFC 9700 §4).

use matchbook_testkit::TestResponse;
use url::form_urlencoded;

use super::authorization::{assert_error_redirect, redirect_path};
use super::{
    Client, PASSWORD, REDIRECT_URI, VERIFIER, assert_error, challenge, exchange_of, redirect_of,
    server_with, set, text, tokens,
};
use crate::accounts_pages::assert_page;
use crate::browser::{Browser, LOGIN_COOKIE};
use crate::races::Pair;
use crate::support::Server;

fn sessions(server: &Server) -> i64 {
    server.number("SELECT count(*) AS number FROM sessions WHERE client_id IS NOT NULL")
}

#[actix_rt::test]
async fn injected_code_of_another_user_or_client_gives_no_tokens() {
    let (server, victim) = server_with(|launch| launch).await;
    let (spa, web) = (server.add_spa(), server.add_web_app());
    // A stolen code of the victim is injected into the login of the attacker, whose client
    // has another verifier.
    let mut request = spa.request();
    let own = challenge(&"v".repeat(43));
    set(&mut request, "code_challenge", &own);
    let stolen = victim.code(&request).await;
    assert_error(&server.token(&spa, &exchange_of(&stolen)).await, 400, "invalid_grant");
    // The code of one client at another, in both directions.
    let public = victim.code(&spa.request()).await;
    let confidential = victim.code(&web.request()).await;
    for (client, code) in [(&web, &public), (&spa, &confidential)] {
        assert_error(&server.token(client, &exchange_of(code)).await, 400, "invalid_grant");
    }
    assert_eq!(sessions(&server), 0);
    // Neither attempt spent them.
    tokens(&server.token(&spa, &exchange_of(&public)).await);
    tokens(&server.token(&web, &exchange_of(&confidential)).await);
}

#[actix_rt::test]
async fn code_of_a_confidential_client_needs_its_secret() {
    let (server, browser) = server_with(|launch| launch).await;
    let (spa, web) = (server.add_spa(), server.add_web_app());
    let code = browser.code(&web.request()).await;
    let disguised = Client { secret: None, ..web.clone() };
    assert_error(&server.token(&disguised, &exchange_of(&code)).await, 400, "invalid_client");
    assert_error(&server.token(&spa, &exchange_of(&code)).await, 400, "invalid_grant");
    // The secret of one client with the id of another.
    let mixed = Client { secret: web.secret.clone(), ..spa };
    assert_error(&server.token(&mixed, &exchange_of(&code)).await, 401, "invalid_client");
    tokens(&server.token(&web, &exchange_of(&code)).await);
}

#[actix_rt::test]
async fn every_response_names_its_issuer_against_mix_up() {
    let issuer = "https://honest.example";
    let (server, browser) = server_with(|launch| launch.set("tokens.issuer", issuer)).await;
    let client = server.add_spa();
    let metadata = server.http.get("/.well-known/oauth-authorization-server").await.json();
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    for (name, value) in [("scope", "read"), ("scope", "admin"), ("prompt", "none")] {
        let mut request = client.request();
        set(&mut request, name, value);
        // A client or an attacker cannot set it.
        request.push(("iss", "https://attacker.example".into()));
        let response = browser.authorize(&request).await;
        assert_eq!(response.header("location").matches("iss=").count(), 1);
        assert_eq!(redirect_of(&response)["iss"], issuer);
    }
}

#[actix_rt::test]
async fn no_step_of_a_request_redirects_to_another_site() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let anonymous = Browser::at(&server);
    for evil in ["https://evil.example/", "//evil.example", "\\\\evil.example", "javascript:x"] {
        let mut request = client.request();
        for name in ["continue", "next", "return_to", "post_logout_redirect_uri", "mb_asked"] {
            request.push((name, evil.into()));
        }
        redirect_path("/oauth/authorize", &anonymous.authorize(&request).await);
        assert!(redirect_of(&browser.authorize(&request).await).contains_key("code"));
        set(&mut request, "redirect_uri", evil);
        for browser in [&browser, &anonymous] {
            assert_page(&browser.authorize(&request).await, 400);
        }
    }
    // A path that a browser reads as another host.
    for path in ["//evil.example/oauth/authorize", "/oauth//evil.example/authorize"] {
        let response = server.http.get(path).await;
        assert_eq!((response.status, response.header("location")), (404, ""), "{path}");
    }
}

#[actix_rt::test]
async fn another_site_can_neither_submit_the_login_nor_frame_a_page() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let anonymous = Browser::at(&server);
    let asked = redirect_path("/oauth/authorize", &anonymous.authorize(&client.request()).await);
    let next = form_urlencoded::parse(asked.split_once('?').unwrap().1.as_bytes());
    let next = next.into_owned().next().unwrap().1;
    // Login CSRF: the attacker logs the victim in as another user, to get at the client.
    let fields = [("name", "ann"), ("password", PASSWORD), ("continue", &next)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_page(&anonymous.post("/login", &fields).await, 403);
    assert!(anonymous.cookie(LOGIN_COOKIE).is_none());
    // Clickjacking: `assert_page` checks `frame-ancestors` and `X-Frame-Options`.
    assert_page(&anonymous.get(&asked).await, 200);
    let mut request = client.request();
    set(&mut request, "client_id", "unknown");
    assert_page(&browser.authorize(&request).await, 400);
    set(&mut request, "client_id", &client.id);
    assert_page(&browser.authorize(&request).await, 303);
}

#[actix_rt::test]
async fn pkce_cannot_be_downgraded() {
    let (server, browser) = server_with(|launch| launch).await;
    let options = ["--confidential", "--redirect-uri", REDIRECT_URI, "--first-party", "--no-pkce"];
    let optional = server.register_client("optional", &options);
    // The attacker removes the challenge from the request of a client that uses PKCE.
    let mut request = optional.request();
    set(&mut request, "code_challenge", "");
    set(&mut request, "code_challenge_method", "");
    let code = browser.code(&request).await;
    assert_error(&server.token(&optional, &exchange_of(&code)).await, 400, "invalid_grant");
    // The attacker omits the verifier of a code with a challenge.
    let code = browser.code(&optional.request()).await;
    let mut exchange = exchange_of(&code);
    set(&mut exchange, "code_verifier", "");
    assert_error(&server.token(&optional, &exchange).await, 400, "invalid_grant");
    assert_eq!(sessions(&server), 0);
    // Other clients cannot do without, nor with `plain`.
    for client in [server.add_spa(), server.add_web_app()] {
        for (name, value) in [
            ("code_challenge", ""),
            ("code_challenge_method", ""),
            ("code_challenge_method", "plain"),
        ] {
            let mut request = client.request();
            set(&mut request, "code_challenge", VERIFIER);
            set(&mut request, name, value);
            assert_error_redirect(&browser.authorize(&request).await, "invalid_request");
        }
    }
}

#[actix_rt::test]
async fn planted_login_of_the_attacker_does_not_survive_the_login_of_the_victim() {
    let (server, attacker) = server_with(|launch| launch).await;
    server.register("vic", PASSWORD).await;
    let client = server.add_spa();
    let victim = Browser::at(&server);
    victim.set_cookie(LOGIN_COOKIE, &attacker.cookie(LOGIN_COOKIE).unwrap());
    let mut request = client.request();
    set(&mut request, "prompt", "login");
    let asked = redirect_path("/oauth/authorize", &victim.authorize(&request).await);
    let form = victim.get(&asked).await;
    let done = victim.submit(&form, &[("name", "vic"), ("password", PASSWORD)]).await;
    let done = victim.get(&redirect_path("/login", &done)).await;
    let body = tokens(&server.token(&client, &exchange_of(&redirect_of(&done)["code"])).await);
    assert_eq!(server.user(&text(&body, "access_token")).await, 200);
    assert_ne!(victim.cookie(LOGIN_COOKIE), attacker.cookie(LOGIN_COOKIE));
    // The planted cookie is logged out: the attacker shares no login with the victim.
    let asked = attacker.authorize(&client.request()).await;
    assert!(redirect_path("/oauth/authorize", &asked).starts_with("/login?"));
}

#[actix_rt::test]
async fn code_presented_at_two_servers_at_once_opens_one_session() {
    let pair = Pair::with(&[]);
    let browser = pair.here.browser_of_ann().await;
    let client = pair.here.add_spa();
    for round in 1..=5 {
        let code = browser.code(&client.request()).await;
        let mut form: Vec<(String, String)> = exchange_of(&code)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into_owned()))
            .collect();
        form.push(("client_id".to_owned(), client.id.clone()));
        let exchanges: Vec<_> = (0..16)
            .map(|i| {
                let (request, form) =
                    (pair.server(i).request("POST", "/oauth/token"), form.clone());
                actix_rt::spawn(async move { TestResponse::of(request.send_form(&form)).await })
            })
            .collect();
        let mut pairs = std::collections::BTreeSet::new();
        for exchange in exchanges {
            let body = tokens(&exchange.await.unwrap());
            pairs.insert((text(&body, "refresh_token"), text(&body, "access_token")));
        }
        let refresh_tokens: std::collections::BTreeSet<_> =
            pairs.iter().map(|(refresh, _)| refresh).collect();
        assert_eq!(refresh_tokens.len(), 1);
        assert_eq!(sessions(&pair.here), round);
    }
}

#[actix_rt::test]
async fn copied_code_at_another_server_ends_the_session() {
    let pair = Pair::with(&[("oauth.code_retry", "none")]);
    let browser = pair.here.browser_of_ann().await;
    let client = pair.here.add_spa();
    let code = browser.code(&client.request()).await;
    let body = tokens(&pair.here.token(&client, &exchange_of(&code)).await);
    let mut form = exchange_of(&code);
    form.push(("client_id", client.id.as_str().into()));
    let there = pair.there.request("POST", "/oauth/token");
    assert_error(&TestResponse::of(there.send_form(&form)).await, 400, "invalid_grant");
    for server in [&pair.here.http, &pair.there] {
        let status = server.get_as("/user", &text(&body, "access_token")).await.status;
        assert_eq!(status, 401);
    }
}

#[actix_rt::test]
async fn prompt_none_does_not_tell_whether_an_account_exists() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let anonymous = Browser::at(&server);
    let probe = async |browser: &Browser, hint: &str| {
        let mut request = client.request();
        set(&mut request, "prompt", "none");
        set(&mut request, "login_hint", hint);
        browser.authorize(&request).await
    };
    let [known, unknown] = [probe(&anonymous, "ann").await, probe(&anonymous, "bob").await];
    assert_error_redirect(&known, "login_required");
    assert_eq!(known.header("location"), unknown.header("location"));
    // A site that is not registered learns nothing about a browser that is logged in.
    for browser in [&browser, &anonymous] {
        let mut request = client.request();
        set(&mut request, "prompt", "none");
        set(&mut request, "redirect_uri", "https://spy.example/cb");
        assert_page(&browser.authorize(&request).await, 400);
    }
}

#[actix_rt::test]
async fn state_injects_no_header() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    for state in [
        "x\r\nSet-Cookie: injected=1",
        "x\nLocation: https://evil.example",
        "x\r\n\r\n<script>alert(1)</script>",
        "\u{2028}\u{85}x: y",
    ] {
        for mode in ["query", "form_post"] {
            for scope in ["read", "admin"] {
                let mut request = client.request();
                set(&mut request, "state", state);
                set(&mut request, "response_mode", mode);
                set(&mut request, "scope", scope);
                let response = browser.authorize(&request).await;
                assert!(!response.headers.contains_key("set-cookie"), "{state:?}");
                assert_eq!(
                    response.headers.get_all("location").count(),
                    usize::from(mode == "query")
                );
                assert!(!response.text.contains("<script>alert"), "{}", response.text);
            }
        }
    }
}
