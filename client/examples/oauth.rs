//! Uses a refresh token of any OAuth 2.0 server (RFC 6749):
//! `cargo run -p matchbook-client --example oauth -- https://login.example.com REFRESH_TOKEN`.

use std::time::Duration;

use matchbook_client::{Client, Credentials, OAuth, RootCerts, Server, TokenResponse};

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (url, refresh_token) = arguments.next().zip(arguments.next()).ok_or("two arguments")?;
    let oauth = OAuth {
        token_path: "/token".into(),
        revocation_path: Some("/token/revocation".into()),
        client_id: "an-app".into(),
        client_secret: None,
        scope: None,
    };
    let server = Server::new(&url, &RootCerts::System, Duration::from_secs(10))?.oauth(oauth)?;
    let client = Client::new(&server, Credentials::default());
    client
        .log_in_with(TokenResponse { token: String::new(), refresh_token, expires_in: 0 })
        .await?;
    client.refresh().await?;
    println!("{}", client.get("/me").send().await?.status());
    Ok(())
}
