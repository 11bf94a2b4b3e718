//! The entries of the audit log about accounts.

/// The kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountEvent {
    Registered,
    /// The account was imported from another server.
    Imported,
    /// A login was rejected; the reason says why.
    LoginRejected,
    /// A browser logged in at the pages of the server.
    BrowserLoggedIn,
    BrowserLoggedOut,
    PasswordChanged,
    /// A registration waits for the verification of its email address.
    RegistrationStarted,
    /// An invitation was created, for the user that it will create.
    Invited,
    /// A link that sets a new password was created.
    ResetLinkCreated,
    /// A new password was set by a link or an operator.
    PasswordReset,
    /// The user proved that the email address is theirs.
    EmailVerified,
    SecondFactorEnabled,
    SecondFactorDisabled,
    /// A recovery code replaced the second factor.
    RecoveryCodeUsed,
    DisplayNameChanged,
    /// The account became an administrator, or is one no longer.
    RoleChanged,
    Disabled,
    Enabled,
    Deleted,
}

impl AccountEvent {
    /// Returns the kind as the database stores it.
    ///
    /// NEVER CHANGE these values once a version is released: rows of the audit log and
    /// the operators' queries have them.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "account_registered",
            Self::Imported => "account_imported",
            Self::LoginRejected => "login_rejected",
            Self::BrowserLoggedIn => "browser_logged_in",
            Self::BrowserLoggedOut => "browser_logged_out",
            Self::PasswordChanged => "password_changed",
            Self::RegistrationStarted => "registration_started",
            Self::Invited => "invited",
            Self::ResetLinkCreated => "reset_link_created",
            Self::PasswordReset => "password_reset",
            Self::EmailVerified => "email_verified",
            Self::SecondFactorEnabled => "second_factor_enabled",
            Self::SecondFactorDisabled => "second_factor_disabled",
            Self::RecoveryCodeUsed => "recovery_code_used",
            Self::DisplayNameChanged => "display_name_changed",
            Self::RoleChanged => "account_role_changed",
            Self::Disabled => "account_disabled",
            Self::Enabled => "account_enabled",
            Self::Deleted => "account_deleted",
        }
    }
}
