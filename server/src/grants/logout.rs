//! Logouts that a client initiates (`OpenID` Connect RP-Initiated Logout 1.0).

use std::sync::Arc;

use super::{Error, Grants, RequestParameters};
use crate::clients::{Client, uri_matches};
use crate::ids::ClientId;
use crate::keys::IdTokenHint;

/// A valid logout request.
#[derive(Clone, Default)]
pub struct LogoutRequest {
    /// The session that the client knows, and its user. Without it, the user is asked.
    pub hint: Option<IdTokenHint>,
    /// `None`: the request names no client, or one that was removed.
    pub client: Option<Arc<Client>>,
    /// Where the browser goes afterwards: a URI that the client registered.
    pub redirect_uri: Option<String>,
    /// The value that the client gets back as it was.
    pub state: Option<String>,
}

/// Why a logout request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidLogoutRequest {
    RepeatedParameter,
    /// The ID token was not issued by this server, was modified, or is too old.
    InvalidHint,
    /// The ID token was issued to another client.
    HintOfOtherClient,
    UnknownClient,
    ForeignRedirectUri,
}

impl Grants {
    /// Parses the parameters of a logout request (§2). The redirect URI of a request without a
    /// client is ignored.
    pub async fn parse_logout_request(
        &self,
        pairs: Vec<(String, String)>,
    ) -> Result<Result<LogoutRequest, InvalidLogoutRequest>, Error> {
        let Ok(parameters) = RequestParameters::new(pairs) else {
            return Ok(Err(InvalidLogoutRequest::RepeatedParameter));
        };
        let hint = match parameters.get("id_token_hint") {
            None => None,
            Some(token) => match self.issuer.verify_id_token(token).await? {
                Some(hint) => Some(hint),
                None => return Ok(Err(InvalidLogoutRequest::InvalidHint)),
            },
        };
        let named = parameters.get("client_id");
        if let (Some(hint), Some(named)) = (&hint, named)
            && hint.client != named
        {
            return Ok(Err(InvalidLogoutRequest::HintOfOtherClient));
        }
        let client = match named.or(hint.as_ref().map(|hint| hint.client.as_str())) {
            None => return Ok(Ok(LogoutRequest::default())),
            Some(id) => self.clients.get(&ClientId::from(id)).await?,
        };
        // A client that was removed may still present its ID tokens.
        if client.is_none() && hint.is_none() {
            return Ok(Err(InvalidLogoutRequest::UnknownClient));
        }
        let redirect_uri = parameters.get("post_logout_redirect_uri").map(str::to_owned);
        if let Some(uri) = &redirect_uri
            && !client.as_ref().is_some_and(|client| permits(client, uri))
        {
            return Ok(Err(InvalidLogoutRequest::ForeignRedirectUri));
        }
        let state = parameters.get("state").map(str::to_owned);
        Ok(Ok(LogoutRequest { hint, client, redirect_uri, state }))
    }
}

/// Returns whether a client registered this URI for the way back after a logout.
fn permits(client: &Client, uri: &str) -> bool {
    client.logout.redirect_uris.iter().any(|registered| uri_matches(registered, uri))
}
