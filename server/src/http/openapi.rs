//! The description of the API (`OpenAPI` 3.1), made from the handlers, and its page.
//!
//! Each handler declares its operation. A test compares the operations with the route table.

mod page;
mod text;

use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use matchbook_shared::{ErrorBody, InvalidGrantReason};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, RefOr, ResponseBuilder};

use super::oauth::{
    OAuthErrorBody, authorize, device, introspect, metadata, revoke, token, userinfo,
};
use super::public_document::{self, PublicDocument};
use super::resources::Endpoints;
use super::state::State;
use super::{
    account, accounts, backends, forward_auth, guests, health, links, pages, refresh, sessions,
    user,
};
use super::{pages::link_forms, well_known};
use crate::crypto::Digest;

const DESCRIPTION: &str = "\
A self-hosted token server: short-lived access tokens, and refresh tokens that each refresh \
replaces.

Tokens come as `token` (the access token, a JWT), `refreshToken` and `expiresIn` (seconds). Times \
are RFC 3339 in UTC. Errors are JSON: `error` is a stable code, `message` is for humans (`error_description` at the OAuth endpoints). A path \
rejects other methods with `405` and the header `Allow`. Each response has the headers \
`X-Request-Id`, which the log of the server has as well, and `Matchbook-Server: 1`.";

#[derive(OpenApi)]
#[openapi(
    info(title = "Matchbook", description = DESCRIPTION),
    servers((url = "./")),
    paths(
        guests::register,
        guests::token,
        accounts::register,
        links::confirm,
        links::accept,
        accounts::log_in,
        links::forgot,
        links::reset,
        account::read,
        account::change,
        account::delete,
        accounts::change_password,
        account::begin_totp,
        account::confirm_totp,
        account::delete_totp,
        refresh::refresh,
        user::user,
        sessions::list,
        sessions::revoke,
        sessions::revoke_all,
        sessions::logout,
        backends::open_session,
        authorize::authorize,
        authorize::authorize_by_post,
        token::token,
        device::authorize_device,
        revoke::revoke,
        introspect::introspect,
        metadata::metadata,
        metadata::metadata_of_path,
        metadata::openid_configuration,
        metadata::openid_configuration_of_path,
        userinfo::userinfo,
        userinfo::userinfo_by_post,
        forward_auth::forward_auth,
        forward_auth::log_in,
        pages::log_out::log_out,
        pages::log_out::log_out_by_post,
        well_known::jwks,
        health::live,
        health::ready,
        health::serving,
        link_forms::invitation,
        link_forms::accept_invitation,
        link_forms::verify,
        link_forms::verify_registration,
        link_forms::reset,
        link_forms::set_password,
        pages::login::login,
        pages::account::act,
        pages::consent::consent,
        pages::consent::decide,
        pages::device::device,
        pages::device::decide_device,
        pages::create_account::create_account,
        pages::create_account::new_account,
        pages::forgot_password::forgot_password,
        pages::forgot_password::send_reset_link,
        pages::stylesheet,
        pages::logo,
        openapi_json,
        page::docs,
        page::docs_stylesheet,
    ),
    components(schemas(ErrorBody, InvalidGrantReason, OAuthErrorBody)),
    tags(
        (name = "Guests", description = "Users without a name and a password."),
        (name = "Accounts", description = "Registration, login, and links that work once."),
        (name = "Account", description = "The account of the user: profile, password, second \
                                          factor."),
        (name = "Sessions", description = "A session is one login on one device."),
        (name = "Backends", description = "Applications that open sessions for users of their \
                                           own."),
        (name = "OAuth", description = "OAuth 2.1 and OpenID Connect, for any client."),
        (name = "Verification", description = "For servers that verify access tokens."),
        (name = "Health", description = "For load balancers and operators."),
        (name = "Pages", description = "Pages for browsers, which need no JavaScript."),
        (name = "Documentation", description = "This description."),
    ),
)]
struct Api;

/// Returns the description of the API, with its routes that differ in the method only.
fn describe(endpoints: &Endpoints) -> utoipa::openapi::OpenApi {
    let mut api = Api::openapi();
    env!("CARGO_PKG_VERSION").clone_into(&mut api.info.version);
    api.info.license = None;
    for (path, methods) in endpoints.paths() {
        let Some(item) = api.paths.paths.get_mut(&path) else { continue };
        if methods.contains(&"HEAD") {
            item.head = item.get.as_ref().map(head_of);
        }
        if methods.contains(&"OPTIONS") {
            item.options = item.get.as_ref().or(item.post.as_ref()).map(preflight_of);
        }
    }
    let components = api.components.get_or_insert_with(Components::new);
    components.add_security_scheme("bearer", bearer_scheme());
    components.add_security_scheme("backend", basic_scheme(BACKEND));
    components.add_security_scheme("client", basic_scheme(CLIENT));
    api
}

/// Returns the operation `HEAD` of a `GET`: its responses have no body.
fn head_of(get: &Operation) -> Operation {
    let mut head = get.clone();
    head.operation_id = get.operation_id.as_ref().map(|id| format!("{id}Head"));
    head.description = Some("Like `GET`, without a body.".to_owned());
    for response in head.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.content.clear();
        }
    }
    head
}

/// Returns the operation `OPTIONS` of an endpoint for pages of other origins.
fn preflight_of(operation: &Operation) -> Operation {
    let permitted = ResponseBuilder::new().description("What a page may send");
    let mut preflight = Operation::new();
    preflight.tags.clone_from(&operation.tags);
    let is_of_path = |parameter: &&RefOr<Parameter>| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Path);
    let of_path: Vec<_> =
        operation.parameters.iter().flatten().filter(is_of_path).cloned().collect();
    preflight.parameters = (!of_path.is_empty()).then_some(of_path);
    preflight.operation_id = operation.operation_id.as_ref().map(|id| format!("{id}Preflight"));
    preflight.summary = Some("Permits pages of other origins (CORS preflight).".to_owned());
    preflight.responses.responses.insert("204".to_owned(), permitted.build().into());
    preflight
}

fn bearer_scheme() -> SecurityScheme {
    let mut scheme = Http::new(HttpAuthScheme::Bearer);
    scheme.bearer_format = Some("JWT".to_owned());
    scheme.description = Some("The access token (RFC 6750 §2.1).".to_owned());
    SecurityScheme::Http(scheme)
}

const BACKEND: &str =
    "The id and the secret of a backend: `matchbook-server backends add` makes them.";
const CLIENT: &str = "The id and the secret of an OAuth client. A public client sends the form \
                      field `client_id` instead.";

fn basic_scheme(description: &str) -> SecurityScheme {
    let mut scheme = Http::new(HttpAuthScheme::Basic);
    scheme.description = Some(description.to_owned());
    SecurityScheme::Http(scheme)
}

/// Why the description cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error("cannot write the description of the API as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot render the page of the API: {0}")]
    Page(#[from] askama::Error),
}

/// The description of the API, rendered once.
pub struct ApiDescription {
    json: Rendered,
    page: Rendered,
}

struct Rendered {
    body: Bytes,
    etag: String,
}

impl From<String> for Rendered {
    fn from(body: String) -> Self {
        let digest = Digest::of(&[body.as_bytes()]);
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest.as_bytes()[..16]));
        Self { body: body.into(), etag }
    }
}

impl Rendered {
    fn document(&self, content_type: &'static str) -> PublicDocument {
        let Self { body, etag } = self;
        PublicDocument { content_type, body: body.clone(), etag: etag.clone(), max_age: MAX_AGE }
    }
}

/// How long the description may be cached. It changes with the version of the server only.
const MAX_AGE: Duration = Duration::from_secs(600);

impl ApiDescription {
    /// Renders the description of all routes of the server.
    pub fn render() -> Result<Self, RenderError> {
        let api = describe(&super::endpoints());
        let json = api.to_pretty_json()? + "\n";
        let page = page::render(&serde_json::to_value(&api)?)?;
        Ok(Self { json: json.into(), page: page.into() })
    }

    /// Returns the document.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.json.body
    }
}

/// Returns this description of the API.
///
/// Pages of any origin may read it (CORS).
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "Documentation",
    operation_id = "getDescription",
    params(("If-None-Match" = Option<String>, Header, description = "The cached version.")),
    responses(
        (
            status = 200,
            description = "An `OpenAPI` 3.1 document",
            body = Object,
            headers(
                ("ETag" = String, description = "The version of the document."),
                ("Cache-Control" = String, description = "How long to cache the document."),
            ),
        ),
        (status = 304, description = "The cached document is current"),
    )
)]
pub(super) async fn openapi_json(state: Data<State>, request: HttpRequest) -> HttpResponse {
    state.api.json.document("application/json").respond(&request)
}

/// Permits pages of any origin to read the description (CORS preflight).
pub(super) async fn openapi_preflight() -> HttpResponse {
    public_document::preflight()
}

pub(super) use page::{docs, docs_stylesheet};
