//! An HTTP client for tests. It trusts one CA and reads complete responses.

use std::path::Path;
use std::time::Duration;

use awc::http::header::{HeaderMap, HeaderName, USER_AGENT};
use awc::{ClientRequest, Connector, SendClientRequest};
use openssl::ssl::{SslConnector, SslMethod};
use serde_json::Value;

/// A client of one server.
#[derive(Clone)]
pub struct Http {
    base: String,
    client: awc::Client,
}

impl Http {
    /// Creates a client of the server at `base` that trusts the CA in the file `ca`.
    pub fn new(base: &str, ca: Option<&Path>) -> Self {
        let mut connector = Connector::new();
        if let Some(ca) = ca {
            let mut tls = SslConnector::builder(SslMethod::tls_client()).unwrap();
            tls.set_ca_file(ca).unwrap();
            connector = connector.openssl(tls.build());
        }
        let client = awc::Client::builder()
            .connector(connector.timeout(Duration::from_secs(30)))
            .timeout(Duration::from_secs(30))
            .disable_redirects()
            .add_default_header((USER_AGENT, "matchbook-test"))
            .finish();
        Self { base: base.to_owned(), client }
    }

    /// Creates a request.
    pub fn request(&self, method: &str, path: &str) -> ClientRequest {
        let method = awc::http::Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Sends `GET path`.
    pub async fn get(&self, path: &str) -> TestResponse {
        TestResponse::of(self.request("GET", path).send()).await
    }

    /// Sends `GET path` with an access token.
    pub async fn get_as(&self, path: &str, token: &str) -> TestResponse {
        TestResponse::of(self.request("GET", path).bearer_auth(token).send()).await
    }

    /// Sends `POST path` with an encoded form.
    pub async fn post(&self, path: &str, form: &str) -> TestResponse {
        let request = self
            .request("POST", path)
            .content_type("application/x-www-form-urlencoded")
            .send_body(form.to_owned());
        TestResponse::of(request).await
    }
}

/// A complete response.
#[derive(Debug, Clone)]
pub struct TestResponse {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as text.
    pub text: String,
}

impl TestResponse {
    /// Awaits the response to a request.
    pub async fn of(request: SendClientRequest) -> Self {
        let mut response = request.await.expect("the server responds");
        let body = response.body().limit(1 << 20).await.unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    /// Parses the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{} is not JSON: {error}", self.text))
    }

    /// Returns a string field of the JSON body.
    pub fn field(&self, name: &str) -> String {
        let json = self.json();
        let field = json[name].as_str();
        field.unwrap_or_else(|| panic!("no {name} in {}: {}", self.status, self.text)).to_owned()
    }

    /// Returns a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}
