//! What a page is told while it is open, as server-sent events.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use futures_util::Stream;
use futures_util::stream;
use matchbook_client::{Credentials, Event};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::ended::End;

/// How many notices may wait for a page: a burst and more. One that is further
/// behind is cut off, and connects again.
const BACKLOG: usize = 512;
/// How many pages of one browser are told at once.
const MOST_LISTENERS: usize = 16;
/// How often something is sent where there is nothing to tell: whatever is in
/// between does not take the connection for dead, and one that is dead shows.
const PULSE: Duration = Duration::from_secs(10);
/// So much of a path is told, in characters: a queue must not grow with what a
/// browser thinks up.
const LONGEST_TEXT: usize = 200;

/// What happens to one credential, told to all pages that show it.
pub(crate) struct Feed {
    started: Instant,
    listeners: Mutex<Listeners>,
    /// Every stream holds a clone until it is dropped, also when it is cut off.
    places: Arc<()>,
    /// Whoever holds it has a burst under way.
    burst: tokio::sync::Mutex<()>,
}

struct Listeners {
    closed: bool,
    logged_in: bool,
    /// How the last session ended, until the next log-in.
    end: Option<End>,
    channels: Vec<mpsc::Sender<Notice>>,
}

/// The end of a feed at one page.
struct Listener {
    notices: mpsc::Receiver<Notice>,
    _place: Arc<()>,
}

/// Something to tell.
#[derive(Clone)]
enum Notice {
    /// An exchange, written out.
    Exchange(Bytes),
    /// The tokens are others now. What is told of them is looked up when it is
    /// sent: whoever reports this may be in the middle of changing them.
    ///
    /// With how the session before ended, where one did.
    State(Option<End>),
}

/// One request and its answer.
pub(crate) struct Exchange<'a> {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: Option<u16>,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

/// Times are in milliseconds, `at` since the app started.
#[derive(Serialize)]
struct ExchangeData<'a> {
    at: u64,
    took: u64,
    from: &'a str,
    to: &'a str,
    method: &'a str,
    path: &'a str,
    status: Option<u16>,
}

/// Times are in seconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    logged_in: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifetime: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
}

/// How the session before ended.
#[derive(Serialize)]
struct Ended {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: String,
}

/// The sentence for the page on how a session ended.
pub(crate) fn ended(end: End) -> String {
    match end {
        End::Ended(_) => format!("{}: log in again.", end.capitalized()),
        End::Replaced => format!("{}: this page shows the new one.", end.capitalized()),
    }
}

impl Feed {
    pub(crate) fn new(started: Instant) -> Self {
        let listeners =
            Listeners { closed: false, logged_in: false, end: None, channels: Vec::new() };
        let burst = tokio::sync::Mutex::new(());
        Self { started, listeners: Mutex::new(listeners), places: Arc::new(()), burst }
    }

    /// Tells what the library reports.
    pub(crate) fn report(&self, event: &Event) {
        match event {
            Event::Exchange { method, path, status, began, took } => self.exchange(&Exchange {
                from: "client",
                to: "server",
                method,
                path,
                status: *status,
                began: *began,
                took: *took,
            }),
            Event::LoggedIn => self.change(true, None),
            Event::LoggedOut(reason) => self.change(false, Some(End::Ended(*reason))),
            Event::Refreshed { .. } => self.tell(|| Some(Notice::State(None))),
            _ => {}
        }
    }

    /// Notes a log-in, or an end, and tells of it.
    fn change(&self, logged_in: bool, end: Option<End>) {
        let mut listeners = self.listeners();
        let replaced = (logged_in && listeners.logged_in).then_some(End::Replaced);
        listeners.logged_in = logged_in;
        listeners.end = end.or(replaced);
        let notice = Notice::State(listeners.end);
        listeners.channels.retain(|channel| channel.try_send(notice.clone()).is_ok());
    }

    /// Tells of a request and its answer.
    pub(crate) fn exchange(&self, exchange: &Exchange<'_>) {
        let Exchange { from, to, method, path, status, began, took } = *exchange;
        let at = milliseconds(began.saturating_duration_since(self.started));
        let (method, path) = (cut(method), cut(path));
        let data = ExchangeData { at, took: milliseconds(took), from, to, method, path, status };
        self.tell(|| written("exchange", &data).map(Notice::Exchange));
    }

    /// A burst may begin, and lasts as long as this is held. `None` while
    /// another one does.
    pub(crate) fn begin_burst(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.burst.try_lock().ok()
    }

    /// Whether a page is open.
    pub(crate) fn has_listeners(&self) -> bool {
        self.listeners().channels.iter().any(|channel| !channel.is_closed())
    }

    /// Ends all streams, and those that begin from now on.
    pub(crate) fn close(&self) {
        let mut listeners = self.listeners();
        listeners.closed = true;
        listeners.channels.clear();
    }

    fn listen(&self) -> Option<Listener> {
        let (channel, notices) = mpsc::channel(BACKLOG);
        let mut listeners = self.listeners();
        listeners.channels.retain(|channel| !channel.is_closed());
        // The lock is held, so no two take the last place.
        if Arc::strong_count(&self.places) > MOST_LISTENERS {
            return None;
        }
        // A page that connects again may have missed how its session ended.
        let notice = Notice::State(listeners.end);
        if !listeners.closed && channel.try_send(notice).is_ok() {
            listeners.channels.push(channel);
        }
        Some(Listener { notices, _place: self.places.clone() })
    }

    fn tell(&self, notice: impl FnOnce() -> Option<Notice>) {
        let mut listeners = self.listeners();
        if listeners.channels.is_empty() {
            return;
        }
        if let Some(notice) = notice() {
            listeners.channels.retain(|channel| channel.try_send(notice.clone()).is_ok());
        }
    }

    /// No change of the listeners stops halfway.
    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of a credential from now on, first how things stand. `None` where
/// too many listen already.
pub(crate) fn stream(
    feed: &Feed,
    credential: Credentials,
) -> Option<impl Stream<Item = Result<Bytes, Infallible>> + use<>> {
    let listener = feed.listen()?;
    Some(stream::unfold((listener, credential), async |(mut listener, credential)| {
        // Nobody waits for what is left: the page connects again.
        if listener.notices.is_closed() {
            return None;
        }
        let sent = match timeout(PULSE, listener.notices.recv()).await {
            Ok(notice) => match notice? {
                Notice::Exchange(text) => text,
                Notice::State(end) => written("state", &State::of(&credential, end))?,
            },
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok(sent), (listener, credential)))
    }))
}

impl State {
    fn of(credential: &Credentials, end: Option<End>) -> Self {
        let status = credential.status();
        let seconds = |duration: Duration| duration.as_secs_f64();
        // The tokens may have changed since: the notice of that follows.
        let end = end.filter(|end| status.is_some() == matches!(end, End::Replaced));
        Self {
            logged_in: status.is_some(),
            lifetime: status.as_ref().and_then(|status| status.lifetime).map(seconds),
            remaining: status.as_ref().and_then(|status| status.remaining).map(seconds),
            generation: status.as_ref().map(|status| status.refreshes),
            age: status.as_ref().map(|status| seconds(status.age)),
            ended: end.map(|end| Ended { reason: end.code(), message: ended(end) }),
        }
    }
}

/// An event as it is sent.
fn written(event: &str, data: &impl Serialize) -> Option<Bytes> {
    let data = serde_json::to_string(data).ok()?;
    Some(format!("event: {event}\ndata: {data}\n\n").into())
}

/// What is told of a text of any length.
fn cut(text: &str) -> &str {
    text.char_indices().nth(LONGEST_TEXT).map_or(text, |(end, _)| &text[..end])
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;

    fn exchange(feed: &Feed, path: &str) {
        let began = Instant::now();
        let (from, to, status) = ("client", "server", None);
        let took = Duration::from_millis(7);
        feed.exchange(&Exchange { from, to, method: "GET", path, status, began, took });
    }

    async fn rest(events: impl Stream<Item = Result<Bytes, Infallible>>) -> Vec<String> {
        let text = |event: Result<Bytes, _>| String::from_utf8(event.unwrap().to_vec()).unwrap();
        events.map(text).collect().await
    }

    #[actix_rt::test]
    async fn a_page_is_told_how_things_stand_and_then_what_happens_until_the_feed_is_closed() {
        let feed = Feed::new(Instant::now());
        exchange(&feed, "/before");
        let mut events = pin!(stream(&feed, Credentials::default()).unwrap());
        exchange(&feed, "/a\n\"b");
        feed.report(&Event::LoggedIn);
        assert!(feed.has_listeners());
        let told = rest(events.as_mut().take(3)).await;
        feed.close();
        assert!(events.next().await.is_none());
        let state = "event: state\ndata: {\"loggedIn\":false}\n\n";
        assert_eq!((told.len(), told[0].as_str(), told[2].as_str()), (3, state, state));
        assert!(told[1].starts_with("event: exchange\ndata: {\"at\":"), "{}", told[1]);
        let rest_of_it = "\"took\":7,\"from\":\"client\",\"to\":\"server\",\"method\":\"GET\",\
                          \"path\":\"/a\\n\\\"b\",\"status\":null}\n\n";
        assert!(told[1].ends_with(rest_of_it), "{}", told[1]);
        assert!(rest(stream(&feed, Credentials::default()).unwrap()).await.is_empty());
    }

    #[actix_rt::test]
    async fn a_page_that_does_not_keep_up_is_cut_off_and_the_others_go_on() {
        let feed = Feed::new(Instant::now());
        let slow = stream(&feed, Credentials::default()).unwrap();
        let mut quick = pin!(stream(&feed, Credentials::default()).unwrap());
        quick.next().await.unwrap().unwrap();
        for _ in 0..BACKLOG {
            exchange(&feed, "/user");
            quick.next().await.unwrap().unwrap();
        }
        assert!(rest(slow).await.is_empty(), "it ends at once");
        exchange(&feed, "/last");
        assert!(String::from_utf8_lossy(&quick.next().await.unwrap().unwrap()).contains("/last"));
    }

    #[test]
    fn a_page_that_is_cut_off_takes_a_place_until_its_stream_has_gone() {
        let feed = Feed::new(Instant::now());
        let slow: Vec<_> =
            (0..MOST_LISTENERS).map(|_| stream(&feed, Credentials::default()).unwrap()).collect();
        for _ in 0..BACKLOG {
            exchange(&feed, "/user");
        }
        assert!(!feed.has_listeners(), "all are cut off");
        assert!(stream(&feed, Credentials::default()).is_none());
        drop(slow);
        assert!(stream(&feed, Credentials::default()).is_some());
    }

    #[actix_rt::test]
    async fn of_a_long_path_the_beginning_is_told() {
        let feed = Feed::new(Instant::now());
        let events = stream(&feed, Credentials::default()).unwrap();
        exchange(&feed, &"ü".repeat(LONGEST_TEXT + 1));
        let told = rest(events.take(2)).await;
        assert_eq!(told[1].matches('ü').count(), LONGEST_TEXT, "{}", told[1]);
    }

    #[test]
    fn a_burst_begins_when_the_one_before_has_ended() {
        let feed = Feed::new(Instant::now());
        let burst = feed.begin_burst();
        assert!(burst.is_some() && feed.begin_burst().is_none());
        drop(burst);
        assert!(feed.begin_burst().is_some());
    }

    #[test]
    fn so_many_pages_are_told_and_one_more_when_one_has_gone() {
        let feed = Feed::new(Instant::now());
        let mut open: Vec<_> =
            (0..MOST_LISTENERS).map(|_| stream(&feed, Credentials::default()).unwrap()).collect();
        assert!(stream(&feed, Credentials::default()).is_none());
        open.pop();
        assert!(stream(&feed, Credentials::default()).is_some());
        open.clear();
        assert!(!feed.has_listeners());
    }
}
