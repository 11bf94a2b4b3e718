//! Extractors: how handlers read their requests.

pub(super) mod basic;
pub(super) mod bearer;
pub(super) mod body_timeout;
pub(super) mod client_auth;
pub(super) mod client_info;
pub(super) mod cookies;
pub(super) mod device_cookie;
pub(super) mod idempotency_key;
pub(super) mod login_session;
pub(super) mod optional_form;
