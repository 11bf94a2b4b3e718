//! The sections `[smtp]` and `[mail]`, and `server.public_url`.

use matchbook_settings::{BaseUrl, CaFile, Optional, Settings, SettingsError};
use serde::Deserialize;

use super::ca_file;
use super::server::Server;
use crate::mail::{Mailbox, Options};

#[derive(Deserialize)]
struct Smtp {
    url: Optional<String>,
}

/// The rest of the section, which is used only if there is a URL.
#[derive(Deserialize)]
struct Connection {
    ca_file: CaFile,
}

#[derive(Deserialize)]
struct Mail {
    from: Optional<Sender>,
}

/// An email address, with or without a name before it.
struct Sender(Mailbox);

impl TryFrom<String> for Sender {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let expected = "must be an email address, like `Example <auth@example.com>`";
        text.parse().map(Self).map_err(|_| expected)
    }
}

/// Returns the URL in links: `server.public_url`, or else the issuer.
pub(super) fn public_url(server: &Server, issuer: &str) -> String {
    server.public_url.0.as_ref().map_or(issuer, |BaseUrl(url)| url).to_owned()
}

/// Returns `None` if no mail is sent.
pub(super) fn read(
    settings: &Settings,
    public_url: &str,
) -> Result<Option<Options>, SettingsError> {
    let Smtp { url: Optional(Some(url)) } = settings.section("smtp")? else { return Ok(None) };
    let Connection { ca_file: CaFile(ca_file) } = settings.section("smtp")?;
    let Mail { from: Optional(from) } = settings.section("mail")?;
    let Sender(from) = from
        .ok_or_else(|| settings.invalid("mail.from", "must be set: `smtp.url` needs a sender"))?;
    let public = matchbook_shared::base_url(public_url).ok();
    let host = public.as_ref().and_then(|url| url.host_str()).unwrap_or("localhost");
    let options = Options::new(&url, from, host)
        .map_err(|problem| settings.invalid("smtp.url", &problem.to_string()))?;
    let Some(path) = ca_file else { return Ok(Some(options)) };
    let invalid = |problem: &str| settings.invalid("smtp.ca_file", problem);
    let pem = ca_file::read(&path).map_err(|problem| invalid(&problem))?;
    let trusting = options.with_ca(&pem);
    trusting
        .map(Some)
        .map_err(|error| invalid(&format!("names a file that cannot be used: {error}")))
}
