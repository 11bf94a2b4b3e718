//! The removal of a client.

use std::thread;
use std::time::Duration;

use diesel::QueryResult;

use super::registry::FRESH_FOR;
use crate::ids::ClientId;
use crate::sessions::{Context, end_selected};
use crate::store::sessions::Selection;
use crate::store::{Conn, clients};

/// The time after which no request uses the removed client from a cache.
const CACHED_FOR: Duration = FRESH_FOR.saturating_add(Duration::from_secs(1));

/// The result of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Whether the client existed.
    pub existed: bool,
    /// How many of its sessions ended.
    pub ended: usize,
}

/// Removes a client with its codes and the consents of users, and ends all its sessions. When
/// this returns, no server that reaches the database accepts its tokens; the caller waits for
/// the others. Blocks for some seconds. Can be run again after a failure.
///
/// Servers use a cached client for two seconds, and may open sessions for it. Therefore codes
/// and sessions are removed again after that time.
pub fn remove(conn: &mut Conn, id: &ClientId, cx: &Context<'_>) -> QueryResult<Removed> {
    let first = remove_once(conn, id, cx)?;
    if !first.existed && first.ended == 0 {
        return Ok(first);
    }
    thread::sleep(CACHED_FOR);
    let cx = Context { event: cx.event.offset(first.ended as u128), ..*cx };
    let late = remove_once(conn, id, &cx)?;
    if late.ended > 0 {
        thread::sleep(CACHED_FOR);
    }
    Ok(Removed { existed: first.existed, ended: first.ended + late.ended })
}

fn remove_once(conn: &mut Conn, id: &ClientId, cx: &Context<'_>) -> QueryResult<Removed> {
    // First: a code that a concurrent request exchanges is locked, so its session is found.
    let existed = conn.write(|conn| clients::delete(conn, id))?;
    let selection = Selection { client: Some(id.clone()), ..Selection::default() };
    Ok(Removed { existed, ended: end_selected(conn, &selection, cx)? })
}
