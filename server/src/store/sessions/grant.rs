//! The columns of a session that an OAuth client opened.

use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};

use crate::clock::Timestamp;
use crate::ids::ClientId;
use crate::store::types::sql::SqlTimestamp;
use crate::tokens::{ClientGrant, Scope};

/// The columns of a grant, without its client.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct StoredGrant {
    scope: Option<String>,
    /// A JSON array.
    audiences: Option<String>,
    auth_time: Option<Timestamp>,
}

/// The types of the columns of [`StoredGrant`].
pub(super) type StoredGrantColumns = (Nullable<Text>, Nullable<Text>, Nullable<SqlTimestamp>);

impl StoredGrant {
    /// The columns of a session that no OAuth client opened.
    pub const NATIVE: Self = Self { scope: None, audiences: None, auth_time: None };

    /// Returns the grant of a client; `None` for a session of the native endpoints.
    #[must_use]
    pub fn of_client(self, client: Option<ClientId>) -> Option<ClientGrant> {
        Some(ClientGrant {
            client: client?,
            scope: Scope::from_stored(self.scope.as_deref().unwrap_or_default()),
            audiences: self.audiences.as_deref().map(decode_list).unwrap_or_default(),
            auth_time: self.auth_time,
        })
    }
}

/// Encodes a list as a JSON array; `None` for an empty one.
pub(in crate::store) fn encode_list(list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| serde_json::Value::from(list.to_vec()).to_string())
}

/// Decodes a list that [`encode_list`] encoded.
pub(in crate::store) fn decode_list(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_default()
}
