//! The form of a request to an OAuth endpoint.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::web::Form;
use actix_web::{FromRequest, HttpRequest};

use super::OAuthError;
use crate::grants::RequestParameters;
use crate::http::error::Error;
use crate::http::extract::body_timeout::WithTimeout;

/// The parameters of a form, of which none is repeated.
pub(in crate::http) struct OAuthForm(pub(in crate::http) RequestParameters);

impl FromRequest for OAuthForm {
    type Error = OAuthError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, OAuthError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let form = WithTimeout::<Form<Vec<(String, String)>>>::from_request(request, payload);
        Box::pin(async move {
            let WithTimeout(Form(pairs)) = form.await.map_err(form_error)?;
            let parameters = RequestParameters::new(pairs);
            parameters.map(Self).map_err(|_| {
                OAuthError::InvalidRequest("A parameter is repeated: send each parameter once.")
            })
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of `map_err`")]
fn form_error(error: actix_web::Error) -> OAuthError {
    match error.as_error::<Error>() {
        Some(Error::PayloadTooLarge) => OAuthError::Form(Error::PayloadTooLarge),
        Some(Error::BodyTimeout) => OAuthError::Form(Error::BodyTimeout),
        Some(Error::InvalidRequest(message)) => OAuthError::InvalidRequest(message),
        _ => OAuthError::InvalidRequest("Send a form: application/x-www-form-urlencoded."),
    }
}
