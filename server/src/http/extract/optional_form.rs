//! A form that a request need not have.

use std::future::{Future, ready};
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::Form;
use actix_web::{FromRequest, HttpRequest};
use serde::de::DeserializeOwned;

use super::body_timeout::WithTimeout;

/// The form of a request; `None` if the request has no `Content-Type`, and so no form.
pub(in crate::http) struct OptionalForm<T>(pub(in crate::http) Option<T>);

impl<T: DeserializeOwned + 'static> FromRequest for OptionalForm<T> {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, actix_web::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        if !request.headers().contains_key(CONTENT_TYPE) {
            return Box::pin(ready(Ok(Self(None))));
        }
        let form = WithTimeout::<Form<T>>::from_request(request, payload);
        Box::pin(async move { form.await.map(|WithTimeout(form)| Self(Some(form.into_inner()))) })
    }
}
