//! Server-sent events for the open pages of a browser.

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

use crate::ended::SessionEnd;

/// Events queued for one page: a burst and more. A page that falls further behind is
/// disconnected, and reconnects.
const QUEUE_CAPACITY: usize = 512;
/// Open pages per browser.
const MAX_SUBSCRIBERS: usize = 16;
/// Interval of keep-alive comments. They keep proxies from closing an idle connection,
/// and reveal a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Maximum length of a method or path in an event, in characters. It bounds the memory
/// of the queues.
const MAX_TEXT_LEN: usize = 200;

/// The events of one browser's tokens, for all of its open pages.
pub(crate) struct EventFeed {
    started: Instant,
    subscribers: Mutex<Subscribers>,
    /// One clone per stream, which holds it until it is dropped. A disconnected stream
    /// counts until then.
    slots: Arc<()>,
    /// Held during a burst.
    burst: tokio::sync::Mutex<()>,
}

struct Subscribers {
    closed: bool,
    logged_in: bool,
    /// How the last session ended. Reset at login.
    end: Option<SessionEnd>,
    channels: Vec<mpsc::Sender<FeedEvent>>,
}

/// The receiving side of one page.
struct Subscriber {
    events: mpsc::Receiver<FeedEvent>,
    _slot: Arc<()>,
}

#[derive(Clone)]
enum FeedEvent {
    /// An encoded exchange.
    Exchange(Bytes),
    /// The tokens have changed. Their status is read when the event is sent, because the
    /// sender of the event may hold the lock of the tokens.
    ///
    /// Holds how the previous session ended, if it did.
    State(Option<SessionEnd>),
}

/// One request and its response.
pub(crate) struct Exchange<'a> {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: Option<u16>,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

/// Times in milliseconds. `at` counts from the start of the app.
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

/// Times in seconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateData {
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
    ended: Option<EndData>,
}

/// How the previous session ended.
#[derive(Serialize)]
struct EndData {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: String,
}

/// Returns the page's message about the end of a session.
pub(crate) fn end_message(end: SessionEnd) -> String {
    match end {
        SessionEnd::Ended(_) => format!("{}: log in again.", end.capitalized()),
        SessionEnd::Replaced => format!("{}: this page shows the new one.", end.capitalized()),
    }
}

impl EventFeed {
    pub(crate) fn new(started: Instant) -> Self {
        let subscribers =
            Subscribers { closed: false, logged_in: false, end: None, channels: Vec::new() };
        Self {
            started,
            subscribers: Mutex::new(subscribers),
            slots: Arc::new(()),
            burst: tokio::sync::Mutex::new(()),
        }
    }

    /// Publishes an event of the client library.
    pub(crate) fn handle(&self, event: &Event) {
        match event {
            Event::Exchange { method, path, status, began, took } => {
                self.publish_exchange(&Exchange {
                    from: "client",
                    to: "server",
                    method,
                    path,
                    status: *status,
                    began: *began,
                    took: *took,
                });
            }
            Event::LoggedIn => self.publish_login(true, None),
            Event::LoggedOut(reason) => {
                self.publish_login(false, Some(SessionEnd::Ended(*reason)));
            }
            Event::Refreshed { .. } => self.publish(|| Some(FeedEvent::State(None))),
            _ => {}
        }
    }

    /// Records a login or the end of a session, and publishes it.
    fn publish_login(&self, logged_in: bool, end: Option<SessionEnd>) {
        let mut subscribers = self.lock();
        let replaced = (logged_in && subscribers.logged_in).then_some(SessionEnd::Replaced);
        subscribers.logged_in = logged_in;
        subscribers.end = end.or(replaced);
        let event = FeedEvent::State(subscribers.end);
        subscribers.send(&event);
    }

    /// Publishes a request and its response.
    pub(crate) fn publish_exchange(&self, exchange: &Exchange<'_>) {
        let at = exchange.began.saturating_duration_since(self.started);
        let data = ExchangeData {
            at: milliseconds(at),
            took: milliseconds(exchange.took),
            from: exchange.from,
            to: exchange.to,
            method: truncate(exchange.method),
            path: truncate(exchange.path),
            status: exchange.status,
        };
        self.publish(|| encode_event("exchange", &data).map(FeedEvent::Exchange));
    }

    /// Starts a burst, which lasts until the guard is dropped. Returns `None` during
    /// another one.
    pub(crate) fn begin_burst(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.burst.try_lock().ok()
    }

    /// Returns whether a page is open.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.lock().channels.iter().any(|channel| !channel.is_closed())
    }

    /// Ends all streams. Streams opened later end at once.
    pub(crate) fn close(&self) {
        let mut subscribers = self.lock();
        subscribers.closed = true;
        subscribers.channels.clear();
    }

    fn subscribe(&self) -> Option<Subscriber> {
        let (channel, events) = mpsc::channel(QUEUE_CAPACITY);
        let mut subscribers = self.lock();
        subscribers.channels.retain(|channel| !channel.is_closed());
        // The lock keeps two pages from taking the last slot.
        if Arc::strong_count(&self.slots) > MAX_SUBSCRIBERS {
            return None;
        }
        // A page that reconnects may have missed the end of its session.
        let state = FeedEvent::State(subscribers.end);
        if !subscribers.closed && channel.try_send(state).is_ok() {
            subscribers.channels.push(channel);
        }
        Some(Subscriber { events, _slot: self.slots.clone() })
    }

    /// Publishes the event that `event` returns. Without subscribers it is not called.
    fn publish(&self, event: impl FnOnce() -> Option<FeedEvent>) {
        let mut subscribers = self.lock();
        if subscribers.channels.is_empty() {
            return;
        }
        if let Some(event) = event() {
            subscribers.send(&event);
        }
    }

    /// Poisoning is ignored: a panic cannot leave the subscribers half changed.
    fn lock(&self) -> MutexGuard<'_, Subscribers> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscribers {
    /// Sends an event to all pages. Disconnects pages whose queue is full.
    fn send(&mut self, event: &FeedEvent) {
        self.channels.retain(|channel| channel.try_send(event.clone()).is_ok());
    }
}

/// Returns a stream of events, which starts with the current state. Returns `None` if
/// too many pages are open.
pub(crate) fn event_stream(
    feed: &EventFeed,
    credentials: Credentials,
) -> Option<impl Stream<Item = Result<Bytes, Infallible>> + use<>> {
    let subscriber = feed.subscribe()?;
    Some(stream::unfold((subscriber, credentials), async |(mut subscriber, credentials)| {
        // After a disconnect the queue is dropped: the page reconnects and reads the state.
        if subscriber.events.is_closed() {
            return None;
        }
        let bytes = match timeout(KEEP_ALIVE, subscriber.events.recv()).await {
            Ok(event) => match event? {
                FeedEvent::Exchange(bytes) => bytes,
                FeedEvent::State(end) => encode_event("state", &StateData::new(&credentials, end))?,
            },
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok(bytes), (subscriber, credentials)))
    }))
}

impl StateData {
    fn new(credentials: &Credentials, end: Option<SessionEnd>) -> Self {
        let status = credentials.status();
        let seconds = |duration: Duration| duration.as_secs_f64();
        // The tokens may have changed since the event was queued. Another event follows then.
        let end = end.filter(|end| status.is_some() == matches!(end, SessionEnd::Replaced));
        Self {
            logged_in: status.is_some(),
            lifetime: status.as_ref().and_then(|status| status.lifetime).map(seconds),
            remaining: status.as_ref().and_then(|status| status.remaining).map(seconds),
            generation: status.as_ref().map(|status| status.refreshes),
            age: status.as_ref().map(|status| seconds(status.age)),
            ended: end.map(|end| EndData { reason: end.code(), message: end_message(end) }),
        }
    }
}

/// Encodes a server-sent event.
fn encode_event(event: &str, data: &impl Serialize) -> Option<Bytes> {
    let data = serde_json::to_string(data).ok()?;
    Some(format!("event: {event}\ndata: {data}\n\n").into())
}

/// Truncates a text to `MAX_TEXT_LEN` characters.
fn truncate(text: &str) -> &str {
    text.char_indices().nth(MAX_TEXT_LEN).map_or(text, |(end, _)| &text[..end])
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;

    fn publish(feed: &EventFeed, path: &str) {
        feed.publish_exchange(&Exchange {
            from: "client",
            to: "server",
            method: "GET",
            path,
            status: None,
            began: Instant::now(),
            took: Duration::from_millis(7),
        });
    }

    fn open(feed: &EventFeed) -> Option<impl Stream<Item = Result<Bytes, Infallible>> + use<>> {
        event_stream(feed, Credentials::default())
    }

    async fn collect(events: impl Stream<Item = Result<Bytes, Infallible>>) -> Vec<String> {
        let text = |event: Result<Bytes, _>| String::from_utf8(event.unwrap().to_vec()).unwrap();
        events.map(text).collect().await
    }

    #[actix_rt::test]
    async fn a_stream_starts_with_the_state_and_sends_events_until_the_feed_is_closed() {
        let feed = EventFeed::new(Instant::now());
        publish(&feed, "/before");
        let mut events = pin!(open(&feed).unwrap());
        publish(&feed, "/a\n\"b");
        feed.handle(&Event::LoggedIn);
        assert!(feed.has_subscribers());
        let received = collect(events.as_mut().take(3)).await;
        feed.close();
        assert!(events.next().await.is_none());
        let state = "event: state\ndata: {\"loggedIn\":false}\n\n";
        assert_eq!(received.len(), 3);
        assert_eq!(received[0], state);
        assert_eq!(received[2], state);
        assert!(received[1].starts_with("event: exchange\ndata: {\"at\":"), "{}", received[1]);
        let end = "\"took\":7,\"from\":\"client\",\"to\":\"server\",\"method\":\"GET\",\
                   \"path\":\"/a\\n\\\"b\",\"status\":null}\n\n";
        assert!(received[1].ends_with(end), "{}", received[1]);
        assert!(collect(open(&feed).unwrap()).await.is_empty());
    }

    #[actix_rt::test]
    async fn a_slow_page_is_disconnected_and_the_others_keep_receiving() {
        let feed = EventFeed::new(Instant::now());
        let slow = open(&feed).unwrap();
        let mut quick = pin!(open(&feed).unwrap());
        quick.next().await.unwrap().unwrap();
        for _ in 0..QUEUE_CAPACITY {
            publish(&feed, "/user");
            quick.next().await.unwrap().unwrap();
        }
        assert!(collect(slow).await.is_empty(), "it ends at once");
        publish(&feed, "/last");
        assert!(String::from_utf8_lossy(&quick.next().await.unwrap().unwrap()).contains("/last"));
    }

    #[test]
    fn a_disconnected_page_holds_its_slot_until_its_stream_is_dropped() {
        let feed = EventFeed::new(Instant::now());
        let slow: Vec<_> = (0..MAX_SUBSCRIBERS).map(|_| open(&feed).unwrap()).collect();
        for _ in 0..QUEUE_CAPACITY {
            publish(&feed, "/user");
        }
        assert!(!feed.has_subscribers(), "all are disconnected");
        assert!(open(&feed).is_none());
        drop(slow);
        assert!(open(&feed).is_some());
    }

    #[actix_rt::test]
    async fn a_long_path_is_truncated() {
        let feed = EventFeed::new(Instant::now());
        let events = open(&feed).unwrap();
        publish(&feed, &"ü".repeat(MAX_TEXT_LEN + 1));
        let received = collect(events.take(2)).await;
        assert_eq!(received[1].matches('ü').count(), MAX_TEXT_LEN, "{}", received[1]);
    }

    #[test]
    fn only_one_burst_runs_at_a_time() {
        let feed = EventFeed::new(Instant::now());
        let burst = feed.begin_burst();
        assert!(burst.is_some() && feed.begin_burst().is_none());
        drop(burst);
        assert!(feed.begin_burst().is_some());
    }

    #[test]
    fn the_number_of_open_pages_is_limited() {
        let feed = EventFeed::new(Instant::now());
        let mut pages: Vec<_> = (0..MAX_SUBSCRIBERS).map(|_| open(&feed).unwrap()).collect();
        assert!(open(&feed).is_none());
        pages.pop();
        assert!(open(&feed).is_some());
        pages.clear();
        assert!(!feed.has_subscribers());
    }
}
