//! `matchbook-server serve`: responds to requests until it is stopped.

use std::error::Error;

use crate::app::{self, base_url};
use crate::config::Config;

/// Starts the server and waits until it stops.
pub async fn run(config: &Config, warnings: &[String]) -> Result<(), Box<dyn Error>> {
    config.log.init();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let application = Box::pin(app::start(config)).await?;
    for address in application.addresses() {
        let url = base_url(&config.tls, *address);
        tracing::info!(%url, database = %config.database.url, "listening");
        super::print(&format!("matchbook-server listens on {url}\n"))?;
    }
    application.run().await?;
    tracing::info!("stopped");
    Ok(())
}
