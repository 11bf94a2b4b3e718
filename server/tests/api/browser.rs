//! A browser without a window: it keeps cookies and submits forms.

use std::cell::RefCell;
use std::collections::BTreeMap;

use awc::ClientRequest;
use matchbook_testkit::{Http, TestResponse};

use crate::support::Server;

pub(crate) const LOGIN_COOKIE: &str = "__Host-matchbook_login";
pub(crate) const CSRF_COOKIE: &str = "__Host-matchbook_csrf";

/// The cookies of a browser at one server.
pub(crate) struct Browser {
    http: Http,
    cookies: RefCell<BTreeMap<String, String>>,
}

impl Browser {
    pub(crate) fn at(server: &Server) -> Self {
        Self { http: server.http.clone(), cookies: RefCell::default() }
    }

    /// Opens a page.
    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        let request = self.http.request("GET", path).insert_header(("accept", "text/html"));
        self.send(request, None).await
    }

    /// Submits the first form of a page with these fields and the hidden ones. The later one
    /// of two fields with the same name is sent.
    pub(crate) async fn submit(
        &self,
        page: &TestResponse,
        fields: &[(&str, &str)],
    ) -> TestResponse {
        let form = page.text.split_once("<form").expect("a form").1;
        let form = form.split_once("</form>").unwrap().0;
        let mut all = hidden_fields(form);
        for (name, value) in fields {
            all.retain(|(other, _)| other != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        let action = between(form, "action=\"", "\"");
        self.post(&format!("/{action}"), &all).await
    }

    /// Sends a form.
    pub(crate) async fn post(&self, path: &str, fields: &[(String, String)]) -> TestResponse {
        self.send(self.http.request("POST", path), Some(fields)).await
    }

    /// Sends a request with the cookies, and keeps those of the response.
    pub(crate) async fn send(
        &self,
        request: ClientRequest,
        form: Option<&[(String, String)]>,
    ) -> TestResponse {
        let cookies = self.cookies.borrow().clone();
        let cookies: Vec<String> =
            cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.insert_header(("cookie", cookies.join("; ")));
        let response = match form {
            Some(form) => TestResponse::of(request.send_form(&form)).await,
            None => TestResponse::of(request.send()).await,
        };
        for header in response.headers.get_all("set-cookie") {
            let (name, value) = header.to_str().unwrap().split_once('=').unwrap();
            let (value, attributes) = value.split_once("; ").unwrap();
            assert!(attributes.contains("Path=/; Secure; HttpOnly; SameSite=Lax"), "{attributes}");
            self.set_cookie(name, if attributes.contains("Max-Age=0;") { "" } else { value });
        }
        response
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.borrow().get(name).cloned()
    }

    /// Sets a cookie; an empty value deletes it.
    pub(crate) fn set_cookie(&self, name: &str, value: &str) {
        let mut cookies = self.cookies.borrow_mut();
        match value {
            "" => cookies.remove(name),
            value => cookies.insert(name.to_owned(), value.to_owned()),
        };
    }

    /// Logs in by the form.
    pub(crate) async fn log_in(&self, name: &str, password: &str) -> TestResponse {
        let form = self.get("/login").await;
        self.submit(&form, &[("name", name), ("password", password)]).await
    }

    /// Whether the browser is logged in.
    pub(crate) async fn is_logged_in(&self) -> bool {
        // The login page redirects a browser that is logged in.
        self.get("/login").await.status == 303
    }
}

fn hidden_fields(form: &str) -> Vec<(String, String)> {
    let inputs = form.split("<input").filter(|input| input.contains("type=\"hidden\""));
    inputs
        .map(|input| (between(input, "name=\"", "\""), between(input, "value=\"", "\"")))
        .collect()
}

/// Returns the text between two others, without the escapes of HTML.
pub(crate) fn between(text: &str, start: &str, end: &str) -> String {
    let rest = text.split_once(start).unwrap_or_else(|| panic!("no {start} in {text}")).1;
    let value = rest.split_once(end).unwrap().0;
    value.replace("&#38;", "&").replace("&#34;", "\"").replace("&#60;", "<").replace("&#62;", ">")
}
