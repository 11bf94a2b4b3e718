//! Who is who: the tokens of each browser, by its cookie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::header::HeaderMap;
use matchbook_client::Credential;
use openssl::error::ErrorStack;

use super::cookie::{Cookie, random_id};
use super::events::Feed;

/// A browser that did not ask for so long is not known any more.
const IDLE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// All that use this app, across its threads.
pub(crate) struct Identities {
    cookie: Cookie,
    most: usize,
    started: Instant,
    demo: Option<Credential>,
    known: Mutex<Known>,
}

struct Known {
    closed: bool,
    browsers: HashMap<String, Browser>,
}

struct Browser {
    identity: Arc<Identity>,
    last_seen: Instant,
}

/// One browser's tokens, and what happens to them.
pub(crate) struct Identity {
    credential: Credential,
    feed: Arc<Feed>,
}

/// Who asks.
pub(crate) enum Caller {
    /// A browser with a cookie of this app's.
    Known(Arc<Identity>),
    /// A browser with a cookie that is not (any more) known. It is never taken
    /// over: somebody else may have planted it.
    Stranger,
    /// There is no cookie, as with curl.
    Nobody,
}

impl Identity {
    fn new(started: Instant) -> Self {
        let feed = Arc::new(Feed::new(started));
        let told = feed.clone();
        let credential = Credential::builder().on_event(move |event| told.report(event)).build();
        Self { credential, feed }
    }

    pub(crate) fn credential(&self) -> &Credential {
        &self.credential
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }
}

impl Browser {
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_seen) >= IDLE_LIFETIME
            && !self.identity.feed.has_listeners()
    }

    /// Who goes first where there are too many: those that do nothing and are
    /// not logged in. Of the same kind, who was away for longest.
    fn keep(&self) -> (bool, bool, Instant) {
        let Identity { credential, feed } = &*self.identity;
        (credential.is_logged_in(), feed.has_listeners(), self.last_seen)
    }
}

impl Identities {
    /// At `most` so many browsers, and with `demo`, one identity for all that
    /// have no cookie.
    pub(crate) fn new(cookie: Cookie, most: usize, demo: bool, started: Instant) -> Self {
        let known = Known { closed: false, browsers: HashMap::new() };
        let demo = demo.then(Credential::default);
        Self { cookie, most, started, demo, known: Mutex::new(known) }
    }

    /// How the cookie is spelled.
    pub(crate) fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// Who those without a cookie are, together.
    pub(crate) fn demo(&self) -> Option<Credential> {
        self.demo.clone()
    }

    /// Who asks with these headers.
    pub(crate) fn caller(&self, headers: &HeaderMap, now: Instant) -> Caller {
        let Some(id) = self.cookie.of(headers) else { return Caller::Nobody };
        self.find(id, now).map_or(Caller::Stranger, Caller::Known)
    }

    fn find(&self, id: &str, now: Instant) -> Option<Arc<Identity>> {
        let mut known = self.known();
        let browser = known.browsers.get_mut(id)?;
        if browser.is_expired(now) {
            browser.identity.feed.close();
            known.browsers.remove(id);
            return None;
        }
        browser.last_seen = now;
        Some(browser.identity.clone())
    }

    /// A new browser, with the value of its cookie.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub(crate) fn create(&self, now: Instant) -> Result<(String, Arc<Identity>), ErrorStack> {
        let id = random_id()?;
        let identity = Arc::new(Identity::new(self.started));
        let mut known = self.known();
        if known.closed {
            identity.feed.close();
        }
        if known.browsers.len() >= self.most {
            known.make_room(self.most, now);
        }
        let browser = Browser { identity: identity.clone(), last_seen: now };
        known.browsers.insert(id.clone(), browser);
        Ok((id, identity))
    }

    /// Ends all event streams: the app stops.
    pub(crate) fn close(&self) {
        let mut known = self.known();
        known.closed = true;
        known.browsers.values().for_each(|browser| browser.identity.feed.close());
    }

    /// No change of it stops halfway.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn make_room(&mut self, most: usize, now: Instant) {
        self.browsers.retain(|_, browser| {
            let stays = !browser.is_expired(now);
            if !stays {
                browser.identity.feed.close();
            }
            stays
        });
        while self.browsers.len() >= most {
            let first = self.browsers.iter().min_by_key(|(_, browser)| browser.keep());
            let Some(id) = first.map(|(id, _)| id.clone()) else { break };
            if let Some(browser) = self.browsers.remove(&id) {
                browser.identity.feed.close();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::events;
    use super::*;

    fn identities(most: usize) -> (Identities, Instant) {
        let now = Instant::now();
        (Identities::new(Cookie { secure: false }, most, true, now), now)
    }

    #[test]
    fn a_browser_is_known_until_it_was_away_for_a_day() {
        let (identities, start) = identities(10);
        let (id, _) = identities.create(start).unwrap();
        let nearly = IDLE_LIFETIME - Duration::from_secs(1);
        assert!(identities.find(&id, start + nearly).is_some());
        assert!(identities.find(&id, start + 2 * nearly).is_some(), "it was there in between");
        assert!(identities.find(&id, start + 2 * nearly + IDLE_LIFETIME).is_none());
        assert!(identities.find(&id, start).is_none(), "it has gone for good");
    }

    #[test]
    fn an_open_page_keeps_a_browser_known() {
        let (identities, start) = identities(10);
        let (id, identity) = identities.create(start).unwrap();
        let open = events::stream(identity.feed(), identity.credential().clone());
        assert!(identities.find(&id, start + IDLE_LIFETIME).is_some());
        drop(open);
        assert!(identities.find(&id, start + 3 * IDLE_LIFETIME).is_none());
    }

    #[test]
    fn where_there_are_too_many_the_one_that_was_away_for_longest_has_to_go() {
        let (identities, start) = identities(3);
        let later = |seconds| start + Duration::from_secs(seconds);
        let ids: Vec<_> = (0..3).map(|n| identities.create(later(n)).unwrap()).collect();
        let open = events::stream(ids[1].1.feed(), ids[1].1.credential().clone());
        assert!(identities.find(&ids[0].0, later(10)).is_some());
        let (new, _) = identities.create(later(11)).unwrap();
        let known = |id: &str| identities.find(id, later(12)).is_some();
        assert!(!known(&ids[2].0), "nobody looks at it, and the first was there since");
        assert!(known(&ids[0].0) && known(&ids[1].0) && known(&new));
        drop(open);
    }
}
