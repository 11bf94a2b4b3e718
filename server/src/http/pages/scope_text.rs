//! Scopes in words, for users.

use crate::tokens::Scope;

/// Describes what a scope permits. A scope of the operator's own APIs has no other words than
/// its name.
pub(super) fn scope_texts(scope: &Scope) -> Vec<String> {
    scope.tokens().map(scope_text).collect()
}

fn scope_text(token: &str) -> String {
    match token {
        "openid" => "Know who you are".to_owned(),
        "profile" => "See your name".to_owned(),
        "email" => "See your email address".to_owned(),
        "groups" => "See your groups".to_owned(),
        "forward_auth" => "Open protected applications as you".to_owned(),
        "offline_access" => "Keep this access while you do not use it".to_owned(),
        other => format!("Use “{other}”"),
    }
}
