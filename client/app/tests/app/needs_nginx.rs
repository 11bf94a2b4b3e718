//! The client app behind a reverse proxy that terminates TLS: nginx, with the headers that
//! common proxies send by default.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use awc::ClientRequest;
use matchbook_testkit::{Http, Process, TestEnv, TestResponse, free_port, is_root};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

use super::support::{client, cookie_of, server_binary};

/// Timeout for the start of nginx, long enough for a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The host name of the app in browsers.
const NAME: &str = "app.example";

/// The part of the browser's authority that a proxy's headers contain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forwarded {
    /// All of it.
    All,
    /// The name, without a non-default port.
    Name,
    /// Nothing.
    Nothing,
    /// The name, with the port of the proxy.
    OwnPort,
}

/// Proxies, their headers as nginx settings, and the forwarded part of the authority.
const FORMS: [(&str, &str, Forwarded); 9] = [
    // `Host` is that of the app: `$proxy_host`.
    ("nginx without a setting", "", Forwarded::Nothing),
    (
        "nginx with $host",
        "Host $host; X-Real-IP $remote_addr; X-Forwarded-For $proxy_add_x_forwarded_for; \
         X-Forwarded-Proto $scheme",
        Forwarded::Name,
    ),
    ("nginx with $http_host", "Host $http_host; X-Forwarded-Proto $scheme", Forwarded::All),
    ("nginx with $proxy_host", "Host $proxy_host; X-Forwarded-Proto $scheme", Forwarded::Nothing),
    ("nginx with $host:$server_port", "Host $host:$server_port", Forwarded::OwnPort),
    ("nginx with X-Forwarded-Host alone", "X-Forwarded-Host $http_host", Forwarded::All),
    (
        "Caddy",
        "Host $http_host; X-Forwarded-For $remote_addr; X-Forwarded-Proto $scheme; \
         X-Forwarded-Host $http_host",
        Forwarded::All,
    ),
    (
        "Traefik",
        "Host $http_host; X-Forwarded-For $remote_addr; X-Forwarded-Host $http_host; \
         X-Forwarded-Port $server_port; X-Forwarded-Proto $scheme; X-Forwarded-Server proxy; \
         X-Real-Ip $remote_addr",
        Forwarded::All,
    ),
    ("HAProxy with forwardfor", "Host $http_host; X-Forwarded-For $remote_addr", Forwarded::All),
];

/// An nginx process in front of an app, with a port for each form. Dropping this kills it.
struct Proxy {
    child: Child,
    ports: Vec<u16>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts nginx with a certificate for localhost.
    fn start(folder: &Path, app: &str) -> Self {
        let mut servers = String::new();
        let mut ports = Vec::new();
        for (_, headers, _) in FORMS {
            let mut port = free_port();
            while ports.contains(&port) {
                port = free_port();
            }
            let headers = headers.split("; ").filter(|header| !header.is_empty());
            let headers = headers
                .fold(String::new(), |all, header| all + "proxy_set_header " + header + "; ");
            writeln!(
                servers,
                "server {{ listen 127.0.0.1:{port} ssl; location / {{ proxy_pass {app}; {headers} }} }}"
            )
            .unwrap();
            ports.push(port);
        }
        write_certificate(folder);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/nginx-{kind}; ", folder.display()))
            .concat();
        // Without this, nginx would switch to a user that cannot enter the directory.
        let user = if is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; master_process off; {user} worker_processes 1; error_log stderr warn; pid {0}/nginx.pid;
             events {{}}
             http {{
               access_log off; {temporary}
               ssl_certificate {0}/proxy.pem; ssl_certificate_key {0}/proxy-key.pem;
               {servers}
             }}",
            folder.display(),
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let program = ["/usr/local/sbin/nginx", "/usr/sbin/nginx"];
        let program = program.into_iter().find(|path| Path::new(path).exists()).unwrap_or("nginx");
        let mut child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg("stderr")
            .stdin(Stdio::null())
            .spawn()
            .expect("the program `nginx` is installed (Debian: apt-get install nginx-light)");
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", ports[0])).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "nginx has ended");
            assert!(since.elapsed() < START_TIMEOUT, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, ports }
    }
}

/// Writes a self-signed CA certificate for localhost and its key.
fn write_certificate(folder: &Path) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "proxy").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.append_extension(BasicConstraints::new().ca().build().unwrap()).unwrap();
    let context = builder.x509v3_context(None, None);
    let subject = SubjectAlternativeName::new().dns("localhost").build(&context).unwrap();
    builder.append_extension(subject).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    std::fs::write(folder.join("proxy.pem"), builder.build().to_pem().unwrap()).unwrap();
    let key = key.private_key_to_pem_pkcs8().unwrap();
    std::fs::write(folder.join("proxy-key.pem"), key).unwrap();
}

/// A browser with the page open.
struct Browser {
    http: Http,
    /// The host and the non-default port of the page's URL.
    authority: String,
    /// Whether it sends Fetch Metadata. All current browsers do over HTTPS.
    sends_metadata: bool,
    cookie: RefCell<String>,
}

impl Browser {
    async fn call(&self, method: &str, path: &str) -> TestResponse {
        self.call_from(&format!("https://{}", self.authority), "same-origin", method, path).await
    }

    /// Sends a request that a script of `origin` causes.
    async fn call_from(&self, origin: &str, site: &str, method: &str, path: &str) -> TestResponse {
        let mut request = self.bare(method, path).insert_header(("x-matchbook", "page"));
        if method != "GET" {
            request = request.insert_header(("origin", origin));
        }
        if self.sends_metadata {
            request = request.insert_header(("sec-fetch-site", site));
        }
        self.store_cookie(TestResponse::of(request.send()).await)
    }

    /// A request with the cookie and the host.
    fn bare(&self, method: &str, path: &str) -> ClientRequest {
        let request = self.http.request(method, path).insert_header(("host", &*self.authority));
        let cookie = self.cookie.borrow();
        if cookie.is_empty() { request } else { request.insert_header(("cookie", &**cookie)) }
    }

    fn store_cookie(&self, response: TestResponse) -> TestResponse {
        let set = response.header("set-cookie");
        if !set.is_empty() {
            assert!(set.starts_with("__Host-") && set.contains("; Secure"), "{set}");
            self.cookie.replace(cookie_of(&response));
        }
        response
    }

    /// Opens the page from the address bar.
    async fn open(&self) {
        let mut request = self.bare("GET", "/");
        if self.sends_metadata {
            request = request.insert_header(("sec-fetch-site", "none"));
        }
        let page = self.store_cookie(TestResponse::of(request.send()).await);
        assert_eq!(page.status, 200, "{}", page.text);
        assert!(page.text.contains("id=\"logout-everywhere\""), "{}", page.text);
    }
}

/// Sends the request of every button of the page and checks its status.
async fn press_every_button(browser: &Browser, form: &str) {
    let press = async |method: &str, path: &str, status: u16| {
        let response = browser.call(method, path).await;
        assert_eq!(response.status, status, "{form}: {method} {path}: {}", response.text);
        response
    };
    browser.open().await;
    press("POST", "/api/login", 204).await;
    let user = press("POST", "/api/info", 200).await.field("userId");
    press("POST", "/api/burst", 200).await;
    press("POST", "/api/refresh", 204).await;
    assert_eq!(press("POST", "/api/info", 200).await.field("userId"), user);
    press("POST", "/api/logout", 204).await;
    press("POST", "/api/info", 401).await;
    press("POST", "/api/login", 204).await;
    let sessions = press("GET", "/api/sessions", 200).await.json();
    let id = sessions[0]["id"].as_str().unwrap().to_owned();
    press("DELETE", &format!("/api/sessions/{id}"), 204).await;
    press("POST", "/api/login", 204).await;
    press("POST", "/api/logout-everywhere", 200).await;
    press("POST", "/api/info", 401).await;
}

/// A server, an app on loopback, and a proxy in front of it.
struct Setup {
    proxy: Proxy,
    ca: PathBuf,
    _app: Process,
    _server: Process,
    _env: TestEnv,
}

impl Setup {
    fn start() -> Self {
        let env = TestEnv::new();
        let server = env.server(&server_binary()).start();
        let app = client(&env, server.url())
            .set("client.hosts", NAME)
            .set("client.cookie_secure", "true")
            .set("client.logins", "0")
            .start();
        let proxy = Proxy::start(env.folder(), app.url());
        let ca = env.folder().join("proxy.pem");
        Self { proxy, ca, _app: app, _server: server, _env: env }
    }

    /// Returns browsers for each form: with and without Fetch Metadata, at the default port
    /// and at the port of the proxy.
    fn browsers(&self) -> impl Iterator<Item = (Browser, &'static str, bool)> {
        let ports = self.proxy.ports.iter().zip(FORMS);
        ports.flat_map(|(port, (form, _, forwarded))| {
            [(true, true), (true, false), (false, true), (false, false)].map(
                |(sends_metadata, is_default)| {
                    let authority =
                        if is_default { NAME.to_owned() } else { format!("{NAME}:{port}") };
                    let is_known = match forwarded {
                        Forwarded::All => true,
                        Forwarded::Name => is_default,
                        Forwarded::OwnPort => !is_default,
                        Forwarded::Nothing => false,
                    };
                    let http = Http::new(&format!("https://localhost:{port}"), Some(&self.ca));
                    let cookie = RefCell::default();
                    let browser = Browser { http, authority, sends_metadata, cookie };
                    (browser, form, is_known)
                },
            )
        })
    }
}

#[actix_rt::test]
#[ignore = "needs nginx"]
async fn every_button_works_with_the_headers_of_every_proxy() {
    let setup = Setup::start();
    for (browser, form, is_known) in setup.browsers() {
        let form =
            format!("{form} at {}, Fetch Metadata: {}", browser.authority, browser.sends_metadata);
        if browser.sends_metadata || is_known {
            press_every_button(&browser, &form).await;
        } else {
            // The app cannot compare `Origin`, because the proxy hides the host.
            browser.open().await;
            let rejected = browser.call("POST", "/api/login").await;
            assert_eq!((rejected.status, rejected.field("error")), (403, "forbidden".into()));
        }
    }
}

#[actix_rt::test]
#[ignore = "needs nginx"]
async fn cross_site_requests_are_rejected_with_the_headers_of_every_proxy() {
    let setup = Setup::start();
    for (browser, form, is_known) in setup.browsers() {
        browser.open().await;
        if browser.sends_metadata || is_known {
            assert_eq!(browser.call("POST", "/api/login").await.status, 204, "{form}");
        }
        for (origin, site) in [
            ("https://evil.example", "cross-site"),
            ("https://other.app.example", "same-site"),
            ("http://app.example", "cross-site"),
            ("null", "cross-site"),
        ] {
            // Only Fetch Metadata tells the plain page of the same name from this one.
            if !browser.sends_metadata && origin.starts_with("http://") {
                continue;
            }
            for path in ["/api/login", "/api/refresh", "/api/logout", "/api/logout-everywhere"] {
                let rejected = browser.call_from(origin, site, "POST", path).await;
                assert_eq!(rejected.status, 403, "{form}: {origin} {path}");
            }
        }
        if browser.sends_metadata || is_known {
            assert_eq!(browser.call("POST", "/api/info").await.status, 200, "{form}");
        }
    }
}

#[actix_rt::test]
#[ignore = "needs nginx"]
async fn an_unknown_host_name_is_rejected() {
    let setup = Setup::start();
    for (mut browser, form, _) in setup.browsers() {
        browser.authority = "evil.example".to_owned();
        let page = TestResponse::of(browser.bare("GET", "/").send()).await;
        // These proxies hide the name from the app. that replaces the name hides it from the app.
        let is_hidden = ["nginx without a setting", "nginx with $proxy_host"].contains(&form)
            || form == "nginx with X-Forwarded-Host alone";
        assert_eq!(page.status == 200, is_hidden, "{form}: {}", page.status);
    }
}
