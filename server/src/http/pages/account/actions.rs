//! The actions of the account page.

use actix_web::http::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{ActionForm, totp};
use crate::accounts::{ChangePassword, LoginSession, Proof, Requester};
use crate::http::error::Error;
use crate::http::extract::login_session;
use crate::http::pages::browser::Browser;
use crate::http::pages::page::Page;
use crate::http::pages::problem::Problem;
use crate::http::state::State;
use crate::ids::{ClientId, SessionId};
use crate::limits::Limit;
use crate::sessions::{ClientInfo, Keep};

/// What a button of the page does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::http) enum Action {
    LogOut,
    EndSession,
    EndAll,
    RevokeConsent,
    ChangePassword,
    BeginTotp,
    ConfirmTotp,
    RemoveTotp,
    Delete,
}

/// What an action has done, for the page that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::http) enum Done {
    SessionEnded,
    ConsentRevoked,
    PasswordChanged,
    TotpRemoved,
}

impl Done {
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::SessionEnded => "That session has ended.",
            Self::ConsentRevoked => "The application has no access any more.",
            Self::PasswordChanged => {
                "Your password is changed. You are logged out everywhere else."
            }
            Self::TotpRemoved => "Your second factor is removed.",
        }
    }

    fn redirect(self) -> Page {
        Page::redirect(match self {
            Self::SessionEnded => "account?done=session-ended",
            Self::ConsentRevoked => "account?done=consent-revoked",
            Self::PasswordChanged => "account?done=password-changed",
            Self::TotpRemoved => "account?done=totp-removed",
        })
    }
}

/// The page that follows an action. The error is a problem to show on the page of the
/// account, or else an error page.
pub(super) type Outcome = Result<Page, Result<Problem, Error>>;

/// Returns the problem of an error that the user can correct.
pub(super) fn problem(error: impl Into<Error>) -> Result<Problem, Error> {
    match error.into() {
        Error::SecondFactorRequired => {
            let text = "Your account has a second factor: enter its code, too.";
            Ok(Problem::new(StatusCode::UNAUTHORIZED, text))
        }
        error => Problem::of(error),
    }
}

pub(super) async fn run(
    state: &State,
    browser: &Browser,
    login: &LoginSession,
    (form, client): (ActionForm, ClientInfo),
) -> Outcome {
    match form.action {
        Action::LogOut => {
            let cookie = browser.login_cookie().unwrap_or_default();
            state.accounts.log_out_browser(cookie, client).await.map_err(failed)?;
            Ok(logged_out())
        }
        Action::EndSession => {
            // A session that has ended meanwhile is not listed any more.
            if let Ok(session) = Uuid::try_parse(&form.id) {
                let session = SessionId(session);
                let ended = state.issuer.revoke_own(login.user, session, client).await;
                ended.map_err(failed)?;
            }
            Ok(Done::SessionEnded.redirect())
        }
        Action::RevokeConsent => {
            let application = ClientId::from(form.id);
            let revoked = state.grants.revoke_consent(login.user, application, client).await;
            revoked.map_err(failed)?;
            Ok(Done::ConsentRevoked.redirect())
        }
        Action::EndAll => {
            let ended = state.issuer.revoke_all(login.user, Keep::Nothing, client).await;
            ended.map_err(failed)?;
            Ok(logged_out())
        }
        Action::ChangePassword => change_password(state, login, form, client).await,
        Action::BeginTotp => totp::begin(state, browser, login, (form, client)).await,
        Action::ConfirmTotp => totp::confirm(state, browser, login, (form, client)).await,
        Action::RemoveTotp => {
            let (proof, code) = proof(state, login, form, client)?;
            state.accounts.disable_second_factor(proof, code.as_ref()).await.map_err(problem)?;
            Ok(Done::TotpRemoved.redirect())
        }
        Action::Delete => {
            let (proof, code) = proof(state, login, form, client)?;
            state.accounts.delete(proof, code.as_ref()).await.map_err(problem)?;
            let text = "Your account is deleted, and you are logged out everywhere.";
            let page = Page::message(StatusCode::OK, "Your account is deleted", text);
            Ok(page.with_cookie(login_session::clear()))
        }
    }
}

/// Returns the error page of a failure.
pub(super) fn failed(error: impl Into<Error>) -> Result<Problem, Error> {
    Err(error.into())
}

fn logged_out() -> Page {
    Page::redirect("login").with_cookie(login_session::clear())
}

async fn change_password(
    state: &State,
    login: &LoginSession,
    form: ActionForm,
    client: ClientInfo,
) -> Outcome {
    state.check_limit(client.ip.map(Limit::Login)).map_err(Problem::of)?;
    if form.password != form.repeated {
        return Err(Ok(Problem::different_passwords()));
    }
    let request = ChangePassword {
        requester: Requester::from(login),
        current: form.current.into(),
        new: form.password.into(),
        client,
    };
    state.accounts.change_password(request).await.map_err(problem)?;
    Ok(Done::PasswordChanged.redirect())
}

/// Counts a request with a password against the limit, and returns its parts.
pub(super) fn proof(
    state: &State,
    login: &LoginSession,
    form: ActionForm,
    client: ClientInfo,
) -> Result<(Proof, Option<SecretString>), Result<Problem, Error>> {
    state.check_limit(client.ip.map(Limit::Login)).map_err(Problem::of)?;
    let code = Some(form.code).filter(|code| !code.is_empty()).map(SecretString::from);
    let password = form.current.into();
    Ok((Proof { requester: Requester::from(login), password, client }, code))
}
