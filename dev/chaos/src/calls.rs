//! Requests of a client, recorded with their outcome.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use awc::http::Method;
use awc::http::header::{CONTENT_TYPE, RETRY_AFTER};
use awc::{Client, Connector};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::history::{Operation, Outcome, Request, RunContext};
use crate::tokens::{AccessToken, RefreshToken, TokenPair};

/// Timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Shorter than the server's, so that no request is sent on a connection that the server is
/// closing.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

const FORM: &str = "application/x-www-form-urlencoded";

/// The credentials of an account.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) password: String,
}

/// A request to send.
#[derive(Clone)]
pub(super) struct Call {
    operation: Operation,
    session: Option<Uuid>,
    path: String,
    method: Method,
    headers: Vec<(&'static str, String)>,
    body: Option<Body>,
}

/// The body of a request.
#[derive(Clone)]
struct Body {
    content_type: &'static str,
    text: String,
}

impl Call {
    pub(super) fn register() -> Self {
        Self::get(Operation::Register, "/register".to_owned())
    }

    pub(super) fn log_in(guest: &str) -> Self {
        Self::get(Operation::LogIn, format!("/token?userId={guest}"))
    }

    /// Presents an access token of `session`.
    pub(super) fn user(session: Uuid, token: &AccessToken, expires: Duration) -> Self {
        Self::get(Operation::User { expires }, "/user".to_owned()).of(session, token)
    }

    /// Presents a refresh token, with an idempotency key if the client uses them.
    pub(super) fn refresh(token: &RefreshToken, key: Option<&str>) -> Self {
        let headers = key.map(|key| ("idempotency-key", key.to_owned())).into_iter().collect();
        let operation = Operation::Refresh { presented: token.clone() };
        Self { headers, ..Self::post(operation, "/refresh", token) }
    }

    /// Presents a refresh token of another server, with an idempotency key if the client uses
    /// them.
    pub(super) fn exchange(token: &str, key: Option<&str>) -> Self {
        let headers = key.map(|key| ("idempotency-key", key.to_owned())).into_iter().collect();
        let operation = Operation::Exchange { presented: token.to_owned() };
        let text = format!("refresh_token={token}");
        let body = Some(Body { content_type: FORM, text });
        let call = Self::get(operation, "/refresh".to_owned());
        Self { method: Method::POST, headers, body, ..call }
    }

    pub(super) fn logout(token: &RefreshToken) -> Self {
        Self::post(Operation::Logout, "/logout", token)
    }

    pub(super) fn register_account(account: &Account) -> Self {
        let body = json!({ "name": account.name, "password": account.password });
        Self::json(Operation::RegisterAccount, Method::POST, "/register", &body)
    }

    pub(super) fn log_in_account(account: &Account) -> Self {
        let body = json!({ "name": account.name, "password": account.password });
        Self::json(Operation::LogIn, Method::POST, "/login", &body)
    }

    /// Changes the password with an access token of another session of the account. This
    /// ends `session`.
    pub(super) fn change_password(
        session: Uuid,
        token: &AccessToken,
        account: &Account,
        new: &str,
    ) -> Self {
        let body = json!({ "current": account.password, "new": new });
        let call = Self::json(Operation::ChangePassword, Method::POST, "/password", &body);
        call.of(session, token)
    }

    /// Deletes the account of `session`.
    pub(super) fn delete_account(session: Uuid, token: &AccessToken, account: &Account) -> Self {
        let body = json!({ "password": account.password });
        let call = Self::json(Operation::DeleteAccount, Method::DELETE, "/account", &body);
        call.of(session, token)
    }

    fn of(self, session: Uuid, token: &AccessToken) -> Self {
        let mut headers = self.headers;
        headers.push(("authorization", format!("Bearer {}", token.text)));
        Self { session: Some(session), headers, ..self }
    }

    fn get(operation: Operation, path: String) -> Self {
        let method = Method::GET;
        Self { operation, session: None, path, method, headers: Vec::new(), body: None }
    }

    fn post(operation: Operation, path: &str, token: &RefreshToken) -> Self {
        let text = format!("refresh_token={}", token.text);
        let body = Some(Body { content_type: FORM, text });
        let call = Self::get(operation, path.to_owned());
        Self { method: Method::POST, session: Some(token.session), body, ..call }
    }

    fn json(operation: Operation, method: Method, path: &str, body: &Value) -> Self {
        let body = Some(Body { content_type: "application/json", text: body.to_string() });
        Self { method, body, ..Self::get(operation, path.to_owned()) }
    }

    /// Formats the request for a raw connection.
    fn raw(&self, server: &str) -> String {
        let first = format!("{} {} HTTP/1.1", self.method, self.path);
        let mut lines = vec![first, format!("host: {server}")];
        lines.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        let mut text = "";
        if let Some(body) = &self.body {
            text = &body.text;
            lines.push(format!("content-type: {}", body.content_type));
            lines.push(format!("content-length: {}", text.len()));
        }
        format!("{}\r\n\r\n{text}", lines.join("\r\n"))
    }
}

/// The outcome of a request, for the client.
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    /// The tokens of a successful response.
    pub(super) pair: Option<TokenPair>,
    /// The response body.
    pub(super) body: String,
    /// The `Retry-After` header.
    pub(super) retry_after: Option<Duration>,
}

/// A complete response.
struct Response {
    status: u16,
    retry_after: Option<Duration>,
    body: String,
}

/// A client's connection to the servers.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: usize,
    pub(super) context: Arc<RunContext>,
    pub(super) http: Client,
}

/// Creates the HTTP client of one thread.
pub(super) fn http() -> Client {
    let connector = Connector::new().timeout(TIMEOUT).conn_keep_alive(KEEP_ALIVE).limit(0);
    Client::builder().connector(connector).timeout(TIMEOUT).disable_redirects().finish()
}

impl Connection {
    /// Sends a request and records its outcome.
    pub(super) async fn send(&self, server: usize, call: Call) -> Reply {
        let sent = self.context.now();
        let response = actix_rt::time::timeout(TIMEOUT, self.exchange(server, &call)).await;
        let reply = Reply::of(&call.operation, response.ok().flatten());
        self.record(server, call, sent, reply.outcome.clone());
        reply
    }

    /// Sends a request and disconnects without reading the response.
    pub(super) fn send_and_disconnect(&self, server: usize, call: Call) -> Reply {
        let sent = self.context.now();
        let address = &self.context.servers[server];
        if let Ok(mut stream) = TcpStream::connect(address) {
            let _ = stream.write_all(call.raw(address).as_bytes());
        }
        self.record(server, call, sent, Outcome::NoResponse);
        Reply::no_response()
    }

    /// Disables an account by the command line, retrying until it is acknowledged or the run
    /// ends. Any attempt may have ended the session. Returns whether it is acknowledged.
    pub(super) async fn disable(&self, session: Uuid, account: &Account) -> bool {
        let sent = self.context.now();
        let mut outcome = Outcome::NoResponse;
        while outcome != Outcome::Accepted && !self.context.is_drained() {
            if self.context.operator.disable(&account.name).await {
                outcome = Outcome::Accepted;
            }
        }
        let acknowledged = outcome == Outcome::Accepted;
        self.context.record(Request {
            client: self.client,
            // A command uses no server.
            server: 0,
            session: Some(session),
            operation: Operation::Disable,
            sent,
            done: self.context.now(),
            outcome,
        });
        acknowledged
    }

    fn record(&self, server: usize, call: Call, sent: Duration, outcome: Outcome) {
        self.context.record(Request {
            client: self.client,
            server,
            session: call.session,
            operation: call.operation,
            sent,
            done: self.context.now(),
            outcome,
        });
    }

    async fn exchange(&self, server: usize, call: &Call) -> Option<Response> {
        let url = format!("http://{}{}", self.context.servers[server], call.path);
        let mut request = self.http.request(call.method.clone(), url);
        for (name, value) in &call.headers {
            request = request.insert_header((*name, value.as_str()));
        }
        let sending = match &call.body {
            Some(body) => {
                let request = request.insert_header((CONTENT_TYPE, body.content_type));
                request.send_body(body.text.clone())
            }
            None => request.send(),
        };
        let mut response = sending.await.ok()?;
        let body = response.body().await.ok()?;
        let retry_after = response.headers().get(RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        Some(Response {
            status: response.status().as_u16(),
            retry_after: seconds.map(Duration::from_secs),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

impl Reply {
    fn no_response() -> Self {
        Self { outcome: Outcome::NoResponse, pair: None, body: String::new(), retry_after: None }
    }

    fn of(operation: &Operation, response: Option<Response>) -> Self {
        let Some(Response { status, retry_after, body }) = response else {
            return Self::no_response();
        };
        let grants = operation.opens_session() || matches!(operation, Operation::Refresh { .. });
        let done = match operation {
            Operation::Logout | Operation::ChangePassword | Operation::DeleteAccount => 204,
            Operation::RegisterAccount => 201,
            _ => 200,
        };
        let pair = TokenPair::parse(&body).filter(|_| grants && status == 200);
        let outcome = match (status, &pair) {
            (200, Some(pair)) => Outcome::Granted(pair.refresh.clone()),
            (401, _) => Outcome::Rejected(reason(&body)),
            (503, _) if retry_after.is_some() => Outcome::Unavailable,
            (status, None) if status == done && !grants => Outcome::Accepted,
            _ => Outcome::Unexpected(format!(
                "{status} {}",
                body.chars().take(120).collect::<String>()
            )),
        };
        Self { outcome, pair, body, retry_after }
    }
}

/// Returns the reason or error code of a rejection.
fn reason(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let field = ["reason", "error"].iter().find_map(|name| body[name].as_str());
    field.unwrap_or("without a reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(
        operation: &Operation,
        status: u16,
        retry_after: Option<u64>,
        body: &str,
    ) -> Outcome {
        let retry_after = retry_after.map(Duration::from_secs);
        let body = body.to_owned();
        Reply::of(operation, Some(Response { status, retry_after, body })).outcome
    }

    #[test]
    fn the_outcome_depends_on_the_operation() {
        let unexpected = |outcome| matches!(outcome, Outcome::Unexpected(_));
        let rejected = Outcome::Rejected("reuse".to_owned());
        assert_eq!(outcome(&Operation::Logout, 204, None, ""), Outcome::Accepted);
        assert_eq!(outcome(&Operation::Register, 200, None, "\"id\""), Outcome::Accepted);
        assert_eq!(outcome(&Operation::Logout, 401, None, r#"{"reason":"reuse"}"#), rejected);
        assert_eq!(outcome(&Operation::LogIn, 503, Some(1), ""), Outcome::Unavailable);
        assert!(unexpected(outcome(&Operation::LogIn, 503, None, "")), "Retry-After is missing");
        assert!(unexpected(outcome(&Operation::LogIn, 200, None, "{}")), "tokens are missing");
        assert!(unexpected(outcome(&Operation::Logout, 200, None, "")));
        assert!(unexpected(outcome(&Operation::Register, 500, None, "")));
        assert_eq!(Reply::of(&Operation::Register, None).outcome, Outcome::NoResponse);
    }
}
