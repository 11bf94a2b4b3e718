//! An application behind a reverse proxy that asks `/forward-auth`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use matchbook_testkit::{Http, TestEnv, TestResponse, free_port};

use crate::forward_auth::{COOKIE, cookie_of, settings};
use crate::oauth::PASSWORD;
use crate::support::Server;

/// Timeout for the start of a proxy, long enough for a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The ports of the servers of a test.
pub(crate) struct Ports {
    pub(crate) proxy: u16,
    pub(crate) matchbook: u16,
    pub(crate) app: u16,
}

/// A process of a proxy. Dropping this kills it.
pub(crate) struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Proxy {
    /// Starts the first of these programs that exists, and waits until it listens.
    pub(crate) fn start(programs: &[&str], arguments: &[&str], port: u16) -> Self {
        let is_present = |program: &&&str| !program.contains('/') || Path::new(program).exists();
        let program = programs.iter().find(is_present).unwrap();
        let command = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
        let mut proxy = Self(command.expect("the program is installed"));
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(proxy.0.try_wait().unwrap().is_none(), "{program} has ended");
            assert!(since.elapsed() < START_TIMEOUT, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        proxy
    }
}

/// Starts an application that responds with the head of each request.
fn start_app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = Vec::new();
            let mut buffer = [0; 4096];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(length @ 1..) => head.extend(&buffer[..length]),
                    _ => break,
                }
            }
            let response = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: \
                 close\r\n\r\n",
                head.len()
            );
            let _ = stream.write_all(&[response.as_bytes(), &head].concat());
        }
    });
    port
}

/// Sends a request to the application through the proxy.
async fn request(proxy: &Http, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    let mut request = proxy.request("GET", path).insert_header(("host", "app.example.com"));
    request = request.insert_header(("x-forwarded-proto", "https"));
    for header in headers {
        request = request.append_header(*header);
    }
    TestResponse::of(request.send()).await
}

/// Returns the values of a header that the application got.
fn received(response: &TestResponse, name: &str) -> Vec<String> {
    assert_eq!(response.status, 200, "{}", response.text);
    let lines = response.text.lines().filter_map(|line| line.split_once(':'));
    let of_name = lines.filter(|(own, _)| own.replace('_', "-").eq_ignore_ascii_case(name));
    of_name.map(|(_, value)| value.trim().to_owned()).collect()
}

/// Checks what an application gets from a proxy.
pub(crate) async fn check(start: impl AsyncFnOnce(&TestEnv, &Ports) -> Proxy) {
    let server = Server::with(|launch| settings(launch).set("tls.mode", "off"));
    let matchbook = server.process.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let ports = Ports { proxy: free_port(), matchbook, app: start_app() };
    let _proxy = start(&server.world, &ports).await;
    let proxy = Http::new(&format!("http://127.0.0.1:{}", ports.proxy), None);
    let page = ("accept", "text/html");

    let browser = server.browser_of_ann().await;
    server.users(&["group", "add", "ann", "staff"]).unwrap();
    let opened = request(&proxy, "/x?a=b&c=d", &[page]).await;
    assert_eq!(opened.status, 302, "{}", opened.text);
    let login = opened.header("location").strip_prefix("https://auth.example.com").unwrap();
    let returned = browser.get(login).await;
    assert_eq!(returned.header("location"), "https://app.example.com/x?a=b&c=d");
    let api = request(&proxy, "/x", &[]).await;
    assert_eq!(api.status, 401, "{}", api.text);
    assert!(api.header("www-authenticate").starts_with("Bearer "), "{:?}", api.headers);

    let cookie = cookie_of(&browser).await;
    let forged = [
        ("X-Auth-User", "mallory"),
        ("X-Auth-Name", "mallory"),
        ("X-Auth-Email", "mallory@example.com"),
        ("X-Auth-Groups", "admin"),
        ("X_Auth_Email", "mallory@example.com"),
    ];
    for (sent, expected) in [
        (format!("{COOKIE}={cookie}"), vec![]),
        (format!("{COOKIE}={cookie}; a=b; c=d"), vec!["a=b", "c=d"]),
        (format!("a=b; {COOKIE}={cookie}; c=d"), vec!["a=b", "c=d"]),
        (format!("a=b; c=d; {COOKIE}={cookie}"), vec!["a=b", "c=d"]),
    ] {
        let headers = [&forged[..], &[("cookie", &*sent), page]].concat();
        let response = request(&proxy, "/x", &headers).await;
        assert_eq!(received(&response, "x-auth-name"), ["ann"]);
        assert_eq!(received(&response, "x-auth-groups"), ["staff"]);
        assert_eq!(received(&response, "x-auth-user").len(), 1);
        assert!(received(&response, "x-auth-email").iter().all(String::is_empty));
        let cookies = received(&response, "cookie").join("; ");
        let cookies: Vec<_> = cookies.split("; ").filter(|it| !it.is_empty()).collect();
        // Caddy removes the value alone.
        let emptied = format!("{COOKIE}=");
        let cookies: Vec<_> = cookies.into_iter().filter(|it| *it != emptied).collect();
        assert_eq!(cookies, expected, "{sent}");
        assert!(!response.text.contains(&cookie) && !response.text.contains("mallory"));
    }
    // A planted second cookie.
    let twice = format!("{COOKIE}={cookie}; a=b; {COOKIE}={cookie}");
    let response = request(&proxy, "/x", &[("cookie", &twice)]).await;
    assert!(!response.text.contains(&cookie), "{}", response.text);

    let bearer = server.log_in_as("ann", PASSWORD).await.access;
    let bearer = format!("Bearer {bearer}");
    let response = request(&proxy, "/x", &[("authorization", &bearer)]).await;
    assert_eq!(received(&response, "x-auth-name"), ["ann"]);

    let account = browser.get("/account").await;
    browser.submit(&account, &[("action", "log-out")]).await;
    let since = Instant::now();
    let header = format!("{COOKIE}={cookie}");
    assert_eq!(request(&proxy, "/x", &[("cookie", &header)]).await.status, 401);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}
