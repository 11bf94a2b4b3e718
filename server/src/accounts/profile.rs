//! The profile of an account, for `GET /user`.

use std::time::{Duration, Instant};

use super::Accounts;
use super::backends::SUBJECT_KIND;
use crate::ids::UserId;
use crate::store::{Conn, accounts, identities};

/// How long a profile is used without a query. Changes at this server take effect at once.
const FRESH_FOR: Duration = Duration::from_secs(10);

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
pub(super) struct Cache(quick_cache::sync::Cache<UserId, (Instant, Option<Profile>)>);

impl Cache {
    pub(super) fn new() -> Self {
        Self(quick_cache::sync::Cache::new(CACHE_SIZE))
    }

    /// Reads the profile again at the next request.
    pub(super) fn forget(&self, user: UserId) {
        self.0.remove(&user);
    }
}

impl Accounts {
    /// Returns the profile of an account, or `None` for a user without a name. If the database is
    /// unavailable, returns the last one that was read.
    pub async fn profile(&self, user: UserId) -> Option<Profile> {
        let cached = self.profiles.0.get(&user);
        if let Some((read_at, profile)) = &cached
            && read_at.elapsed() < FRESH_FOR
        {
            return profile.clone();
        }
        let read_at = Instant::now();
        match self.store.run(move |conn| read(conn, user)).await {
            Ok(profile) => {
                self.profiles.0.insert(user, (read_at, profile.clone()));
                profile
            }
            Err(error) => {
                tracing::debug!(%error, "profile not read");
                cached.and_then(|(_, profile)| profile)
            }
        }
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
