//! What the programs in Rust use to talk to run.mjs: one JSON object per line (lib/steps.mjs).

use std::thread::sleep;
use std::time::Duration;

use reqwest::blocking::Client as HttpClient;
use serde_json::{Value, json};

use crate::Failure;

/// Returns the issuer.
pub(crate) fn issuer() -> String {
    std::env::var("ISSUER").unwrap_or_default()
}

/// Returns how often the program refreshes.
pub(crate) fn refreshes() -> u32 {
    std::env::var("REFRESHES").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Announces the program with its version.
pub(crate) fn announce(name: &str, version: &str) {
    println!("{}", json!({ "program": name, "version": version }));
}

/// Asks run.mjs for something, and waits for the response.
pub(crate) fn ask(what: &str, mut question: Value) -> Result<Value, Failure> {
    question["ask"] = what.into();
    println!("{question}");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let response: Value = serde_json::from_str(&line)?;
    match response["error"].as_str() {
        Some(error) => Err(error.into()),
        None => Ok(response),
    }
}

/// Runs a step and reports its result. The program ends if the step fails.
pub(crate) fn step<T>(tried: &str, run: impl FnOnce() -> Result<(T, &'static str), Failure>) -> T {
    match run() {
        Ok((value, result)) => {
            println!("{}", json!({ "tried": tried, "result": result, "passed": true }));
            value
        }
        Err(error) => {
            let text = error.to_string();
            println!("{}", json!({ "tried": tried, "result": text, "passed": false }));
            eprintln!("{error:?}");
            std::process::exit(1);
        }
    }
}

/// Returns the status of the API of the server for an access token, or 0 without a response.
pub(crate) fn api_status(http: &HttpClient, access_token: &str) -> u16 {
    let request = http.get(format!("{}/user", issuer())).bearer_auth(access_token);
    request.send().map_or(0, |response| response.status().as_u16())
}

/// Waits until the API rejects an access token.
pub(crate) fn expiry(http: &HttpClient, access_token: &str) -> Result<(), Failure> {
    for _ in 0..600 {
        if api_status(http, access_token) == 401 {
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
    Err("the access token does not expire".into())
}
