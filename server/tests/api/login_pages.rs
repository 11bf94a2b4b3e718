//! The login page, and the pages around it.

use matchbook_testkit::{ProcessBuilder, TestResponse};

use crate::accounts_lifecycle::Operation;
use crate::accounts_pages::assert_page;
use crate::browser::{Browser, CSRF_COOKIE, LOGIN_COOKIE, between};
use crate::second_factor::{code, enroll};
use crate::support::{Server, Tokens, eventually};

pub(crate) const PASSWORD: &str = "violet tractor seven hums";
pub(crate) const OTHER: &str = "marble lantern drifts north";

/// A query of an authorization request, and the same percent-encoded.
const QUERY: &str = "client_id=app&scope=a+b&redirect_uri=https%3A%2F%2Fapp.example%2Fcb";
const ENCODED: &str =
    "client_id%3Dapp%26scope%3Da%2Bb%26redirect_uri%3Dhttps%253A%252F%252Fapp.example%252Fcb";

pub(crate) fn sessions(server: &Server) -> i64 {
    server.number("SELECT count(*) AS number FROM login_sessions")
}

fn assert_redirect(response: &TestResponse, to: &str) {
    assert_eq!((response.status, response.header("location")), (303, to), "{}", response.text);
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(response.header("referrer-policy"), "no-referrer");
}

impl Server {
    /// The id of a user.
    pub(crate) fn id_of(tokens: &Tokens) -> String {
        tokens.claims()["sub"].as_str().unwrap().to_owned()
    }
}

/// A server with the account `ann`.
pub(crate) async fn server_with(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Server {
    let server = Server::with(settings);
    server.register("ann", PASSWORD).await;
    server
}

#[actix_rt::test]
async fn login_leads_to_the_account_or_to_the_authorization_request() {
    let server = server_with(|launch| launch).await;
    let browser = Browser::at(&server);
    let form = browser.get("/login").await;
    assert_page(&form, 200);
    assert!(form.text.contains("autocomplete=\"current-password\""), "{}", form.text);
    let fields = [("name", "ann"), ("password", PASSWORD)];
    assert_redirect(&browser.submit(&form, &fields).await, "account");
    assert_redirect(&browser.get("/login").await, "account");

    let other = Browser::at(&server);
    let form = other.get(&format!("/login?continue={ENCODED}")).await;
    assert_page(&form, 200);
    let policy = form.header("content-security-policy");
    assert!(policy.contains("form-action 'self' https://app.example"), "{policy}");
    let wrong = other.submit(&form, &[("name", "ann"), ("password", OTHER)]).await;
    assert_page(&wrong, 401);
    assert_eq!(
        between(&wrong.text, "id=\"name\" name=\"name\" type=\"text\" value=\"", "\""),
        "ann"
    );
    let done = other.submit(&wrong, &fields).await;
    assert_redirect(&done, &format!("oauth/authorize?{QUERY}"));
    assert_eq!(sessions(&server), 2);
    let kinds = "SELECT count(*) AS number FROM events WHERE kind = 'browser_logged_in'";
    assert_eq!(server.number(kinds), 2);
}

#[actix_rt::test]
async fn wrong_password_and_unknown_name_read_the_same_and_are_recorded() {
    let server = server_with(|launch| launch).await;
    let browser = Browser::at(&server);
    let wrong = browser.log_in("ann", OTHER).await;
    let unknown = browser.log_in("bob", OTHER).await;
    assert_page(&wrong, 401);
    assert_eq!(wrong.text.replace("ann", "bob"), unknown.text);
    assert!(browser.cookie(LOGIN_COOKIE).is_none());
    let rejected = "SELECT count(*) AS number FROM events WHERE kind = 'login_rejected'";
    eventually(1, async || server.number(rejected)).await;
    let id = Server::id_of(&server.log_in_as("ann", PASSWORD).await);
    server.operate(Operation::Disable, &id).await;
    let disabled = browser.log_in("ann", PASSWORD).await;
    assert_page(&disabled, 403);
    assert!(disabled.text.contains("disabled"), "{}", disabled.text);
}

#[actix_rt::test]
async fn form_of_another_browser_or_site_is_rejected() {
    let server = server_with(|launch| launch).await;
    let attacker = Browser::at(&server);
    let form = attacker.get("/login").await;
    let csrf = between(&form.text, "name=\"csrf\" value=\"", "\"");
    let victim = Browser::at(&server);
    victim.get("/login").await;
    let fields = |csrf: &str| {
        [("csrf", csrf), ("name", "ann"), ("password", PASSWORD)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    for value in [csrf.as_str(), "", "x", "AAAA"] {
        let rejected = victim.post("/login", &fields(value)).await;
        assert_page(&rejected, 403);
        assert!(rejected.text.contains("out of date"), "{}", rejected.text);
    }
    // Without cookies there is nothing to compare the value with.
    let without = TestResponse::of(server.http.request("POST", "/login").send_form(&fields(&csrf)));
    assert_page(&without.await, 403);
    for header in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
    ] {
        let request = server.http.request("POST", "/login").insert_header(header);
        assert_page(&attacker.send(request, Some(&fields(&csrf))).await, 403);
    }
    assert_eq!(sessions(&server), 0);
    let request = server.http.request("POST", "/login").insert_header(("origin", "null"));
    let request = request.insert_header(("sec-fetch-site", "same-origin"));
    assert_redirect(&attacker.send(request, Some(&fields(&csrf))).await, "account");
    // The value of a form belongs to the login, too.
    let again = attacker.post("/login", &fields(&csrf)).await;
    assert_page(&again, 403);
    assert_ne!(attacker.cookie(CSRF_COOKIE), victim.cookie(CSRF_COOKIE));
}

#[actix_rt::test]
async fn login_never_leads_to_another_server() {
    let server = server_with(|launch| launch).await;
    for (next, expected) in [
        ("https://evil.example", Some("oauth/authorize?https://evil.example")),
        ("//evil.example", Some("oauth/authorize?//evil.example")),
        ("/oauth/authorize", Some("oauth/authorize?/oauth/authorize")),
        ("a%0d%0aSet-Cookie:%20x=1", None),
        ("a%0aLocation:%20https://evil.example", None),
        ("a%00", None),
        ("a%23b", None),
        ("%5c%5cevil.example", None),
        ("a%20b", None),
        ("%C3%A9", None),
    ] {
        let browser = Browser::at(&server);
        let form = browser.get(&format!("/login?continue={next}")).await;
        let fields = [("name", "ann"), ("password", PASSWORD)];
        if let Some(expected) = expected {
            assert_redirect(&browser.submit(&form, &fields).await, expected);
            continue;
        }
        assert_page(&form, 400);
        // The field of the form is checked as well.
        let form = browser.get("/login").await;
        let decoded = percent_encoding::percent_decode_str(next).decode_utf8().unwrap();
        let fields = [fields[0], fields[1], ("continue", &decoded)];
        let rejected = browser.submit(&form, &fields).await;
        assert_page(&rejected, 400);
        assert_eq!(rejected.header("location"), "");
    }
    assert_eq!(sessions(&server), 3);
}

#[actix_rt::test]
async fn second_factor_is_asked_for_on_a_form_of_its_own() {
    let server = server_with(|launch| launch.set("log.level", "trace")).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let (secret, codes) = enroll(&server, &tokens, PASSWORD).await;
    let browser = Browser::at(&server);
    let form = browser.get(&format!("/login?continue={ENCODED}")).await;
    let fields = [("name", "ann"), ("password", PASSWORD)];
    let asked = browser.submit(&form, &fields).await;
    assert_page(&asked, 200);
    assert!(browser.cookie(LOGIN_COOKIE).is_none());
    assert!(asked.text.contains("autocomplete=\"one-time-code\""), "{}", asked.text);
    assert!(!asked.text.contains(PASSWORD), "{}", asked.text);
    let right = code(&server, &secret);
    let wrong = if right == "000000" { "000001" } else { "000000" };
    let refused = browser.submit(&asked, &[("code", wrong)]).await;
    assert_page(&refused, 401);
    // The proof of the password belongs to this browser.
    let other = Browser::at(&server);
    let step = between(&asked.text, "name=\"step\" value=\"", "\"");
    let form = other.get("/login").await;
    let stolen = other.submit(&form, &[("step", &step), ("code", &right)]).await;
    assert_page(&stolen, 403);
    let done = browser.submit(&refused, &[("code", &right)]).await;
    assert_redirect(&done, &format!("oauth/authorize?{QUERY}"));
    assert!(browser.is_logged_in().await);

    let asked = Browser::log_in(&other, "ann", PASSWORD).await;
    assert_redirect(&other.submit(&asked, &[("code", &codes[0])]).await, "account");
    let reused = Browser::at(&server);
    let asked = reused.log_in("ann", PASSWORD).await;
    assert_page(&reused.submit(&asked, &[("code", &codes[0])]).await, 401);
    server.reset(&server.reset_link(&Server::id_of(&tokens)), OTHER).await;
    let late = reused.submit(&asked, &[("code", &codes[1])]).await;
    assert_page(&late, 403);
    assert!(late.text.contains("log in again"), "{}", late.text);
    let log = server.process.log();
    let cookie = browser.cookie(LOGIN_COOKIE).unwrap();
    for text in [PASSWORD, &right, &codes[0], &step, &cookie] {
        assert!(!log.contains(text), "{text}");
    }
}

#[actix_rt::test]
async fn browser_that_logged_in_by_a_form_is_a_known_one() {
    let server = server_with(|launch| launch).await;
    let browser = Browser::at(&server);
    let done = browser.log_in("ann", PASSWORD).await;
    let headers = done.headers.get_all("set-cookie");
    let cookies: Vec<&str> = headers.map(|header| header.to_str().unwrap()).collect();
    let device = cookies.iter().find(|cookie| cookie.starts_with("__Host-matchbook_device="));
    assert!(device.is_some(), "{cookies:?}");
}

#[actix_rt::test]
async fn registration_by_the_page_logs_in() {
    let server = Server::start();
    let browser = Browser::at(&server);
    let login = browser.get(&format!("/login?continue={ENCODED}")).await;
    assert!(login.text.contains(&format!("create-account?continue={}", "client%5Fid%3Dapp")));
    let form = browser.get(&format!("/create-account?continue={ENCODED}")).await;
    assert_page(&form, 200);
    let submit = async |form: &TestResponse, name: &str, password: &str, repeated: &str| {
        let fields = [("name", name), ("password", password), ("repeated", repeated)];
        browser.submit(form, &fields).await
    };
    assert_page(&submit(&form, "ann", PASSWORD, OTHER).await, 400);
    assert_page(&submit(&form, "ann", "short", "short").await, 400);
    assert_page(&submit(&form, "a b", PASSWORD, PASSWORD).await, 400);
    let done = submit(&form, "ann", PASSWORD, PASSWORD).await;
    assert_redirect(&done, &format!("oauth/authorize?{QUERY}"));
    assert!(browser.is_logged_in().await);
    let form = browser.get("/create-account").await;
    assert_page(&submit(&form, "ann", PASSWORD, PASSWORD).await, 409);

    let closed = Server::with(|launch| launch.set("accounts.registration", "invite"));
    let browser = Browser::at(&closed);
    assert_page(&browser.get("/create-account").await, 403);
    assert!(!browser.get("/login").await.text.contains("create-account"));
}

#[actix_rt::test]
async fn native_login_and_wrong_forms_are_not_disturbed() {
    let server = server_with(|launch| launch).await;
    server.log_in_as("ann", PASSWORD).await;
    let text = server.http.request("POST", "/login").content_type("text/plain").send_body("x");
    let text = TestResponse::of(text).await;
    assert_eq!((text.status, text.header("content-type")), (400, "application/json"));
    let long = format!("name={}", "x".repeat(40_000));
    assert_page(&server.http.post("/login", &long).await, 413);
    let twice = server.http.post("/login", "name=a&name=b").await;
    assert_page(&twice, 400);
    let wrong = TestResponse::of(server.http.request("DELETE", "/login").send()).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, "GET, HEAD, POST"));
}

#[actix_rt::test]
async fn pages_have_the_name_the_color_and_the_logo_of_the_operator() {
    let world = matchbook_testkit::TestEnv::new();
    let logo = world.folder().join("logo.svg");
    std::fs::write(&logo, "<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>").unwrap();
    let server = Server::within(world, |launch| {
        launch
            .set("pages.name", "Ann & Bob")
            .set("pages.color", "#ffee00")
            .set("pages.logo", logo.to_str().unwrap())
    });
    let page = server.http.get("/login").await;
    assert_page(&page, 200);
    assert!(page.text.contains("<title>Log in – Ann &#38; Bob</title>"), "{}", page.text);
    assert!(page.text.contains("src=\"logo\""), "{}", page.text);
    let css = server.http.get("/pages.css").await.text;
    assert!(css.contains("--accent: #ffee00"), "as it is on dark");
    assert!(!css.trim_end().ends_with("url("), "{css}");
    let logo = server.http.get("/logo").await;
    assert_eq!((logo.status, logo.header("content-type")), (200, "image/svg+xml"));
    assert_eq!(logo.header("x-content-type-options"), "nosniff");
    assert!(logo.header("content-security-policy").contains("sandbox"));
    let server = Server::start();
    assert_eq!(server.http.get("/logo").await.status, 404);
    assert!(!server.http.get("/login").await.text.contains("logo"));
}

#[actix_rt::test]
async fn forgotten_password_page_says_that_no_mail_is_sent() {
    let server = Server::start();
    let page = server.http.get("/forgot-password").await;
    assert_page(&page, 200);
    assert!(page.text.contains("sends no mail"), "{}", page.text);
    assert!(!server.http.get("/login").await.text.contains("forgot-password"));
}
