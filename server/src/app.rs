//! Settings in, listening server out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::signal::unix::{SignalKind, signal};
use actix_web::dev::Server;
use actix_web::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::{App, HttpServer, web};
use matchbook_shared::{SERVER_MARK, SERVER_MARK_VALUE};

use tokio::sync::Notify;

use crate::config::Config;
use crate::connections::Connections;
use crate::data_dir::{self, DataDir};
use crate::http::state::State;
use crate::issuer::{self, Issuer};
use crate::keys::KeyRing;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::secrets::{self, DerivedKeys};
use crate::store::{self, Store};
use crate::sweeper::Sweeper;
use crate::token_status::TokenStatus;
use crate::{http, keys, tls};

/// How long the head of a further request on a connection may take to arrive: longer than
/// a machine stands still for, so that nobody honest is sent away after it. For the first
/// one [`Connections`] counts five seconds in which this process runs.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The usual limit of open files.
const DEFAULT_FILES: u64 = 1024;

/// Files that are no clients' connections: to the database and Redis, and the log.
const OTHER_FILES: u64 = 200;

/// The most TLS handshakes under way in one worker. Those of silent clients end after
/// three seconds, and must not keep others waiting.
const MAX_HANDSHAKES: usize = 10_000;

/// Why the server does not start. Each is a sentence for its operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The secret.
    #[error(transparent)]
    Secret(#[from] secrets::Error),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The address.
    #[error("{address} cannot be listened on (`server.address`): {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The address of the metrics.
    #[error("{address} cannot be listened on (`metrics.address`; \"off\" does without): {source}")]
    ListenForMetrics {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The runtime.
    #[error("the start was interrupted: {0}")]
    Interrupted(#[from] actix_rt::task::JoinError),
}

/// A server that listens. It answers once `server` is awaited, and ends in
/// good order on SIGINT or SIGTERM.
pub struct Application {
    /// The server.
    pub server: Server,
    /// Where it listens: with a port, also where the settings say 0.
    pub addresses: Vec<SocketAddr>,
}

/// Opens everything that the settings name, in the order in which it can fail
/// soonest.
///
/// # Errors
/// The first part that is not to be had.
pub async fn start(config: &Config) -> Result<Application, Error> {
    let data_dir = DataDir::at(&config.data_dir);
    if let store::Url::Sqlite(path) = &config.database.url {
        if path.starts_with(&config.data_dir) {
            data_dir.create()?;
        }
        data_dir::close_database(path)?;
    }
    let acceptor = tls::acceptor(&config.tls, &data_dir, config.address)?;
    let secret = secrets::get_or_create(config.secret.as_ref(), &data_dir)?;
    let derived = DerivedKeys::from_secrets(&secret, &config.old_secrets);
    let derived = derived.map_err(keys::Error::from)?;

    let database = config.database.clone();
    let store = actix_rt::task::spawn_blocking(move || Store::open(&database)).await??;
    let keys =
        KeyRing::open(store.clone(), derived.key_encryption_keys, config.keys.clone()).await?;
    let keys = Arc::new(keys);
    let active = Arc::new(TokenStatus::new(config.redis.as_ref(), store.clone()).await);
    let lanes = store.clone().run_batches();
    let clock = store.clone().watch_clock();
    let (sweeper, salt_expiry) = Sweeper::new(store.clone(), config.policy, config.event_retention);
    let measures = Arc::new(Metrics::new());
    let connections =
        Connections::new(config.limits.as_ref(), config.proxies.clone(), measures.clone());
    let max_connections = config.max_connections.min(connections_for(raise_file_limit()));
    let issuer = Issuer::new(issuer::Parts {
        store,
        keys: keys.clone(),
        status: active.clone(),
        token_keys: derived.token_keys,
        policy: config.policy,
        salt_expiry,
        metrics: measures.clone(),
        name: config.keys.issuer.clone(),
        audience: config.keys.audience.clone(),
    });
    let state = web::Data::new(State {
        issuer: Arc::new(issuer),
        limits: Limits::new(config.limits),
        proxies: config.proxies.clone(),
        metrics: measures,
    });

    let metrics =
        config.metrics.map(|address| serve_metrics(address, state.clone())).transpose()?;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .wrap(
                DefaultHeaders::new()
                    .add((CACHE_CONTROL, "no-store"))
                    .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
                    .add((SERVER_MARK, SERVER_MARK_VALUE)),
            )
            .wrap(from_fn(http::request_log))
            .wrap(from_fn(http::close_unread_bodies))
            .configure(http::routes)
    })
    .workers(config.workers)
    .tcp_nodelay(true)
    .max_connections(max_connections.div_ceil(config.workers))
    .max_connection_rate(MAX_HANDSHAKES)
    .on_connect({
        let connections = connections.clone();
        move |io, data| connections.admit(io, data)
    })
    .client_request_timeout(REQUEST_HEAD_TIMEOUT)
    .shutdown_timeout(config.shutdown_timeout.as_secs());
    let renewal = acceptor.as_ref().and_then(|acceptor| acceptor.renewal.clone());
    let server = match acceptor {
        Some(acceptor) => server.bind_openssl(config.address, acceptor.builder),
        None => server.bind(config.address),
    }
    .map_err(|source| Error::Listen { address: config.address, source })?;
    let addresses = server.addrs();
    if let Some(metrics) = metrics {
        actix_rt::spawn(metrics);
    }
    actix_rt::spawn(lanes);
    actix_rt::spawn(connections.run());
    actix_rt::spawn(clock);
    let hangups = Arc::new(Notify::new());
    actix_rt::spawn(notify_of_hangups(hangups.clone()));
    if let Some(renewal) = renewal {
        actix_rt::spawn(renewal.run(hangups));
    }
    actix_rt::spawn(sweeper.run());
    actix_rt::spawn(keys.run());
    actix_rt::spawn(active.keep());
    Ok(Application { server: server.run(), addresses })
}

/// Notifies of each SIGHUP, which otherwise would end the process.
async fn notify_of_hangups(hangups: Arc<Notify>) {
    let Ok(mut signals) = signal(SignalKind::hangup()) else { return };
    while signals.recv().await.is_some() {
        tracing::info!("hangup: certificate files are read again if they have changed");
        hangups.notify_one();
    }
}

/// Raises the limit of open files to what the system allows: each connection is one.
fn raise_file_limit() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "limit of open files not raised");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(DEFAULT_FILES)
    })
}

/// How many connections so many files are enough for: two for one without a request,
/// and some for the rest of the server.
fn connections_for(files: u64) -> usize {
    let connections = usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX);
    connections.max(1)
}

/// A server for measures alone, on an address of its own. It ends with the
/// process.
fn serve_metrics(address: SocketAddr, state: web::Data<State>) -> Result<Server, Error> {
    let app = move || {
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(http::close_unread_bodies))
            .configure(http::metrics_routes)
    };
    let server = HttpServer::new(app).workers(1).disable_signals().bind(address);
    let server = server.map_err(|source| Error::ListenForMetrics { address, source })?;
    for address in server.addrs() {
        tracing::info!(url = %format!("http://{address}/metrics"), "metrics");
    }
    Ok(server.run())
}

/// The URL of a server that listens on `address`.
#[must_use]
pub fn base_url(tls: &tls::Mode, address: SocketAddr) -> String {
    let scheme = if matches!(tls, tls::Mode::Off) { "http" } else { "https" };
    format!("{scheme}://{address}")
}
