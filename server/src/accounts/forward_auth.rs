//! The users of applications that a proxy protects (forward authentication).
//!
//! The cookie of the login session never leaves the server's own host, so these applications
//! have a cookie of their own. It names a login session, and is good for nothing but the
//! question of the proxy.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel::QueryResult;
use uuid::Uuid;

use super::{Accounts, Error, LoginSession};
use crate::clock;
use crate::crypto::TokenKeys;
use crate::ids::{LoginSessionId, UserId};
use crate::store::{Conn, accounts, identities, login_sessions, user_groups};

const ID_LEN: usize = 16;
const TAG_LEN: usize = 32;

/// The user of a request, for the headers that a proxy sends to an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedUser {
    pub user: UserId,
    /// A login name. It is not the display name, because users may choose that of another.
    pub name: Option<String>,
    /// The email address, if the user proved that it is theirs.
    pub email: Option<String>,
    pub groups: Vec<String>,
}

impl Accounts {
    /// Returns the cookie of a login session for protected applications: id ‖ tag.
    #[must_use]
    pub fn forward_auth_cookie(&self, login: &LoginSession) -> String {
        encode(login.id, &self.keys.forward_auth)
    }

    /// Returns the user of a cookie, and extends the idle lifetime of the login session. `None`:
    /// the login session has ended, or the account is disabled. A cookie that this server did not
    /// write causes no query.
    pub async fn user_of_forward_auth_cookie(
        &self,
        cookie: &str,
    ) -> Result<Option<ForwardedUser>, Error> {
        let Some(id) = parse(cookie, &self.keys.forward_auth) else { return Ok(None) };
        let now = clock::now();
        let find = move |conn: &mut Conn| {
            let Some(login) = login_sessions::find(conn, id, now)? else { return Ok(None) };
            Ok(read(conn, login.user)?.map(|user| (user, login.idle_expires_at)))
        };
        let Some((user, idle_expires_at)) = self.store.run(find).await? else { return Ok(None) };
        self.extend_login_session(id, idle_expires_at, now).await;
        Ok(Some(user))
    }

    /// Returns a user as an application gets it. `None`: the user has no account, or it is
    /// disabled. Guests are therefore not permitted, because every browser can become one.
    pub async fn forwarded_user(&self, user: UserId) -> Result<Option<ForwardedUser>, Error> {
        Ok(self.store.run(move |conn| read(conn, user)).await?)
    }
}

fn encode(id: LoginSessionId, keys: &TokenKeys) -> String {
    let id = id.0.as_bytes();
    let tag: [u8; TAG_LEN] = keys.current.tag(id);
    URL_SAFE_NO_PAD.encode([id.as_slice(), &tag].concat())
}

fn parse(cookie: &str, keys: &TokenKeys) -> Option<LoginSessionId> {
    let bytes: [u8; ID_LEN + TAG_LEN] = URL_SAFE_NO_PAD.decode(cookie).ok()?.try_into().ok()?;
    let (id, tag) = bytes.split_at(ID_LEN);
    let is_genuine = keys.all().any(|key| key.verifies::<TAG_LEN>(id, tag));
    is_genuine.then_some(LoginSessionId(Uuid::from_slice(id).ok()?))
}

fn read(conn: &mut Conn, user: UserId) -> QueryResult<Option<ForwardedUser>> {
    let account = accounts::find(conn, user)?.filter(|account| account.disabled_at.is_none());
    if account.is_none() {
        return Ok(None);
    }
    let names = identities::of_user(conn, user)?;
    let first_of = |kind: &str| names.iter().find(|name| name.kind == kind);
    let email = first_of("email");
    Ok(Some(ForwardedUser {
        user,
        name: first_of("username").or(email).map(|name| name.name.clone()),
        email: email.filter(|name| name.verified_at.is_some()).map(|name| name.name.clone()),
        groups: user_groups::of_user(conn, user)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::crypto::TokenKey;

    fn keys(current: u8, old: &[u8]) -> TokenKeys {
        let key = |byte| TokenKey::new(&[byte; 32]);
        TokenKeys { current: key(current), old: old.iter().map(|byte| key(*byte)).collect() }
    }

    #[test]
    fn only_cookies_of_this_server_name_a_login_session() {
        let id = || LoginSessionId::new(UserId::random(), Timestamp::from_secs(1_700_000_000));
        let (one, other) = (id().unwrap(), id().unwrap());
        let cookie = encode(one, &keys(1, &[]));
        assert_eq!(cookie.len(), 64);
        assert_eq!(parse(&cookie, &keys(1, &[])), Some(one));
        assert_eq!(parse(&cookie, &keys(2, &[1])), Some(one), "an old secret");
        assert_eq!(parse(&cookie, &keys(2, &[])), None);
        // The id of one login session with the tag of another.
        let mixed = format!("{}{}", &encode(other, &keys(1, &[]))[..20], &cookie[20..]);
        let untagged = URL_SAFE_NO_PAD.encode([one.0.as_bytes().as_slice(), &[0; 32]].concat());
        for text in ["", "é", &cookie[1..], &format!("{cookie}A"), &mixed, &untagged] {
            assert_eq!(parse(text, &keys(1, &[])), None, "{text}");
        }
    }
}
