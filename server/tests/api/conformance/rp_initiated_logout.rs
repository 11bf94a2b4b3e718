//! The plan `oidcc-rp-initiated-logout-certification-test-plan`, and modules of it that belong to
//! earlier versions.

use matchbook_testkit::TestResponse;
use serde_json::json;

use super::{Login, Provider, is_login};
use crate::oauth::text;

/// The URI that the client has registered.
const BYE: &str = "https://app.example/bye";

impl Provider {
    /// A provider whose client initiates logouts.
    async fn for_logout() -> Self {
        Self::with_client(|launch| launch, &["--post-logout-redirect-uri", BYE]).await
    }

    /// Returns whether the browser has no login, and the session of the client has ended.
    async fn is_logged_out(&self, login: &Login) -> bool {
        let asked = self.browser.authorize(&self.request(&[])).await;
        let refresh = text(&login.body, "refresh_token");
        let refreshed = self.server.refresh_by(&self.client, &refresh).await;
        let access = text(&login.body, "access_token");
        let userinfo = self.server.http.get_as("/oauth/userinfo", &access).await;
        match (is_login(&asked), refreshed.status, userinfo.status) {
            (true, 400, 401) => true,
            (false, 200, 200) => false,
            other => panic!("neither logged in nor logged out: {other:?}"),
        }
    }

    /// Confirms a logout on the page that asks for it, which redirects nowhere.
    async fn confirm(&self, page: &TestResponse) {
        assert_eq!((page.status, page.header("location")), (200, ""), "{}", page.text);
        let done = self.browser.confirm_logout(page).await;
        assert_eq!((done.status, done.header("location")), (200, ""), "{}", done.text);
    }
}

/// Asserts that a response is an error page.
fn assert_error_page(response: &TestResponse) {
    assert_eq!((response.status, response.header("location")), (400, ""), "{}", response.text);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_discovery_endpoint_verification() {
    let provider = Provider::for_logout().await;
    let configuration = provider.configuration().await;
    let endpoint = configuration["end_session_endpoint"].as_str().unwrap();
    assert!(endpoint.starts_with("https://") && endpoint.ends_with("/oauth/logout"), "{endpoint}");
    for name in ["backchannel_logout_supported", "backchannel_logout_session_supported"] {
        assert_eq!(configuration[name], json!(true), "{name}");
    }
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    let hint = text(&login.body, "id_token");
    let request =
        [("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", BYE), ("state", "s 1")];
    let response = provider.browser.end_session(&request).await;
    let expected = format!("{BYE}?state=s+1");
    assert_eq!((response.status, response.header("location")), (303, expected.as_str()));
    assert!(provider.is_logged_out(&login).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_bad_post_logout_redirect_uri() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    let hint = text(&login.body, "id_token");
    let uri = "https://app.example/unregistered";
    let request =
        [("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", uri), ("state", "s")];
    assert_error_page(&provider.browser.end_session(&request).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_query_added_to_post_logout_redirect_uri() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    let hint = text(&login.body, "id_token");
    let uri = format!("{BYE}?foo=bar");
    let request = [("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", &uri)];
    assert_error_page(&provider.browser.end_session(&request).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_modified_id_token_hint() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    let hint = text(&login.body, "id_token");
    let (signed, signature) = hint.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let modified = format!("{signed}.{first}{}", &signature[1..]);
    let request = [("id_token_hint", modified.as_str()), ("post_logout_redirect_uri", BYE)];
    assert_error_page(&provider.browser.end_session(&request).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_bad_id_token_hint() {
    let provider = Provider::for_logout().await;
    provider.login_with(&[]).await;
    let request = [("id_token_hint", "not a token"), ("post_logout_redirect_uri", BYE)];
    assert_error_page(&provider.browser.end_session(&request).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_no_id_token_hint() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    let request = [("post_logout_redirect_uri", BYE), ("state", "s")];
    let page = provider.browser.end_session(&request).await;
    // Without a hint there is no client whose URI it could be.
    assert_eq!(page.header("location"), "", "no redirect without a question");
    provider.confirm(&page).await;
    assert!(provider.is_logged_out(&login).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_no_params() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    provider.confirm(&provider.browser.end_session(&[]).await).await;
    assert!(provider.is_logged_out(&login).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_no_post_logout_redirect_uri() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    let hint = text(&login.body, "id_token");
    let request = [("id_token_hint", hint.as_str()), ("state", "s")];
    let response = provider.browser.end_session(&request).await;
    assert_eq!((response.status, response.header("location")), (200, ""), "{}", response.text);
    assert!(provider.is_logged_out(&login).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_no_state() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    let hint = text(&login.body, "id_token");
    let request = [("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", BYE)];
    let response = provider.browser.end_session(&request).await;
    assert_eq!((response.status, response.header("location")), (303, BYE));
    assert!(provider.is_logged_out(&login).await);
}

#[actix_rt::test]
async fn oidcc_rp_initiated_logout_only_state() {
    let provider = Provider::for_logout().await;
    let login = provider.login_with(&[]).await;
    provider.confirm(&provider.browser.end_session(&[("state", "s")]).await).await;
    assert!(provider.is_logged_out(&login).await);
}
