//! The progress of an authorization request that asks the user to log in or to consent again.
//!
//! The server keeps no state of a request. When it sends the browser to the login page, it
//! adds the time to the request, authenticated by a tag. A login or a consent after that time
//! is the one that the request demands.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Timestamp;
use crate::crypto::TokenKeys;
use crate::ids::ClientId;

/// The parameter that carries the progress.
pub(super) const PARAMETER: &str = "mb_asked";

/// How long the user may take. A later request asks again.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

const TIME_LEN: usize = 8;
const TAG_LEN: usize = 16;

/// When the user was asked to log in or to consent again, for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    asked_at: Timestamp,
}

impl Progress {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { asked_at: now }
    }

    /// Returns whether a login or a consent at `time` is the one that the request demands.
    pub(super) fn is_met_by(self, time: Timestamp) -> bool {
        time >= self.asked_at
    }

    pub(super) fn encode(self, client: &ClientId, keys: &TokenKeys) -> String {
        let time = self.asked_at.as_micros().to_be_bytes();
        let tag: [u8; TAG_LEN] = keys.current.tag(&message(&time, client));
        URL_SAFE_NO_PAD.encode([time.as_slice(), &tag].concat())
    }

    /// Parses a progress that this server encoded for this client. Returns `None` for any
    /// other text and when the user took too long.
    pub(super) fn parse(
        text: &str,
        client: &ClientId,
        keys: &TokenKeys,
        now: Timestamp,
    ) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (time, tag) = bytes.split_at_checked(TIME_LEN)?;
        let message = message(time, client);
        if !keys.all().any(|key| key.verifies::<TAG_LEN>(&message, tag)) {
            return None;
        }
        let asked_at = Timestamp::from_micros(i64::from_be_bytes(time.try_into().ok()?));
        (now <= asked_at.after(MAX_AGE)).then_some(Self { asked_at })
    }
}

fn message(time: &[u8], client: &ClientId) -> Vec<u8> {
    [time, client.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::TokenKey;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn keys(byte: u8) -> TokenKeys {
        TokenKeys { current: TokenKey::new(&[byte; 32]), old: vec![] }
    }

    #[test]
    fn progress_is_of_one_client_one_server_and_one_hour() {
        let client = ClientId::from("app");
        let text = Progress::new(NOW).encode(&client, &keys(1));
        let parse = |client: &str, key, now| {
            Progress::parse(&text, &ClientId::from(client), &keys(key), now)
        };
        assert_eq!(parse("app", 1, NOW), Some(Progress { asked_at: NOW }));
        assert_eq!(parse("apq", 1, NOW), None);
        assert_eq!(parse("app", 2, NOW), None);
        assert!(parse("app", 1, NOW.after(Duration::from_secs(3600))).is_some());
        assert!(parse("app", 1, NOW.after(Duration::from_secs(3601))).is_none());
        for text in ["", "AA", "é", &text[1..], &format!("{text}A")] {
            assert_eq!(Progress::parse(text, &client, &keys(1), NOW), None, "{text}");
        }
    }

    #[test]
    fn only_a_later_login_meets_the_demand() {
        let progress = Progress::new(NOW);
        assert!(progress.is_met_by(NOW));
        assert!(!progress.is_met_by(NOW.before(Duration::from_millis(1))));
    }
}
