//! PHC strings of Argon2, scrypt and PBKDF2, and passlib's strings of PBKDF2
//! (`$pbkdf2-sha256$rounds$salt$hash`).

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::UnusableHash;
use super::scheme::{Argon2Hash, Scheme, ScryptCost};

pub(super) fn parse(text: &str) -> Result<Scheme, UnusableHash> {
    let mut fields = text.split('$').skip(1);
    let algorithm = fields.next().unwrap_or_default();
    match algorithm {
        "argon2i" | "argon2d" | "argon2id" => argon2(text),
        "scrypt" => {
            let [params, salt, hash] = exactly(fields)?;
            let cost = ScryptCost {
                log_n: parameter(params, "ln")?,
                r: parameter(params, "r")?,
                p: parameter(params, "p")?,
            };
            Scheme::scrypt(cost, decode(salt)?, decode(hash)?)
        }
        // passlib names SHA-1 in no way.
        "pbkdf2" => pbkdf2("sha1", exactly(fields)?),
        _ => match algorithm.strip_prefix("pbkdf2-") {
            Some(digest) => pbkdf2(digest, exactly(fields)?),
            None => Err(UnusableHash::UnknownFormat),
        },
    }
}

pub(super) fn argon2(text: &str) -> Result<Scheme, UnusableHash> {
    let parsed = PasswordHash::new(text).map_err(|_| UnusableHash::Malformed)?;
    let algorithm = Algorithm::try_from(parsed.algorithm.as_str());
    let algorithm = algorithm.map_err(|_| UnusableHash::UnknownFormat)?;
    let (Some(salt), Some(hash)) = (parsed.salt, parsed.hash) else {
        return Err(UnusableHash::Malformed);
    };
    let version = parsed.version.map_or(Ok(Version::V0x10), Version::try_from);
    let version = version.map_err(|_| UnusableHash::Malformed)?;
    let params = Params::try_from(&parsed).map_err(|_| UnusableHash::Malformed)?;
    Scheme::argon2(Argon2Hash { algorithm, version, params, salt, hash })
}

fn pbkdf2(digest: &str, fields: [&str; 3]) -> Result<Scheme, UnusableHash> {
    let [params, salt, hash] = fields;
    let iterations = match params.parse() {
        Ok(rounds) => rounds,
        Err(_) => parameter(params, "i")?,
    };
    Scheme::pbkdf2(digest, iterations, decode(salt)?, decode(hash)?)
}

fn exactly<'a>(mut fields: impl Iterator<Item = &'a str>) -> Result<[&'a str; 3], UnusableHash> {
    match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(params), Some(salt), Some(hash), None) => Ok([params, salt, hash]),
        _ => Err(UnusableHash::Malformed),
    }
}

/// Returns a number from a list like `ln=16,r=8,p=1`.
fn parameter(params: &str, name: &str) -> Result<u32, UnusableHash> {
    let mut named = params.split(',').filter_map(|param| param.split_once('='));
    let value = named.find(|(found, _)| *found == name).map(|(_, value)| value);
    value.and_then(|value| value.parse().ok()).ok_or(UnusableHash::Malformed)
}

/// Decodes base64 without padding. passlib writes `.` instead of `+`.
fn decode(text: &str) -> Result<Vec<u8>, UnusableHash> {
    STANDARD_NO_PAD.decode(text.replace('.', "+")).map_err(|_| UnusableHash::Malformed)
}
