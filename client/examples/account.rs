//! Logs in with a name and a password, and asks for a second factor if the account has one.
//! The argument is the name. A real program would not show the password while it is typed.

use std::io;
use std::time::Duration;

use matchbook_client::{
    Client, Credentials, Error, FileStore, PasswordLogin, Rejection, RootCerts, Server, UserAgent,
};

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("the name is missing")?;
    let password = ask("Password")?;
    let roots = RootCerts::File("data/tls/ca.pem".into());
    let server = Server::new("https://localhost:5001", &roots, Duration::from_secs(10))?;
    let server = server.user_agent(UserAgent::new("example/1.0")?.on_device("my laptop")?);
    let credentials = Credentials::builder().store(FileStore::new("tokens.json")).build();
    let client = Client::new(&server, credentials);
    let login = PasswordLogin::new(&name, &password);
    match client.log_in_with_password(login).await {
        Err(Error::Rejected(Rejection::SecondFactorRequired)) => {
            client.log_in_with_password(login.code(&ask("Code")?)).await?;
        }
        outcome => drop(outcome?),
    }
    println!("{}", client.get("/user").send().await?.status());
    Ok(())
}

fn ask(what: &str) -> io::Result<String> {
    println!("{what}:");
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
