//! Two servers behind a balancer, which are restarted one after the other under load.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use actix_rt::time::sleep;
use matchbook_testkit::{Http, Process, ProcessBuilder, TestEnv, TestResponse, free_port};
use socket2::{Domain, Socket, Type};

use crate::protected_app::Proxy;
use crate::support::{Tokens, binary, eventually};

/// Clients that send requests at the same time.
const CLIENTS: usize = 6;

/// An address of a client beside that of the balancer.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// The ports of the balancer and of the servers.
pub(crate) struct Ports {
    pub(crate) balancer: u16,
    pub(crate) servers: [u16; 2],
}

/// Puts the addresses and the port of a test into an example.
pub(crate) fn with_ports(example: &str, ports: &Ports) -> String {
    let address = |port: u16| format!("127.0.0.1:{port}");
    example
        .replace("10.0.0.11:5001", &address(ports.servers[0]))
        .replace("10.0.0.12:5001", &address(ports.servers[1]))
}

/// The requests of all clients so far.
#[derive(Default)]
struct Counts {
    sent: Cell<usize>,
    failed: Cell<usize>,
    is_over: Cell<bool>,
}

impl Counts {
    fn count(&self, response: Option<&TestResponse>) {
        self.sent.set(self.sent.get() + 1);
        if response.is_none_or(|response| response.status != 200) {
            eprintln!("failed: {:?}", response.map(|response| (response.status, &response.text)));
            self.failed.set(self.failed.get() + 1);
        }
    }
}

async fn send(request: awc::SendClientRequest) -> Option<TestResponse> {
    let mut response = request.await.inspect_err(|error| eprintln!("{error}")).ok()?;
    let body = response.body().await.inspect_err(|error| eprintln!("{error}")).ok()?;
    Some(TestResponse {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: String::from_utf8(body.to_vec()).unwrap(),
    })
}

/// Refreshes and uses access tokens until the test is over.
async fn client(http: Http, mut tokens: Tokens, counts: Rc<Counts>) {
    while !counts.is_over.get() {
        let user = http.request("GET", "/user").bearer_auth(&tokens.access);
        counts.count(send(user.send()).await.as_ref());
        let form = [("refresh_token", tokens.refresh.clone())];
        let refreshed = send(http.request("POST", "/refresh").send_form(&form)).await;
        counts.count(refreshed.as_ref());
        if let Some(response) = refreshed.filter(|response| response.status == 200) {
            tokens = Tokens::of(&response);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Starts two servers and a balancer, and restarts the servers under load.
pub(crate) async fn check(
    settings: impl Fn(ProcessBuilder) -> ProcessBuilder,
    start: impl FnOnce(&TestEnv, &Ports) -> Proxy,
) {
    let ports = Ports { balancer: free_port(), servers: [free_port(), free_port()] };
    let world = TestEnv::new();
    let launch = |port: u16| {
        let launch = world.server(binary()).set("server.address", &format!("127.0.0.1:{port}"));
        let launch = launch.set("server.drain", "5s").set("server.trusted_proxies", "127.0.0.1");
        settings(launch.set("tls.mode", "off").set("log.level", "debug"))
    };
    let mut servers: Vec<Option<Process>> =
        ports.servers.iter().map(|port| Some(launch(*port).start())).collect();
    let _balancer = start(&world, &ports);
    let balancer = Http::new(&format!("http://127.0.0.1:{}", ports.balancer), None);
    eventually(200, async || balancer.get("/health/serving").await.status).await;
    names_the_client(ports.balancer);

    let counts = Rc::<Counts>::default();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let http = Http::new(&format!("http://127.0.0.1:{}", ports.balancer), None);
        let guest = http.get("/register").await.json().as_str().unwrap().to_owned();
        let tokens = Tokens::of(&http.get(&format!("/token?userId={guest}")).await);
        clients.push(actix_rt::spawn(client(http, tokens, counts.clone())));
    }
    let progress = async |requests: usize| {
        let wanted = counts.sent.get() + requests;
        eventually(true, async || counts.sent.get() >= wanted).await;
    };
    for (server, port) in servers.iter_mut().zip(ports.servers) {
        progress(100).await;
        let mut stopping = server.take().unwrap();
        let restart = launch(port);
        // On another thread, so that the clients continue.
        let restarted = actix_rt::task::spawn_blocking(move || {
            assert_eq!(stopping.stop().code(), Some(0), "{}", stopping.log());
            restart.start()
        });
        let restarted = restarted.await.unwrap();
        // The balancer takes the server in again, at least for new connections.
        let takes_connections = async || {
            let http = Http::new(&format!("http://127.0.0.1:{}", ports.balancer), None);
            assert_eq!(http.get("/user").await.status, 401);
            restarted.logged("/user") > 0
        };
        eventually(true, takes_connections).await;
        *server = Some(restarted);
    }
    progress(100).await;
    counts.is_over.set(true);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(counts.failed.get(), 0, "of {}", counts.sent.get());
}

/// Checks that the servers know the address of a client: it is not that of the balancer.
fn names_the_client(port: u16) {
    let guest = request_from_client(port, "/register", "");
    let guest = guest.trim_matches('"');
    let tokens = request_from_client(port, &format!("/token?userId={guest}"), "");
    let tokens: serde_json::Value = serde_json::from_str(&tokens).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", tokens["token"].as_str().unwrap());
    let sessions = request_from_client(port, "/sessions", &bearer);
    let sessions: serde_json::Value = serde_json::from_str(&sessions).unwrap();
    assert_eq!(sessions[0]["ip"], CLIENT.to_string(), "{sessions}");
}

/// Sends `GET path` from the address of the client. Returns the body of the response.
fn request_from_client(port: u16, path: &str, headers: &str) -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((CLIENT, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{response}");
    body.to_owned()
}
