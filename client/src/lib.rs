//! An HTTP client that stays logged in.
//!
//! A [`Client`] sends requests with an access token. When the server answers
//! `401`, it trades the refresh token for new tokens and sends the request
//! again. However many requests meet that `401`, on however many threads (and
//! with a [`FileStore`], in however many processes), the tokens are refreshed
//! once. What may pass keeps them; only the server's word ends a session.
//!
//! awc's clients belong to a thread, tokens to a process: each thread has its
//! own [`Client`], and all of them share one [`Credentials`].
//!
//! ```no_run
//! use std::time::Duration;
//! use matchbook_client::{Credential, FileStore, Server, Session, Trust};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let trust = Trust::File("data/tls/ca.pem".into());
//! let server = Server::new("https://localhost:5001", &trust, Duration::from_secs(10))?;
//! let credential = Credential::builder().store(FileStore::new("tokens.json")).build();
//! let session = Session::new(&server, credential);
//! session.log_in_as_guest().await?;
//! let answer = session.get("/user").send().await?;
//! assert!(answer.status().is_success());
//! # Ok(())
//! # }
//! ```
//!
//! Each request and each refresh has a `tracing` span, and each exchange a line at
//! `debug`.
//!
//! In reading order: a [`Request`] is sent by a [`Client`] with the tokens of a
//! [`Credentials`]; `refresh` is one turn at them, by the lock of a [`TokenStore`]
//! and in the words that `protocol` knows of a [`Server`], over the connections of
//! `transport`; `background` asks for one before it is needed.

mod background;
mod client;
mod credentials;
mod error;
mod event;
mod protocol;
mod refresh;
mod request;
mod scrub;
mod server;
mod store;
mod transport;

pub use client::Client;
pub use credentials::{Credentials, CredentialsBuilder, Status, Strategy};
pub use error::Error;
pub use event::Event;
pub use matchbook_shared::{Reason, TokenResponse, UrlError};
pub use protocol::OAuth;
pub use request::Request;
pub use server::{RootCerts, RootCertsError, Server, ServerError};
pub use store::{FileStore, StoreGuard, StoredTokens, TokenStore};
pub use transport::Response;
