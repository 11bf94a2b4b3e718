//! The profile of an account, for `GET /user`.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Accounts;
use super::backends::SUBJECT_KIND;
use crate::ids::UserId;
use crate::store::{Conn, accounts, identities};

/// How long a profile is used without a query. Changes at this server take effect at once.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// How long a request waits for a profile. The access token is verified already, without the
/// database if Redis has it, so a database that does not respond should not delay the response.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long no profile is read after one could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// The number of cached profiles.
const CACHE_SIZE: usize = 16 * 1024;

/// What an account shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The display name, or else the login name.
    pub name: String,
    /// Whether the user proved that the email address is theirs.
    pub email_verified: bool,
}

/// The profiles of users that sent requests; `None` for a user without a name.
pub(super) struct Cache {
    profiles: quick_cache::sync::Cache<UserId, (Instant, Option<Profile>)>,
    /// When a profile could not be read last. A `std` lock: it is never held across an `await`.
    failed_at: Mutex<Option<Instant>>,
}

impl Cache {
    pub(super) fn new() -> Self {
        let profiles = quick_cache::sync::Cache::new(CACHE_SIZE);
        Self { profiles, failed_at: Mutex::default() }
    }

    /// Reads the profile again at the next request.
    pub(super) fn forget(&self, user: UserId) {
        self.profiles.remove(&user);
    }

    fn is_paused(&self) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|failed_at| failed_at.elapsed() < PAUSE)
    }

    fn pause(&self) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Accounts {
    /// Returns the profile of an account, or `None` for a user without a name. If the database is
    /// unavailable, returns the last one that was read.
    pub async fn profile(&self, user: UserId) -> Option<Profile> {
        let cached = self.profiles.profiles.get(&user);
        if let Some((read_at, profile)) = &cached
            && read_at.elapsed() < FRESH_FOR
        {
            return profile.clone();
        }
        let last = cached.and_then(|(_, profile)| profile);
        if self.profiles.is_paused() {
            return last;
        }
        let read_at = Instant::now();
        let read = self.store.run(move |conn| read(conn, user));
        if let Ok(Ok(profile)) = timeout(READ_TIMEOUT, read).await {
            self.profiles.profiles.insert(user, (read_at, profile.clone()));
            return profile;
        }
        tracing::debug!("profile not read");
        self.profiles.pause();
        last
    }
}

fn read(conn: &mut Conn, user: UserId) -> diesel::QueryResult<Option<Profile>> {
    let Some(account) = accounts::find(conn, user)? else { return Ok(None) };
    let names = identities::of_user(conn, user)?;
    let email_verified =
        names.iter().any(|name| name.kind == "email" && name.verified_at.is_some());
    let login_name = names.into_iter().find(|name| name.kind != SUBJECT_KIND).map(|it| it.name);
    let name = account.display_name.or(login_name);
    Ok(name.map(|name| Profile { name, email_verified }))
}
