//! Logs in as a guest at a server on this machine. A second run continues with the tokens of
//! the first.

use std::time::Duration;

use matchbook_client::{Client, Credentials, Error, FileStore, RootCerts, Server};

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let roots = RootCerts::File("data/tls/ca.pem".into());
    let server = Server::new("https://localhost:5001", &roots, Duration::from_secs(10))?;
    let credentials = Credentials::builder().store(FileStore::new("tokens.json")).build();
    let client = Client::new(&server, credentials);
    let response = match client.get("/user").send().await {
        Err(Error::NotLoggedIn | Error::LoggedOut(_)) => {
            client.log_in_as_guest().await?;
            client.get("/user").send().await
        }
        response => response,
    };
    println!("{}", String::from_utf8_lossy(&response?.body().await?));
    Ok(())
}
