//! The sessions and tokens of a scripted server.

use std::collections::{HashMap, HashSet};

use matchbook_shared::{DEVICE_COOKIE, TokenResponse};
use serde_json::{Value, json};

use super::{Received, ScriptedResponse, ScriptedServer};

const SECRET: &str = ScriptedServer::SECRET;

pub(super) struct Tokens {
    /// The serial number of the last access token.
    issued: u64,
    /// The serial number of the last access token that has expired.
    expired: u64,
    /// In seconds.
    lifetime: u64,
    rotates: bool,
    /// The number of sessions.
    sessions: u64,
    ended: HashSet<u64>,
    /// The session of each refresh token that is not rotated.
    current: HashMap<String, Session>,
    rotated: HashMap<String, Rotation>,
    reuses: usize,
    /// The password of each account, by name.
    accounts: HashMap<String, String>,
}

#[derive(Clone, Copy)]
struct Session {
    id: u64,
    generation: u64,
}

struct Rotation {
    session: u64,
    key: Option<String>,
    issued: Issued,
}

#[derive(Clone)]
struct Issued {
    access: String,
    refresh: Option<String>,
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self {
            issued: 0,
            expired: 0,
            lifetime: 60,
            rotates: true,
            sessions: 0,
            ended: HashSet::new(),
            current: HashMap::new(),
            rotated: HashMap::new(),
            reuses: 0,
            accounts: HashMap::new(),
        }
    }

    pub(super) fn log_in(&mut self) -> TokenResponse {
        let issued = self.open_session();
        TokenResponse {
            token: issued.access,
            refresh_token: issued.refresh.unwrap(),
            expires_in: self.lifetime,
        }
    }

    pub(super) fn add_account(&mut self, name: &str, password: &str) {
        self.accounts.insert(name.to_owned(), password.to_owned());
    }

    pub(super) fn expire(&mut self) {
        self.expired = self.issued;
    }

    pub(super) fn set_lifetime(&mut self, seconds: u64) {
        self.lifetime = seconds;
    }

    pub(super) fn stop_rotating(&mut self) {
        self.rotates = false;
    }

    pub(super) fn rotations(&self) -> usize {
        self.rotated.len()
    }

    pub(super) fn reuses(&self) -> usize {
        self.reuses
    }

    fn open_session(&mut self) -> Issued {
        self.sessions += 1;
        self.issue(Session { id: self.sessions, generation: 0 })
    }

    fn issue(&mut self, session: Session) -> Issued {
        self.issued += 1;
        let access = format!("access-{}-{}-{SECRET}", session.id, self.issued);
        let refresh = format!("mb_rt_{}-{}-{SECRET}", session.id, session.generation);
        self.current.insert(refresh.clone(), session);
        Issued { access, refresh: Some(refresh) }
    }

    /// Returns the session of the access token, if it is valid.
    fn verify(&self, received: &Received) -> Option<u64> {
        let bearer = received.bearer()?;
        let (session, serial) =
            bearer.strip_prefix("access-")?.strip_suffix(SECRET)?.split_once('-')?;
        let session = session.parse().ok()?;
        let serial: u64 = serial.strip_suffix('-')?.parse().ok()?;
        (serial > self.expired && !self.ended.contains(&session)).then_some(session)
    }

    /// Rotates a refresh token. A rotated one returns the same tokens again with the same
    /// key, and ends the session otherwise.
    fn refresh(&mut self, presented: &str, key: Option<String>) -> Option<Issued> {
        if let Some(rotation) = self.rotated.get(presented) {
            if key.is_some() && rotation.key == key && !self.ended.contains(&rotation.session) {
                return Some(rotation.issued.clone());
            }
            self.reuses += 1;
            self.ended.insert(rotation.session);
            return None;
        }
        let session = *self.current.get(presented)?;
        if self.ended.contains(&session.id) {
            return None;
        }
        if !self.rotates {
            let issued = self.issue(session);
            return Some(Issued { access: issued.access, refresh: None });
        }
        self.current.remove(presented);
        let issued = self.issue(Session { generation: session.generation + 1, ..session });
        let rotation = Rotation { session: session.id, key, issued: issued.clone() };
        self.rotated.insert(presented.to_owned(), rotation);
        Some(issued)
    }

    /// Responds like a token server with a resource at every other path, which returns the
    /// body of the request.
    pub(super) fn serve(&mut self, received: &Received) -> ScriptedResponse {
        match (received.method.as_str(), received.path.as_str()) {
            ("GET", "/register") => json(200, &json!("a guest")),
            ("GET", "/token") => {
                let issued = self.open_session();
                json(200, &self.native(&issued))
            }
            ("POST", "/register") => {
                let (name, password) = credentials(received);
                self.add_account(&name, &password);
                json(201, &json!({"userId": "00000000-0000-4000-8000-000000000001"}))
            }
            ("POST", "/login") => {
                let (name, password) = credentials(received);
                if self.accounts.get(&name) != Some(&password) {
                    return json(401, &json!({"error": "invalid_credentials", "message": "wrong"}));
                }
                let issued = self.open_session();
                let mut response = json(200, &self.native(&issued));
                let cookie = format!("{DEVICE_COOKIE}=device-{SECRET}; Path=/; Secure; HttpOnly");
                response.headers.push(("set-cookie", cookie));
                response
            }
            ("POST", "/refresh") => {
                let presented = received.field("refresh_token").unwrap_or_default();
                match self.refresh(&presented, received.key()) {
                    Some(issued) => json(200, &self.native(&issued)),
                    None => json(401, &json!({"error": "invalid_grant", "message": "over"})),
                }
            }
            ("POST", "/oauth/token") => {
                if received.field("grant_type").as_deref() != Some("refresh_token") {
                    return json(400, &json!({"error": "unsupported_grant_type"}));
                }
                let presented = received.field("refresh_token").unwrap_or_default();
                match self.refresh(&presented, received.key()) {
                    Some(issued) => json(200, &self.oauth(issued)),
                    None => json(400, &json!({"error": "invalid_grant"})),
                }
            }
            ("POST", "/logout" | "/oauth/revoke") => {
                let presented = received.field("refresh_token").or_else(|| received.field("token"));
                let session = presented.and_then(|token| self.current.get(&token).copied());
                self.ended.extend(session.map(|session| session.id));
                ScriptedResponse { status: 204, headers: vec![], body: String::new() }
            }
            (method, path) => match self.verify(received) {
                None => json(401, &json!({"error": "invalid_token", "message": "expired"})),
                Some(session) if (method, path) == ("DELETE", "/sessions") => {
                    self.ended.insert(session);
                    json(200, &json!({"ended": 1}))
                }
                Some(_) => {
                    let body = String::from_utf8_lossy(&received.body).into_owned();
                    ScriptedResponse::new(200, "text/plain", body)
                }
            },
        }
    }

    /// A response with Matchbook's own names.
    fn native(&self, issued: &Issued) -> Value {
        json!({
            "token": issued.access,
            "refreshToken": issued.refresh,
            "expiresIn": self.lifetime,
        })
    }

    /// A response with the names of RFC 6749 §5.1.
    fn oauth(&self, issued: Issued) -> Value {
        let mut response = json!({
            "access_token": issued.access,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        });
        if let Some(refresh) = issued.refresh {
            response["refresh_token"] = refresh.into();
        }
        response
    }
}

/// Returns the name and the password of a JSON body.
fn credentials(received: &Received) -> (String, String) {
    let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
    let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (field("name"), field("password"))
}

fn json(status: u16, body: &Value) -> ScriptedResponse {
    ScriptedResponse::new(status, "application/json", body.to_string())
}
