//! One turn at the tokens: under the store's lock, with the server's word, and
//! told of only when both are over.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::time::sleep;

use crate::credentials::{Granted, Held, Landing, Outcome};
use crate::store::{StoreGuard, StoredTokens};
use crate::transport::Http;
use crate::{Credentials, Error, Event, Server, protocol};

/// The pause before a refresh is sent again, longer each time. The same attempt
/// key makes that safe.
const PAUSE: Duration = Duration::from_millis(100);

/// Refreshes `refused`, or finds that others have, and lets it be known.
pub(crate) async fn refresh(
    server: Server,
    http: Http,
    refused: Held,
    landing: Landing,
    credentials: Credentials,
) {
    let mut events = Vec::new();
    let outcome = match credentials.lock_store().await {
        Ok(mut lock) => {
            let outcome =
                under_lock(&server, &http, &refused, &credentials, &mut lock, &mut events).await;
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
        credentials.tell(event);
    }
}

async fn under_lock(
    server: &Server,
    http: &Http,
    refused: &Held,
    credentials: &Credentials,
    lock: &mut Option<StoreGuard>,
    events: &mut Vec<Event>,
) -> Outcome {
    let held = match in_store(refused, credentials, lock).await? {
        Found::TheRefused(held) => held,
        Found::Others(stored) => return Ok(Arc::new(stored.into())),
    };
    let held = journaled(held, refused, credentials, lock).await?;
    match ask(server, http, &held, credentials.retries(), events).await {
        Ok(granted) => {
            // What could not be kept can be had again under the attempt key that
            // the store still has, and is kept before anything comes after it.
            if let Err(error) = credentials.write(lock, Some(granted.tokens.clone())).await {
                tracing::warn!("refreshed tokens are in memory only: {error}");
            }
            tracing::debug!(count = granted.tokens.generation, "refreshed");
            events.push(Event::Refreshed { count: granted.tokens.generation });
            Ok(Arc::new(granted))
        }
        Err(Error::LoggedOut(reason)) => {
            tracing::info!(
                reason = reason.map(matchbook_shared::Reason::as_str),
                "the server has ended the session"
            );
            // Nobody else can have put others there: the lock is ours.
            if let Err(error) = credentials.write(lock, None).await {
                tracing::warn!("tokens that are over are still stored: {error}");
            }
            events.push(Event::LoggedOut(reason));
            Err(Error::LoggedOut(reason))
        }
        Err(Error::Superseded) => match credentials.read().await? {
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
    mut held: StoredTokens,
    refused: &Held,
    credentials: &Credentials,
    lock: &mut Option<StoreGuard>,
) -> Result<StoredTokens, Error> {
    if held.idempotency_key.is_none() {
        held.idempotency_key = Some(refused.idempotency_key());
        credentials.write(lock, Some(held.clone())).await?;
    }
    Ok(held)
}

/// What the store has where tokens were refused.
pub(crate) enum Found {
    /// The same, certainly kept.
    TheRefused(StoredTokens),
    /// Those of somebody who came first.
    Others(StoredTokens),
}

/// Looks for what others have done, and makes sure that what is about to be
/// traded is kept, with its attempt key.
pub(crate) async fn in_store(
    refused: &Held,
    credentials: &Credentials,
    lock: &mut Option<StoreGuard>,
) -> Result<Found, Error> {
    let ours = &refused.tokens;
    if !credentials.has_store() {
        return Ok(Found::TheRefused(ours.clone()));
    }
    let stored = credentials.read().await?.ok_or(Error::NotLoggedIn)?;
    if stored.access_token == ours.access_token && stored.refresh_token == ours.refresh_token {
        return Ok(Found::TheRefused(stored));
    }
    if refused.succeed(&stored) {
        // They could not be kept when they were granted.
        credentials.write(lock, Some(ours.clone())).await?;
        return Ok(Found::TheRefused(ours.clone()));
    }
    Ok(Found::Others(stored))
}

async fn ask(
    server: &Server,
    http: &Http,
    held: &StoredTokens,
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
