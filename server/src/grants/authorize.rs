//! The decision about an authorization request.

use diesel::Connection;

use super::progress::{self, Progress};
use super::request::{self, RequestContext, RequestParameters};
use super::{
    AuthorizationError, AuthorizationRequest, Error, Grants, InvalidRequest, RejectedRequest,
};
use crate::accounts::LoginSession;
use crate::clock;
use crate::issuer::NewCode;
use crate::store::authorization_codes::{self, CodeGrant};
use crate::store::{Conn, consents, login_sessions};

/// What happens with a request next.
pub enum Decision {
    /// The user logs in, and the request is made again with these parameters.
    LogIn(RequestParameters),
    /// The user is asked for consent, and the request is made again.
    AskConsent(RequestParameters),
    /// The client gets a code.
    Code(String),
    /// The client gets an error.
    Reject(AuthorizationError),
}

impl Grants {
    /// Parses an authorization request.
    pub async fn parse_request(
        &self,
        pairs: Vec<(String, String)>,
    ) -> Result<Result<AuthorizationRequest, RejectedRequest>, Error> {
        let parameters = RequestParameters::new(pairs);
        let id = match request::client_id(&parameters) {
            Ok(id) => id,
            Err(invalid) => return Ok(Err(RejectedRequest::Page(invalid))),
        };
        let Some(client) = self.clients.get(&id).await? else {
            return Ok(Err(RejectedRequest::Page(InvalidRequest::UnknownClient)));
        };
        let cx = RequestContext {
            client,
            default_audience: &self.audience,
            progress_keys: &self.progress_keys,
            now: clock::now(),
        };
        Ok(request::parse(parameters, cx))
    }

    /// Returns whether the client expects this user, as far as it says so (`id_token_hint`).
    async fn is_expected(
        &self,
        request: &AuthorizationRequest,
        login: &LoginSession,
    ) -> Result<bool, Error> {
        let Some(hint) = &request.id_token_hint else { return Ok(true) };
        let hint = self.issuer.verify_id_token(hint).await?;
        // Its key may no longer be published: then only the user can tell.
        Ok(hint.map_or(!request.prompt.none, |hint| hint.user == login.user))
    }

    /// Decides what happens with a request of a browser, which may be logged in.
    /// `parameters` are those of the request.
    pub async fn authorize(
        &self,
        request: &AuthorizationRequest,
        parameters: &RequestParameters,
        login: Option<LoginSession>,
    ) -> Result<Decision, Error> {
        let now = clock::now();
        let again = || {
            let progress = Progress::new(now).encode(parameters, &self.progress_keys);
            parameters.with(progress::PARAMETER, progress)
        };
        let ask_login = || {
            if request.prompt.none {
                Decision::Reject(AuthorizationError::LOGIN_REQUIRED)
            } else {
                Decision::LogIn(again())
            }
        };
        let Some(login) = login else { return Ok(ask_login()) };
        let is_met = |time| request.progress.is_some_and(|asked| asked.is_met_by(time));
        let is_too_old =
            request.max_age.is_some_and(|max_age| login.auth_time.after(max_age) < now);
        if (request.prompt.login || is_too_old) && !is_met(login.auth_time) {
            return Ok(ask_login());
        }
        if !self.is_expected(request, &login).await? {
            // A user that has logged in again is not asked a third time.
            let reject = Decision::Reject(AuthorizationError::LOGIN_REQUIRED);
            return Ok(if is_met(login.auth_time) { reject } else { ask_login() });
        }
        if self.has_consent(request, &login).await? {
            let code = self.issue_code(request, &login).await?;
            return Ok(code.map_or_else(ask_login, Decision::Code));
        }
        if request.prompt.none {
            return Ok(Decision::Reject(AuthorizationError::CONSENT_REQUIRED));
        }
        // The next consent is the one that `prompt=consent` demands.
        let has_begun = request.progress.is_some();
        Ok(Decision::AskConsent(if has_begun { parameters.clone() } else { again() }))
    }

    /// Returns whether the user need not be asked for consent.
    async fn has_consent(
        &self,
        request: &AuthorizationRequest,
        login: &LoginSession,
    ) -> Result<bool, Error> {
        if !needs_consent(request) {
            return Ok(true);
        }
        let (user, client) = (login.user, request.client.id.clone());
        let find = move |conn: &mut Conn| consents::find(conn, user, &client);
        let Some(consent) = self.store.run(find).await? else { return Ok(false) };
        let is_demanded = request.prompt.consent
            && !request.progress.is_some_and(|asked| asked.is_met_by(consent.granted_at));
        Ok(!is_demanded && request.scope.is_within(&consent.scope))
    }

    /// Returns `None` if the login session or the consent has ended meanwhile: their ends also
    /// end their codes.
    async fn issue_code(
        &self,
        request: &AuthorizationRequest,
        login: &LoginSession,
    ) -> Result<Option<String>, Error> {
        let now = clock::now();
        let NewCode { session, secret, text } =
            self.issuer.new_code(login.user, &request.client.id)?;
        let grant = CodeGrant {
            client: request.client.id.clone(),
            user: login.user,
            redirect_uri: request.target.redirect_uri.clone(),
            code_challenge: request.code_challenge.clone(),
            scope: request.scope.clone(),
            audiences: request.audiences.clone(),
            nonce: request.nonce.clone(),
            auth_time: login.auth_time,
            login_session: Some(login.id),
            expires_at: now.after(self.options.code_lifetime),
        };
        let login_session = login.id;
        let needs_consent = needs_consent(request);
        let insert = move |conn: &mut Conn| {
            conn.transaction(|conn| {
                if !login_sessions::lock(conn, login_session)? {
                    return Ok(false);
                }
                if needs_consent && !consents::lock(conn, grant.user, &grant.client)? {
                    return Ok(false);
                }
                authorization_codes::insert(conn, session, &secret.digest(), &grant, now)?;
                Ok(true)
            })
        };
        if !self.store.write(insert).await? {
            return Ok(None);
        }
        tracing::info!(user = %login.user, client = %request.client.id, "authorization code issued");
        Ok(Some(text))
    }
}

/// Returns whether the client gets a code only with a consent of the user.
fn needs_consent(request: &AuthorizationRequest) -> bool {
    !request.client.is_first_party || request.prompt.consent
}
