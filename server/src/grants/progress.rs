//! The progress of an authorization request that asks the user to log in or to consent again.
//!
//! The server keeps no state of a request. When it sends the browser to the login page, it
//! adds the time to the request, authenticated by a tag. A login or a consent after that time
//! is the one that the request demands. The tag covers the request, so that the time cannot
//! be used for a later request of the client.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::RequestParameters;
use crate::clock::Timestamp;
use crate::crypto::TokenKeys;

/// The parameter that carries the progress.
pub(super) const PARAMETER: &str = "mb_asked";

/// How long the user may take. A later request asks again.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

const TIME_LEN: usize = 8;
const TAG_LEN: usize = 16;

/// When the user was asked to log in or to consent again, for one request.
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

    pub(super) fn encode(self, request: &RequestParameters, keys: &TokenKeys) -> String {
        let time = self.asked_at.as_micros().to_be_bytes();
        let tag: [u8; TAG_LEN] = keys.current.tag(&message(&time, request));
        URL_SAFE_NO_PAD.encode([time.as_slice(), &tag].concat())
    }

    /// Parses a progress that this server encoded for this request. Returns `None` for any
    /// other text and when the user took too long.
    pub(super) fn parse(
        text: &str,
        request: &RequestParameters,
        keys: &TokenKeys,
        now: Timestamp,
    ) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (time, tag) = bytes.split_at_checked(TIME_LEN)?;
        let message = message(time, request);
        if !keys.all().any(|key| key.verifies::<TAG_LEN>(&message, tag)) {
            return None;
        }
        let asked_at = Timestamp::from_micros(i64::from_be_bytes(time.try_into().ok()?));
        (now <= asked_at.after(MAX_AGE)).then_some(Self { asked_at })
    }
}

/// Returns the time and the other parameters of the request, each with its length.
fn message(time: &[u8], request: &RequestParameters) -> Vec<u8> {
    let mut message = time.to_vec();
    let others = request.pairs().filter(|(name, _)| name != PARAMETER);
    for text in others.flat_map(|(name, value)| [name, value]) {
        message.extend_from_slice(&text.len().to_be_bytes());
        message.extend_from_slice(text.as_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::TokenKey;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn keys(byte: u8) -> TokenKeys {
        TokenKeys { current: TokenKey::new(&[byte; 32]), old: vec![] }
    }

    fn request(pairs: &[(&str, &str)]) -> RequestParameters {
        let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        RequestParameters::new(owned.collect()).unwrap()
    }

    #[test]
    fn progress_is_of_one_request_one_server_and_one_hour() {
        let app = request(&[("client_id", "app"), ("state", "a")]);
        let text = Progress::new(NOW).encode(&app, &keys(1));
        let asked = Some(Progress { asked_at: NOW });
        assert_eq!(Progress::parse(&text, &app, &keys(1), NOW), asked);
        assert_eq!(Progress::parse(&text, &app, &keys(2), NOW), None);
        let carried = app.with(PARAMETER, text.clone());
        assert_eq!(Progress::parse(&text, &carried, &keys(1), NOW), asked);
        for other in [
            [("client_id", "apq"), ("state", "a")],
            [("client_id", "app"), ("state", "b")],
            [("client_id", "ap"), ("pstate", "a")],
        ] {
            assert_eq!(Progress::parse(&text, &request(&other), &keys(1), NOW), None, "{other:?}");
        }
        let after = |seconds| NOW.after(Duration::from_secs(seconds));
        assert_eq!(Progress::parse(&text, &app, &keys(1), after(3600)), asked);
        assert_eq!(Progress::parse(&text, &app, &keys(1), after(3601)), None);
        for text in ["", "AA", "é", &text[1..], &format!("{text}A")] {
            assert_eq!(Progress::parse(text, &app, &keys(1), NOW), None, "{text}");
        }
    }

    #[test]
    fn only_a_later_login_meets_the_demand() {
        let progress = Progress::new(NOW);
        assert!(progress.is_met_by(NOW));
        assert!(!progress.is_met_by(NOW.before(Duration::from_millis(1))));
    }
}
