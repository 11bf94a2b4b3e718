//! The listener behind a balancer that sends PROXY headers. `HttpServer` cannot read a header
//! before the TLS handshake, so this module composes its parts.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_http::body::MessageBody;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_service, map_config,
};
use actix_tls::accept::openssl::{Acceptor, TlsStream};
use actix_web::Error;
use actix_web::dev::{AppConfig, Extensions, Server};
use actix_web::rt::net::TcpStream;
use openssl::ssl::{AlpnError, SslAcceptor, SslAcceptorBuilder, select_next_proto};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use super::{MAX_HANDSHAKES, REQUEST_HEAD_TIMEOUT};
use crate::config::Config;
use crate::connections::Connections;
use crate::proxies::TrustedProxies;
use crate::proxy_protocol::ProxiedStream;

/// The maximum number of connections that wait to be accepted, as in `HttpServer`.
const BACKLOG: i32 = 1024;

/// The protocol of all connections, as ALPN names it.
const HTTP_1: &[u8] = b"\x08http/1.1";

/// How connections are accepted.
pub(super) struct Listener<'a> {
    pub(super) config: &'a Config,
    pub(super) connections: Arc<Connections>,
    pub(super) max_connections_per_worker: usize,
    /// `None`: plain HTTP.
    pub(super) tls: Option<SslAcceptorBuilder>,
}

impl Listener<'_> {
    /// Binds to the address of the settings. Each connection must begin with a PROXY header from
    /// a trusted proxy. The settings of connections are those of the `HttpServer` in `bind`.
    pub(super) fn bind<F, I, S, B>(self, app: F) -> io::Result<(Server, SocketAddr)>
    where
        F: Fn() -> I + Send + Clone + 'static,
        I: IntoServiceFactory<S, Request>,
        S: ServiceFactory<Request, Config = AppConfig> + 'static,
        S::Error: Into<Error> + 'static,
        S::InitError: fmt::Debug,
        S::Response: Into<Response<B>> + 'static,
        <S::Service as Service<Request>>::Future: 'static,
        S::Service: 'static,
        B: MessageBody + 'static,
    {
        let Self { config, connections, max_connections_per_worker, tls } = self;
        let socket = bind_socket(config.address)?;
        let address = socket.local_addr()?;
        actix_tls::accept::max_concurrent_tls_connect(MAX_HANDSHAKES);
        let builder = Server::build()
            .workers(config.workers)
            .max_concurrent_connections(max_connections_per_worker)
            .disable_signals()
            .shutdown_timeout(config.shutdown_timeout.as_secs());
        let stopping = builder.graceful_shutdown_signal();
        let keep_alive = config.keep_alive;
        let proxies = config.proxies.clone();
        // Makes the service of one worker. `$stream` is the type of its connections.
        macro_rules! http {
            ($stream:ty) => {{
                let stopping = stopping.clone();
                let connections = connections.clone();
                let app = app().into_factory().map_err(|error| error.into().error_response());
                HttpService::build()
                    .graceful_shutdown_signal(move || {
                        let stopping = stopping.clone();
                        async move { stopping.notified().await }
                    })
                    .keep_alive(keep_alive)
                    .client_request_timeout(REQUEST_HEAD_TIMEOUT)
                    .client_disconnect_timeout(CLIENT_DISCONNECT_TIMEOUT)
                    .local_addr(address)
                    .on_connect_ext(move |io: &$stream, data: &mut Extensions| {
                        connections.admit(io as &dyn Any, data);
                    })
                    .finish(map_config(app, |()| AppConfig::default()))
                    .map_err(drop)
            }};
        }
        let name = "behind a balancer";
        let builder = match tls {
            None => builder.listen(name, socket, move || {
                accept(proxies.clone())
                    .map(|io: ProxiedStream| {
                        let client = io.client();
                        (io, Protocol::Http1, Some(client))
                    })
                    .and_then(http!(ProxiedStream))
            })?,
            Some(tls) => {
                let acceptor = with_alpn(tls)?;
                builder.listen(name, socket, move || {
                    accept(proxies.clone())
                        .and_then(Acceptor::new(acceptor.clone()).map_err(drop))
                        .map(|io: TlsStream<ProxiedStream>| {
                            let client = io.get_ref().client();
                            (io, Protocol::Http1, Some(client))
                        })
                        .and_then(http!(TlsStream<ProxiedStream>))
                })?
            }
        };
        Ok((builder.run(), address))
    }
}

/// The time for which a connection that is closed may take to end, as in `HttpServer`.
const CLIENT_DISCONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// Returns the service that reads the PROXY header of each connection, or closes it.
fn accept(
    proxies: TrustedProxies,
) -> impl ServiceFactory<TcpStream, Config = (), Response = ProxiedStream, Error = (), InitError = ()>
{
    let proxies = Arc::new(proxies);
    fn_service(move |stream: TcpStream| {
        let proxies = proxies.clone();
        async move {
            let _ = stream.set_nodelay(true);
            let peer = stream.peer_addr().ok();
            ProxiedStream::accept(stream, &proxies).await.map_err(|error| {
                tracing::debug!(?peer, %error, "connection closed");
            })
        }
    })
}

fn bind_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(SocketProtocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Selects HTTP/1.1, the only protocol of the server, if the client names protocols.
fn with_alpn(mut tls: SslAcceptorBuilder) -> io::Result<SslAcceptor> {
    tls.set_alpn_select_callback(|_, offered| {
        select_next_proto(HTTP_1, offered).ok_or(AlpnError::NOACK)
    });
    tls.set_alpn_protos(HTTP_1)?;
    Ok(tls.build())
}
