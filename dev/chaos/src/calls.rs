//! How a client asks: a request, sent and noted with what became of it.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use awc::http::Method;
use awc::http::header::{CONTENT_TYPE, RETRY_AFTER};
use awc::{Client, Connector};
use serde_json::Value;
use uuid::Uuid;

use crate::history::{Asked, Outcome, Request, Scene};
use crate::tokens::{AccessToken, Pair, RefreshToken};

/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Shorter than the server's own: a connection that is just being closed must
/// not be taken for another request.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

const FORM: &str = "application/x-www-form-urlencoded";

/// A request to be.
#[derive(Clone)]
pub(super) struct Call {
    asked: Asked,
    session: Option<Uuid>,
    path: String,
    headers: Vec<(&'static str, String)>,
    /// With a form it is a `POST`.
    form: Option<String>,
}

impl Call {
    pub(super) fn register() -> Self {
        Self::get(Asked::Register, "/register".to_owned())
    }

    pub(super) fn sign_in(guest: &str) -> Self {
        Self::get(Asked::SignIn, format!("/token?userId={guest}"))
    }

    /// Shows an access token of `session`, which lives until `expires`.
    pub(super) fn user(session: Uuid, token: &AccessToken, expires: Duration) -> Self {
        let headers = vec![("authorization", format!("Bearer {}", token.text))];
        let call = Self::get(Asked::User { expires }, "/user".to_owned());
        Self { session: Some(session), headers, ..call }
    }

    /// Shows a refresh token, with an attempt key where the client uses them.
    pub(super) fn refresh(token: &RefreshToken, key: Option<&str>) -> Self {
        let headers = key.map(|key| ("idempotency-key", key.to_owned())).into_iter().collect();
        let asked = Asked::Refresh { shown: token.clone() };
        Self { headers, ..Self::post(asked, "/refresh", token) }
    }

    pub(super) fn logout(token: &RefreshToken) -> Self {
        Self::post(Asked::Logout, "/logout", token)
    }

    fn get(asked: Asked, path: String) -> Self {
        Self { asked, session: None, path, headers: Vec::new(), form: None }
    }

    fn post(asked: Asked, path: &str, token: &RefreshToken) -> Self {
        let form = Some(format!("refresh_token={}", token.text));
        Self { session: Some(token.session), form, ..Self::get(asked, path.to_owned()) }
    }

    /// As it travels over a connection of its own.
    fn raw(&self, server: &str) -> String {
        let method = if self.form.is_some() { "POST" } else { "GET" };
        let mut lines = vec![format!("{method} {} HTTP/1.1", self.path), format!("host: {server}")];
        lines.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        let form = self.form.as_deref().unwrap_or_default();
        if self.form.is_some() {
            lines.push(format!("content-type: {FORM}"));
            lines.push(format!("content-length: {}", form.len()));
        }
        format!("{}\r\n\r\n{form}", lines.join("\r\n"))
    }
}

/// What a client makes of an answer.
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    /// The tokens, where it grants some.
    pub(super) pair: Option<Pair>,
    /// The body, where there is one.
    pub(super) body: String,
    /// When the server wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

/// An answer, read to its end.
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: String,
}

/// A client's way to the servers.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) client: usize,
    pub(super) scene: Arc<Scene>,
    pub(super) http: Client,
}

/// What the clients of one thread send with.
pub(super) fn http() -> Client {
    let connector = Connector::new().timeout(TIMEOUT).conn_keep_alive(KEEP_ALIVE).limit(0);
    Client::builder().connector(connector).timeout(TIMEOUT).disable_redirects().finish()
}

impl Line {
    /// Asks a server and notes what became of it.
    pub(super) async fn ask(&self, server: usize, call: Call) -> Reply {
        let sent = self.scene.now();
        let answer = actix_rt::time::timeout(TIMEOUT, self.send(server, &call)).await;
        let reply = Reply::of(&call.asked, answer.ok().flatten());
        self.note(server, call, sent, reply.outcome.clone());
        reply
    }

    /// Sends all of it, hangs up and never learns what became of it.
    pub(super) fn hang_up(&self, server: usize, call: Call) -> Reply {
        let (sent, address) = (self.scene.now(), &self.scene.servers[server]);
        if let Ok(mut stream) = TcpStream::connect(address) {
            let _ = stream.write_all(call.raw(address).as_bytes());
        }
        self.note(server, call, sent, Outcome::Silent);
        Reply::silent()
    }

    fn note(&self, server: usize, call: Call, sent: Duration, outcome: Outcome) {
        let (client, done) = (self.client, self.scene.now());
        let Call { session, asked, .. } = call;
        self.scene.note(Request { client, server, session, asked, sent, done, outcome });
    }

    async fn send(&self, server: usize, call: &Call) -> Option<Answer> {
        let method = if call.form.is_some() { Method::POST } else { Method::GET };
        let url = format!("http://{}{}", self.scene.servers[server], call.path);
        let mut request = self.http.request(method, url);
        for (name, value) in &call.headers {
            request = request.insert_header((*name, value.as_str()));
        }
        let sending = match &call.form {
            Some(form) => request.insert_header((CONTENT_TYPE, FORM)).send_body(form.clone()),
            None => request.send(),
        };
        let mut response = sending.await.ok()?;
        let body = response.body().await.ok()?;
        let retry_after = response.headers().get(RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        Some(Answer {
            status: response.status().as_u16(),
            retry_after: seconds.map(Duration::from_secs),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

impl Reply {
    fn silent() -> Self {
        Self { outcome: Outcome::Silent, pair: None, body: String::new(), retry_after: None }
    }

    fn of(asked: &Asked, answer: Option<Answer>) -> Self {
        let Some(Answer { status, retry_after, body }) = answer else { return Self::silent() };
        let grants = matches!(asked, Asked::SignIn | Asked::Refresh { .. });
        let done = if *asked == Asked::Logout { 204 } else { 200 };
        let pair = Pair::parse(&body).filter(|_| grants && status == 200);
        let outcome = match (status, &pair) {
            (200, Some(pair)) => Outcome::Granted(pair.refresh.clone()),
            (401, _) => Outcome::Refused(reason(&body)),
            (503, _) if retry_after.is_some() => Outcome::Away,
            (status, None) if status == done && !grants => Outcome::Accepted,
            _ => Outcome::Wrong(format!("{status} {}", body.chars().take(120).collect::<String>())),
        };
        Self { outcome, pair, body, retry_after }
    }
}

/// Why it was refused, in the server's words for programs.
fn reason(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let field = ["reason", "error"].iter().find_map(|name| body[name].as_str());
    field.unwrap_or("without a reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(asked: &Asked, status: u16, retry_after: Option<u64>, body: &str) -> Outcome {
        let (retry_after, body) = (retry_after.map(Duration::from_secs), body.to_owned());
        Reply::of(asked, Some(Answer { status, retry_after, body })).outcome
    }

    #[test]
    fn an_answer_is_what_it_is_for_what_was_asked() {
        let wrong = |outcome| matches!(outcome, Outcome::Wrong(_));
        let refused = Outcome::Refused("reuse".to_owned());
        assert_eq!(outcome(&Asked::Logout, 204, None, ""), Outcome::Accepted);
        assert_eq!(outcome(&Asked::Register, 200, None, "\"id\""), Outcome::Accepted);
        assert_eq!(outcome(&Asked::Logout, 401, None, r#"{"reason":"reuse"}"#), refused);
        assert_eq!(outcome(&Asked::SignIn, 503, Some(1), ""), Outcome::Away);
        assert!(wrong(outcome(&Asked::SignIn, 503, None, "")), "nobody knows when to come back");
        assert!(wrong(outcome(&Asked::SignIn, 200, None, "{}")), "tokens are missing");
        assert!(wrong(outcome(&Asked::Logout, 200, None, "")));
        assert!(wrong(outcome(&Asked::Register, 500, None, "")));
        assert_eq!(Reply::of(&Asked::Register, None).outcome, Outcome::Silent);
    }
}
