//! The errors of each operation, for the `OpenAPI` document. Status, code, message and
//! headers are those of the [`Error`] itself.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use actix_web::http::StatusCode;
use utoipa::IntoResponses;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder, Schema};

use super::{Error, failure_parts};
use crate::accounts::{
    ChangePasswordError, DeleteError, ForwardedUser, InvalidDisplayName, InvalidName, LinkError,
    LogInError, OpenSessionError, OwnAccountError, ProofError, RegisterError, Registration,
    SecondFactorError, Unacceptable,
};
use crate::http::extract::basic::BasicCredentials;
use crate::http::extract::bearer::{Bearer, UserBearer};
use crate::issuer::{ErrorKind, RefreshError};
use crate::sessions::GuestRejection;

/// A type whose errors an operation can have: an extractor, or the error of a use case.
pub(in crate::http) trait Documented {
    fn errors() -> Vec<Error>;
}

/// A rate limit.
pub(in crate::http) struct Limited;

/// A form or a JSON body.
pub(in crate::http) struct RequestBody;

/// A query, a header or a part of the path.
pub(in crate::http) struct Parameters;

/// The registration of a guest.
pub(in crate::http) struct NewGuest;

/// A path of which a part is unknown.
pub(in crate::http) struct UnknownPath;

/// The id of a session of the user.
pub(in crate::http) struct OwnSession;

/// Implements [`Documented`]: the errors of a type, then the types whose errors it has, too.
macro_rules! documented {
    ($($type:ty: [$($error:expr),*] $(+ $other:ident)*;)*) => {$(
        impl Documented for $type {
            fn errors() -> Vec<Error> {
                let own = vec![$($error),*];
                own.into_iter()$(.chain(<$other>::errors()))*.collect()
            }
        }
    )*};
}

const MALFORMED: Error =
    Error::InvalidRequest("The request is malformed: the message says what to send.");

documented! {
    Limited: [Error::RateLimited(Duration::from_secs(1))];
    Parameters: [MALFORMED];
    RequestBody: [MALFORMED, Error::BodyTimeout, Error::PayloadTooLarge];
    UserBearer: [
        Error::InvalidBearer("Send the access token once, in the Authorization header."),
        Error::MissingToken,
        Error::INVALID_ACCESS_TOKEN,
        Error::InsufficientScope
    ];
    Bearer: [] + UserBearer;
    BasicCredentials: [Error::InvalidClient];
    NewGuest: [Error::NoGuests];
    GuestRejection: [Error::UserNotFound, Error::AlreadyActive, Error::GuestIdUsed];
    RefreshError: [Error::InvalidGrant(None)];
    UnknownPath: [Error::NotFound];
    OwnSession: [Error::SessionNotFound];
    ForwardedUser: [Error::NotInGroup];
    InvalidName: [Error::InvalidName];
    InvalidDisplayName: [MALFORMED];
    Unacceptable: [Error::UnacceptablePassword(
        "The password is too short, too long or easy to guess.".to_owned()
    )];
    RegisterError: [
        Error::RegistrationClosed(Registration::Invite),
        Error::NameTaken,
        Error::AlreadyAccount
    ] + InvalidName + Unacceptable;
    LinkError: [MALFORMED, Error::InvalidLink, Error::NameTaken, Error::AlreadyAccount]
        + Unacceptable;
    LogInError: [Error::InvalidCredentials, Error::SecondFactorRequired, Error::UserDisabled]
        + Limited;
    OpenSessionError: [Error::InvalidClient, MALFORMED, Error::UserDisabled];
    ChangePasswordError: [Error::NoPassword, Error::InvalidCredentials] + Unacceptable + Limited;
    OwnAccountError: [Error::NoAccount];
    ProofError: [Error::NoAccount, Error::NoPassword, Error::InvalidCredentials] + Limited;
    DeleteError: [Error::SecondFactorRequired] + ProofError;
    SecondFactorError: [Error::SecondFactorOn, Error::SecondFactorOff, Error::InvalidCode]
        + ProofError;
}

impl Documented for () {
    fn errors() -> Vec<Error> {
        Vec::new()
    }
}

/// Implements [`Documented`] for tuples.
macro_rules! documented_tuples {
    ($(($($part:ident),+))*) => {$(
        impl<$($part: Documented),+> Documented for ($($part,)+) {
            fn errors() -> Vec<Error> {
                [$($part::errors()),+].into_iter().flatten().collect()
            }
        }
    )*};
}

documented_tuples! { (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) }

/// The error responses of an operation with JSON: those of `T`, and failures of the server.
pub(in crate::http) struct Errors<T>(PhantomData<T>);

/// The error responses of a page: JSON for `Json`, which is checked before the page is
/// rendered, and pages for the other errors.
pub(in crate::http) struct PageErrors<Json, Html>(PhantomData<(Json, Html)>);

impl<T: Documented> IntoResponses for Errors<T> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut all = Responses::default();
        all.add_all(T::errors(), Format::Json);
        all.add_failures(Format::Json);
        all.build()
    }
}

impl<Json: Documented, Html: Documented> IntoResponses for PageErrors<Json, Html> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut all = Responses::default();
        all.add_all(Json::errors(), Format::Json);
        all.add_all(Html::errors(), Format::Html);
        all.add_failures(Format::Html);
        all.build()
    }
}

/// The format of an error response.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::http) enum Format {
    Json,
    /// The JSON of an OAuth endpoint.
    OAuth,
    Html,
}

impl Format {
    fn content(self) -> (&'static str, Content) {
        match self {
            Self::Json => {
                ("application/json", Content::new(Some(Ref::from_schema_name("ErrorBody"))))
            }
            Self::OAuth => {
                ("application/json", Content::new(Some(Ref::from_schema_name("OAuthErrorBody"))))
            }
            Self::Html => {
                let page: Schema = ObjectBuilder::new().schema_type(Type::String).build().into();
                ("text/html", Content::new(Some(page)))
            }
        }
    }
}

/// The errors of one status.
#[derive(Default)]
struct Group {
    /// Codes and messages, each code once.
    errors: Vec<(&'static str, String)>,
    formats: Vec<Format>,
    headers: BTreeMap<&'static str, &'static str>,
}

/// The errors of an operation by status.
#[derive(Default)]
pub(in crate::http) struct Responses(BTreeMap<StatusCode, Group>);

impl Responses {
    fn add_all(&mut self, errors: Vec<Error>, format: Format) {
        for error in errors {
            let (status, code, message) = error.parts();
            self.add(status, code, message, format);
            for (name, _) in error.headers() {
                self.add_header(status, name.as_str());
            }
        }
    }

    /// Adds the failures that every operation with a database has.
    fn add_failures(&mut self, format: Format) {
        let (status, code, message) = failure_parts(ErrorKind::Internal);
        self.add(status, code, message, format);
        let (status, code, _) = failure_parts(ErrorKind::DatabaseUnavailable);
        let message = "The database cannot be reached, or the server is too busy. Send the same \
                       request again.";
        self.add(status, code, message, format);
        self.add_header(status, "retry-after");
    }

    /// Documents a header of a status.
    pub(in crate::http) fn add_header(&mut self, status: StatusCode, name: &str) {
        let headers = &mut self.0.entry(status).or_default().headers;
        headers.extend(header_description(name));
    }

    pub(in crate::http) fn add(
        &mut self,
        status: StatusCode,
        code: &'static str,
        message: &str,
        format: Format,
    ) {
        let group = self.0.entry(status).or_default();
        if !group.errors.iter().any(|(known, _)| *known == code) {
            group.errors.push((code, message.to_owned()));
        }
        if !group.formats.contains(&format) {
            group.formats.push(format);
        }
    }

    pub(in crate::http) fn build(self) -> BTreeMap<String, RefOr<Response>> {
        let groups = self.0.into_iter();
        groups.map(|(status, group)| (status.as_str().to_owned(), group.build().into())).collect()
    }
}

impl Group {
    fn build(self) -> Response {
        let lines: Vec<String> =
            self.errors.iter().map(|(code, message)| format!("`{code}`: {message}")).collect();
        let mut response = ResponseBuilder::new().description(lines.join("\n\n"));
        for (name, description) in self.headers {
            let header = HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
                .description(Some(description));
            response = response.header(name, header.build());
        }
        for format in self.formats {
            let (media_type, content) = format.content();
            response = response.content(media_type, content);
        }
        response.build()
    }
}

/// Returns the documented name and the description of a header of an error.
fn header_description(name: &str) -> Option<(&'static str, &'static str)> {
    match name {
        "retry-after" => Some(("Retry-After", "When to send the request again, in seconds.")),
        "www-authenticate" => Some(("WWW-Authenticate", "The challenge (RFC 9110 §11.6.1).")),
        _ => None,
    }
}
