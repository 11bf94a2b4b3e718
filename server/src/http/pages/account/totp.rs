//! The pages that add a second factor.

use std::fmt::Write;

use actix_web::http::StatusCode;
use askama::Template;
use qrcode::{Color, EcLevel, QrCode};

use super::ActionForm;
use super::actions::{Outcome, problem, proof};
use crate::accounts::{LoginSession, NewSecondFactor, RecoveryCode};
use crate::http::pages::browser::Browser;
use crate::http::pages::page::Page;
use crate::http::pages::problem::{Problem, parts};
use crate::http::state::State;
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// The width of the empty border that readers of a QR code need, in modules.
const BORDER: usize = 4;

#[derive(Template)]
#[template(path = "totp.html")]
struct TotpPage<'a> {
    csrf: &'a str,
    /// The secret, if it was created by this request.
    new: Option<NewFactor>,
    problem: Option<String>,
}

/// A secret for an authenticator app.
struct NewFactor {
    /// In base 32, in groups of four.
    secret: String,
    uri: String,
    /// `None` if the URI is too long.
    qr: Option<Qr>,
}

/// A QR code for an SVG image.
struct Qr {
    /// The width of the image in modules.
    width: usize,
    /// The path of the dark modules.
    path: String,
}

#[derive(Template)]
#[template(path = "recovery_codes.html")]
struct RecoveryCodesPage {
    codes: Vec<String>,
}

/// Creates a secret and shows it.
pub(super) async fn begin(
    state: &State,
    browser: &Browser,
    login: &LoginSession,
    (form, client): (ActionForm, ClientInfo),
) -> Outcome {
    let (proof, _) = proof(state, login, form, client)?;
    let new = state.accounts.begin_second_factor(proof).await.map_err(problem)?;
    Ok(page(state, browser, Some(new), None))
}

/// Turns the second factor on, and shows the recovery codes.
pub(super) async fn confirm(
    state: &State,
    browser: &Browser,
    login: &LoginSession,
    (form, client): (ActionForm, ClientInfo),
) -> Outcome {
    state.check_limit(client.ip.map(Limit::Login)).map_err(Problem::of)?;
    let code = form.code.into();
    match state.accounts.confirm_second_factor(login.user, &code, client).await {
        Ok(codes) => {
            let codes = codes.iter().map(RecoveryCode::encode).collect();
            let content = RecoveryCodesPage { codes };
            Ok(Page::new(StatusCode::OK, "Keep your recovery codes", &content))
        }
        // The app has the secret already, and it is not shown again.
        Err(error) => Ok(page(state, browser, None, Some(problem(error).map_err(Err)?))),
    }
}

fn page(
    state: &State,
    browser: &Browser,
    new: Option<NewSecondFactor>,
    problem: Option<Problem>,
) -> Page {
    let new = new.map(|NewSecondFactor { secret, uri }| NewFactor {
        secret: in_groups(&secret),
        qr: qr(&uri),
        uri,
    });
    let (status, problem) = parts(problem);
    let csrf = browser.form_value(state);
    Page::new(status, "Add your authenticator app", &TotpPage { csrf: &csrf, new, problem })
}

fn in_groups(secret: &str) -> String {
    let mut text = String::with_capacity(secret.len() * 5 / 4);
    for (n, c) in secret.chars().enumerate() {
        if n > 0 && n % 4 == 0 {
            text.push(' ');
        }
        text.push(c);
    }
    text
}

/// Draws the QR code of a text.
fn qr(text: &str) -> Option<Qr> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M).ok()?;
    let modules = code.width();
    let mut path = String::new();
    for (at, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let (x, y) = (at % modules + BORDER, at / modules + BORDER);
            // Writing to a string cannot fail.
            let _ = write!(path, "M{x} {y}h1v1h-1z");
        }
    }
    Some(Qr { width: modules + 2 * BORDER, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qr_code_has_a_border_and_three_corners() {
        let qr = qr("otpauth://totp/a:ann?secret=ABCDEFGH&issuer=a").unwrap();
        let far = qr.width - BORDER - 1;
        for (x, y, is_dark) in [
            (BORDER, BORDER, true),
            (far, BORDER, true),
            (BORDER, far, true),
            (BORDER - 1, BORDER, false),
            (BORDER + 1, BORDER + 1, false),
        ] {
            assert_eq!(qr.path.contains(&format!("M{x} {y}h")), is_dark, "{x} {y}");
        }
        assert!(super::qr(&"x".repeat(10_000)).is_none());
        assert_eq!(in_groups("ABCDEFGHI"), "ABCD EFGH I");
    }
}
