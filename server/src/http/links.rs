//! Links that work once: the endpoints that take their tokens.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Data, Json};
use matchbook_shared::{AcceptInvitationRequest, RegisteredUser};

use super::accounts::required;
use super::error::Error;
use super::extract::body_timeout::WithTimeout;
use super::state::State;
use crate::accounts::{AcceptInvitation, LinkToken, LoginName};
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// `POST /invitations/accept`: creates the account of an invitation.
pub(super) async fn accept(
    state: Data<State>,
    WithTimeout(body): WithTimeout<Json<AcceptInvitationRequest>>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    state.check_limit(client.ip.map(Limit::Login))?;
    let AcceptInvitationRequest { token, name, password } = body.into_inner();
    let token = LinkToken::parse(&required(token, "Send the field `token`.")?);
    let name = name.as_deref().map(LoginName::parse).transpose()?;
    let password = required(password, "Send the field `password`.")?.into();
    let accept = AcceptInvitation { token, name, password, client };
    let user = state.accounts.accept_invitation(accept).await?;
    Ok(HttpResponse::build(StatusCode::CREATED).json(RegisteredUser { user_id: user.0 }))
}
