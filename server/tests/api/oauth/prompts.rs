//! `prompt` and `max_age`: when the user is asked to log in or to consent.

use std::time::Duration;

use matchbook_testkit::TestResponse;
use url::form_urlencoded;

use super::authorization::{assert_error_redirect, redirect_path};
use super::refreshing::claims;
use super::{Client, Parameters, REDIRECT_URI, exchange_of, redirect_of, server_with, set, tokens};
use crate::browser::Browser;
use crate::support::Server;

#[actix_rt::test]
async fn missing_login_with_prompt_none_is_an_error_for_the_client() {
    let (server, browser) = server_with(|launch| launch).await;
    let (own, foreign) = (server.add_spa(), server.add_foreign_app());
    let anonymous = Browser::at(&server);
    let rejected = anonymous.authorize(&with_prompt(&own, "none")).await;
    assert_error_redirect(&rejected, "login_required");
    assert!(redirect_of(&browser.authorize(&with_prompt(&own, "none")).await).contains_key("code"));
    let rejected = browser.authorize(&with_prompt(&foreign, "none")).await;
    assert_error_redirect(&rejected, "consent_required");
    // Other clients need a consent, and the own ones on demand.
    for (client, prompt) in [(&foreign, "select_account"), (&foreign, ""), (&own, "consent")] {
        let asked = browser.authorize(&with_prompt(client, prompt)).await;
        let path = redirect_path("/oauth/authorize", &asked);
        assert!(path.starts_with("/consent?continue="), "{path}");
    }
    let selected = browser.authorize(&with_prompt(&own, "select_account")).await;
    assert!(redirect_of(&selected).contains_key("code"));
}

fn with_prompt<'a>(client: &'a Client, prompt: &'a str) -> Parameters<'a> {
    let mut request = client.request();
    set(&mut request, "prompt", prompt);
    request
}

impl Server {
    /// Registers a public client of a third party.
    pub(super) fn add_foreign_app(&self) -> Client {
        let options = ["--public", "--redirect-uri", REDIRECT_URI, "--scope", "read write"];
        self.register_client("Foreign app", &options)
    }

    /// Exchanges the code of a redirect, and returns the claim `auth_time`.
    async fn auth_time(&self, client: &Client, response: &TestResponse) -> i64 {
        let code = redirect_of(response)["code"].clone();
        let body = tokens(&self.token(client, &exchange_of(&code)).await);
        claims(&body)["auth_time"].as_i64().unwrap()
    }
}

#[actix_rt::test]
async fn prompt_login_asks_once_for_each_request() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let first = server.auth_time(&client, &browser.authorize(&client.request()).await).await;
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    let mut request = client.request();
    set(&mut request, "prompt", "login");
    let asked = browser.authorize(&request).await;
    let login = redirect_path("/oauth/authorize", &asked);
    let done = browser.log_in_and_continue(&asked).await;
    assert!(server.auth_time(&client, &done).await > first, "the time of the second login");
    // The same request asks again, and so does another one with what the first one carried.
    let login = form_urlencoded::parse(login.split_once('?').unwrap().1.as_bytes());
    let carried = login.into_owned().next().unwrap().1;
    let carried = form_urlencoded::parse(carried.as_bytes()).into_owned();
    let progress = carried.last().unwrap();
    assert_eq!(progress.0, "mb_asked");
    let again = browser.authorize(&request).await;
    assert!(redirect_path("/oauth/authorize", &again).starts_with("/login?"));
    for forged in [progress.1.as_str(), "AAAA", "x"] {
        let mut other = request.clone();
        set(&mut other, "state", "another state");
        set(&mut other, "mb_asked", forged);
        let again = browser.authorize(&other).await;
        assert!(redirect_path("/oauth/authorize", &again).starts_with("/login?"));
    }
}

#[actix_rt::test]
async fn max_age_asks_when_the_login_is_older_and_ends_in_a_code() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    actix_rt::time::sleep(Duration::from_secs(2)).await;
    let mut request = client.request();
    set(&mut request, "max_age", "10000");
    let first = server.auth_time(&client, &browser.authorize(&request).await).await;
    set(&mut request, "prompt", "none");
    set(&mut request, "max_age", "1");
    assert_error_redirect(&browser.authorize(&request).await, "login_required");
    set(&mut request, "prompt", "");
    for max_age in ["1", "0"] {
        set(&mut request, "max_age", max_age);
        let asked = browser.authorize(&request).await;
        let done = browser.log_in_and_continue(&asked).await;
        assert!(server.auth_time(&client, &done).await > first);
        actix_rt::time::sleep(Duration::from_millis(1100)).await;
    }
}
