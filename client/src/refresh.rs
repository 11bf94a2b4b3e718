//! One turn at the tokens: under the store's lock, with the server's word, and
//! told of only when both are over.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::time::sleep;

use crate::credential::{Granted, Held, Landing, Outcome};
use crate::store::{StoreLock, Stored};
use crate::transport::Http;
use crate::{Credential, Error, Event, Server, protocol};

/// The pause before a refresh is sent again, longer each time. The same attempt
/// key makes that safe.
const PAUSE: Duration = Duration::from_millis(100);

/// Refreshes `refused`, or finds that others have, and lets it be known.
pub(crate) async fn refresh(
    server: Server,
    http: Http,
    refused: Held,
    landing: Landing,
    credential: Credential,
) {
    let mut events = Vec::new();
    let outcome = match credential.lock_store().await {
        Ok(mut lock) => {
            let outcome =
                under_lock(&server, &http, &refused, &credential, &mut lock, &mut events).await;
            drop(lock);
            outcome
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(_) | Err(Error::LoggedOut(_) | Error::NotLoggedIn) => landing.land(outcome),
        Err(error) => landing.rest(error),
    }
    // Whatever the application does now, nobody waits for it.
    for event in &events {
        credential.tell(event);
    }
}

async fn under_lock(
    server: &Server,
    http: &Http,
    refused: &Held,
    credential: &Credential,
    lock: &mut Option<StoreLock>,
    events: &mut Vec<Event>,
) -> Outcome {
    let held = match in_store(refused, credential, lock).await? {
        Found::TheRefused(held) => held,
        Found::Others(stored) => return Ok(Arc::new(stored.into())),
    };
    let held = journaled(held, refused, credential, lock).await?;
    match ask(server, http, &held, credential.retries(), events).await {
        Ok(granted) => {
            // What could not be kept can be had again under the attempt key that
            // the store still has, and is kept before anything comes after it.
            if let Err(error) = credential.write(lock, Some(granted.tokens.clone())).await {
                tracing::warn!("refreshed tokens are in memory only: {error}");
            }
            tracing::debug!(count = granted.tokens.refreshes, "refreshed");
            events.push(Event::Refreshed { count: granted.tokens.refreshes });
            Ok(Arc::new(granted))
        }
        Err(Error::LoggedOut(reason)) => {
            tracing::info!(
                reason = reason.map(matchbook_shared::Reason::as_str),
                "the server has ended the session"
            );
            // Nobody else can have put others there: the lock is ours.
            if let Err(error) = credential.write(lock, None).await {
                tracing::warn!("tokens that are over are still stored: {error}");
            }
            events.push(Event::LoggedOut(reason));
            Err(Error::LoggedOut(reason))
        }
        Err(Error::Superseded) => match credential.read().await? {
            Some(stored) if stored.refresh_token != held.refresh_token => {
                Ok(Arc::new(stored.into()))
            }
            _ => Err(Error::Superseded),
        },
        Err(error) => Err(error),
    }
}

/// Stores the idempotency key with the tokens that are about to be refreshed, unless
/// a refresh before has: without it a response that a crash loses would be lost for
/// good.
async fn journaled(
    mut held: Stored,
    refused: &Held,
    credential: &Credential,
    lock: &mut Option<StoreLock>,
) -> Result<Stored, Error> {
    if held.attempt_key.is_none() {
        held.attempt_key = Some(refused.idempotency_key());
        credential.write(lock, Some(held.clone())).await?;
    }
    Ok(held)
}

/// What the store has where tokens were refused.
pub(crate) enum Found {
    /// The same, certainly kept.
    TheRefused(Stored),
    /// Those of somebody who came first.
    Others(Stored),
}

/// Looks for what others have done, and makes sure that what is about to be
/// traded is kept, with its attempt key.
pub(crate) async fn in_store(
    refused: &Held,
    credential: &Credential,
    lock: &mut Option<StoreLock>,
) -> Result<Found, Error> {
    let ours = &refused.tokens;
    if !credential.has_store() {
        return Ok(Found::TheRefused(ours.clone()));
    }
    let stored = credential.read().await?.ok_or(Error::NotLoggedIn)?;
    if stored.access_token == ours.access_token && stored.refresh_token == ours.refresh_token {
        return Ok(Found::TheRefused(stored));
    }
    if refused.succeed(&stored) {
        // They could not be kept when they were granted.
        credential.write(lock, Some(ours.clone())).await?;
        return Ok(Found::TheRefused(ours.clone()));
    }
    Ok(Found::Others(stored))
}

async fn ask(
    server: &Server,
    http: &Http,
    held: &Stored,
    retries: u32,
    events: &mut Vec<Event>,
) -> Result<Granted, Error> {
    let mut pause = PAUSE;
    for _ in 0..retries {
        match protocol::refresh(server, http, held, |event| events.push(event)).await {
            Err(Error::Transient { problem, retry_after: None }) => {
                tracing::debug!("the refresh is sent again: {problem}");
                events.push(Event::Retried);
                sleep(pause).await;
                pause *= 3;
            }
            outcome => return outcome,
        }
    }
    protocol::refresh(server, http, held, |event| events.push(event)).await
}
