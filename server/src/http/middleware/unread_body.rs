//! Bodies that nobody reads to their end.

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

/// How long a body in chunks is kept after the answer; longer than it takes to
/// send one.
const KEPT: Duration = Duration::from_secs(2);

/// Closes the connection of whoever sends a body in chunks that has not ended when
/// the answer goes out. actix reads on for ever where such a body was dropped, and
/// does close the connection where it was not: so it is kept for a moment.
///
/// # Errors
/// Those of the request.
pub async fn close_unread_bodies(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return next.call(request).await;
    }
    let body = Rc::new(RefCell::new(request.take_payload()));
    let read: Pin<Box<dyn Stream<Item = _>>> = Box::pin(Shared(body.clone()));
    request.set_payload(Payload::from(read));
    let answer = next.call(request).await;
    actix_web::rt::spawn(async move {
        tokio::time::sleep(KEPT).await;
        drop(body);
    });
    answer
}

/// A body that somebody else keeps as well.
struct Shared(Rc<RefCell<Payload>>);

impl Stream for Shared {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(context)
    }
}
