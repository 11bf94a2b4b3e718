//! The tokens of each browser, identified by its cookie. They are also in a file, so that they
//! survive a restart of the app.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderMap, HeaderName, SET_COOKIE};
use actix_web::{HttpRequest, web};
use matchbook_client::{Credentials, Event};
use openssl::error::ErrorStack;

use crate::browser_folder::{BrowserFile, BrowserFolder, StoredBrowser};
use crate::cookie::{Cookie, CookieDigest, digest, random_id};
use crate::error::AppError;
use crate::feed::EventFeed;

/// A browser is forgotten after this time without a request.
const IDLE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The file of a browser records its last request this often.
const TOUCH_INTERVAL: Duration = Duration::from_secs(3600);
/// A logged-in browser with a request in this time is never evicted.
const ACTIVE_WINDOW: Duration = Duration::from_secs(3600);

/// All browsers of this app, shared by its threads.
pub(crate) struct BrowserSessions {
    cookie: Cookie,
    max_browsers: usize,
    started: Instant,
    demo: Option<Credentials>,
    /// `None`: tokens are kept in memory only.
    folder: Option<BrowserFolder>,
    browsers: Mutex<Browsers>,
}

struct Browsers {
    closed: bool,
    by_cookie: HashMap<CookieDigest, Browser>,
}

struct Browser {
    identity: Arc<Identity>,
    last_seen: Instant,
    /// When its file last recorded a request.
    touched: Instant,
}

/// One browser's tokens and the events about them.
pub(crate) struct Identity {
    credentials: Credentials,
    feed: Arc<EventFeed>,
    file: Option<BrowserFile>,
}

/// The sender of a request.
pub(crate) enum Caller {
    /// A browser with a cookie of this app.
    Known(Arc<Identity>),
    /// A browser with an unknown or expired cookie. The value is never adopted, because
    /// an attacker may have set it (session fixation).
    UnknownCookie,
    /// A client without cookie, for example curl.
    NoCookie,
}

impl Identity {
    fn new(started: Instant, file: Option<BrowserFile>) -> Self {
        let feed = Arc::new(EventFeed::new(started));
        let sink = feed.clone();
        let builder = Credentials::builder().on_event(move |event| sink.handle(event));
        let credentials = match &file {
            Some(file) => builder.store(file.clone()).build(),
            None => builder.build(),
        };
        Self { credentials, feed, file }
    }

    /// Ends the event streams, and deletes the file.
    fn forget(&self) {
        self.feed.close();
        if let Some(file) = &self.file {
            file.forget();
        }
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) fn feed(&self) -> &EventFeed {
        &self.feed
    }
}

impl Browser {
    fn new(identity: Arc<Identity>, last_seen: Instant) -> Self {
        Self { identity, last_seen, touched: last_seen }
    }

    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_seen) >= IDLE_LIFETIME
            && !self.identity.feed.has_subscribers()
    }

    fn is_in_use(&self, now: Instant) -> bool {
        let Identity { credentials, feed, .. } = &*self.identity;
        let active = now.saturating_duration_since(self.last_seen) < ACTIVE_WINDOW;
        credentials.is_logged_in() && (active || feed.has_subscribers())
    }

    /// Returns the sort key for eviction, lowest first: logged out before logged in,
    /// without open page before with one, then the least recently seen.
    fn eviction_order(&self) -> (bool, bool, Instant) {
        let Identity { credentials, feed, .. } = &*self.identity;
        (credentials.is_logged_in(), feed.has_subscribers(), self.last_seen)
    }
}

impl BrowserSessions {
    /// Creates a registry for at most `max_browsers`. With `demo`, all clients without
    /// cookie share one guest.
    pub(crate) fn new(cookie: Cookie, max_browsers: usize, demo: bool, started: Instant) -> Self {
        let browsers = Browsers { closed: false, by_cookie: HashMap::new() };
        let demo = demo.then(Credentials::default);
        let browsers = Mutex::new(browsers);
        Self { cookie, max_browsers, started, demo, folder: None, browsers }
    }

    /// Keeps the tokens in `folder` too, and takes those that an earlier process left there.
    pub(crate) async fn restore(&mut self, folder: BrowserFolder) {
        let stored = folder.browsers(IDLE_LIFETIME).unwrap_or_else(|error| {
            tracing::warn!(%error, "browser sessions of the last process not read");
            Vec::new()
        });
        for StoredBrowser { file, cookie, unseen_for } in stored {
            let identity = Arc::new(Identity::new(self.started, Some(file)));
            if let Err(error) = identity.credentials.load().await {
                tracing::warn!(%error, "browser session not restored");
                continue;
            }
            identity.feed.handle(&Event::LoggedIn);
            let last_seen = self.started.checked_sub(unseen_for).unwrap_or(self.started);
            self.lock().by_cookie.insert(cookie, Browser::new(identity, last_seen));
        }
        if self.demo.is_some() {
            let demo = Credentials::builder().store(folder.demo_file()).build();
            match demo.load().await {
                Ok(_) => self.demo = Some(demo),
                Err(error) => {
                    tracing::warn!(%error, "tokens of clients without cookie kept in memory only");
                }
            }
        }
        self.folder = Some(folder);
    }

    /// Returns the cookie's format.
    pub(crate) fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// Returns the tokens shared by clients without cookie. `None` if disabled.
    pub(crate) fn demo(&self) -> Option<Credentials> {
        self.demo.clone()
    }

    /// Identifies the sender of a request.
    pub(crate) fn caller(&self, headers: &HeaderMap, now: Instant) -> Caller {
        let mut ids: Vec<_> = self.cookie.values(headers).map(digest).collect();
        if ids.is_empty() {
            return Caller::NoCookie;
        }
        ids.sort_unstable();
        ids.dedup();
        let mut browsers = self.lock();
        ids.retain(|id| browsers.contains(id, now));
        match ids[..] {
            [id] => browsers.touch(&id, now).map_or(Caller::UnknownCookie, Caller::Known),
            // With two known cookies, the browser's own cannot be determined.
            _ => Caller::UnknownCookie,
        }
    }

    #[cfg(test)]
    fn find(&self, id: &str, now: Instant) -> Option<Arc<Identity>> {
        let id = digest(id.as_bytes());
        let mut browsers = self.lock();
        if browsers.contains(&id, now) { browsers.touch(&id, now) } else { None }
    }

    /// Returns the header with a new cookie at login. The old value may have been set by
    /// an attacker (session fixation).
    pub(crate) async fn renewed_cookie(
        &self,
        request: &HttpRequest,
        identity: &Arc<Identity>,
    ) -> Result<Option<(HeaderName, String)>, AppError> {
        let Some(id) = self.renew(request.headers(), identity)? else { return Ok(None) };
        if let Some(file) = identity.file.clone() {
            let cookie = digest(id.as_bytes());
            let stored = web::block(move || file.set_cookie(cookie)).await;
            if !matches!(stored, Ok(Ok(()))) {
                tracing::warn!(
                    "new cookie of a browser not stored: a restart of the app logs it out"
                );
            }
        }
        Ok(Some((SET_COOKIE, self.cookie().set(&id))))
    }

    /// Replaces the cookie of `identity`, which `headers` identified, and invalidates
    /// the old value. Returns `None` if another request has already replaced it: the
    /// holder of the old value must not learn the new one.
    ///
    /// # Errors
    /// When the random number generator fails.
    pub(crate) fn renew(
        &self,
        headers: &HeaderMap,
        identity: &Arc<Identity>,
    ) -> Result<Option<String>, ErrorStack> {
        let new = random_id()?;
        let mut browsers = self.lock();
        let mut ids = self.cookie.values(headers).map(digest);
        let matches = |browser: &Browser| Arc::ptr_eq(&browser.identity, identity);
        let Some(old) = ids.find(|id| browsers.by_cookie.get(id).is_some_and(matches)) else {
            return Ok(None);
        };
        let Some(browser) = browsers.by_cookie.remove(&old) else { return Ok(None) };
        browsers.by_cookie.insert(digest(new.as_bytes()), browser);
        Ok(Some(new))
    }

    /// Registers a new browser. Returns the value of its cookie.
    ///
    /// # Errors
    /// When the limit is reached and all browsers are in use, or the random number
    /// generator fails.
    pub(crate) fn create(&self, now: Instant) -> Result<(String, Arc<Identity>), AppError> {
        let id = random_id()?;
        let cookie = digest(id.as_bytes());
        let file = self.folder.as_ref().map(|folder| folder.new_file(cookie)).transpose()?;
        let identity = Arc::new(Identity::new(self.started, file));
        let mut browsers = self.lock();
        if browsers.closed {
            identity.feed.close();
        }
        if browsers.by_cookie.len() >= self.max_browsers {
            browsers.evict(self.max_browsers, now)?;
        }
        browsers.by_cookie.insert(cookie, Browser::new(identity.clone(), now));
        Ok((id, identity))
    }

    /// Ends all event streams, at shutdown.
    pub(crate) fn close(&self) {
        let mut browsers = self.lock();
        browsers.closed = true;
        browsers.by_cookie.values().for_each(|browser| browser.identity.feed.close());
    }

    /// Poisoning is ignored: a panic cannot leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, Browsers> {
        self.browsers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Browsers {
    /// Returns whether the cookie is known. Removes the browser if it has expired.
    fn contains(&mut self, id: &CookieDigest, now: Instant) -> bool {
        let Some(browser) = self.by_cookie.get(id) else { return false };
        let expired = browser.is_expired(now);
        if expired {
            browser.identity.forget();
            self.by_cookie.remove(id);
        }
        !expired
    }

    /// Returns the browser's identity and updates the time of its last request.
    fn touch(&mut self, id: &CookieDigest, now: Instant) -> Option<Arc<Identity>> {
        let browser = self.by_cookie.get_mut(id)?;
        browser.last_seen = now;
        if let Some(file) = &browser.identity.file
            && now.saturating_duration_since(browser.touched) >= TOUCH_INTERVAL
        {
            file.touch();
            browser.touched = now;
        }
        Some(browser.identity.clone())
    }

    /// Removes expired browsers, then unused ones, until there is room for another.
    fn evict(&mut self, max_browsers: usize, now: Instant) -> Result<(), AppError> {
        self.by_cookie.retain(|_, browser| {
            let keep = !browser.is_expired(now);
            if !keep {
                browser.identity.forget();
            }
            keep
        });
        while self.by_cookie.len() >= max_browsers {
            let unused = self.by_cookie.iter().filter(|(_, browser)| !browser.is_in_use(now));
            let first = unused.min_by_key(|(_, browser)| browser.eviction_order());
            let id = first.map(|(id, _)| *id).ok_or(AppError::TooManyBrowsers)?;
            if let Some(browser) = self.by_cookie.remove(&id) {
                browser.identity.forget();
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

    fn sessions(max_browsers: usize) -> (BrowserSessions, Instant) {
        let now = Instant::now();
        (BrowserSessions::new(Cookie { secure: false }, max_browsers, true, now), now)
    }

    #[test]
    fn a_browser_expires_after_a_day_without_requests() {
        let (sessions, start) = sessions(10);
        let (id, _) = sessions.create(start).unwrap();
        let nearly = IDLE_LIFETIME.checked_sub(Duration::from_secs(1)).unwrap();
        assert!(sessions.find(&id, start + nearly).is_some());
        assert!(sessions.find(&id, start + 2 * nearly).is_some(), "the request extended it");
        assert!(sessions.find(&id, start + 2 * nearly + IDLE_LIFETIME).is_none());
        assert!(sessions.find(&id, start).is_none(), "it was removed");
    }

    #[test]
    fn a_browser_with_an_open_page_does_not_expire() {
        let (sessions, start) = sessions(10);
        let (id, identity) = sessions.create(start).unwrap();
        let open = feed::event_stream(identity.feed(), identity.credentials().clone());
        assert!(sessions.find(&id, start + IDLE_LIFETIME).is_some());
        drop(open);
        assert!(sessions.find(&id, start + 3 * IDLE_LIFETIME).is_none());
    }

    #[test]
    fn above_the_limit_the_least_recently_seen_browser_without_an_open_page_is_evicted() {
        let (sessions, start) = sessions(3);
        let later = |seconds| start + Duration::from_secs(seconds);
        let ids: Vec<_> = (0..3).map(|n| sessions.create(later(n)).unwrap()).collect();
        let open = feed::event_stream(ids[1].1.feed(), ids[1].1.credentials().clone());
        assert!(sessions.find(&ids[0].0, later(10)).is_some());
        let (new, _) = sessions.create(later(11)).unwrap();
        let known = |id: &str| sessions.find(id, later(12)).is_some();
        assert!(!known(&ids[2].0), "it has no open page, and the first was seen later");
        assert!(known(&ids[0].0) && known(&ids[1].0) && known(&new));
        drop(open);
    }

    fn caller(sessions: &BrowserSessions, cookie: &str, now: Instant) -> Caller {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
        sessions.caller(&headers, now)
    }

    #[test]
    fn one_known_cookie_among_several_identifies_the_browser_but_two_known_ones_do_not() {
        let (sessions, now) = sessions(10);
        let [(own, identity), (other, _)] = [(); 2].map(|()| sessions.create(now).unwrap());
        let caller = |ids: &[&str]| {
            let pairs: Vec<_> = ids.iter().map(|id| format!("matchbook_client={id}")).collect();
            caller(&sessions, &pairs.join("; "), now)
        };
        for ids in [&[&*own][..], &["planted", &own], &[&own, "planted"], &[&own, &own]] {
            let Caller::Known(found) = caller(ids) else { panic!("{ids:?} is known") };
            assert!(Arc::ptr_eq(&found, &identity));
        }
        for ids in [&[&*own, &*other][..], &[&other, &own, &other], &["planted"], &[""]] {
            assert!(matches!(caller(ids), Caller::UnknownCookie), "{ids:?}");
        }
    }

    #[test]
    fn a_request_without_the_cookie_has_no_identity() {
        let (sessions, now) = sessions(10);
        assert!(matches!(caller(&sessions, "a=b", now), Caller::NoCookie));
    }

    #[test]
    fn renewing_a_cookie_invalidates_the_old_value_and_happens_once() {
        let (sessions, now) = sessions(10);
        let (old, identity) = sessions.create(now).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, format!("matchbook_client={old}").parse().unwrap());
        let new = sessions.renew(&headers, &identity).unwrap().unwrap();
        assert!(sessions.find(&old, now).is_none());
        assert!(Arc::ptr_eq(&sessions.find(&new, now).unwrap(), &identity));
        assert_eq!(sessions.renew(&headers, &identity).unwrap(), None);
    }
}
