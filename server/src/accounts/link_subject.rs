//! What a link is about.

use super::links::LinkToken;
use super::{Accounts, Error};
use crate::clock;
use crate::crypto::Digest;
use crate::store::one_time_links::{self, Link, Purpose};
use crate::store::{Conn, identities};

/// What the form of a link shows.
pub struct LinkSubject {
    /// The login name, if the link has one.
    pub name: Option<String>,
}

impl Accounts {
    /// Returns what a link is about, or `None` if it cannot be used. Does not use it.
    pub async fn link_subject(
        &self,
        token: &LinkToken,
        purpose: Purpose,
    ) -> Result<Option<LinkSubject>, Error> {
        let digest = token.digest();
        let Some(Link { user, name, .. }) = self.find_link(digest, purpose).await? else {
            return Ok(None);
        };
        if name.is_some() || purpose != Purpose::Reset {
            return Ok(Some(LinkSubject { name }));
        }
        let names = self.store.run(move |conn| identities::of_user(conn, user)).await?;
        let name = names.into_iter().next().map(|identity| identity.name);
        Ok(Some(LinkSubject { name }))
    }

    /// Returns a link that can be used. Does not use it.
    pub(super) async fn find_link(
        &self,
        digest: Digest,
        purpose: Purpose,
    ) -> Result<Option<Link>, Error> {
        let now = clock::now();
        let find = move |conn: &mut Conn| one_time_links::find(conn, &digest, purpose, now);
        Ok(self.store.run(find).await?)
    }
}
