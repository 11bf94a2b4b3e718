//! Who is who: the tokens of each browser, by its cookie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderName, SET_COOKIE};
use matchbook_client::Credentials;
use openssl::error::ErrorStack;

use crate::cookie::{Cookie, random_id};
use crate::error::Failure;
use crate::feed::Feed;

/// A browser that did not ask for so long is not known any more.
const IDLE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A browser that is logged in and asked so lately does not go for another.
const IN_USE: Duration = Duration::from_secs(3600);

/// All that use this app, across its threads.
pub(crate) struct Identities {
    cookie: Cookie,
    most: usize,
    started: Instant,
    demo: Option<Credentials>,
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
    credential: Credentials,
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
        let credential = Credentials::builder().on_event(move |event| told.report(event)).build();
        Self { credential, feed }
    }

    pub(crate) fn credential(&self) -> &Credentials {
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

    fn is_in_use(&self, now: Instant) -> bool {
        let Identity { credential, feed } = &*self.identity;
        let lately = now.saturating_duration_since(self.last_seen) < IN_USE;
        credential.is_logged_in() && (lately || feed.has_listeners())
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
        let demo = demo.then(Credentials::default);
        Self { cookie, most, started, demo, known: Mutex::new(known) }
    }

    /// How the cookie is spelled.
    pub(crate) fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// Who those without a cookie are, together.
    pub(crate) fn demo(&self) -> Option<Credentials> {
        self.demo.clone()
    }

    /// Who asks with these headers.
    pub(crate) fn caller(&self, headers: &HeaderMap, now: Instant) -> Caller {
        let mut ids: Vec<_> = self.cookie.of(headers).collect();
        if ids.is_empty() {
            return Caller::Nobody;
        }
        ids.sort_unstable();
        ids.dedup();
        let mut known = self.known();
        let texts = ids.into_iter().filter_map(|id| std::str::from_utf8(id).ok());
        let ids: Vec<_> = texts.filter(|id| known.is_known(id, now)).collect();
        match ids[..] {
            [id] => known.see(id, now).map_or(Caller::Stranger, Caller::Known),
            // Which of two is the browser's own, nobody can tell.
            _ => Caller::Stranger,
        }
    }

    #[cfg(test)]
    fn find(&self, id: &str, now: Instant) -> Option<Arc<Identity>> {
        let mut known = self.known();
        if known.is_known(id, now) { known.see(id, now) } else { None }
    }

    /// The header that gives a browser a new cookie at log-in: another site may
    /// have planted the one that it had.
    pub(crate) fn renewed_cookie(
        &self,
        request: &HttpRequest,
        identity: &Arc<Identity>,
    ) -> Result<Option<(HeaderName, String)>, Failure> {
        let id = self.renew(request.headers(), identity)?;
        Ok(id.map(|id| (SET_COOKIE, self.cookie().set(&id))))
    }

    /// Another value for the cookie of `identity`, which was found by these
    /// headers; what they hold is not known from now on. `None` where this has
    /// happened since: whoever asks with the old one is not told the new one.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub(crate) fn renew(
        &self,
        headers: &HeaderMap,
        identity: &Arc<Identity>,
    ) -> Result<Option<String>, ErrorStack> {
        let new = random_id()?;
        let mut known = self.known();
        let mut old = self.cookie.of(headers).filter_map(|id| std::str::from_utf8(id).ok());
        let is_of_it = |browser: &Browser| Arc::ptr_eq(&browser.identity, identity);
        let Some(old) = old.find(|id| known.browsers.get(*id).is_some_and(is_of_it)) else {
            return Ok(None);
        };
        let Some(browser) = known.browsers.remove(old) else { return Ok(None) };
        known.browsers.insert(new.clone(), browser);
        Ok(Some(new))
    }

    /// A new browser, with the value of its cookie.
    ///
    /// # Errors
    /// When all that there is room for are in use, or there is no randomness.
    pub(crate) fn create(&self, now: Instant) -> Result<(String, Arc<Identity>), Failure> {
        let id = random_id()?;
        let identity = Arc::new(Identity::new(self.started));
        let mut known = self.known();
        if known.closed {
            identity.feed.close();
        }
        if known.browsers.len() >= self.most {
            known.make_room(self.most, now)?;
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
    /// Whether there is a browser with this cookie; one that was away for too
    /// long is forgotten.
    fn is_known(&mut self, id: &str, now: Instant) -> bool {
        let Some(browser) = self.browsers.get(id) else { return false };
        let expired = browser.is_expired(now);
        if expired {
            browser.identity.feed.close();
            self.browsers.remove(id);
        }
        !expired
    }

    fn see(&mut self, id: &str, now: Instant) -> Option<Arc<Identity>> {
        let browser = self.browsers.get_mut(id)?;
        browser.last_seen = now;
        Some(browser.identity.clone())
    }

    fn make_room(&mut self, most: usize, now: Instant) -> Result<(), Failure> {
        self.browsers.retain(|_, browser| {
            let stays = !browser.is_expired(now);
            if !stays {
                browser.identity.feed.close();
            }
            stays
        });
        while self.browsers.len() >= most {
            let free = self.browsers.iter().filter(|(_, browser)| !browser.is_in_use(now));
            let first = free.min_by_key(|(_, browser)| browser.keep());
            let id = first.map(|(id, _)| id.clone()).ok_or(Failure::Full)?;
            if let Some(browser) = self.browsers.remove(&id) {
                browser.identity.feed.close();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{COOKIE, HeaderValue};

    use super::*;
    use crate::feed;

    fn identities(most: usize) -> (Identities, Instant) {
        let now = Instant::now();
        (Identities::new(Cookie { secure: false }, most, true, now), now)
    }

    #[test]
    fn a_browser_is_known_until_it_was_away_for_a_day() {
        let (identities, start) = identities(10);
        let (id, _) = identities.create(start).unwrap();
        let nearly = IDLE_LIFETIME.checked_sub(Duration::from_secs(1)).unwrap();
        assert!(identities.find(&id, start + nearly).is_some());
        assert!(identities.find(&id, start + 2 * nearly).is_some(), "it was there in between");
        assert!(identities.find(&id, start + 2 * nearly + IDLE_LIFETIME).is_none());
        assert!(identities.find(&id, start).is_none(), "it has gone for good");
    }

    #[test]
    fn an_open_page_keeps_a_browser_known() {
        let (identities, start) = identities(10);
        let (id, identity) = identities.create(start).unwrap();
        let open = feed::stream(identity.feed(), identity.credential().clone());
        assert!(identities.find(&id, start + IDLE_LIFETIME).is_some());
        drop(open);
        assert!(identities.find(&id, start + 3 * IDLE_LIFETIME).is_none());
    }

    #[test]
    fn where_there_are_too_many_the_one_that_was_away_for_longest_has_to_go() {
        let (identities, start) = identities(3);
        let later = |seconds| start + Duration::from_secs(seconds);
        let ids: Vec<_> = (0..3).map(|n| identities.create(later(n)).unwrap()).collect();
        let open = feed::stream(ids[1].1.feed(), ids[1].1.credential().clone());
        assert!(identities.find(&ids[0].0, later(10)).is_some());
        let (new, _) = identities.create(later(11)).unwrap();
        let known = |id: &str| identities.find(id, later(12)).is_some();
        assert!(!known(&ids[2].0), "nobody looks at it, and the first was there since");
        assert!(known(&ids[0].0) && known(&ids[1].0) && known(&new));
        drop(open);
    }

    fn caller(identities: &Identities, cookie: &str, now: Instant) -> Caller {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
        identities.caller(&headers, now)
    }

    #[test]
    fn of_several_cookies_one_that_is_known_counts_and_of_two_that_are_none() {
        let (identities, now) = identities(10);
        let [(own, identity), (other, _)] = [(); 2].map(|()| identities.create(now).unwrap());
        let asks = |ids: &[&str]| {
            let pairs: Vec<_> = ids.iter().map(|id| format!("matchbook_client={id}")).collect();
            caller(&identities, &pairs.join("; "), now)
        };
        for ids in [&[&*own][..], &["planted", &own], &[&own, "planted"], &[&own, &own]] {
            let Caller::Known(found) = asks(ids) else { panic!("{ids:?} is known") };
            assert!(Arc::ptr_eq(&found, &identity));
        }
        for ids in [&[&*own, &*other][..], &[&other, &own, &other], &["planted"], &[""]] {
            assert!(matches!(asks(ids), Caller::Stranger), "{ids:?}");
        }
        assert!(matches!(caller(&identities, "a=b", now), Caller::Nobody));
    }

    #[test]
    fn a_renewed_cookie_is_the_same_browser_and_the_old_one_is_not_told_of_it() {
        let (identities, now) = identities(10);
        let (old, identity) = identities.create(now).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, format!("matchbook_client={old}").parse().unwrap());
        let new = identities.renew(&headers, &identity).unwrap().unwrap();
        assert!(identities.find(&old, now).is_none());
        assert!(Arc::ptr_eq(&identities.find(&new, now).unwrap(), &identity));
        assert_eq!(identities.renew(&headers, &identity).unwrap(), None);
    }
}
