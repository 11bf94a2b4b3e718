//! A worker of two threads on one sign-in, whose tokens are refreshed before
//! they expire.

use std::time::Duration;

use matchbook_client::{Credential, Server, Session, Strategy, Trust};

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let trust = Trust::File("data/tls/ca.pem".into());
    let server = Server::new("https://localhost:5001", &trust, Duration::from_secs(10))?;
    let credential = Credential::builder()
        .strategy(Strategy::Background { fraction: 0.8 })
        .on_event(|event| println!("{event:?}"))
        .build();
    Session::new(&server, credential.clone()).log_in_as_guest().await?;
    let threads = [actix_rt::Arbiter::new(), actix_rt::Arbiter::new()];
    for thread in &threads {
        let (server, credential) = (server.clone(), credential.clone());
        thread.spawn_fn(move || {
            let session = Session::new(&server, credential);
            actix_rt::spawn(async move { session.get("/user").send().await.map(|_| ()) });
        });
    }
    actix_rt::signal::ctrl_c().await?;
    Ok(())
}
