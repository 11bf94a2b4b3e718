//! Extractors: how handlers read their requests.

pub(super) mod bearer;
pub(super) mod body_timeout;
