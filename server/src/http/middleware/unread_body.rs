//! Chunked request bodies that no handler reads to their end.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::TRANSFER_ENCODING;
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage};
use futures_util::Stream;

/// How long a chunked body is kept after the response: longer than it takes to send
/// one.
const LINGER: Duration = Duration::from_secs(2);

/// Closes the connection if its chunked request body has not ended when the response is
/// sent. actix keeps reading a body that was dropped, but closes the connection of a
/// body that is held. This function therefore holds the body for `LINGER`.
pub async fn close_unread_bodies(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return next.call(request).await;
    }
    let body = Rc::new(RefCell::new(request.take_payload()));
    let stream: Pin<Box<dyn Stream<Item = _>>> = Box::pin(SharedPayload(body.clone()));
    request.set_payload(Payload::from(stream));
    let response = next.call(request).await;
    actix_web::rt::spawn(async move {
        tokio::time::sleep(LINGER).await;
        drop(body);
    });
    response
}

/// A request body with two owners.
struct SharedPayload(Rc<RefCell<Payload>>);

impl Stream for SharedPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(context)
    }
}
