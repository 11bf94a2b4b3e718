//! The cookie of a browser that has logged in before. It is no credential: it only exempts
//! the browser from the delay after the failures of others.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::crypto::{RngError, TokenKeys, random};
use crate::ids::UserId;

/// How many accounts a browser is known for. The one that logged in longest ago is dropped.
const MAX_ACCOUNTS: usize = 4;

const ID_LEN: usize = 16;
const TAG_LEN: usize = 16;
/// User ‖ number of the browser ‖ tag.
const ENTRY_LEN: usize = 2 * ID_LEN + TAG_LEN;

/// A browser and an account that it has logged in to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    user: UserId,
    device: u128,
}

/// The accounts that a browser has logged in to, the last one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownDevice(Vec<Entry>);

impl KnownDevice {
    /// Parses a cookie. Entries that this server did not write are ignored.
    pub(super) fn parse(cookie: Option<&str>, keys: &TokenKeys) -> Self {
        let entries = cookie.unwrap_or_default().split('.').take(MAX_ACCOUNTS);
        Self(entries.filter_map(|entry| Entry::parse(entry, keys)).collect())
    }

    /// Returns the number of the browser, if it has logged in to the account of `user`.
    pub(super) fn number(&self, user: UserId) -> Option<u128> {
        self.0.iter().find(|entry| entry.user == user).map(|entry| entry.device)
    }

    /// Returns the cookie after a login of `user`.
    pub(super) fn after_login(
        mut self,
        user: UserId,
        keys: &TokenKeys,
    ) -> Result<String, RngError> {
        let device = match self.number(user) {
            Some(device) => device,
            None => u128::from_be_bytes(random()?),
        };
        self.0.retain(|entry| entry.user != user);
        self.0.insert(0, Entry { user, device });
        self.0.truncate(MAX_ACCOUNTS);
        let entries: Vec<String> = self.0.iter().map(|entry| entry.encode(keys)).collect();
        Ok(entries.join("."))
    }
}

impl Entry {
    fn parse(text: &str, keys: &TokenKeys) -> Option<Self> {
        let bytes: [u8; ENTRY_LEN] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (message, tag) = bytes.split_at(2 * ID_LEN);
        if !keys.all().any(|key| key.verifies::<TAG_LEN>(message, tag)) {
            return None;
        }
        let (user, device) = message.split_at(ID_LEN);
        let user = UserId(Uuid::from_slice(user).ok()?);
        Some(Self { user, device: u128::from_be_bytes(device.try_into().ok()?) })
    }

    fn encode(&self, keys: &TokenKeys) -> String {
        let message = [*self.user.0.as_bytes(), self.device.to_be_bytes()].concat();
        let tag: [u8; TAG_LEN] = keys.current.tag(&message);
        URL_SAFE_NO_PAD.encode([message.as_slice(), &tag].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::TokenKey;

    fn keys(current: u8, old: &[u8]) -> TokenKeys {
        let key = |byte| TokenKey::new(&[byte; 32]);
        TokenKeys { current: key(current), old: old.iter().map(|byte| key(*byte)).collect() }
    }

    #[test]
    fn browser_is_known_for_the_last_four_accounts_and_keeps_its_number() {
        let keys = keys(1, &[]);
        let users: [UserId; 5] = std::array::from_fn(|_| UserId::random());
        let mut cookie = None;
        for user in users {
            let known = KnownDevice::parse(cookie.as_deref(), &keys);
            cookie = Some(known.after_login(user, &keys).unwrap());
        }
        let known = KnownDevice::parse(cookie.as_deref(), &keys);
        assert_eq!(users.map(|user| known.number(user).is_some()), [false, true, true, true, true]);
        let again = known.clone().after_login(users[1], &keys).unwrap();
        assert!(again.len() < 300, "{again}");
        let after = KnownDevice::parse(Some(&again), &keys);
        assert_eq!(after.number(users[1]), known.number(users[1]));
        assert_eq!(after.0[0].user, users[1]);
    }

    #[test]
    fn altered_cookies_and_those_of_other_secrets_are_ignored() {
        let user = UserId::random();
        let cookie = KnownDevice::parse(None, &keys(1, &[])).after_login(user, &keys(1, &[]));
        let cookie = cookie.unwrap();
        assert!(KnownDevice::parse(Some(&cookie), &keys(2, &[1])).number(user).is_some());
        assert!(KnownDevice::parse(Some(&cookie), &keys(2, &[])).number(user).is_none());
        let other = if cookie.starts_with('A') { "B" } else { "A" };
        for altered in ["", ".", "é", &cookie[1..], &format!("{other}{}", &cookie[1..])] {
            assert!(KnownDevice::parse(Some(altered), &keys(1, &[])).0.is_empty(), "{altered}");
        }
    }
}
