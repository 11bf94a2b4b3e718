//! The redirect of a native app, which listens on a free port.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use reqwest::Url;
use serde_json::json;

use crate::Failure;
use crate::steps::ask;

/// Opens the browser of the user.
pub(crate) fn open_browser(url: &Url, until: &str) -> JoinHandle<()> {
    let question = json!({ "url": url.as_str(), "until": until });
    std::thread::spawn(move || drop(ask("visit", question)))
}

/// Receives the request of the browser at the redirect URI. The browser may also request an icon,
/// or close a connection without a request.
pub(crate) fn receive(listener: &TcpListener, redirect_uri: &str) -> Result<Url, Failure> {
    let redirect_uri = Url::parse(redirect_uri)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let Some(target) = line.split(' ').nth(1) else { continue };
        let url = redirect_uri.join(target)?;
        if url.path() != redirect_uri.path() {
            continue;
        }
        let text = "You are logged in.";
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        )?;
        return Ok(url);
    }
}
