//! An HTTP client that stays logged in.
//!
//! A [`Client`] sends requests with an access token. When the server responds `401`, the
//! client exchanges the refresh token for new tokens and sends the request again. However
//! many requests get a `401`, on however many threads, the tokens are refreshed once. With a
//! [`FileStore`] this holds for several processes too. A transient failure keeps the tokens;
//! only a response of the token server ends a session.
//!
//! The connections of awc belong to a thread, the tokens to a process. Each thread has its
//! own [`Client`], and all of them share one [`Credentials`].
//!
//! ```no_run
//! use std::time::Duration;
//! use matchbook_client::{Client, Credentials, FileStore, RootCerts, Server};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let roots = RootCerts::File("data/tls/ca.pem".into());
//! let server = Server::new("https://localhost:5001", &roots, Duration::from_secs(10))?;
//! let credentials = Credentials::builder().store(FileStore::new("tokens.json")).build();
//! let client = Client::new(&server, credentials);
//! client.log_in_as_guest().await?;
//! let response = client.get("/user").send().await?;
//! assert!(response.status().is_success());
//! # Ok(())
//! # }
//! ```
//!
//! Each request and each refresh has a `tracing` span, and each exchange a line at level
//! `debug`. No token is shown by `Debug`, a log message, an [`Event`] or an [`Error`].
//!
//! # Modules
//!
//! Each module imports only from the modules after it in this list. A test compares the list
//! with the imports.
//!
//! 1. `accounts`: login and registration with a password
//! 2. `login`: guest login and logout
//! 3. `request`: a request, and its recovery from a `401`
//! 4. `client`: the client of one thread
//! 5. `background`: the task that refreshes before expiry
//! 6. `refresh`: one refresh under the lock of the store
//! 7. `credentials`: settings, store and events of one login
//! 8. `single_flight`: the tokens in memory, and the one change in progress
//! 9. `protocol`: the requests of a refresh and of a logout
//! 10. `response`: JSON or an error from a response
//! 11. `server`: the settings of the token server
//! 12. `transport`: connections and exchanges
//! 13. `user_agent`: the name by which people recognize a session
//! 14. `token_set`: the tokens of one response
//! 15. `store`: tokens that outlive the process
//! 16. `scrub`: texts of a server without secrets
//! 17. `event`
//! 18. `error`
//! 19. `rejection`: why a login or a registration is rejected

mod accounts;
mod background;
mod client;
mod credentials;
mod error;
mod event;
mod login;
mod protocol;
mod refresh;
mod rejection;
mod request;
mod response;
mod scrub;
mod server;
mod single_flight;
mod store;
mod token_set;
mod transport;
mod user_agent;

pub use accounts::{DeviceToken, PasswordLogin};
pub use client::Client;
pub use credentials::{Credentials, CredentialsBuilder, Status, Strategy};
pub use error::Error;
pub use event::Event;
pub use matchbook_shared::{InvalidGrantReason, TokenResponse, UrlError};
pub use rejection::Rejection;
pub use request::Request;
pub use server::{OAuth, RootCerts, RootCertsError, Server, ServerError};
pub use store::{FileStore, StoreGuard, StoredTokens, TokenStore};
pub use transport::Response;
pub use user_agent::UserAgent;
