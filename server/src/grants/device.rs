//! The device authorization grant (RFC 8628): a device without a browser logs its user in
//! through another one. The device polls while the user approves its request.

use std::sync::Arc;
use std::time::Duration;

use super::code_exchange::{AuthenticCode, CodeError};
use super::request::{self, RequestParameters};
use super::{Error, Grants, TokenError};
use crate::clients::Client;
use crate::clock;
use crate::crypto::{Digest, Secret};
use crate::ids::{ClientId, SessionId, UserId};
use crate::issuer::IssuedTokens;
use crate::sessions::{self, ClientInfo, DevicePoll, POLL_INTERVAL};
use crate::store::{self, Conn, device_codes};
use crate::tokens::{DeviceCode, RefreshToken, UserCode};

/// How many user codes are tried. Another request has the same one rarely: with a million
/// requests, one in 25,000.
const MAX_ATTEMPTS: usize = 5;

/// A request of an authenticated client for a device code.
pub struct DeviceRequest {
    pub client: Arc<Client>,
    pub parameters: RequestParameters,
}

/// The codes for a request of a device (RFC 8628 §3.2).
pub struct DeviceAuthorization {
    /// The device polls with it.
    pub device_code: String,
    /// The user types it at the page `/device`.
    pub user_code: UserCode,
    pub expires_in: Duration,
    /// How long the device has to wait between two polls.
    pub interval: Duration,
}

/// A poll of an authenticated client.
pub struct DeviceGrant {
    pub client: Arc<Client>,
    pub device_code: String,
    /// The resource servers that the access token is for; empty: as the request says.
    pub audiences: Vec<String>,
    pub from: ClientInfo,
}

/// Why a poll gets no tokens (RFC 8628 §3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceError {
    /// This server did not issue the device code, or not to this client.
    Unrecognized,
    /// The user has not decided.
    Pending,
    /// As before, and the device polls too often.
    SlowDown,
    Denied,
    Expired,
}

impl Grants {
    /// Stores a request of a device.
    pub async fn authorize_device(
        &self,
        request: DeviceRequest,
    ) -> Result<DeviceAuthorization, TokenError> {
        let DeviceRequest { client, parameters } = request;
        if !client.is_device {
            return Err(TokenError::NotPermitted);
        }
        let scope = request::scope(&parameters, &client).map_err(|_| TokenError::InvalidScope)?;
        let audiences = request::audiences(&parameters, &client, &self.audience)
            .map_err(|_| TokenError::InvalidTarget)?;
        let now = clock::now();
        let lifetime = self.options.device_code_lifetime;
        let stored = device_codes::DeviceRequest {
            client: client.id.clone(),
            scope,
            audiences,
            expires_at: now.after(lifetime),
            poll_interval: POLL_INTERVAL,
        };
        let secret = Secret::random()?;
        let user_code = self.insert_device_request(stored, secret.digest()).await?;
        let key = &self.device_code_keys.current;
        let device_code = DeviceCode { user_code: user_code.mac(key), secret };
        tracing::info!(client = %client.id, "device code issued");
        Ok(DeviceAuthorization {
            device_code: device_code.encode(&client.id, key),
            user_code,
            expires_in: lifetime,
            interval: POLL_INTERVAL,
        })
    }

    /// Stores a request under a new user code.
    async fn insert_device_request(
        &self,
        request: device_codes::DeviceRequest,
        secret: Digest,
    ) -> Result<UserCode, Error> {
        let now = clock::now();
        for _ in 0..MAX_ATTEMPTS {
            let user_code = UserCode::random()?;
            let mac = user_code.mac(&self.device_code_keys.current);
            let request = request.clone();
            let insert =
                move |conn: &mut Conn| device_codes::insert(conn, mac, &secret, &request, now);
            if self.store.write(insert).await? {
                return Ok(user_code);
            }
        }
        // A retry may succeed.
        Err(store::Error::TimedOut.into())
    }

    /// Returns whether this server issued the device code to this client. Makes no query.
    #[must_use]
    pub fn is_device_code(&self, code: &str, client: &ClientId) -> bool {
        DeviceCode::parse(code, client, &self.device_code_keys).is_some()
    }

    /// Handles a poll of a device. The first one after the approval opens the session. The
    /// same poll within `oauth.code_retry` gets the same tokens; after that, the device code
    /// was copied, and the session ends.
    pub async fn poll_device(&self, grant: DeviceGrant) -> Result<IssuedTokens, TokenError> {
        let DeviceGrant { client, device_code, audiences, from } = grant;
        if !client.is_device {
            return Err(TokenError::NotPermitted);
        }
        let ip = from.ip.map(tracing::field::display);
        let code = DeviceCode::parse(&device_code, &client.id, &self.device_code_keys);
        let Some(code) = code else {
            tracing::info!(client = %client.id, ip, "device code rejected: not of this client");
            return Err(TokenError::Device(DeviceError::Unrecognized));
        };
        let now = clock::now();
        let presented = code.clone();
        let poll = move |conn: &mut Conn| sessions::poll_device(conn, &presented, now);
        let session = match self.store.write(poll).await? {
            DevicePoll::Pending => return Err(TokenError::Device(DeviceError::Pending)),
            DevicePoll::TooEarly => return Err(TokenError::Device(DeviceError::SlowDown)),
            DevicePoll::Denied => return Err(TokenError::Device(DeviceError::Denied)),
            DevicePoll::Expired => None,
            DevicePoll::Approved { session: Some(session), .. } => Some(session),
            DevicePoll::Approved { user, session: None } => {
                self.issue_code_of_device(&code, user).await?
            }
        };
        let session = session.ok_or(TokenError::Device(DeviceError::Expired))?;
        let code = RefreshToken {
            session,
            generation: RefreshToken::CODE_GENERATION,
            secret: code.secret.of_approved_device(),
            client: Some(client.id.clone()),
        };
        // The tag of the device code has been verified, and stands for the client.
        let exchange = AuthenticCode { client, code, audiences, from };
        let exchanged = self.exchange_authentic(exchange, |_| Ok(())).await;
        exchanged.map_err(|error| match error {
            TokenError::Code(CodeError::Expired) => TokenError::Device(DeviceError::Expired),
            error => error,
        })
    }

    /// Inserts the authorization code of an approved request. Returns its session, or that of
    /// a concurrent poll.
    async fn issue_code_of_device(
        &self,
        code: &DeviceCode,
        user: UserId,
    ) -> Result<Option<SessionId>, Error> {
        let now = clock::now();
        let session = SessionId::new(user, now)?;
        let code = code.clone();
        let issue =
            move |conn: &mut Conn| sessions::issue_code_of_device(conn, &code, session, now);
        Ok(self.store.write(issue).await?)
    }
}
