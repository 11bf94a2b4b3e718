//! Text for an operator at a terminal.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::store::events::LoggedEvent;

/// Formats a value as a line of JSON.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// Formats a time and its distance from now.
pub(super) fn when(time: Timestamp, now: Timestamp) -> String {
    let past = now.since(time);
    let future = time.since(now);
    if future.is_zero() {
        format!("{time} ({} ago)", rounded(past))
    } else {
        format!("{time} (in {})", rounded(future))
    }
}

/// Describes an entry of the audit log in one line.
pub(super) fn describe_event(event: &LoggedEvent, now: Timestamp) -> String {
    let mut text = format!("{}  {}", when(event.occurred_at, now), event.kind);
    if let Some(reason) = &event.reason {
        let _ = write!(text, " ({reason})");
    }
    if let Some(generation) = event.generation {
        let _ = write!(text, ", generation {generation}");
    }
    if event.count > 1 {
        let _ = write!(text, ", {} times", event.count);
    }
    let ip = event.ip.map(|address| address.0);
    text + ", " + &describe_client(ip, event.user_agent.as_deref())
}

/// Formats a duration in its one or two largest units.
fn rounded(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..3600 => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
        3600..172_800 => {
            humantime::format_duration(Duration::from_secs(seconds / 60 * 60)).to_string()
        }
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Describes a client. The `User-Agent` is escaped: it must not control a terminal.
pub(super) fn describe_client(ip: Option<IpAddr>, user_agent: Option<&str>) -> String {
    let ip = ip.map_or("an unknown address".to_owned(), |ip| ip.to_string());
    match user_agent {
        Some(user_agent) => format!("from {ip}, {user_agent:?}"),
        None => format!("from {ip}"),
    }
}
