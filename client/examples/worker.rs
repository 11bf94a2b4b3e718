//! A worker with two threads and one login, whose tokens are refreshed before they expire.

use std::time::Duration;

use matchbook_client::{Client, Credentials, RootCerts, Server, Strategy};

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let roots = RootCerts::File("data/tls/ca.pem".into());
    let server = Server::new("https://localhost:5001", &roots, Duration::from_secs(10))?;
    let credentials = Credentials::builder()
        .strategy(Strategy::Background { fraction: 0.8 })
        .on_event(|event| println!("{event:?}"))
        .build();
    Client::new(&server, credentials.clone()).log_in_as_guest().await?;
    let threads = [actix_rt::Arbiter::new(), actix_rt::Arbiter::new()];
    for thread in &threads {
        let server = server.clone();
        let credentials = credentials.clone();
        thread.spawn_fn(move || {
            let client = Client::new(&server, credentials);
            actix_rt::spawn(async move { client.get("/user").send().await.map(|_| ()) });
        });
    }
    actix_rt::signal::ctrl_c().await?;
    Ok(())
}
