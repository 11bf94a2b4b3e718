//! The parts, started and filled for a setup.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use matchbook_bench::load::{Target, Wire, field};
use matchbook_testkit::{Postgres, Process, ProcessBuilder, Redis};
use tempfile::TempDir;

use crate::cases::{Base, Login, Rival, Setup};
use crate::counters::{self, Watch};
use crate::filled::{self, Half};
use crate::report::Machine;
use crate::{Arguments, binary};

/// What tokens are tagged with, here where they are of no worth.
const SECRET: &str = "for-measurements-alone-and-of-no-worth-elsewhere";

/// How many sessions are opened by asking, where they are not filled in.
const ASKED_FOR: usize = 256;

/// Everything that is there for all setups. It goes, with its folder, when it is
/// dropped.
pub(crate) struct Stage {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    server: PathBuf,
    pub(crate) floor: Option<PathBuf>,
    databases: HashMap<(String, u64), Database>,
    folder: TempDir,
}

/// A database that is filled, and refresh tokens of its sessions.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) url: String,
    tokens: PathBuf,
    floor_tokens: PathBuf,
}

/// Whom to ask, and what with.
#[derive(Clone)]
pub(crate) struct Side {
    pub(crate) url: String,
    pub(crate) tokens: PathBuf,
    pub(crate) ca: Option<PathBuf>,
}

/// A server in its setup, and the floor beside it.
pub(crate) struct Stand<'a> {
    pub(crate) process: Process,
    pub(crate) server: Side,
    pub(crate) floor: Option<(Listener, Side)>,
    pub(crate) peer: Option<Peer>,
    pub(crate) watch: Watch<'a>,
}

impl Stand<'_> {
    /// Whom the server is compared with, where it is there: its process, and how to
    /// ask it.
    pub(crate) fn rival(&self, rival: Rival) -> Option<(u32, Side)> {
        let (listener, side) = match rival {
            Rival::Floor(_) | Rival::Part(_) => {
                self.floor.as_ref().map(|(floor, side)| (floor, side))?
            }
            Rival::Peer(login) => {
                self.peer.as_ref().map(|peer| (&peer.listener, peer.side(login)))?
            }
        };
        Some((listener.id(), side.clone()))
    }
}

/// Another token server, and refresh tokens of either kind of its sessions.
pub(crate) struct Peer {
    listener: Listener,
    oauth: Side,
    openid: Side,
}

impl Peer {
    fn side(&self, login: Login) -> &Side {
        match login {
            Login::OAuth => &self.oauth,
            Login::OpenId => &self.openid,
        }
    }
}

impl Stage {
    pub(crate) fn new(arguments: &Arguments) -> Self {
        // Not in memory, as /tmp may be: a disk is to be waited for.
        let place = Path::new("/var/tmp");
        let place = if place.is_dir() { place.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("matchbook-bench-").tempdir_in(place).unwrap();
        // PostgreSQL, which may run as somebody else, goes through it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        tempfile::env::override_temp_dir(folder.path()).unwrap();
        let settings = [
            ("shared_preload_libraries", "pg_stat_statements"),
            ("shared_buffers", "512MB"),
            ("max_wal_size", "4GB"),
            ("fsync", "on"),
            ("synchronous_commit", "on"),
        ];
        let floor = binary(arguments.floor.as_ref(), "floor");
        Self {
            postgres: Postgres::with(&settings, &[]),
            redis: Redis::new(),
            server: binary(arguments.server.as_ref(), "matchbook-server"),
            floor: floor.is_file().then_some(floor),
            databases: HashMap::new(),
            folder,
        }
    }

    /// A server to be, its files in a folder of this name.
    pub(crate) fn launch(&self, name: &str) -> ProcessBuilder {
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

    /// The database of these sessions, filled on first use.
    pub(crate) fn database(&mut self, algorithm: &str, sessions: u64) -> Database {
        let key = (algorithm.to_owned(), sessions);
        if let Some(database) = self.databases.get(&key) {
            return database.clone();
        }
        let name = format!("{}_{sessions}", algorithm.to_lowercase());
        let url = self.postgres.create(&name);
        let launch = self.launch(&name).set("tokens.algorithm", algorithm);
        // It brings the tables, and the key.
        drop(launch.variable("DATABASE_URL", &url).start());
        filled::fill(&url, sessions);
        let tokens = |name: &str, half| {
            filled::write_tokens(self.folder.path(), name, SECRET, sessions, half)
        };
        let database = Database {
            tokens: tokens(&format!("{name}.tokens"), Half::Server),
            floor_tokens: tokens(&format!("{name}.floor.tokens"), Half::Floor),
            url,
        };
        self.databases.insert(key, database.clone());
        database
    }

    /// Starts the server in a setup, and the peer where it is wanted and can be had.
    pub(crate) fn stand(&mut self, setup: Setup, with_peer: bool) -> Stand<'_> {
        let peer = with_peer.then(|| self.peer(setup.algorithm)).flatten();
        let algorithm = setup.algorithm;
        let name = format!("{algorithm}{}", if setup.tls { "_tls" } else { "" }).to_lowercase();
        let launch = self.launch(&name).set("tokens.algorithm", algorithm);
        let ca = setup.tls.then(|| self.folder.path().join(&name).join("data/tls/ca.pem"));
        let launch = if setup.tls { launch.set("tls.mode", "self-signed") } else { launch };
        match setup.base {
            Base::Postgres(sessions) => {
                let database = self.database(algorithm, sessions);
                let redis = self.redis.url();
                let launch = launch.variable("DATABASE_URL", &database.url);
                let process = launch.variable("REDIS_URL", &redis).start();
                let floor = self.floor.as_ref().filter(|_| !setup.tls).map(|floor| {
                    let workers = std::thread::available_parallelism().unwrap().to_string();
                    let mut command = Command::new(floor);
                    command.args(["serve", "--database", &database.url, "--redis", &redis]);
                    command.args(["--algorithm", algorithm, "--workers", &workers]);
                    let listener = Listener::start(command);
                    let url = listener.url.clone();
                    (listener, Side { url, tokens: database.floor_tokens.clone(), ca: None })
                });
                let url = process.url().to_owned();
                Stand {
                    watch: Watch::new(
                        process.id(),
                        Some((&self.postgres, &database.url)),
                        Some(&self.redis),
                    ),
                    process,
                    server: Side { url, tokens: database.tokens, ca },
                    floor,
                    peer,
                }
            }
            Base::Sqlite => {
                let process = launch.start();
                let tokens = self.folder.path().join(format!("{name}.sqlite.tokens"));
                let url = process.url().to_owned();
                let lines: Vec<_> = (0..ASKED_FOR).map(|_| open_session(&url)).collect();
                fs::write(&tokens, lines.join("\n")).unwrap();
                let watch = Watch::new(process.id(), None, None);
                Stand { process, server: Side { url, tokens, ca }, floor: None, peer, watch }
            }
        }
    }
}

/// Where the peer's program is.
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peer");

impl Stage {
    /// Another token server, where Node.js is there to run it.
    fn peer(&self, algorithm: &str) -> Option<Peer> {
        let folder = self.folder.path().join("peer");
        if !folder.is_dir() {
            fs::create_dir(&folder).unwrap();
            for entry in fs::read_dir(PEER).into_iter().flatten().flatten() {
                if entry.path().is_file() {
                    fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
                }
            }
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]);
            let installed = npm.current_dir(&folder).output();
            if !installed.is_ok_and(|output| output.status.success()) {
                eprintln!("bench: no peer, since npm is not there or cannot install it");
            }
        }
        if !folder.join("node_modules").is_dir() {
            return None;
        }
        let mut node = Command::new("node");
        node.args(["server.js", "--algorithm", algorithm]).current_dir(&folder);
        let listener = Listener::start(node);
        let side = |kind: &str| {
            let tokens = folder.join(format!("{algorithm}{kind}.tokens"));
            let (status, lines) = get(&listener.url, &format!("/seed?count={ASKED_FOR}{kind}"));
            assert_eq!(status, 200, "{lines}");
            fs::write(&tokens, lines).unwrap();
            Side { url: listener.url.clone(), tokens, ca: None }
        };
        let (oauth, openid) = (side(""), side("&openid"));
        Some(Peer { listener, oauth, openid })
    }

    /// How many cores and how much memory there is, and what runs on them.
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

/// Opens a session: its refresh token.
fn open_session(url: &str) -> String {
    let (_, id) = get(url, "/register");
    let (_, tokens) = get(url, &format!("/token?userId={}", id.trim_matches('"')));
    field(tokens.as_bytes(), "refreshToken").unwrap().to_owned()
}

/// `GET path`, without TLS: the status code and the body.
pub(crate) fn get(url: &str, path: &str) -> (u16, String) {
    let target = Target::new(url, None);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", target.authority());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let mut wire = Wire::open(&target).await.unwrap();
        let reply = wire.ask(request.as_bytes()).await.unwrap();
        (reply.status, String::from_utf8(reply.body.to_vec()).unwrap())
    })
}

/// A process of another kind that says where it listens. It is killed when this
/// is dropped.
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
                // Whatever else it says is read, so that it never waits for a reader.
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
