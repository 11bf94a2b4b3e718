//! Hashes of Werkzeug's `generate_password_hash`: `method:parameters$salt$hash`.

use super::UnusableHash;
use super::scheme::{Scheme, ScryptCost};
use crate::crypto::decode_hex;

pub(super) fn parse(text: &str) -> Result<Scheme, UnusableHash> {
    let fields: Vec<&str> = text.split('$').collect();
    let [method, salt, hash] = *fields.as_slice() else { return Err(UnusableHash::Malformed) };
    let hash = decode_hex(hash).ok_or(UnusableHash::Malformed)?;
    let salt = salt.as_bytes().to_vec();
    let number = |text: &str| text.parse::<u32>().map_err(|_| UnusableHash::Malformed);
    match *method.split(':').collect::<Vec<_>>().as_slice() {
        ["pbkdf2", digest, iterations] => Scheme::pbkdf2(digest, number(iterations)?, salt, hash),
        ["scrypt", n, r, p] => {
            let n = number(n)?;
            if !n.is_power_of_two() {
                return Err(UnusableHash::Malformed);
            }
            let cost = ScryptCost { log_n: n.ilog2(), r: number(r)?, p: number(p)? };
            Scheme::scrypt(cost, salt, hash)
        }
        ["pbkdf2" | "scrypt", ..] => Err(UnusableHash::Malformed),
        _ => Err(UnusableHash::UnknownFormat),
    }
}
