//! The pages of links: invitation, verification, reset.

use matchbook_testkit::TestResponse;

use crate::support::Server;

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

/// Asserts the headers of a page: no script, no frame, no referrer, no cache.
pub(crate) fn assert_page(response: &TestResponse, status: u16) {
    assert_eq!(response.status, status, "{}", response.text);
    assert_eq!(response.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(response.header("referrer-policy"), "no-referrer");
    let policy = response.header("content-security-policy");
    for part in ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert_eq!(response.header("x-frame-options"), "DENY");
    for part in ["script", "unsafe", "*"] {
        assert!(!policy.contains(part), "{policy}");
    }
    assert!(!response.text.contains("<script"), "{}", response.text);
}

/// Returns the value of an attribute in the first element that contains `marker`.
fn attribute(html: &str, marker: &str, name: &str) -> String {
    let line = html.lines().find(|line| line.contains(marker));
    let line = line.unwrap_or_else(|| panic!("no {marker} in {html}"));
    let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap_or_else(|| panic!("{line}"));
    rest.split('"').next().unwrap().to_owned()
}

impl Server {
    async fn submit(&self, page: &str, fields: &[(&str, &str)]) -> TestResponse {
        TestResponse::of(self.http.request("POST", page).send_form(&fields)).await
    }
}

#[actix_rt::test]
async fn page_of_an_invitation_creates_the_account_when_its_form_is_submitted() {
    let server = Server::with(|launch| launch.set("accounts.registration", "invite"));
    let token = server.invite(Some("ann@example.com"), false);
    let path = format!("/invitation?token={token}");
    // A mail scanner opens the link several times.
    for _ in 0..3 {
        assert_page(&server.http.get(&path).await, 200);
    }
    let html = server.http.get(&path).await.text;
    assert_eq!(attribute(&html, "name=\"token\"", "value"), token);
    assert_eq!(attribute(&html, "id=\"name\"", "value"), "ann@example.com");
    assert_eq!(attribute(&html, "id=\"name\"", "autocomplete"), "username");
    assert_eq!(attribute(&html, "id=\"password\"", "autocomplete"), "new-password");
    let action = attribute(&html, "<form", "action");
    let submit = async |password: &str, repeated: &str| {
        let fields = [("token", token.as_str()), ("password", password), ("repeated", repeated)];
        server.submit(&format!("/{action}"), &fields).await
    };
    let different = submit(PASSWORD, OTHER).await;
    assert_page(&different, 400);
    assert!(different.text.contains("role=\"alert\""), "{}", different.text);
    let weak = submit("password1234", "password1234").await;
    assert_page(&weak, 400);
    assert!(weak.text.contains("easy to guess"), "{}", weak.text);
    assert_page(&submit(PASSWORD, PASSWORD).await, 200);
    server.log_in_as("ann@example.com", PASSWORD).await;
    assert_page(&submit(PASSWORD, PASSWORD).await, 400);
    assert_page(&server.http.get(&path).await, 400);
}

#[actix_rt::test]
async fn name_that_a_user_types_is_checked_and_shown_again_escaped() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let token = server.invite(None, false);
    let submit = async |name: &str| {
        let fields =
            [("token", &*token), ("name", name), ("password", PASSWORD), ("repeated", PASSWORD)];
        server.submit("/invitation", &fields).await
    };
    let invalid = submit("\"><script>alert(1)</script>").await;
    assert_page(&invalid, 400);
    assert!(invalid.text.contains("&#34;&#62;&#60;script&#62;"), "{}", invalid.text);
    let taken = submit("ann").await;
    assert_page(&taken, 409);
    assert!(taken.text.contains("taken"), "{}", taken.text);
    assert_page(&submit("bob").await, 200);
    server.log_in_as("bob", PASSWORD).await;
}

#[actix_rt::test]
async fn page_of_a_reset_sets_the_password_and_accepts_the_longest_one() {
    let server = Server::start();
    let id = server.register("ann", PASSWORD).await;
    let here = server.log_in_as("ann", PASSWORD).await;
    let token = server.reset_link(&id);
    let shown = server.http.get(&format!("/reset?token={token}")).await;
    assert_page(&shown, 200);
    assert_eq!(attribute(&shown.text, "id=\"name\"", "value"), "ann");
    let longest: String = "夏草や兵どもが夢の跡".chars().cycle().take(1024).collect();
    let fields = [("token", token.as_str()), ("password", &longest), ("repeated", &longest)];
    assert_page(&server.submit("/reset", &fields).await, 200);
    assert_eq!(server.user(&here.access).await, 401);
    server.log_in_as("ann", &longest).await;
}

#[actix_rt::test]
async fn links_that_do_not_work_get_a_page_that_says_so() {
    let server = Server::start();
    let token = server.invite(Some("ann"), false);
    for path in [
        "/invitation",
        "/invitation?token=",
        "/verify?token=mb_ln_x",
        "/reset?token=%3Cscript%3E",
        // The link of another page.
        &format!("/reset?token={token}"),
        &format!("/verify?token={token}"),
    ] {
        let response = server.http.get(path).await;
        assert_page(&response, 400);
        assert!(response.text.contains("Request a new one"), "{}", response.text);
        assert!(!response.text.contains("script"), "{}", response.text);
    }
    for page in ["/invitation", "/verify", "/reset"] {
        assert_page(&server.submit(page, &[("token", "x")]).await, 400);
    }
    let deleted = TestResponse::of(server.http.request("DELETE", "/reset").send()).await;
    assert_eq!((deleted.status, deleted.header("allow")), (405, "GET, HEAD, POST"));
}

#[actix_rt::test]
async fn stylesheet_is_served_and_fits_the_policy_of_the_pages() {
    let server = Server::start();
    let html = server.http.get("/reset").await.text;
    let stylesheet = attribute(&html, "stylesheet", "href");
    let css = server.http.get(&format!("/{stylesheet}")).await;
    assert_eq!((css.status, css.header("content-type")), (200, "text/css; charset=utf-8"));
    assert!(css.text.contains("prefers-color-scheme: dark"));
    assert!(!css.text.contains("url("), "the policy permits no other resource");
}

#[actix_rt::test]
async fn token_of_a_page_is_not_logged() {
    let server = Server::with(|launch| launch.set("log.level", "trace"));
    let id = server.register("ann", PASSWORD).await;
    let invitation = server.invite(Some("bob"), false);
    let reset = server.reset_link(&id);
    server.http.get(&format!("/invitation?token={invitation}")).await;
    server.http.get(&format!("/reset?token={reset}")).await;
    server.accept(&invitation, None, PASSWORD).await;
    server.submit("/reset", &[("token", &reset), ("password", OTHER), ("repeated", OTHER)]).await;
    server.log_in_as("ann", OTHER).await;
    let log = server.process.log();
    assert!(log.contains("path=\"/reset\""), "requests are logged: {log}");
    for secret in [&invitation[6..], &reset[6..], PASSWORD, OTHER] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
