//! Starts and seeds the services of the benchmark.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use matchbook_bench::load::{LoadConnection, ServerAddress, field};
use matchbook_testkit::{Postgres, Process, ProcessBuilder, Redis};
use serde::Serialize;
use tempfile::TempDir;

use crate::arguments::{Arguments, binary};
use crate::cases::{Base, Comparison, Environment, Login};
use crate::counters::{self, Sampler};
use crate::seeding::{self, Owner};

/// The server secret. Tokens are only valid in the benchmark.
const SECRET: &str = "for-measurements-alone-and-of-no-worth-elsewhere";

/// Number of sessions opened by requests, if the database is not seeded.
const OPENED_SESSIONS: usize = 256;

/// The machine and its software.
#[derive(Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) available_cpus: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) postgres: String,
    pub(crate) redis: String,
}

/// The services for all environments. Dropping this stops them and deletes their files.
pub(crate) struct Services {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    server: PathBuf,
    pub(crate) baseline: Option<PathBuf>,
    databases: HashMap<(String, u64), Database>,
    folder: TempDir,
}

/// A seeded database and refresh tokens of its sessions.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) url: String,
    tokens: PathBuf,
    baseline_tokens: PathBuf,
    client_tokens: PathBuf,
}

/// A server to load, with its tokens and CA.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) tokens: PathBuf,
    /// Refresh tokens of the OAuth client. The file exists if the database is seeded.
    pub(crate) client_tokens: PathBuf,
    pub(crate) ca: Option<PathBuf>,
}

/// A running server and its comparisons.
pub(crate) struct Setup<'a> {
    pub(crate) process: Process,
    pub(crate) server: Endpoint,
    pub(crate) baseline: Option<(Listener, Endpoint)>,
    pub(crate) competitor: Option<Competitor>,
    pub(crate) sampler: Sampler<'a>,
}

impl Setup<'_> {
    /// Returns the process and endpoint of a comparison, if it is available.
    pub(crate) fn comparison(&self, comparison: Comparison) -> Option<(u32, Endpoint)> {
        let (listener, endpoint) = match comparison {
            Comparison::Baseline(_) | Comparison::Component(_) => {
                self.baseline.as_ref().map(|(baseline, endpoint)| (baseline, endpoint))?
            }
            Comparison::Own(_) => return Some((self.process.id(), self.server.clone())),
            Comparison::Competitor(login) => self
                .competitor
                .as_ref()
                .map(|competitor| (&competitor.listener, competitor.endpoint(login)))?,
        };
        Some((listener.id(), endpoint.clone()))
    }
}

/// Another token server, with refresh tokens of OAuth and `OpenID` sessions.
pub(crate) struct Competitor {
    listener: Listener,
    oauth: Endpoint,
    openid: Endpoint,
}

impl Competitor {
    fn endpoint(&self, login: Login) -> &Endpoint {
        match login {
            Login::OAuth => &self.oauth,
            Login::OpenId => &self.openid,
        }
    }
}

impl Services {
    pub(crate) fn new(arguments: &Arguments) -> Self {
        // On disk: /tmp may be in memory, where fsync costs nothing.
        let place = Path::new("/var/tmp");
        let place = if place.is_dir() { place.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("matchbook-bench-").tempdir_in(place).unwrap();
        // PostgreSQL may run as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        tempfile::env::override_temp_dir(folder.path()).unwrap();
        let settings = [
            ("shared_preload_libraries", "pg_stat_statements"),
            ("shared_buffers", "512MB"),
            ("max_wal_size", "4GB"),
            ("fsync", "on"),
            ("synchronous_commit", "on"),
        ];
        let baseline = binary(arguments.baseline.as_ref(), "baseline");
        Self {
            postgres: Postgres::with(&settings, &[]),
            redis: Redis::new(),
            server: binary(arguments.server.as_ref(), "matchbook-server"),
            baseline: baseline.is_file().then_some(baseline),
            databases: HashMap::new(),
            folder,
        }
    }

    /// Configures a server with its files in a directory of this name.
    pub(crate) fn builder(&self, name: &str) -> ProcessBuilder {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        let workers = std::thread::available_parallelism().unwrap();
        ProcessBuilder::new(&self.server, &folder, "MATCHBOOK")
            .set("server.address", "127.0.0.1:0")
            .set("server.workers", &workers.to_string())
            .set("tls.mode", "off")
            .set("limits.enabled", "false")
            .set("metrics.address", "off")
            .set("secret", SECRET)
    }

    /// Returns a database with this number of sessions. It is seeded on first use.
    pub(crate) fn database(&mut self, algorithm: &str, sessions: u64) -> Database {
        let key = (algorithm.to_owned(), sessions);
        if let Some(database) = self.databases.get(&key) {
            return database.clone();
        }
        let name = format!("{}_{sessions}", algorithm.to_lowercase());
        let url = self.postgres.create(&name);
        let builder = self.builder(&name).set("tokens.algorithm", algorithm);
        // Creates the tables and the signing key.
        drop(builder.variable("DATABASE_URL", &url).start());
        seeding::fill(&url, sessions);
        let tokens = |name: &str, owner| {
            seeding::write_tokens(self.folder.path(), name, SECRET, sessions, owner)
        };
        let database = Database {
            tokens: tokens(&format!("{name}.tokens"), Owner::Server),
            baseline_tokens: tokens(&format!("{name}.baseline.tokens"), Owner::Baseline),
            client_tokens: seeding::write_client_tokens(
                self.folder.path(),
                &format!("{name}.client.tokens"),
                SECRET,
                sessions,
            ),
            url,
        };
        self.databases.insert(key, database.clone());
        database
    }

    /// Starts the server in an environment, and the competitor if requested and available.
    pub(crate) fn setup(&mut self, environment: Environment, with_competitor: bool) -> Setup<'_> {
        let competitor = with_competitor.then(|| self.competitor(environment.algorithm)).flatten();
        let algorithm = environment.algorithm;
        let name =
            format!("{algorithm}{}", if environment.tls { "_tls" } else { "" }).to_lowercase();
        let builder = self.builder(&name).set("tokens.algorithm", algorithm);
        let ca = environment.tls.then(|| self.folder.path().join(&name).join("data/tls/ca.pem"));
        let builder =
            if environment.tls { builder.set("tls.mode", "self-signed") } else { builder };
        match environment.base {
            Base::Postgres(sessions) => {
                let database = self.database(algorithm, sessions);
                let redis = self.redis.url();
                let builder = builder.variable("DATABASE_URL", &database.url);
                let process = builder.variable("REDIS_URL", &redis).start();
                let baseline =
                    self.baseline.as_ref().filter(|_| !environment.tls).map(|baseline| {
                        let workers = std::thread::available_parallelism().unwrap().to_string();
                        let mut command = Command::new(baseline);
                        command.args(["serve", "--database", &database.url, "--redis", &redis]);
                        command.args(["--algorithm", algorithm, "--workers", &workers]);
                        let listener = Listener::start(command);
                        let url = listener.url.clone();
                        (
                            listener,
                            Endpoint {
                                url,
                                tokens: database.baseline_tokens.clone(),
                                client_tokens: database.client_tokens.clone(),
                                ca: None,
                            },
                        )
                    });
                let url = process.url().to_owned();
                Setup {
                    sampler: Sampler::new(
                        process.id(),
                        Some((&self.postgres, &database.url)),
                        Some(&self.redis),
                    ),
                    process,
                    server: Endpoint {
                        url,
                        tokens: database.tokens,
                        client_tokens: database.client_tokens,
                        ca,
                    },
                    baseline,
                    competitor,
                }
            }
            Base::Sqlite => {
                let process = builder.start();
                let tokens = self.folder.path().join(format!("{name}.sqlite.tokens"));
                let url = process.url().to_owned();
                let lines: Vec<_> = (0..OPENED_SESSIONS).map(|_| open_session(&url)).collect();
                fs::write(&tokens, lines.join("\n")).unwrap();
                let sampler = Sampler::new(process.id(), None, None);
                Setup {
                    process,
                    server: Endpoint { url, client_tokens: tokens.clone(), tokens, ca },
                    baseline: None,
                    competitor,
                    sampler,
                }
            }
        }
    }
}

/// Directory of the competitor's program.
const COMPETITOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/competitor");

impl Services {
    /// Starts another token server, if Node.js is installed.
    fn competitor(&self, algorithm: &str) -> Option<Competitor> {
        let folder = self.folder.path().join("competitor");
        if !folder.is_dir() {
            fs::create_dir(&folder).unwrap();
            for entry in fs::read_dir(COMPETITOR).into_iter().flatten().flatten() {
                if entry.path().is_file() {
                    fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
                }
            }
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]);
            let installed = npm.current_dir(&folder).output();
            if !installed.is_ok_and(|output| output.status.success()) {
                eprintln!("bench: no competitor: npm is missing or cannot install it");
            }
        }
        if !folder.join("node_modules").is_dir() {
            return None;
        }
        let mut node = Command::new("node");
        node.args(["server.js", "--algorithm", algorithm]).current_dir(&folder);
        let listener = Listener::start(node);
        let endpoint = |kind: &str| {
            let tokens = folder.join(format!("{algorithm}{kind}.tokens"));
            let (status, lines) =
                get(&listener.url, &format!("/seed?count={OPENED_SESSIONS}{kind}"));
            assert_eq!(status, 200, "{lines}");
            fs::write(&tokens, lines).unwrap();
            Endpoint { url: listener.url.clone(), client_tokens: tokens.clone(), tokens, ca: None }
        };
        let oauth = endpoint("");
        let openid = endpoint("&openid");
        Some(Competitor { listener, oauth, openid })
    }

    /// Describes the machine and its software.
    pub(crate) fn machine(&self) -> Machine {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let memory = read("/proc/meminfo");
        let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        let mut conn = redis::Client::open(self.redis.url()).unwrap().get_connection().unwrap();
        let info: String = redis::cmd("INFO").arg("server").query(&mut conn).unwrap();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Machine {
            available_cpus: std::thread::available_parallelism().unwrap().get(),
            memory_mib: kib.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            postgres: counters::version(&self.postgres.url()),
            redis: version.unwrap_or_default().to_owned(),
        }
    }
}

/// Opens a session and returns its refresh token.
fn open_session(url: &str) -> String {
    let (_, id) = get(url, "/register");
    let (_, tokens) = get(url, &format!("/token?userId={}", id.trim_matches('"')));
    field(tokens.as_bytes(), "refreshToken").unwrap().to_owned()
}

/// Sends `GET path` without TLS. Returns the status code and the body.
pub(crate) fn get(url: &str, path: &str) -> (u16, String) {
    let target = ServerAddress::new(url, None);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", target.authority());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let mut connection = LoadConnection::open(&target).await.unwrap();
        let reply = connection.send(request.as_bytes()).await.unwrap();
        (reply.status, String::from_utf8(reply.body.to_vec()).unwrap())
    })
}

/// A process that prints the URL it listens on. Dropping this kills it.
pub(crate) struct Listener {
    child: Child,
    pub(crate) url: String,
}

impl Listener {
    pub(crate) fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut listener = Self { child, url: String::new() };
        let mut out = BufReader::new(listener.child.stdout.take().unwrap());
        let mut line = String::new();
        while out.read_line(&mut line).unwrap() > 0 {
            if let Some((_, url)) = line.split_once(" listens on ") {
                url.trim().clone_into(&mut listener.url);
                // Drains the output, so that the process never blocks on the pipe.
                std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
                return listener;
            }
            line.clear();
        }
        panic!("{command:?} does not listen");
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
