//! Refresh: rotates a session, reissues the last successor, or rejects the token.

use std::sync::Arc;

use diesel::QueryResult;

use super::end::end;
use super::{
    AccessGrant, Assessment, ClientInfo, Context, EndReason, EventKind, InvalidGrant, Presented,
    Rules, SessionExpiry, TokenGrant, assess,
};
use crate::clock::Timestamp;
use crate::crypto::{IdempotencyKey, TokenKeys};
use crate::ids::{EventId, UserId};
use crate::store::events::{self, Event};
use crate::store::sessions::{AccessRenewal, RotatedSession, RotationUpdate, Session};
use crate::store::{self, Conn};
use crate::tokens::{ExtraClaims, RefreshToken, RotationRandomness};

/// A refresh token whose tag is valid, and its request.
pub struct PresentedToken {
    pub token: RefreshToken,
    pub idempotency_key: Option<IdempotencyKey>,
    pub client: ClientInfo,
}

/// The outcome of a refresh.
pub enum RefreshOutcome {
    /// The session has a new current token.
    Rotated(TokenGrant),
    /// The token was rotated before, and gets the same successor again.
    Reissued(TokenGrant),
    Rejected {
        reason: InvalidGrant,
        /// The user of the session, if there is one.
        user: Option<UserId>,
        /// Whether the last rotation came from another address or device.
        elsewhere: bool,
    },
    /// The deadline passed before the session could be rotated. Nothing changed.
    TimedOut,
    /// Only the date of the rotation makes this look like reuse, and nothing has
    /// changed. The date of a rotation that was committed late is corrected a moment
    /// later.
    LooksLikeReuse,
}

/// A presented refresh token and its successor.
pub struct Refresh {
    presented: PresentedToken,
    successor: RefreshToken,
    event: EventId,
    /// The rotation, which a batch may carry out.
    pub update: Arc<RotationUpdate>,
}

impl Refresh {
    /// Derives the successor of the presented token.
    #[must_use]
    pub fn new(
        presented: PresentedToken,
        randomness: RotationRandomness,
        rules: Rules<'_>,
        now: Timestamp,
    ) -> Self {
        let Rules { policy, token_keys } = rules;
        let RotationRandomness { salt, access, event } = randomness;
        let token = &presented.token;
        let successor = RefreshToken {
            session: token.session,
            generation: token.generation.saturating_add(1),
            secret: token.secret.successor(&salt, &token_keys.current),
            client: token.client.clone(),
        };
        let key = policy.reissue.and(presented.idempotency_key.as_ref());
        let update = Arc::new(RotationUpdate {
            session: token.session,
            generation: token.generation,
            presented: token.secret.digest(),
            successor: successor.secret.digest(),
            salt: policy.reissue.map(|_| salt),
            idempotency_key_digest: key.map(|key| token.secret.idempotency_key_digest(key)),
            only_if_no_key_used: policy.same_key_only() && key.is_none(),
            access,
            access_expires_at: now.after(policy.access_lifetime),
            now,
            grace_from: now.before(policy.grace_period()),
            deadline: Timestamp::MAX,
            idle_expires_at: now.after(policy.idle_lifetime),
            user_agent: presented.client.user_agent.clone(),
            ip: presented.client.ip,
        });
        Self { presented, successor, event, update }
    }

    /// Sets the time after which no client waits for the rotation. It is not carried out
    /// later.
    #[must_use]
    pub fn until(mut self, deadline: Timestamp) -> Self {
        if let Some(update) = Arc::get_mut(&mut self.update) {
            update.deadline = deadline;
        }
        self
    }

    #[must_use]
    pub fn presented(&self) -> &PresentedToken {
        &self.presented
    }

    /// Returns the outcome of a rotation that changed a row.
    #[must_use]
    pub fn rotated(&self, row: RotatedSession, rules: Rules<'_>) -> RefreshOutcome {
        let RotationUpdate { session, access, now, idle_expires_at, .. } = *self.update;
        let lifetime = rules.policy.access_lifetime;
        RefreshOutcome::Rotated(TokenGrant {
            user: row.user,
            session,
            refresh_token: self.successor.encode(&rules.token_keys.current),
            access: AccessGrant::new(access, now, lifetime, row.expires_at),
            claims: row.claims.map(ExtraClaims::from_stored),
            grant: row.grant.of_client(self.successor.client.clone()),
            expiry: SessionExpiry { idle: idle_expires_at, absolute: row.expires_at },
        })
    }
}

/// How often a rotation is retried. Each retry means that a concurrent request changed
/// the row first.
const MAX_ATTEMPTS: usize = 16;

/// The treatment of a token that only the date of the last rotation makes look reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReuseByDate {
    /// Reports [`RefreshOutcome::LooksLikeReuse`] and changes nothing. The date may be
    /// corrected a moment later.
    Defer,
    /// Rejects the token: the date is final.
    Reject,
}

/// Handles a rotation that matched no row: rotates in a second attempt, reissues the
/// same successor, or rejects the token.
///
/// A rejection is an `Ok` value. The end of the session of a copied token has to be
/// committed, and an `Err` would roll it back.
pub fn resolve_conflict(
    conn: &mut Conn,
    refresh: &Refresh,
    rules: Rules<'_>,
    reuse_by_date: ReuseByDate,
) -> QueryResult<RefreshOutcome> {
    let mut conflict = Conflict { refresh, rules, reuse_by_date, was_current: false };
    for _ in 0..MAX_ATTEMPTS {
        if let Some(outcome) = conflict.try_resolve(conn)? {
            return Ok(outcome);
        }
    }
    Ok(RefreshOutcome::TimedOut)
}

/// A rotation that matched no row.
struct Conflict<'a> {
    refresh: &'a Refresh,
    rules: Rules<'a>,
    reuse_by_date: ReuseByDate,
    /// Whether the token was the current one in an earlier attempt.
    was_current: bool,
}

impl Conflict<'_> {
    /// Returns `None` if a concurrent request changed the row: read it again.
    fn try_resolve(&mut self, conn: &mut Conn) -> QueryResult<Option<RefreshOutcome>> {
        let Refresh { presented, update, .. } = self.refresh;
        let Some(mut session) = store::sessions::find(conn, update.session)? else {
            return self.reject(conn, InvalidGrant::Unknown, None).map(Some);
        };
        if self.was_current {
            session.rotated_after(update.now, presented.token.generation);
        }
        match self.assess(&session, update.now) {
            // The row is unchanged since the last attempt, so only the deadline can
            // have prevented the rotation.
            Assessment::Current if self.was_current => Ok(Some(RefreshOutcome::TimedOut)),
            Assessment::Current => {
                self.was_current = true;
                let row = store::sessions::rotate(conn, update)?;
                Ok(row.map(|row| self.refresh.rotated(row, self.rules)))
            }
            Assessment::AheadOfDatabase => {
                let row = store::sessions::rotate_from(conn, &session, update)?;
                Ok(row.map(|row| self.refresh.rotated(row, self.rules)))
            }
            Assessment::Reissue { .. } => self.reissue(conn, &session),
            Assessment::Rejected(InvalidGrant::Reuse)
                if self.reuse_by_date == ReuseByDate::Defer
                    && self.is_reuse_by_date_only(&session) =>
            {
                Ok(Some(RefreshOutcome::LooksLikeReuse))
            }
            Assessment::Rejected(reason) => self.reject(conn, reason, Some(&session)).map(Some),
        }
    }

    fn assess(&self, session: &Session, now: Timestamp) -> Assessment {
        let PresentedToken { token, idempotency_key, .. } = &self.refresh.presented;
        let presented = Presented { token, key: idempotency_key.as_ref().into() };
        assess(presented, session, self.rules.policy, now)
    }

    fn is_reuse_by_date_only(&self, session: &Session) -> bool {
        let Some(previous) = &session.previous else { return false };
        let then = self.assess(session, previous.rotated_at);
        matches!(then, Assessment::Reissue { .. })
    }

    /// Reissues the current refresh token to its predecessor, with a new access token if
    /// the last one has expired.
    fn reissue(&self, conn: &mut Conn, session: &Session) -> QueryResult<Option<RefreshOutcome>> {
        let Refresh { presented, update, .. } = self.refresh;
        let Some(refresh_token) = derive_again(&presented.token, session, self.rules.token_keys)
        else {
            // The secret that it was derived under is not configured any more.
            return self.reject(conn, InvalidGrant::Superseded, Some(session)).map(Some);
        };
        let Some(access) = self.reissued_access(conn, session)? else { return Ok(None) };
        if let Some(previous) = &session.previous
            && previous.rotated_at == update.now
        {
            // A rotation that was committed late may not have its date corrected yet.
            let rotation = (update.session, session.secret_digest.as_bytes());
            store::sessions::redate(conn, &[rotation], update.now)?;
        }
        self.record_reissue(conn, session)?;
        Ok(Some(RefreshOutcome::Reissued(TokenGrant {
            user: session.user,
            session: update.session,
            refresh_token,
            access,
            claims: session.claims.clone(),
            grant: session.grant.clone(),
            expiry: SessionExpiry { idle: session.idle_expires_at, absolute: session.expires_at },
        })))
    }

    /// Returns the access token of the last response, or a new one if it has expired.
    /// Returns `None` if a concurrent request changed the row.
    fn reissued_access(
        &self,
        conn: &mut Conn,
        session: &Session,
    ) -> QueryResult<Option<AccessGrant>> {
        let RotationUpdate { access, access_expires_at, now, .. } = *self.refresh.update;
        let lifetime = self.rules.policy.access_lifetime;
        // A revocation is remembered until `access_expires_at` of the row, also if the
        // lifetime has been made longer since.
        let not_after = session.expires_at.min(session.access_expires_at);
        let last = AccessGrant::new(session.access, session.access_issued_at, lifetime, not_after);
        if last.expires_at > now {
            return Ok(Some(last));
        }
        let renewal = AccessRenewal { access, expires_at: access_expires_at, now };
        if store::sessions::renew_access(conn, self.refresh.update.session, session, &renewal)? {
            Ok(Some(AccessGrant::new(access, now, lifetime, session.expires_at)))
        } else {
            Ok(None)
        }
    }

    /// Adds an entry to the audit log if the reissue is late or from another address.
    fn record_reissue(&self, conn: &mut Conn, session: &Session) -> QueryResult<()> {
        let Refresh { presented, update, .. } = self.refresh;
        let grace_period = self.rules.policy.grace_period();
        let is_late = session
            .previous
            .as_ref()
            .is_some_and(|previous| previous.rotated_at.after(grace_period) < update.now);
        let kind = if is_late {
            EventKind::Recovered
        } else if session.ip != presented.client.ip {
            EventKind::ReissuedElsewhere
        } else {
            return Ok(());
        };
        let event = Event {
            user: Some(session.user),
            generation: Some(presented.token.generation),
            ..self.context().event(kind, update.session)
        };
        events::count(conn, &event)
    }

    /// Rejects the token: ends the session of a copied one, and adds an entry to the
    /// audit log. The end and its entry are committed together.
    fn reject(
        &self,
        conn: &mut Conn,
        reason: InvalidGrant,
        session: Option<&Session>,
    ) -> QueryResult<RefreshOutcome> {
        let Refresh { presented, update, .. } = self.refresh;
        let user = session.map(|session| session.user);
        let elsewhere = session.is_some_and(|session| {
            session.ip != presented.client.ip || session.user_agent != presented.client.user_agent
        });
        let cx = self.context();
        conn.write(|conn| {
            let kind = match reason {
                InvalidGrant::Reuse
                    if end(conn, update.session, EndReason::Reuse, &cx)?.is_some() =>
                {
                    EventKind::ReuseDetected
                }
                InvalidGrant::Superseded if elsewhere => EventKind::SupersededElsewhere,
                _ => EventKind::RefreshRejected,
            };
            // Counts repeated events in one row, because any bearer of an old token can
            // cause them at will.
            let event = Event {
                reason: Some(reason.reason().as_str()),
                user,
                generation: Some(presented.token.generation),
                ..cx.event(kind, update.session)
            };
            events::count(conn, &event)
        })?;
        Ok(RefreshOutcome::Rejected { reason, user, elsewhere })
    }

    fn context(&self) -> Context<'_> {
        Context {
            policy: self.rules.policy,
            client: &self.refresh.presented.client,
            event: self.refresh.event,
            now: self.refresh.update.now,
        }
    }
}

/// Derives the current token from its predecessor and the stored salt. The tag is under
/// the same token key as before, so that the text is the same.
fn derive_again(
    presented: &RefreshToken,
    session: &Session,
    token_keys: &TokenKeys,
) -> Option<String> {
    let salt = session.previous.as_ref()?.successor_salt.as_ref()?;
    token_keys.all().find_map(|token_key| {
        let secret = presented.secret.successor(salt, token_key);
        if !secret.digest().matches(session.secret_digest.as_bytes()) {
            return None;
        }
        let RefreshToken { session: id, client, .. } = presented.clone();
        let generation = session.generation;
        let successor = RefreshToken { session: id, generation, secret, client };
        Some(successor.encode(token_key))
    })
}
