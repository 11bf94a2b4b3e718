//! The `User-Agent` of a client, by which people recognize their sessions.

use awc::http::header::HeaderValue;

use crate::error::Error;

/// The default: this library and its version.
const DEFAULT: &str = concat!("matchbook-client/", env!("CARGO_PKG_VERSION"));

/// The value of the header `User-Agent` (RFC 9110 §10.1.5). The server's list of sessions
/// shows it, so it names the program, and if possible the device: `my-app/1.2 (Anna's phone)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAgent(HeaderValue);

impl UserAgent {
    /// Takes the name of the program, such as `my-app/1.2`, or a whole `User-Agent`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is empty or has control characters.
    pub fn new(name: &str) -> Result<Self, Error> {
        let value = HeaderValue::from_bytes(name.trim().as_bytes()).ok();
        let value = value.filter(|value| !value.is_empty());
        let problem = "a User-Agent is not empty, and has no control characters";
        value.map(Self).ok_or_else(|| Error::Invalid(problem.to_owned()))
    }

    /// Appends the name of the device in parentheses, as a comment (RFC 9110 §5.6.5).
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is empty or has control characters.
    pub fn on_device(&self, device: &str) -> Result<Self, Error> {
        let mut value = [self.0.as_bytes(), b" ("].concat();
        // In a comment, these characters are preceded by a backslash.
        for byte in Self::new(device)?.0.as_bytes() {
            if matches!(byte, b'(' | b')' | b'\\') {
                value.push(b'\\');
            }
            value.push(*byte);
        }
        value.push(b')');
        let value = HeaderValue::from_bytes(&value);
        value.map(Self).map_err(|error| Error::Invalid(format!("the device name: {error}")))
    }

    /// Returns the value of the header.
    pub(crate) fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl Default for UserAgent {
    fn default() -> Self {
        Self(HeaderValue::from_static(DEFAULT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(user_agent: &UserAgent) -> String {
        String::from_utf8(user_agent.header().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_device_is_a_comment_after_the_name() {
        let app = UserAgent::new("my-app/1.2").unwrap();
        assert_eq!(text(&app.on_device("Zoë’s phone").unwrap()), "my-app/1.2 (Zoë’s phone)");
        let odd = app.on_device(r"a) b/2 (\").unwrap();
        assert_eq!(text(&odd), r"my-app/1.2 (a\) b/2 \(\\)", "the comment cannot be ended");
    }

    #[test]
    fn a_name_that_would_add_a_header_is_rejected() {
        for bad in ["", " ", "a\r\nx: y", "a\nb", "a\0"] {
            assert!(matches!(UserAgent::new(bad), Err(Error::Invalid(_))), "{bad:?}");
            let device = UserAgent::default().on_device(bad);
            assert!(matches!(device, Err(Error::Invalid(_))), "{bad:?}");
        }
    }
}
