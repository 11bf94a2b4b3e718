//! A process that shares a token file with others, without a lock (contract.mjs).

use std::env::var;
use std::io::Read;
use std::thread::{sleep, spawn};
use std::time::{Duration, SystemTime};

use oauth2::basic::BasicErrorResponseType;
use oauth2::reqwest::blocking::Client as HttpClient;
use oauth2::{ClientSecret, RefreshToken, TokenResponse};
use serde_json::{Value, json};

use crate::{Failure, TokenError, app};

/// Refreshes whenever the access token in the file is about to expire.
pub(crate) fn run(http: &HttpClient) -> Result<(), Failure> {
    spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let path = var("TOKEN_FILE")?;
    let margin: f64 = var("MARGIN")?.parse()?;
    let app = app(&var("CLIENT_ID")?)?.set_client_secret(ClientSecret::new(var("CLIENT_SECRET")?));
    println!("{}", json!({ "ready": true }));
    loop {
        let stored: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        if stored["expires_at"].as_f64().unwrap_or(0.0) - now()? > margin {
            sleep(Duration::from_millis(200));
            continue;
        }
        let refresh_token = stored["refresh_token"].as_str().unwrap_or_default();
        let refresh_token = RefreshToken::new(refresh_token.to_owned());
        match app.exchange_refresh_token(&refresh_token).request(http) {
            Ok(tokens) => {
                let lifetime = tokens.expires_in().unwrap_or_default().as_secs_f64();
                let new = json!({
                    "access_token": tokens.access_token().secret(),
                    "refresh_token": tokens.refresh_token().map(|token| token.secret()),
                    "expires_at": now()? + lifetime,
                });
                let own = format!("{path}.{}", std::process::id());
                std::fs::write(&own, new.to_string())?;
                std::fs::rename(&own, &path)?;
                println!("{}", json!({ "refreshed": true }));
            }
            Err(TokenError::ServerResponse(error))
                if *error.error() == BasicErrorResponseType::InvalidGrant =>
            {
                println!("{}", json!({ "login": error.error_description() }));
                return Ok(());
            }
            Err(TokenError::ServerResponse(error)) => {
                println!("{}", json!({ "failed": error.error().as_ref() }));
                sleep(Duration::from_secs(1));
            }
            Err(error) => {
                println!("{}", json!({ "failed": error.to_string() }));
                sleep(Duration::from_secs(1));
            }
        }
    }
}

fn now() -> Result<f64, Failure> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}
