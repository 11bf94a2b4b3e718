//! Goes on with a refresh token of any server that speaks RFC 6749:
//! `cargo run -p matchbook-client --example oauth -- https://login.example.com REFRESH_TOKEN`.

use std::time::Duration;

use matchbook_client::{Credential, OAuth, Server, Session, TokenResponse, Trust};

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
    let server = Server::new(&url, &Trust::System, Duration::from_secs(10))?.oauth(oauth)?;
    let session = Session::new(&server, Credential::default());
    session
        .log_in_with(TokenResponse { token: String::new(), refresh_token, expires_in: 0 })
        .await?;
    session.refresh().await?;
    println!("{}", session.get("/me").send().await?.status());
    Ok(())
}
