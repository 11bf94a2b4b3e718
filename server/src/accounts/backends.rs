//! Backends: applications that know their users from a database of their own, and open
//! sessions for them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel::QueryResult;
use secrecy::SecretString;

use super::events::AccountEvent;
use super::{Accounts, Error};
use crate::clock::Timestamp;
use crate::crypto::{Digest, RngError, random};
use crate::ids::UserId;
use crate::issuer::IssuedTokens;
use crate::sessions::{ClientInfo, Context};
use crate::store::accounts::NewAccount;
use crate::store::backends::Backend;
use crate::store::events::Event;
use crate::store::identities::NewIdentity;
use crate::store::{Conn, accounts, backends, events, identities, users};
use crate::tokens::{ExtraClaims, SecretDigests, client_secret_digest, new_client_secret};

/// The maximum length of a subject, in bytes.
const MAX_SUBJECT_LEN: usize = 255;

/// NEVER CHANGE THIS LABEL once a version is released: the subjects of backends would
/// become other users.
const USER_LABEL: &[u8] = b"matchbook backend subject";

/// The kind of the name in `identities`.
///
/// NEVER CHANGE THIS VALUE once a version is released: stored names have it.
pub const SUBJECT_KIND: &str = "subject";

/// A request of a backend for a session.
pub struct OpenSession {
    pub backend: String,
    pub secret: SecretString,
    /// The backend's name of the user.
    pub subject: String,
    pub claims: Option<ExtraClaims>,
    pub client: ClientInfo,
}

/// Why a backend gets no session.
#[derive(Debug)]
pub enum OpenSessionError {
    /// Unknown backend or wrong secret.
    InvalidClient,
    InvalidSubject,
    /// The user is disabled.
    Disabled,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for OpenSessionError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Returns a new backend and its secret.
pub fn new_backend(name: &str, now: Timestamp) -> Result<(Backend, SecretString), RngError> {
    let id = format!("be_{}", URL_SAFE_NO_PAD.encode(random::<12>()?));
    let secret = new_secret()?;
    let backend = Backend {
        id,
        name: name.to_owned(),
        secrets: SecretDigests { current: client_secret_digest(&secret), previous: None },
        created_at: now,
    };
    Ok((backend, secret))
}

/// Returns a new secret of 256 bits.
pub fn new_secret() -> Result<SecretString, RngError> {
    new_client_secret("mb_bs_")
}

impl Accounts {
    /// Opens a session for a user of a backend. The first session of a subject creates the
    /// user.
    pub async fn open_backend_session(
        &self,
        request: OpenSession,
    ) -> Result<IssuedTokens, OpenSessionError> {
        let OpenSession { backend, secret, subject, claims, client } = request;
        let presented = client_secret_digest(&secret);
        let find = move |conn: &mut Conn| backends::find(conn, &backend);
        let found = self.store.run(find).await?;
        let Some(backend) = found.filter(|backend| backend.secrets.accept(&presented)) else {
            let ip = client.ip.map(tracing::field::display);
            tracing::warn!(ip, "backend rejected: unknown id or wrong secret");
            return Err(OpenSessionError::InvalidClient);
        };
        let is_valid = (1..=MAX_SUBJECT_LEN).contains(&subject.len())
            && !subject.chars().any(char::is_control);
        if !is_valid {
            return Err(OpenSessionError::InvalidSubject);
        }
        let user = user_of(&backend.id, &subject);
        // No login name contains a colon.
        let name = format!("{SUBJECT_KIND}:{}:{subject}", backend.id);
        let admit = move |conn: &mut Conn, cx: &Context<'_>| {
            if accounts::use_account(conn, user, cx.now)? {
                return Ok(Ok(()));
            }
            // Does nothing if the user exists, or if a concurrent request inserts it.
            insert_user(conn, user, &name, cx)?;
            let is_enabled = accounts::use_account(conn, user, cx.now)?;
            Ok(if is_enabled { Ok(()) } else { Err(OpenSessionError::Disabled) })
        };
        self.issuer.open_session_with(user, claims, client, admit).await?
    }
}

/// Returns the user of a subject. It is derived, so that concurrent first sessions of a
/// subject are of one user.
fn user_of(backend: &str, subject: &str) -> UserId {
    let digest = Digest::of(&[USER_LABEL, b"\0", backend.as_bytes(), b"\0", subject.as_bytes()]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    UserId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// Inserts the user of a subject. Needs a transaction.
fn insert_user(conn: &mut Conn, user: UserId, name: &str, cx: &Context<'_>) -> QueryResult<()> {
    let identity = NewIdentity { name, kind: SUBJECT_KIND, user, verified_at: None };
    // A concurrent first session of the subject may have inserted the same rows.
    if identities::insert(conn, identity, cx.now)? {
        users::insert_used(conn, user, cx.now)?;
        let new = NewAccount { user, display_name: None, password_hash: None, is_admin: false };
        accounts::insert(conn, new, cx.now)?;
        // The login has the id itself.
        let cx = Context { event: cx.event.offset(1), ..*cx };
        let event = cx.user_event(AccountEvent::Registered.as_str(), user);
        events::insert(conn, &Event { reason: Some(SUBJECT_KIND), ..event })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users of released servers have these ids.
    #[test]
    fn user_of_a_subject_is_fixed_and_of_one_backend() {
        let user = user_of("be_1", "42");
        assert_eq!(user.0, uuid::Uuid::from_u128(0x1242_176f_fbb9_88ae_98a7_8a5a_4338_ad9c));
        assert_ne!(user, user_of("be_2", "42"));
        assert_ne!(user, user_of("be_14", "2"));
    }
}
