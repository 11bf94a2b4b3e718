//! A timeout for request bodies.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};

use crate::http::error::Error;

/// How long a body may take to arrive. Each valid one fits into one packet.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Adds a timeout to `T`, against slow-body (slowloris) attacks.
pub(in crate::http) struct WithTimeout<T>(pub(in crate::http) T);

impl<T: FromRequest + 'static> FromRequest for WithTimeout<T> {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, actix_web::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let read = T::from_request(request, payload);
        Box::pin(async move {
            match tokio::time::timeout(BODY_TIMEOUT, read).await {
                Ok(read) => read.map(Self).map_err(Into::into),
                Err(_) => Err(Error::BodyTimeout.into()),
            }
        })
    }
}
