//! The page on which a user approves the request of a device.

use matchbook_testkit::TestResponse;

use crate::accounts_pages::assert_page;
use crate::browser::{Browser, between};
use crate::oauth::{PASSWORD, assert_error, server_with, tokens};
use crate::support::Server;

/// A code that no device has.
const UNKNOWN: &str = "BBBB-BBBB";

fn assert_request(response: &TestResponse, user_code: &str) {
    assert_page(response, 200);
    assert!(response.text.contains("Log this device in?"), "{}", response.text);
    let policy = response.header("content-security-policy");
    assert!(policy.contains("frame-ancestors 'none'") && policy.ends_with("form-action 'self'"));
    for part in ["Tele&#60;Vision&#62;", "ann", "“read”", "you began the login yourself", user_code]
    {
        assert!(response.text.contains(part), "{part}: {}", response.text);
    }
    assert!(!response.text.contains("“write”"), "{}", response.text);
}

/// Asserts the form of the code with a problem.
fn assert_problem(response: &TestResponse, status: u16, problem: &str) {
    assert_page(response, status);
    assert!(response.text.contains("role=\"alert\""), "{}", response.text);
    assert!(response.text.contains(problem), "{problem}: {}", response.text);
    assert!(response.text.contains("id=\"user_code\""), "{}", response.text);
}

fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn undecided(server: &Server) -> i64 {
    server.number("SELECT count(*) AS number FROM device_codes WHERE user_id IS NULL")
}

#[actix_rt::test]
async fn page_leads_to_the_login_and_back_with_the_code() {
    let (server, _) = server_with(|launch| launch).await;
    let device = server.begin_device(&server.add_tv(), "read").await;
    let browser = Browser::at(&server);
    let log_in = async |path: &str, continues: &str, then: &str| {
        let asked = browser.get(path).await;
        let location = asked.header("location");
        assert_eq!((asked.status, location), (303, format!("login?continue={continues}").as_str()));
        let form = browser.get(&format!("/{location}")).await;
        assert_page(&form, 200);
        let done = browser.submit(&form, &[("name", "ann"), ("password", PASSWORD)]).await;
        assert_eq!((done.status, done.header("location")), (303, then), "{}", done.text);
        browser.get(&format!("/{then}")).await
    };
    let code = &device.user_code;
    let page = format!("/device?user_code={}", code.to_lowercase());
    let encoded = format!("device%3Fuser%5Fcode%3D{}", code.replace('-', "%2D"));
    assert_request(&log_in(&page, &encoded, &format!("device?user_code={code}")).await, code);
    let account = browser.get("/account").await;
    browser.submit(&account, &[("action", "log-out")]).await;
    let form = log_in("/device", "device", "device").await;
    assert_request(&browser.submit(&form, &[("user_code", code)]).await, code);
    let account = browser.get("/account").await;
    browser.submit(&account, &[("action", "log-out")]).await;
    // Anything else is no code, and leads nowhere.
    let evil = "/device?user_code=https://evil.example";
    assert_page(&log_in(evil, "device", "device").await, 200);
    // A form without a login keeps its code as well.
    let other = Browser::at(&server);
    let allow = fields(&[("user_code", code), ("decision", "allow")]);
    let posted = other.post("/device", &allow).await;
    assert_eq!(posted.header("location"), format!("login?continue={encoded}"));
    assert_eq!(undecided(&server), 1);
}

#[actix_rt::test]
async fn opening_the_page_with_a_code_decides_nothing() {
    let (server, browser) = server_with(|launch| launch).await;
    let device = server.begin_device(&server.add_tv(), "read").await;
    for query in ["", "&decision=allow"] {
        let path = format!("/device?user_code={}{query}", device.user_code);
        assert_request(&browser.get(&path).await, &device.user_code);
    }
    assert_error(&server.poll(&device).await, 400, "authorization_pending");
}

#[actix_rt::test]
async fn code_is_read_as_people_type_it() {
    let (server, browser) = server_with(|launch| launch).await;
    let device = server.begin_device(&server.add_tv(), "read").await;
    let form = browser.get("/device").await;
    assert_page(&form, 200);
    let code = &device.user_code;
    for typed in
        [code.to_lowercase(), code.replace('-', ""), format!("  {} ", code.replace('-', " "))]
    {
        assert_request(&browser.submit(&form, &[("user_code", &typed)]).await, code);
    }
}

#[actix_rt::test]
async fn approval_needs_the_form_of_this_browser() {
    let (server, browser) = server_with(|launch| launch).await;
    let device = server.begin_device(&server.add_tv(), "read").await;
    let page = browser.get(&format!("/device?user_code={}", device.user_code)).await;
    server.register("eve", PASSWORD).await;
    let attacker = Browser::at(&server);
    attacker.log_in("eve", PASSWORD).await;
    let of_attacker = attacker.get("/device").await;
    let stolen = between(&of_attacker.text, "name=\"csrf\" value=\"", "\"");
    for csrf in ["", "x", &stolen] {
        let forged = browser.submit(&page, &[("decision", "allow"), ("csrf", csrf)]).await;
        assert_problem(&forged, 403, "out of date");
    }
    let csrf = between(&page.text, "name=\"csrf\" value=\"", "\"");
    let genuine =
        fields(&[("csrf", &csrf), ("user_code", &device.user_code), ("decision", "allow")]);
    for header in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let request = server.http.request("POST", "/device").insert_header(header);
        assert_problem(&browser.send(request, Some(&genuine)).await, 403, "out of date");
    }
    assert_eq!(undecided(&server), 1);
    let unknown = fields(&[("csrf", &csrf), ("user_code", &device.user_code), ("decision", "x")]);
    assert_eq!(browser.post("/device", &unknown).await.status, 400);
    assert_eq!(undecided(&server), 1);
    browser.approve(&device).await;
    tokens(&server.poll(&device).await);
}

#[actix_rt::test]
async fn decision_is_final() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_tv();
    for decision in ["allow", "deny"] {
        let device = server.begin_device(&client, "read").await;
        let page = browser.get(&format!("/device?user_code={}", device.user_code)).await;
        browser.decide(&device, decision).await;
        for other in ["allow", "deny"] {
            let late = browser.submit(&page, &[("decision", other)]).await;
            assert_problem(&late, 400, "This code was used before");
        }
        let polled = server.poll(&device).await;
        match decision {
            "allow" => drop(tokens(&polled)),
            _ => assert_error(&polled, 400, "access_denied"),
        }
    }
}

#[actix_rt::test]
async fn sixth_wrong_code_is_slowed_down_and_right_codes_are_not() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_tv();
    for _ in 0..7 {
        browser.decide(&server.begin_device(&client, "read").await, "deny").await;
    }
    let form = browser.get("/device").await;
    let wrong = ["BBBB-BBBC", "BBBB-BBBD", "BBBB-BBBF", "BBBB-BBBG", UNKNOWN];
    // No code has the form of these, so they do not count.
    let not_codes = ["x", "BCDF-GHJ", "AEIO-UAEI", "\u{0}", " "];
    for code in not_codes.into_iter().chain(wrong).chain(not_codes) {
        let problem = "This code is unknown";
        assert_problem(&browser.submit(&form, &[("user_code", code)]).await, 400, problem);
    }
    let device = server.begin_device(&client, "read").await;
    for code in [UNKNOWN, &device.user_code] {
        let path = format!("/device?user_code={code}");
        assert_problem(&browser.get(&path).await, 429, "Too many attempts: wait ");
        let submitted = browser.submit(&form, &[("user_code", code), ("decision", "allow")]).await;
        assert_problem(&submitted, 429, "Too many attempts");
    }
    assert_eq!(undecided(&server), 1);
    // The address counts as well.
    server.register("bob", PASSWORD).await;
    let bob = Browser::at(&server);
    bob.log_in("bob", PASSWORD).await;
    let path = format!("/device?user_code={}", device.user_code);
    assert_problem(&bob.get(&path).await, 429, "Too many attempts");
}

#[actix_rt::test]
async fn request_of_a_removed_client_cannot_be_approved() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_tv();
    let device = server.begin_device(&client, "read").await;
    let page = browser.get(&format!("/device?user_code={}", device.user_code)).await;
    assert_request(&page, &device.user_code);
    server.command_json(&["clients", "remove", &client.id, "--json"]);
    let late = browser.submit(&page, &[("decision", "allow")]).await;
    assert_problem(&late, 400, "This code is unknown");
}
