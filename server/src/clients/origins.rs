//! The origins of public clients: apps in browsers, which may read responses of the token
//! endpoint (CORS).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

use super::{Client, ClientRegistry};
use crate::store::clients;

/// How long the origins are used without a query.
const FRESH_FOR: Duration = Duration::from_secs(2);

/// The origins that were read last.
#[derive(Default)]
pub(super) struct Origins {
    known: Mutex<Option<(Instant, Arc<HashSet<String>>)>>,
    /// Held by the request that reads the clients.
    reading: tokio::sync::Mutex<()>,
}

impl Origins {
    fn known(&self) -> Option<(Instant, Arc<HashSet<String>>)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fresh(&self) -> Option<Arc<HashSet<String>>> {
        let (read_at, origins) = self.known()?;
        (read_at.elapsed() < FRESH_FOR).then_some(origins)
    }
}

impl ClientRegistry {
    /// Returns whether an origin is that of a redirect URI of a public client. If the database
    /// is unavailable, uses the origins that were read last.
    pub async fn permits_origin(&self, origin: &str) -> bool {
        let origins = self.origins().await;
        origins.contains(origin) || loopback(origin).is_some_and(|any| origins.contains(any))
    }

    async fn origins(&self) -> Arc<HashSet<String>> {
        if let Some(origins) = self.origins.fresh() {
            return origins;
        }
        let _reading = self.origins.reading.lock().await;
        if let Some(origins) = self.origins.fresh() {
            return origins;
        }
        let read_at = Instant::now();
        let origins = match self.store.run(clients::all).await {
            Ok(clients) => Arc::new(of_public_clients(&clients)),
            Err(error) => {
                tracing::debug!(%error, "origins of clients not read, using the last ones");
                self.origins.known().map(|(_, origins)| origins).unwrap_or_default()
            }
        };
        let known = Some((read_at, origins.clone()));
        *self.origins.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        origins
    }
}

fn of_public_clients(clients: &[Client]) -> HashSet<String> {
    let public = clients.iter().filter(|client| client.is_public());
    let uris = public.flat_map(|client| &client.redirect_uris);
    uris.filter_map(|uri| {
        let origin = Url::parse(uri).ok()?.origin();
        // Browsers send `null` for pages of any origin that they hide.
        let origin = origin.is_tuple().then(|| origin.ascii_serialization())?;
        Some(loopback(&origin).map_or(origin.clone(), str::to_owned))
    })
    .collect()
}

/// Returns the host part of a loopback origin: the port of its redirect URI may differ.
fn loopback(origin: &str) -> Option<&'static str> {
    ["http://127.0.0.1", "http://[::1]"].into_iter().find(|host| {
        let port = origin.strip_prefix(host);
        port.is_some_and(|port| {
            port.is_empty()
                || port
                    .strip_prefix(':')
                    .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_origin_may_have_any_port() {
        for (origin, expected) in [
            ("http://127.0.0.1:5173", Some("http://127.0.0.1")),
            ("http://127.0.0.1", Some("http://127.0.0.1")),
            ("http://[::1]:80", Some("http://[::1]")),
            ("http://127.0.0.1.evil.example", None),
            ("http://127.0.0.1:80.evil.example", None),
            ("https://127.0.0.1", None),
            ("http://localhost:80", None),
        ] {
            assert_eq!(loopback(origin), expected, "{origin}");
        }
    }
}
