//! The decision of a user about the request of a device (RFC 8628 §3.3). The user code finds
//! the request. It is short, so guesses are slowed down (RFC 8628 §5.1).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Error, Grants};
use crate::accounts::LoginSession;
use crate::clients::Client;
use crate::clock;
use crate::ids::UserId;
use crate::limits::{Bound, Guess, Guesses, subnet_key};
use crate::metrics::GUESSED_CODES;
use crate::sessions::{self, DeviceDecided};
use crate::store::device_codes::Approval;
use crate::store::{self, Conn, device_codes};
use crate::tokens::{Scope, UserCode, UserCodeMac};

/// Wrong user codes after which one more is possible per interval.
const BOUNDS: &[Bound] = &[Bound { failures: 5, interval: Duration::from_secs(30) }];

/// How many users and addresses with wrong codes are remembered.
const CACHE_SIZE: usize = 16 * 1024;

/// Counts wrong user codes.
pub(super) struct UserCodeGuesses {
    by_user: Guesses<UserId>,
    by_address: Guesses<u128>,
}

impl Default for UserCodeGuesses {
    fn default() -> Self {
        Self {
            by_user: Guesses::new(BOUNDS, CACHE_SIZE),
            by_address: Guesses::new(BOUNDS, CACHE_SIZE),
        }
    }
}

impl UserCodeGuesses {
    fn admit(&self, user: UserId, ip: Option<IpAddr>) -> Result<[Guess; 2], Duration> {
        let by_user = self.by_user.admit(&user)?;
        Ok([by_user, self.by_address.admit(&ip.map_or(0, subnet_key))?])
    }
}

/// A user code as a user typed it.
pub struct PresentedUserCode<'a> {
    pub text: &'a str,
    pub login: LoginSession,
    pub ip: Option<IpAddr>,
}

/// A request of a device that its user has not decided.
pub struct PendingDevice {
    pub user_code: UserCode,
    pub client: Arc<Client>,
    pub scope: Scope,
    mac: UserCodeMac,
}

/// Why a user code leads to no request.
#[derive(Debug)]
pub enum UserCodeError {
    Unknown,
    Expired,
    /// The request was approved or denied.
    Decided,
    /// Too many wrong codes: how long to wait.
    TooManyGuesses(Duration),
    Failed(Error),
}

impl From<store::Error> for UserCodeError {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Grants {
    /// Finds the request of a user code. A wrong code counts for its user and its address.
    pub async fn find_device(
        &self,
        presented: &PresentedUserCode<'_>,
    ) -> Result<PendingDevice, UserCodeError> {
        let PresentedUserCode { text, login, ip } = presented;
        // Not a guess: no code has this form.
        let user_code = UserCode::parse(text).ok_or(UserCodeError::Unknown)?;
        let guesses = self.guesses.admit(login.user, *ip).map_err(|wait| {
            self.issuer.metrics().record_rate_limit(GUESSED_CODES);
            UserCodeError::TooManyGuesses(wait)
        })?;
        let Some((mac, stored)) = self.find_user_code(&user_code).await? else {
            tracing::info!(user = %login.user, ip = ip.map(tracing::field::display), "unknown user code");
            guesses.into_iter().for_each(Guess::fail);
            return Err(UserCodeError::Unknown);
        };
        if stored.decision.is_some() {
            return Err(UserCodeError::Decided);
        }
        let request = stored.request;
        // A client that was removed, or may no longer use this grant, gets no tokens.
        let client = self.clients.get(&request.client).await?.filter(|client| client.is_device);
        let client = client.filter(|_| clock::now() < request.expires_at);
        let client = client.ok_or(UserCodeError::Expired)?;
        Ok(PendingDevice { user_code, client, scope: request.scope, mac })
    }

    async fn find_user_code(
        &self,
        user_code: &UserCode,
    ) -> Result<Option<(UserCodeMac, device_codes::StoredDeviceRequest)>, store::Error> {
        let keys = self.device_code_keys.all();
        let macs: Vec<UserCodeMac> = keys.map(|key| user_code.mac(key)).collect();
        let find = move |conn: &mut Conn| {
            for mac in macs {
                if let Some(found) = device_codes::find(conn, mac)? {
                    return Ok(Some((mac, found)));
                }
            }
            Ok(None)
        };
        self.store.run(find).await
    }

    /// Approves the request of a device. Users see what they permit clients of other parties
    /// on the page of their account, and can revoke it there.
    pub async fn approve_device(
        &self,
        device: &PendingDevice,
        login: &LoginSession,
    ) -> Result<DeviceDecided, Error> {
        let now = clock::now();
        let (mac, remember) = (device.mac, !device.client.is_first_party);
        let approval =
            Approval { user: login.user, auth_time: login.auth_time, login_session: login.id };
        let approve =
            move |conn: &mut Conn| sessions::approve_device(conn, mac, approval, remember, now);
        let decided = self.store.write(approve).await?;
        let message = match decided {
            DeviceDecided::Done => "device approved",
            DeviceDecided::LoggedOut | DeviceDecided::TooLate => "device not approved",
        };
        tracing::info!(
            user = %login.user, client = %device.client.id, scope = %device.scope, ?decided,
            "{message}"
        );
        Ok(decided)
    }

    /// Denies the request of a device.
    pub async fn deny_device(
        &self,
        device: &PendingDevice,
        login: &LoginSession,
    ) -> Result<DeviceDecided, Error> {
        let now = clock::now();
        let (mac, user) = (device.mac, login.user);
        let deny = move |conn: &mut Conn| sessions::deny_device(conn, mac, user, now);
        let decided = self.store.write(deny).await?;
        let message = match decided {
            DeviceDecided::Done => "device denied",
            DeviceDecided::LoggedOut | DeviceDecided::TooLate => "device not denied",
        };
        tracing::info!(%user, client = %device.client.id, ?decided, "{message}");
        Ok(decided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_codes_count_for_the_user_and_for_the_address() {
        let (ann, bob) = (UserId::random(), UserId::random());
        let [here, there] = [1, 2].map(|host| Some(IpAddr::from([192, 0, 2, host])));
        let guesses = UserCodeGuesses::default();
        for _ in 0..20 {
            assert!(guesses.admit(ann, here).is_ok(), "right codes do not count");
        }
        for _ in 0..5 {
            guesses.admit(ann, here).unwrap().into_iter().for_each(Guess::fail);
        }
        for (user, ip) in [(ann, here), (ann, there), (bob, here)] {
            let wait = guesses.admit(user, ip).err().unwrap();
            assert!(wait <= BOUNDS[0].interval, "{wait:?}");
        }
        assert!(guesses.admit(bob, there).is_ok());
    }
}
