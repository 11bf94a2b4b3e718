//! Builds the server from its settings: [`Config`] in, [`Application`] out.

mod file_limit;
mod listen;
mod stop;
mod time_limit;

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

use self::listen::Listener;
use self::stop::StopSignals;
use crate::accounts::Accounts;
use crate::accounts::declared::{self, DeclaredError, DeclaredUsers};
use crate::backchannel::{self, Backchannel};
use crate::clients::declared::DeclaredClients;
use crate::clients::{self, ClientRegistry};
use crate::config::Config;
use crate::connections::Connections;
use crate::data_dir::{self, DataDir};
use crate::draining::Draining;
use crate::grants::{self, Grants};
use crate::http::openapi::{ApiDescription, RenderError};
use crate::http::pages::Pages;
use crate::http::state::State;
use crate::issuer::{self, Issuer};
use crate::keys::KeyRing;
use crate::limits::Limits;
use crate::mail::{self, Mailer};
use crate::metrics::Metrics;
use crate::secrets::{self, DerivedKeys};
use crate::store::{self, Store};
use crate::sweeper::Sweeper;
use crate::tls::Acceptor;
use crate::token_status::TokenStatus;
use crate::{http, keys, tls};

/// The timeout of the head of a further request on a connection. It is long enough to survive
/// a pause of the virtual machine. The head of the first request has five seconds in which
/// this process runs: see [`Connections`].
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of concurrent TLS handshakes in one worker. It is high, because a client
/// that sends nothing occupies a handshake for three seconds.
const MAX_HANDSHAKES: usize = 10_000;

/// The reasons why the server does not start, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
    #[error(transparent)]
    Store(#[from] store::OpenError),
    #[error(transparent)]
    Secret(#[from] secrets::Error),
    #[error("{0} (`accounts.file`)")]
    DeclaredUsers(#[from] DeclaredError),
    #[error("{0} (`clients.file`)")]
    DeclaredClients(#[from] clients::declared::DeclaredError),
    #[error(transparent)]
    Keys(#[from] keys::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("cannot bind to {address} (`server.address`): {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("cannot bind to {address} (`metrics.address`, which may be \"off\"): {source}")]
    BindMetrics { address: SocketAddr, source: io::Error },
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
    #[error("cannot start the threads that hash passwords: {0}")]
    Threads(io::Error),
    #[error("cannot use the certificates of clients (`oauth.backchannel_ca_file`): {0}")]
    BackchannelCa(#[from] openssl::error::ErrorStack),
    #[error("cannot use the settings of mail (`smtp`): {0}")]
    Mail(#[from] mail::Error),
    #[error(transparent)]
    ApiDescription(#[from] RenderError),
    #[error("the start was canceled: {0}")]
    Canceled(#[from] actix_rt::task::JoinError),
}

/// A server that listens on its addresses.
pub struct Application {
    server: Server,
    addresses: Vec<SocketAddr>,
    signals: StopSignals,
    draining: Draining,
    drain: Duration,
    store: Store,
    status: Arc<TokenStatus>,
    shutdown_timeout: Duration,
}

impl Application {
    /// Returns the addresses, with the actual port if the settings say 0.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Responds to requests until SIGINT or SIGTERM. After SIGTERM it drains first, for
    /// `server.drain`. Then it shuts down gracefully, and the process ends about a second after
    /// `server.shutdown_timeout` at the latest.
    pub async fn run(self) -> io::Result<()> {
        let Self { server, signals, draining, drain, .. } = self;
        let limit = time_limit::TimeLimit(self.shutdown_timeout);
        actix_rt::spawn(signals.stop(server.handle(), draining, drain, limit));
        server.await?;
        time_limit::finish(&self.store).await;
        self.status.leave().await;
        Ok(())
    }
}

/// Opens everything that the settings name, and binds to the addresses. Steps that fail fast
/// come first.
pub async fn start(config: &Config) -> Result<Application, Error> {
    let hangups = notify_of_hangups();
    let data_dir = prepare_data_dir(config)?;
    let acceptor = tls::acceptor(&config.tls, &data_dir, config.address)?;
    let derived = derive_keys(config, &data_dir)?;
    let store = open_store(config).await?;
    apply_declared_users(config).await?;
    apply_declared_clients(config).await?;
    let (state, tasks) = Box::pin(assemble(config, store, derived)).await?;
    let renewal = acceptor.as_ref().and_then(|acceptor| acceptor.renewal.clone());
    let metrics = state.metrics.clone();
    if let Some(acceptor) = &acceptor {
        metrics.set_certificate_expiry(acceptor.expires_at);
    }
    let metrics_server =
        config.metrics.map(|address| bind_metrics(address, state.clone())).transpose()?;
    let application = bind(config, state, &tasks, acceptor)?;
    if let Some(metrics_server) = metrics_server {
        actix_rt::spawn(metrics_server);
    }
    tasks.spawn(renewal.map(|renewal| renewal.run(hangups, metrics)));
    Ok(application)
}

/// Creates the data directory if the database is in it, and closes the database's file to other
/// users.
pub fn prepare_data_dir(config: &Config) -> Result<DataDir, Error> {
    let data_dir = DataDir::at(&config.data_dir);
    if let store::Url::Sqlite(path) = &config.database.url {
        if path.starts_with(&config.data_dir) {
            data_dir.create()?;
        }
        data_dir::close_database(path)?;
    }
    Ok(data_dir)
}

/// Derives all keys from the server's secrets. The first start creates the secret.
fn derive_keys(config: &Config, data_dir: &DataDir) -> Result<DerivedKeys, Error> {
    let secret = secrets::get_or_create(config.secret.as_ref(), data_dir)?;
    let derived = DerivedKeys::from_secrets(&secret, &config.old_secrets);
    Ok(derived.map_err(keys::Error::from)?)
}

async fn open_store(config: &Config) -> Result<Store, Error> {
    let options = config.database.clone();
    Ok(actix_rt::task::spawn_blocking(move || Store::open(&options)).await??)
}

/// Makes the users in the database those that the file of the settings declares.
async fn apply_declared_users(config: &Config) -> Result<(), Error> {
    let Some(file) = config.accounts.file.clone() else { return Ok(()) };
    let url = config.database.url.clone();
    let policy = config.policy;
    let password_min_length = config.accounts.password_min_length;
    let apply = move || {
        let declared = DeclaredUsers::read(&file)?;
        let mut conn = store::connect_to_change(&url)?;
        let differences = declared.compare(&mut conn).map_err(DeclaredError::from)?;
        for difference in differences {
            tracing::info!(change = %difference, "declared user differs, changing the database");
            let context = declared::ApplyContext { policy: &policy, password_min_length };
            declared::apply(&mut conn, difference, context)?;
        }
        Ok(())
    };
    actix_rt::task::spawn_blocking(apply).await?
}

/// Makes the OAuth clients in the database those that the file of the settings declares.
async fn apply_declared_clients(config: &Config) -> Result<(), Error> {
    let Some(file) = config.oauth.file.clone() else { return Ok(()) };
    let url = config.database.url.clone();
    let policy = config.policy;
    let allow_localhost = config.oauth.allow_localhost;
    let apply = move || {
        let declared = DeclaredClients::read(&file, allow_localhost)?;
        let mut conn = store::connect_to_change(&url)?;
        for difference in declared.compare(&mut conn)? {
            tracing::info!(change = %difference, "declared client differs, changing the database");
            clients::declared::apply(&mut conn, difference, &policy)?;
        }
        Ok(())
    };
    actix_rt::task::spawn_blocking(apply).await?
}

/// Builds the parts of the server: the state of the handlers, and the background tasks.
async fn assemble(
    config: &Config,
    store: Store,
    derived: DerivedKeys,
) -> Result<(web::Data<State>, BackgroundTasks), Error> {
    let DerivedKeys {
        token_keys,
        key_encryption_keys,
        account_keys,
        csrf_keys,
        progress_keys,
        device_code_keys,
    } = derived;
    let keys = KeyRing::open(store.clone(), key_encryption_keys, config.keys.clone()).await?;
    let keys = Arc::new(keys);
    let status = Arc::new(
        TokenStatus::new(config.redis.as_ref(), config.trusted_without_database, store.clone())
            .await,
    );
    let (sweeper, salt_expiry) = Sweeper::new(store.clone(), config.policy, config.event_retention);
    let metrics = Arc::new(Metrics::new());
    let connections =
        Connections::new(config.limits.as_ref(), config.proxies.clone(), metrics.clone());
    let (backchannel, logout_notices) = Backchannel::new(backchannel::Parts {
        store: store.clone(),
        keys: keys.clone(),
        metrics: metrics.clone(),
        issuer: config.keys.issuer.clone(),
        ca: config.oauth.backchannel_ca.clone(),
    })?;
    let issuer = Issuer::new(issuer::Parts {
        store: store.clone(),
        keys: keys.clone(),
        status: status.clone(),
        token_keys,
        policy: config.policy,
        salt_expiry,
        logout_notices,
        metrics: metrics.clone(),
        name: config.keys.issuer.clone(),
        audience: config.keys.audience.clone(),
    });
    let issuer = Arc::new(issuer);
    let mailer = config.mail.as_ref().map(Mailer::new).transpose()?;
    if let Some(mailer) = mailer.clone() {
        actix_rt::spawn(mailer.check());
    }
    let options = config.accounts.clone();
    let accounts = Accounts::new(issuer.clone(), store.clone(), account_keys, options, mailer);
    let clients = Arc::new(ClientRegistry::new(store.clone()));
    let grants = Grants::new(grants::Parts {
        issuer: issuer.clone(),
        store: store.clone(),
        clients: clients.clone(),
        options: config.oauth.clone(),
        progress_keys,
        device_code_keys,
        audience: config.keys.audience.clone(),
    });
    let state = web::Data::new(State {
        issuer: issuer.clone(),
        accounts: Arc::new(accounts.map_err(Error::Threads)?),
        clients,
        grants,
        public_url: config.public_url.clone(),
        forward_auth: config.forward_auth.clone(),
        limits: Limits::new(config.limits),
        proxies: config.proxies.clone(),
        draining: Draining::default(),
        metrics,
        api: ApiDescription::render()?,
        pages: Pages::new(config.pages.clone(), csrf_keys),
    });
    let tasks = BackgroundTasks { store, keys, status, issuer, connections, backchannel, sweeper };
    Ok((state, tasks))
}

/// Binds the server to its address.
fn bind(
    config: &Config,
    state: web::Data<State>,
    tasks: &BackgroundTasks,
    acceptor: Option<Acceptor>,
) -> Result<Application, Error> {
    let connections = tasks.connections.clone();
    let draining = state.draining.clone();
    let files = file_limit::raise();
    let connections_for_files = file_limit::connections_for(files, config.database.pool_size);
    let max_connections = config.max_connections.min(connections_for_files);
    let per_worker = max_connections.div_ceil(config.workers);
    let app = move || {
        App::new()
            .app_data(state.clone())
            .wrap(
                DefaultHeaders::new()
                    .add((CACHE_CONTROL, "no-store"))
                    .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
                    .add((SERVER_MARK, SERVER_MARK_VALUE)),
            )
            .wrap(from_fn(http::permit_origin))
            .wrap(from_fn(http::request_log))
            .wrap(from_fn(http::close_unread_bodies))
            .configure(http::routes)
    };
    let bind_error = |source| Error::Bind { address: config.address, source };
    let signals = StopSignals::listen().map_err(Error::Signals)?;
    let application = |server, addresses| Application {
        server,
        addresses,
        signals,
        draining,
        drain: config.drain,
        store: tasks.store.clone(),
        status: tasks.status.clone(),
        shutdown_timeout: config.shutdown_timeout,
    };
    if config.proxy_protocol {
        let tls = acceptor.map(|acceptor| acceptor.builder);
        let max_connections_per_worker = per_worker;
        let listener = Listener { config, connections, max_connections_per_worker, tls };
        let (server, address) = listener.bind(app).map_err(bind_error)?;
        let addresses = vec![address];
        return Ok(application(server, addresses));
    }
    let server = HttpServer::new(app)
        .workers(config.workers)
        .tcp_nodelay(true)
        .keep_alive(config.keep_alive)
        .max_connections(per_worker)
        .max_connection_rate(MAX_HANDSHAKES)
        .on_connect(move |io, data| connections.admit(io, data))
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .disable_signals()
        .shutdown_timeout(config.shutdown_timeout.as_secs());
    let server = match acceptor {
        Some(acceptor) => server.bind_openssl(config.address, acceptor.builder),
        None => server.bind(config.address),
    }
    .map_err(bind_error)?;
    let addresses = server.addrs();
    Ok(application(server.run(), addresses))
}

/// The parts of the server that work in the background.
struct BackgroundTasks {
    store: Store,
    keys: Arc<KeyRing>,
    status: Arc<TokenStatus>,
    issuer: Arc<Issuer>,
    connections: Arc<Connections>,
    backchannel: Backchannel,
    sweeper: Sweeper,
}

impl BackgroundTasks {
    /// Starts the tasks, which run until the process ends. `renewal` is that of a certificate
    /// from files.
    fn spawn(self, renewal: Option<impl Future<Output = ()> + 'static>) {
        actix_rt::spawn(self.store.clone().run_batches());
        actix_rt::spawn(http::log_ends_of_outages());
        actix_rt::spawn(self.store.clone().run_checkpoints());
        actix_rt::spawn(self.store.clone().settle_rotations());
        actix_rt::spawn(self.store.clone().run_follow_ups());
        actix_rt::spawn(self.store.clone().watch_clock());
        actix_rt::spawn(self.store.watch_database());
        actix_rt::spawn(self.connections.run());
        actix_rt::spawn(self.backchannel.run());
        actix_rt::spawn(self.sweeper.run());
        actix_rt::spawn(self.keys.run());
        actix_rt::spawn(self.status.run());
        actix_rt::spawn(self.issuer.end_forgotten_sessions());
        if let Some(renewal) = renewal {
            actix_rt::spawn(renewal);
        }
    }
}

/// Notifies of each SIGHUP. From the call on, it does not end the process, as it would by
/// default.
fn notify_of_hangups() -> Arc<Notify> {
    let hangups = Arc::new(Notify::new());
    match signal(SignalKind::hangup()) {
        Ok(mut signals) => {
            let hangups = hangups.clone();
            actix_rt::spawn(async move {
                while signals.recv().await.is_some() {
                    tracing::info!("hangup received, checking the certificate files");
                    hangups.notify_one();
                }
            });
        }
        Err(error) => tracing::warn!(%error, "no SIGHUP handler: SIGHUP will end the server"),
    }
    hangups
}

/// Binds the server of the metrics, which has an address of its own and ends with the process.
fn bind_metrics(address: SocketAddr, state: web::Data<State>) -> Result<Server, Error> {
    let app = move || {
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(http::close_unread_bodies))
            .configure(http::metrics_routes)
    };
    let server = HttpServer::new(app).workers(1).disable_signals().bind(address);
    let server = server.map_err(|source| Error::BindMetrics { address, source })?;
    for address in server.addrs() {
        tracing::info!(url = %format!("http://{address}/metrics"), "metrics listening");
    }
    Ok(server.run())
}

/// Returns the URL of a server that listens on `address`.
#[must_use]
pub fn base_url(tls: &tls::Mode, address: SocketAddr) -> String {
    let scheme = if matches!(tls, tls::Mode::Off) { "http" } else { "https" };
    format!("{scheme}://{address}")
}
