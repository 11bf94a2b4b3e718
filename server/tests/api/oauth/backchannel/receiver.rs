//! A client that receives logout tokens.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, LOCATION, USER_AGENT};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;
use url::form_urlencoded;

use crate::support::{decode, eventually};

/// How it responds.
#[derive(Clone)]
pub(super) struct Script {
    /// The statuses of the first responses.
    pub(super) statuses: Vec<u16>,
    /// The status of all others.
    pub(super) then: u16,
    /// The delay of each response.
    pub(super) delay: Duration,
    /// The length of the bodies.
    pub(super) body: usize,
}

impl Default for Script {
    fn default() -> Self {
        Self { statuses: Vec::new(), then: 200, delay: Duration::ZERO, body: 0 }
    }
}

/// A request.
#[derive(Clone)]
pub(super) struct Received {
    pub(super) at: Instant,
    /// Path and query.
    pub(super) target: String,
    pub(super) content_type: String,
    pub(super) user_agent: String,
    pub(super) body: String,
}

impl Received {
    pub(super) fn token(&self) -> String {
        let mut fields = form_urlencoded::parse(self.body.as_bytes());
        let token = fields.find(|(name, _)| name == "logout_token");
        token.unwrap_or_else(|| panic!("{}", self.body)).1.into_owned()
    }

    /// The header and the claims of the token, verified with the published keys.
    pub(super) fn verified(&self, jwks: &Value) -> (Value, Value) {
        let token = self.token();
        let header: Value =
            serde_json::from_slice(&decode(token.split('.').next().unwrap())).unwrap();
        let keys: JwkSet = serde_json::from_value(jwks.clone()).unwrap();
        let key: &Jwk = keys.find(header["kid"].as_str().unwrap()).unwrap();
        let mut validation = Validation::new(jsonwebtoken::Algorithm::RS256);
        validation.validate_aud = false;
        let key = DecodingKey::from_jwk(key).unwrap();
        let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims;
        (header, claims)
    }
}

#[derive(Clone)]
struct State {
    script: Arc<Mutex<Script>>,
    received: Arc<Mutex<Vec<Received>>>,
}

/// A server that records requests. It ends with the test.
pub(super) struct Receiver {
    address: String,
    state: State,
}

impl Receiver {
    pub(super) fn start(script: Script) -> Self {
        Self::at(0, script)
    }

    /// Listens on this port.
    pub(super) fn at(port: u16, script: Script) -> Self {
        let state = State { script: Arc::new(Mutex::new(script)), received: Arc::default() };
        let data = state.clone();
        let app = move || {
            App::new().app_data(web::Data::new(data.clone())).default_service(web::to(receive))
        };
        let server = HttpServer::new(app).workers(1).disable_signals();
        let server = server.bind(("127.0.0.1", port)).unwrap();
        let address = server.addrs()[0].to_string();
        actix_rt::spawn(server.run());
        Self { address, state }
    }

    pub(super) fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Responds with 200 at once from now on.
    pub(super) fn respond(&self) {
        *self.state.script.lock().unwrap() = Script::default();
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.state.received.lock().unwrap().len()
    }

    /// Waits until it has received at least this many requests.
    pub(super) async fn await_count(&self, count: usize) {
        eventually(true, async || self.count() >= count).await;
    }
}

async fn receive(state: web::Data<State>, request: HttpRequest, body: String) -> HttpResponse {
    assert_eq!(request.method(), "POST");
    let header = |name| {
        let value = request.headers().get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or_default().to_owned()
    };
    let received = Received {
        at: Instant::now(),
        target: request.uri().to_string(),
        content_type: header(CONTENT_TYPE),
        user_agent: header(USER_AGENT),
        body,
    };
    let n = {
        let mut all = state.received.lock().unwrap();
        all.push(received);
        all.len() - 1
    };
    let script = state.script.lock().unwrap().clone();
    actix_rt::time::sleep(script.delay).await;
    let status = script.statuses.get(n).copied().unwrap_or(script.then);
    HttpResponse::build(StatusCode::from_u16(status).unwrap())
        .insert_header((LOCATION, "/elsewhere"))
        .body("x".repeat(script.body))
}
