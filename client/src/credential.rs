//! The tokens of one sign-in, shared by all threads, and the one refresh that
//! may be under way for them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use matchbook_shared::Tokens;
use tokio::sync::watch;
use uuid::Uuid;

use crate::Error;

/// The tokens of one sign-in. Clones share them, across threads. Empty at first.
#[derive(Clone, Default)]
pub struct Credential(Arc<Mutex<Shared>>);

/// Tokens as they were granted together.
pub(crate) type Held = Arc<Granted>;

/// What a grant holds, and the key of the attempt to refresh it: the same key
/// for as long as it takes, so that an answer that was lost can be had again.
pub(crate) struct Granted {
    pub(crate) tokens: Tokens,
    pub(crate) attempt: String,
}

impl From<Tokens> for Granted {
    fn from(tokens: Tokens) -> Self {
        Self { tokens, attempt: Uuid::new_v4().to_string() }
    }
}

type Outcome = Result<Held, Error>;

#[derive(Default)]
struct Shared {
    held: Option<Held>,
    flight: Option<watch::Receiver<Option<Outcome>>>,
}

/// What a request that met a `401` has to do.
pub(crate) enum Step {
    /// Another request has refreshed in the meantime: send with these.
    Resend(Held),
    /// A refresh is under way: await its outcome.
    Wait(Flight),
    /// Refresh these, and tell the others.
    Refresh(Held, Landing, Flight),
}

/// A refresh as seen by those who wait for it.
pub(crate) struct Flight(watch::Receiver<Option<Outcome>>);

/// A refresh as seen by whoever carries it out. Dropped without an outcome, it
/// tells those who wait that there was none.
pub(crate) struct Landing {
    credential: Credential,
    refreshing: Held,
    announce: watch::Sender<Option<Outcome>>,
}

impl Credential {
    /// Whether somebody is logged in.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        self.lock().held.is_some()
    }

    /// The tokens to send with.
    pub(crate) fn held(&self) -> Option<Held> {
        self.lock().held.clone()
    }

    /// Takes the tokens of a new sign-in.
    pub(crate) fn replace(&self, tokens: Tokens) {
        let mut shared = self.lock();
        shared.held = Some(Arc::new(tokens.into()));
        // A refresh of the tokens before is of no interest to anybody any more.
        shared.flight = None;
    }

    /// Decides what to do about an access token that the server refused.
    ///
    /// What triggers a refresh is that token, not the `401`: where the tokens
    /// have changed since, there is nothing to refresh.
    pub(crate) fn after_refusal(&self, refused: &Held) -> Result<Step, Error> {
        let mut shared = self.lock();
        let held = shared.held.clone().ok_or(Error::NotLoggedIn)?;
        if held.tokens.token != refused.tokens.token {
            return Ok(Step::Resend(held));
        }
        if let Some(flight) = &shared.flight {
            return Ok(Step::Wait(Flight(flight.clone())));
        }
        let (announce, flight) = watch::channel(None);
        shared.flight = Some(flight.clone());
        let landing = Landing { credential: self.clone(), refreshing: held.clone(), announce };
        Ok(Step::Refresh(held, landing, Flight(flight)))
    }

    /// Nothing that holds this lock can panic halfway through a change.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No token is shown.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("logged_in", &self.is_logged_in()).finish()
    }
}

impl Flight {
    /// The outcome of the refresh.
    pub(crate) async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(Error::Transient {
                problem: "the refresh was interrupted".to_owned(),
                retry_after: None,
            }),
        }
    }
}

impl Landing {
    /// Keeps what the refresh brought and tells those who wait.
    ///
    /// The tokens that were refreshed are replaced, or erased where the server
    /// has ended the session; others that came in their place stay.
    pub(crate) fn land(self, outcome: Result<Tokens, Error>) {
        let outcome = outcome.map(|tokens| Arc::new(Granted::from(tokens)));
        let mut shared = self.credential.lock();
        if shared.held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &self.refreshing)) {
            match &outcome {
                Ok(tokens) => shared.held = Some(tokens.clone()),
                Err(Error::LoggedOut(_)) => shared.held = None,
                Err(_) => {}
            }
        }
        drop(shared);
        self.announce.send_replace(Some(outcome));
        // Dropping it takes the flight away.
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut shared = self.credential.lock();
        if shared
            .flight
            .as_ref()
            .is_some_and(|flight| flight.same_channel(&self.announce.subscribe()))
        {
            shared.flight = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(name: &str) -> Tokens {
        Tokens { token: name.to_owned(), refresh_token: format!("{name}-r"), expires_in: 60 }
    }

    fn logged_in() -> (Credential, Held) {
        let credential = Credential::default();
        credential.replace(tokens("first"));
        let held = credential.held().unwrap();
        (credential, held)
    }

    fn refresh(credential: &Credential, refused: &Held) -> (Landing, Flight) {
        match credential.after_refusal(refused).unwrap() {
            Step::Refresh(_, landing, flight) => (landing, flight),
            _ => panic!("the first to ask refreshes"),
        }
    }

    #[actix_rt::test]
    async fn of_many_that_are_refused_one_refreshes_and_all_get_its_outcome() {
        let (credential, held) = logged_in();
        let (landing, flight) = refresh(&credential, &held);
        let Step::Wait(second) = credential.after_refusal(&held).unwrap() else {
            panic!("the second waits")
        };
        landing.land(Ok(tokens("second")));
        assert_eq!(flight.outcome().await.unwrap().tokens.token, "second");
        assert_eq!(second.outcome().await.unwrap().tokens.token, "second");
    }

    #[actix_rt::test]
    async fn a_token_that_was_replaced_already_is_not_refreshed_again() {
        let (credential, held) = logged_in();
        refresh(&credential, &held).0.land(Ok(tokens("second")));
        let Step::Resend(now) = credential.after_refusal(&held).unwrap() else {
            panic!("there is nothing to refresh")
        };
        assert_eq!(now.tokens.token, "second");
    }

    #[actix_rt::test]
    async fn a_failed_refresh_keeps_the_tokens_and_the_next_one_may_try() {
        let (credential, held) = logged_in();
        let failure = Error::Transient { problem: "away".into(), retry_after: None };
        let (landing, flight) = refresh(&credential, &held);
        landing.land(Err(failure.clone()));
        assert_eq!(flight.outcome().await.err(), Some(failure));
        assert!(credential.is_logged_in());
        refresh(&credential, &held);
    }

    #[actix_rt::test]
    async fn only_the_tokens_that_were_refused_are_erased() {
        let (credential, held) = logged_in();
        let (landing, _) = refresh(&credential, &held);
        credential.replace(tokens("a new sign-in"));
        landing.land(Err(Error::LoggedOut(None)));
        assert_eq!(credential.held().unwrap().tokens.token, "a new sign-in");

        let held = credential.held().unwrap();
        refresh(&credential, &held).0.land(Err(Error::LoggedOut(None)));
        assert!(!credential.is_logged_in());
    }

    #[actix_rt::test]
    async fn a_refresh_that_is_dropped_leaves_nobody_waiting() {
        let (credential, held) = logged_in();
        let (landing, flight) = refresh(&credential, &held);
        drop(landing);
        assert!(matches!(flight.outcome().await, Err(Error::Transient { .. })));
        refresh(&credential, &held);
    }

    #[actix_rt::test]
    async fn each_attempt_to_refresh_the_same_tokens_has_the_same_key_and_others_have_others() {
        let (credential, held) = logged_in();
        let failure = Error::Transient { problem: "away".into(), retry_after: None };
        refresh(&credential, &held).0.land(Err(failure));
        assert_eq!(credential.held().unwrap().attempt, held.attempt);
        refresh(&credential, &held).0.land(Ok(tokens("second")));
        assert_ne!(credential.held().unwrap().attempt, held.attempt);
    }

    #[test]
    fn debug_shows_no_token() {
        let (credential, _) = logged_in();
        assert_eq!(format!("{credential:?}"), "Credential { logged_in: true }");
    }
}
