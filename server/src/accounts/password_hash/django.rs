//! The column `password` of Django's users: `algorithm$…`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::scheme::{Scheme, ScryptCost};
use super::{UnusableHash, bcrypt, phc};

pub(super) fn parse(algorithm: &str, rest: &str) -> Result<Scheme, UnusableHash> {
    match algorithm {
        "pbkdf2_sha256" => pbkdf2("sha256", rest),
        "pbkdf2_sha1" => pbkdf2("sha1", rest),
        "argon2" => phc::argon2(&format!("${rest}")),
        "bcrypt" => Ok(Scheme::Bcrypt(bcrypt(rest)?)),
        "bcrypt_sha256" => Ok(Scheme::Bcrypt(bcrypt(rest)?.of_digest())),
        "scrypt" => scrypt(rest),
        _ => Err(UnusableHash::UnknownFormat),
    }
}

fn pbkdf2(digest: &str, rest: &str) -> Result<Scheme, UnusableHash> {
    let [iterations, salt, hash] = fields(rest)?;
    Scheme::pbkdf2(digest, number(iterations)?, salt.into(), decode(hash)?)
}

fn bcrypt(rest: &str) -> Result<bcrypt::Hash, UnusableHash> {
    bcrypt::parse(rest).unwrap_or(Err(UnusableHash::Malformed))
}

fn scrypt(rest: &str) -> Result<Scheme, UnusableHash> {
    let [n, salt, r, p, hash] = fields(rest)?;
    let n = number(n)?;
    if !n.is_power_of_two() {
        return Err(UnusableHash::Malformed);
    }
    let cost = ScryptCost { log_n: n.ilog2(), r: number(r)?, p: number(p)? };
    Scheme::scrypt(cost, salt.into(), decode(hash)?)
}

fn fields<const N: usize>(rest: &str) -> Result<[&str; N], UnusableHash> {
    let fields: Vec<&str> = rest.split('$').collect();
    fields.try_into().map_err(|_| UnusableHash::Malformed)
}

fn number(text: &str) -> Result<u32, UnusableHash> {
    text.parse().map_err(|_| UnusableHash::Malformed)
}

fn decode(text: &str) -> Result<Vec<u8>, UnusableHash> {
    STANDARD.decode(text).map_err(|_| UnusableHash::Malformed)
}
