//! Mail: sends texts through an SMTP server, in the background.

mod options;

use std::sync::Arc;
use std::time::Duration;

use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::transport::smtp::Error as SmtpError;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::sync::{Semaphore, TryAcquireError};
use tracing::Instrument;
use uuid::Uuid;

pub use lettre::message::Mailbox;
pub use options::{InvalidOptions, Options};

/// The maximum number of mails that are being sent or wait for a retry. More are dropped.
const MAX_QUEUE: usize = 1000;
/// The maximum number of connections to the SMTP server.
const MAX_CONNECTIONS: usize = 4;
/// The pauses before the retries of a mail.
const RETRY_AFTER: [Duration; 3] =
    [Duration::from_secs(2), Duration::from_secs(15), Duration::from_secs(60)];
/// The timeout of each command to the SMTP server.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The maximum length of a logged error, in characters.
const MAX_ERROR_LEN: usize = 300;

/// A mail. It may contain a secret link, so it has no `Debug`.
pub struct Mail {
    /// The email address of the recipient.
    pub to: String,
    /// What the mail is about, for the log.
    pub kind: &'static str,
    pub subject: String,
    pub text: String,
    /// A text that must not be logged, even if the SMTP server repeats it.
    pub secret: Option<String>,
}

/// Why a mail cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the email address is not valid: {0}")]
    Address(#[from] lettre::address::AddressError),
    #[error("the mail cannot be composed: {0}")]
    Message(#[from] lettre::error::Error),
    #[error(transparent)]
    Smtp(#[from] SmtpError),
}

impl Error {
    /// Returns whether a retry may succeed.
    fn is_temporary(&self) -> bool {
        matches!(self, Self::Smtp(error) if !error.is_permanent() && !error.is_client())
    }

    /// Returns the message for the log, with the words of the SMTP server.
    fn describe(&self, secret: Option<&str>) -> String {
        let mut text = self.to_string();
        if let Some(secret) = secret {
            text = text.replace(secret, "[secret]");
        }
        let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        line.take(MAX_ERROR_LEN).collect()
    }
}

/// Sends mails. Clones share the connections and the queue.
#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    options: Arc<Options>,
    queue: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Mailer {
    /// Opens no connection yet.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let transport = options.transport(TIMEOUT)?;
        Ok(Self {
            transport,
            options: Arc::new(options.clone()),
            queue: Arc::new(Semaphore::new(MAX_QUEUE)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        })
    }

    /// Connects once, so that an operator sees a wrong setting in the log.
    pub async fn check(self) {
        match self.transport.test_connection().await {
            Ok(_) => tracing::info!(server = %self.options, "smtp server connected"),
            Err(error) => {
                let error = Error::from(error).describe(None);
                tracing::warn!(error, server = %self.options, "smtp server unavailable");
            }
        }
    }

    /// Sends a mail in the background, and retries if that fails. Returns at once.
    pub fn send(&self, mail: Mail) {
        let kind = mail.kind;
        let place = match self.queue.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                tracing::error!(kind, "mail queue full, mail dropped");
                return;
            }
        };
        let mailer = self.clone();
        let deliver = async move {
            mailer.deliver_with_retries(&mail).await;
            drop(place);
        };
        actix_rt::spawn(deliver.in_current_span());
    }

    async fn deliver_with_retries(&self, mail: &Mail) {
        let kind = mail.kind;
        let mut pauses = RETRY_AFTER.iter();
        loop {
            let Err(error) = self.deliver(mail).await else {
                tracing::info!(kind, "mail sent");
                return;
            };
            let pause = pauses.next().filter(|_| error.is_temporary());
            let error = error.describe(mail.secret.as_deref());
            let Some(pause) = pause else {
                tracing::error!(kind, error, "mail not sent");
                return;
            };
            tracing::warn!(kind, error, ?pause, "mail not sent, retrying");
            tokio::time::sleep(*pause).await;
        }
    }

    /// Sends a mail, once.
    pub async fn deliver(&self, mail: &Mail) -> Result<(), Error> {
        let to: Address = mail.to.parse()?;
        let id = format!("<{}@{}>", Uuid::new_v4(), self.options.domain());
        let message = Message::builder()
            .from(self.options.from.clone())
            .to(to.into())
            .subject(mail.subject.as_str())
            .message_id(Some(id))
            .date_now()
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .body(mail.text.clone())?;
        // The semaphore is never closed.
        let _permit = self.connections.acquire().await;
        self.transport.send(message).await?;
        Ok(())
    }
}

/// `Auto-Submitted: auto-generated` (RFC 3834 §5): vacation responders do not respond.
#[derive(Clone)]
struct AutoSubmitted;

impl AutoSubmitted {
    const VALUE: &str = "auto-generated";
}

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        if text == Self::VALUE { Ok(Self) } else { Err("not auto-generated".into()) }
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), Self::VALUE.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_error_is_one_line_without_the_secret() {
        let error = Error::Message(lettre::error::Error::CannotParseFilename);
        assert!(error.describe(None).contains("cannot be composed"));
        assert!(!error.describe(Some("composed")).contains("composed"));
        assert!(!error.is_temporary());
    }
}
