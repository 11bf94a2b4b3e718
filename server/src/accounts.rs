//! The use cases of accounts: register, log in, change the password.
//!
//! An account is a user with a login name and a password. It can log in again and again, so
//! it has several sessions. [`Accounts`] decides who may log in; the issuer opens and ends
//! the sessions.

mod accept_invitation;
mod add;
pub mod backends;
mod change_password;
mod create;
pub mod declared;
mod display_name;
mod events;
mod forward_auth;
mod groups;
mod hashing;
mod known_device;
mod lifecycle;
mod link_subject;
mod links;
mod log_in;
mod log_out;
mod login_name;
mod login_session;
mod login_step;
mod mails;
mod own_account;
mod password;
mod password_hash;
mod profile;
mod proof;
mod recovery_code;
mod register;
mod reset_password;
mod second_factor;
mod throttle;
mod verify_registration;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::crypto::{CryptoError, RngError};
use crate::ids::UserId;
use crate::issuer::{self, Issuer};
use crate::mail::Mailer;
use crate::secrets::AccountKeys;
use crate::store::{self, Store};
use throttle::Throttle;

pub use crate::store::one_time_links::Purpose as LinkPurpose;
pub use accept_invitation::AcceptInvitation;
pub use add::{NewUser, add};
pub use backends::{OpenSession, OpenSessionError};
pub use change_password::{ChangePassword, ChangePasswordError};
pub use display_name::{DisplayName, InvalidDisplayName};
pub use events::AccountEvent;
pub use forward_auth::ForwardedUser;
pub use groups::{
    Addition, GroupName, InvalidGroupName, InvalidGroups, add_to_group, check_groups,
    remove_from_group, set_groups,
};
pub use hashing::{Error as HashingError, PasswordHasher};
pub use lifecycle::{delete, disable, enable, remove_second_factor, set_password};
pub use link_subject::LinkSubject;
pub use links::{Invitation, LinkError, LinkToken, ResetLink, invite, reset_link};
pub use log_in::{LogIn, LogInError, LoggedIn, ProvenPassword};
pub use log_out::LogOut;
pub use login_name::{InvalidName, LoginName, NameKind};
pub use login_session::{BrowserLoggedIn, LoginLifetimes, LoginSession};
pub use login_step::LogInStep;
pub use mails::{invitation_mail, reset_mail};
pub use own_account::{DeleteError, OwnAccount, OwnAccountError};
pub use password::{Password, Unacceptable};
pub use password_hash::{
    HashError, UnusableHash, check as check_hash, create_here as hash_password,
};
pub use profile::Profile;
pub use proof::{Proof, ProofError, Requester};
pub use recovery_code::RecoveryCode;
pub use register::{Register, RegisterError};
pub use reset_password::{ForgottenPassword, ResetPassword, email_of};
pub use second_factor::{NewSecondFactor, SecondFactorError};
pub use throttle::TooManyFailures;

/// How accounts are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// By any client.
    Open,
    /// With an invitation only.
    Invite,
    /// By the command line only.
    Closed,
}

/// The settings of accounts.
#[derive(Debug, Clone)]
pub struct Options {
    pub registration: Registration,
    /// The file that declares users.
    pub file: Option<PathBuf>,
    /// Whether guests can register.
    pub guests: bool,
    /// The minimum length of a new password, in characters.
    pub password_min_length: usize,
    /// The memory that hashing may use, in bytes.
    pub password_memory: usize,
    /// The URL by which users reach the server, for links.
    pub public_url: String,
    /// How long a browser stays logged in at the pages of the server.
    pub login_lifetimes: LoginLifetimes,
}

/// A failure of the server, not of the request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Issuer(#[from] issuer::Error),
    #[error(transparent)]
    Hashing(#[from] HashingError),
    #[error("the second factor of user {0} cannot be decrypted: it belongs to another secret")]
    WrongSecret(UserId),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error("a second factor cannot be described: {0}")]
    Totp(#[from] totp_rs::TotpError),
}

impl From<RngError> for Error {
    fn from(error: RngError) -> Self {
        Self::Issuer(error.into())
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Issuer(error.into())
    }
}

/// Registers accounts and logs them in.
pub struct Accounts {
    issuer: Arc<Issuer>,
    store: Store,
    hasher: PasswordHasher,
    options: Options,
    /// `None` if no mail is sent.
    mailer: Option<Mailer>,
    profiles: profile::Cache,
    keys: AccountKeys,
    throttle: Throttle,
}

impl Accounts {
    /// Starts the threads that hash passwords.
    pub fn new(
        issuer: Arc<Issuer>,
        store: Store,
        keys: AccountKeys,
        options: Options,
        mailer: Option<Mailer>,
    ) -> io::Result<Self> {
        let hasher = PasswordHasher::start(options.password_memory)?;
        let profiles = profile::Cache::new();
        let throttle = Throttle::new(issuer.metrics().clone());
        Ok(Self { issuer, store, hasher, options, mailer, profiles, keys, throttle })
    }

    /// Returns whether guests can register.
    #[must_use]
    pub fn permits_guests(&self) -> bool {
        self.options.guests
    }

    /// Returns how accounts are registered.
    #[must_use]
    pub fn registration(&self) -> Registration {
        self.options.registration
    }

    /// Returns how long a browser stays logged in at most.
    #[must_use]
    pub fn login_lifetime(&self) -> Duration {
        self.options.login_lifetimes.absolute
    }

    /// Returns the minimum length of a new password, in characters.
    #[must_use]
    pub fn password_min_length(&self) -> usize {
        self.options.password_min_length
    }
}
