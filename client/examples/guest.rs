//! Logs in as a guest of a server on this machine and stays logged in: run it
//! twice, and the second run goes on with the tokens of the first.

use std::time::Duration;

use matchbook_client::{Credential, Error, FileStore, Server, Session, Trust};

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let trust = Trust::File("data/tls/ca.pem".into());
    let server = Server::new("https://localhost:5001", &trust, Duration::from_secs(10))?;
    let credential = Credential::builder().store(FileStore::new("tokens.json")).build();
    let session = Session::new(&server, credential);
    let answer = match session.get("/user").send().await {
        Err(Error::NotLoggedIn | Error::LoggedOut(_)) => {
            session.log_in_as_guest().await?;
            session.get("/user").send().await
        }
        answer => answer,
    };
    println!("{}", String::from_utf8_lossy(&answer?.body().await?));
    Ok(())
}
