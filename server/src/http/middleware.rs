//! Middleware around each handler.

pub(super) mod request_log;
mod unread_body;

pub use request_log::request_log;
pub use unread_body::close_unread_bodies;
