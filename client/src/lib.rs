//! An HTTP client that stays logged in.
//!
//! A [`Session`] sends requests with an access token. When the server answers
//! `401`, it trades the refresh token for new tokens and sends the request
//! again. However many requests meet that `401`, on however many threads, the
//! tokens are refreshed once.
//!
//! awc's clients belong to a thread, tokens to a process: each thread has its
//! own [`Session`], and all of them share one [`Credential`].
//!
//! ```no_run
//! use std::time::Duration;
//! use matchbook_client::{Credential, Server, Session, Trust};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let trust = Trust::File("data/tls/ca.pem".into());
//! let server = Server::new("https://localhost:5001", &trust, Duration::from_secs(10))?;
//! let session = Session::new(&server, Credential::default());
//! session.log_in_as_guest().await?;
//! let answer = session.get("/user").await?;
//! assert!(answer.status().is_success());
//! # Ok(())
//! # }
//! ```

mod credential;
mod error;
mod server;
mod session;

pub use credential::Credential;
pub use error::Error;
pub use server::{Response, Server, Trust, TrustError};
pub use session::Session;
