//! The second step of a login in a browser: the code, after the password.
//!
//! The form of the code carries a proof that the password was right, so that the user need not
//! type it again. The proof is bound to the browser and to the password, and expires soon. It
//! is no credential without the code.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use uuid::Uuid;

use super::Accounts;
use super::known_device::KnownDevice;
use super::log_in::{LogInError, ProvenPassword, Verified};
use super::login_session::BrowserLoggedIn;
use super::second_factor::CodeError;
use crate::clock::{self, Timestamp};
use crate::crypto::{Digest, TokenKeys};
use crate::ids::UserId;
use crate::sessions::ClientInfo;
use crate::store::{Conn, accounts};

/// How long the user has for the code.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

const USER_LEN: usize = 16;
const TIME_LEN: usize = 8;
const TAG_LEN: usize = 32;

/// A request with the code of the second factor.
pub struct LogInStep {
    /// The proof of [`Accounts::login_step`].
    pub step: String,
    /// The value to which the proof is bound.
    pub browser: String,
    pub code: SecretString,
    /// The cookie of a known browser.
    pub device: Option<String>,
    pub client: ClientInfo,
}

/// The content of a proof whose tag is right.
struct Step {
    user: UserId,
    expires_at: Timestamp,
    tag: [u8; TAG_LEN],
}

impl Step {
    /// Parses user ‖ expiry ‖ tag. The tag is verified when the password's hash is known.
    fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; USER_LEN + TIME_LEN + TAG_LEN] =
            URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (user, rest) = bytes.split_at(USER_LEN);
        let (time, tag) = rest.split_at(TIME_LEN);
        Some(Self {
            user: UserId(Uuid::from_slice(user).ok()?),
            expires_at: Timestamp::from_secs(i64::from_be_bytes(time.try_into().ok()?)),
            tag: tag.try_into().ok()?,
        })
    }

    fn encode(&self) -> String {
        let time = self.expires_at.as_secs().to_be_bytes();
        let parts = [self.user.0.as_bytes().as_slice(), &time, &self.tag];
        URL_SAFE_NO_PAD.encode(parts.concat())
    }
}

/// Returns the message that the tag of a proof covers. Every part but the last has a fixed
/// length.
fn message(user: UserId, expires_at: Timestamp, hash: &str, browser: &str) -> Vec<u8> {
    let hash = Digest::of(&[hash.as_bytes()]);
    let time = expires_at.as_secs().to_be_bytes();
    [user.0.as_bytes().as_slice(), &time, hash.as_bytes(), browser.as_bytes()].concat()
}

fn new_step(proven: &ProvenPassword, browser: &str, keys: &TokenKeys, now: Timestamp) -> Step {
    let expires_at = Timestamp::from_secs(now.after(LIFETIME).as_secs());
    let message = message(proven.user, expires_at, &proven.hash, browser);
    Step { user: proven.user, expires_at, tag: keys.current.tag(&message) }
}

fn is_genuine(step: &Step, hash: &str, browser: &str, keys: &TokenKeys) -> bool {
    let message = message(step.user, step.expires_at, hash, browser);
    keys.all().any(|key| key.verifies::<TAG_LEN>(&message, &step.tag))
}

impl Accounts {
    /// Returns a proof that the password was right, for the form of the code. It is bound to
    /// `browser`, a value that only this browser knows.
    #[must_use]
    pub fn login_step(&self, proven: &ProvenPassword, browser: &str) -> String {
        new_step(proven, browser, &self.keys.login_steps, clock::now()).encode()
    }

    /// Verifies the code after the password, and logs the browser in. Returns `None` if the
    /// proof is not valid any more: the user has to type the password again. `replaced` is
    /// the cookie that the browser presents.
    pub async fn finish_log_in(
        &self,
        request: LogInStep,
        replaced: Option<&str>,
    ) -> Result<Option<BrowserLoggedIn>, LogInError> {
        let LogInStep { step, browser, code, device, client } = request;
        let Some(step) = Step::parse(&step).filter(|step| clock::now() < step.expires_at) else {
            return Ok(None);
        };
        let user = step.user;
        let account = self.store.run(move |conn: &mut Conn| accounts::find(conn, user)).await?;
        let Some(account) = account else { return Ok(None) };
        let hash = account.password_hash.clone().unwrap_or_default();
        if !is_genuine(&step, &hash, &browser, &self.keys.login_steps) {
            return Ok(None);
        }
        let code = match self.check_code(&account, Some(&code)) {
            Ok(code) => code,
            Err(error) => {
                let rejection = match error {
                    CodeError::Missing => LogInError::InvalidCredentials,
                    error => error.into(),
                };
                self.record(Some(user), &rejection, &client)?;
                return Err(rejection);
            }
        };
        let verified = Verified { user, password_hash: hash, upgraded: None, code };
        let opened = self.open_login_session(verified, replaced, &client).await?;
        let known = KnownDevice::parse(device.as_deref(), &self.keys.devices);
        let device = known.after_login(user, &self.keys.devices)?;
        Ok(Some(opened.with_device(device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::TokenKey;

    #[test]
    fn proof_is_bound_to_user_time_password_and_browser() {
        let keys = TokenKeys { current: TokenKey::new(&[1; 32]), old: Vec::new() };
        let now = Timestamp::from_secs(1_700_000_000);
        let proven = ProvenPassword { user: UserId::random(), hash: "$argon2id$a".to_owned() };
        let text = new_step(&proven, "browser", &keys, now).encode();
        let step = Step::parse(&text).unwrap();
        assert_eq!(step.expires_at, now.after(LIFETIME));
        assert!(is_genuine(&step, &proven.hash, "browser", &keys));
        assert!(!is_genuine(&step, "$argon2id$b", "browser", &keys));
        assert!(!is_genuine(&step, &proven.hash, "other", &keys));
        let other = Step { user: UserId::random(), ..Step::parse(&text).unwrap() };
        assert!(!is_genuine(&other, &proven.hash, "browser", &keys));
        let later = Step { expires_at: now.after(2 * LIFETIME), ..Step::parse(&text).unwrap() };
        assert!(!is_genuine(&later, &proven.hash, "browser", &keys));
        for other in ["", "é", &text[1..], &format!("{text}A")] {
            assert!(Step::parse(other).is_none(), "{other}");
        }
    }
}
