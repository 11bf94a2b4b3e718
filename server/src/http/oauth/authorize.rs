//! `GET` and `POST /oauth/authorize` (RFC 6749 §3.1).

use actix_web::http::StatusCode;
use actix_web::web::{Data, Form, Query};

use super::documented::AuthorizationParameters;
use super::redirect::{continue_at, encode, respond};
use crate::grants::{
    AuthorizationError, AuthorizationRequest, Decision, InvalidRequest, RejectedRequest,
    RequestParameters,
};
use crate::http::error::{Error, PageErrors, Parameters, RequestBody};
use crate::http::extract::body_timeout::WithTimeout;
use crate::http::extract::login_session::OptionalLogin;
use crate::http::pages::Page;
use crate::http::state::State;

type Pairs = Vec<(String, String)>;

/// The longest query to which a request by `POST` is redirected, in bytes.
const MAX_QUERY_LEN: usize = 8 * 1024;

/// Responds to an authorization request.
///
/// By a redirect with a code, with an error, or with a page on which the user logs in or consents first.
#[utoipa::path(
    get,
    path = "/oauth/authorize",
    tag = "OAuth",
    operation_id = "authorize",
    params(AuthorizationParameters),
    responses(
        (status = 200, description = "A form for the client", body = String, content_type = "text/html"),
        (
            status = 303,
            description = "A redirect to the client, or to a page for the user",
            headers(("Location" = String, description = "The redirect URI of the client, or a page.")),
        ),
        PageErrors<Parameters, Parameters>,
    )
)]
pub(in crate::http) async fn authorize(
    state: Data<State>,
    query: Query<Pairs>,
    login: Result<OptionalLogin, Error>,
) -> Page {
    let pairs = query.into_inner();
    let request = match parse(&state, pairs.clone()).await {
        Ok(request) => request,
        Err(response) => return response,
    };
    // `parse` rejects repeated parameters.
    let parameters = RequestParameters::new(pairs).unwrap_or_default();
    let login = match login {
        Ok(login) => login.session,
        Err(error) => return unavailable(&state, &request, &error),
    };
    match state.grants.authorize(&request, &parameters, login).await {
        Ok(Decision::LogIn(parameters)) => continue_at("../login", &parameters),
        Ok(Decision::AskConsent(parameters)) => continue_at("../consent", &parameters),
        Ok(Decision::Code(code)) => respond(&request.target, state.issuer.name(), Ok(&code)),
        Ok(Decision::Reject(error)) => reject_request(&state, &request, error),
        Err(error) => unavailable(&state, &request, &Error::Failed(error)),
    }
}

/// Responds to an authorization request in a form.
///
/// Browsers do not send the cookie of the login with a form of another site, but with the redirect
/// that follows it.
#[utoipa::path(
    post,
    path = "/oauth/authorize",
    tag = "OAuth",
    operation_id = "authorizeByForm",
    request_body(
        content = AuthorizationParameters,
        content_type = "application/x-www-form-urlencoded",
    ),
    responses(
        (
            status = 303,
            description = "A redirect to the same request by `GET`",
            headers(("Location" = String, description = "The URL with the parameters.")),
        ),
        PageErrors<RequestBody, RequestBody>,
    )
)]
pub(in crate::http) async fn authorize_by_post(
    WithTimeout(form): WithTimeout<Form<Pairs>>,
) -> Page {
    let query = encode(form.into_inner().iter());
    if query.len() > MAX_QUERY_LEN {
        return Error::PayloadTooLarge.into();
    }
    Page::redirect(&format!("authorize?{query}"))
}

/// Parses the parameters of a request. The error is the response.
pub(in crate::http) async fn parse(
    state: &State,
    pairs: Pairs,
) -> Result<AuthorizationRequest, Page> {
    match state.grants.parse_request(pairs).await {
        Ok(Ok(request)) => Ok(request),
        Ok(Err(RejectedRequest::Page(problem))) => Err(problem_page(problem)),
        Ok(Err(RejectedRequest::Redirect { target, error })) => {
            tracing::info!(error = error.code, "authorization request rejected");
            Err(respond(&target, state.issuer.name(), Err(error)))
        }
        Err(error) => Err(Error::Failed(error).into()),
    }
}

/// Sends an error to the client of a request.
pub(in crate::http) fn reject_request(
    state: &State,
    request: &AuthorizationRequest,
    error: AuthorizationError,
) -> Page {
    tracing::info!(client = %request.client.id, error = error.code, "authorization request rejected");
    respond(&request.target, state.issuer.name(), Err(error))
}

fn unavailable(state: &State, request: &AuthorizationRequest, error: &Error) -> Page {
    error.log();
    respond(&request.target, state.issuer.name(), Err(AuthorizationError::UNAVAILABLE))
}

/// Returns the page for a request that has no valid redirect URI.
fn problem_page(problem: InvalidRequest) -> Page {
    let text = match problem {
        InvalidRequest::NoClient => "The application sent no client_id.",
        InvalidRequest::UnknownClient => "The application is not registered here.",
        InvalidRequest::NoRedirectUri => "The application sent no redirect_uri.",
        InvalidRequest::ForeignRedirectUri => {
            "The application sent a redirect_uri that it has not registered."
        }
        InvalidRequest::RepeatedParameter => "The application sent a parameter twice.",
        InvalidRequest::UnreadableState => "The application sent a state that is not UTF-8.",
    };
    tracing::info!(?problem, "authorization request rejected");
    let title = "This application cannot log you in";
    Page::message(StatusCode::BAD_REQUEST, title, text)
}
