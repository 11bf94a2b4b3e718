//! The URL of the database.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use matchbook_settings::redact_password;
use secrecy::{ExposeSecret, SecretString};

/// The URL of the database.
#[derive(Clone)]
pub enum Url {
    /// A connection URL for libpq, with any of its parameters.
    Postgres(SecretString),
    /// A file, created when it is first opened.
    Sqlite(PathBuf),
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let postgres =
            text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        if let Some(rest) = postgres {
            check(rest)?;
            return Ok(Self::Postgres(text.into()));
        }
        match text.strip_prefix("sqlite://") {
            // Each connection would have a database of its own.
            Some(":memory:") => Err("must name a file"),
            Some(path) if path.contains('?') => Err("takes no parameters after `sqlite://FILE`"),
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            _ => Err("must be `postgres://user:password@host/database` or `sqlite://FILE`"),
        }
    }
}

/// Rejects a URL that libpq cannot parse. Its own errors would quote the wrong part, which may
/// be the password.
fn check(rest: &str) -> Result<(), &'static str> {
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("must have spaces percent-encoded, as `%20`");
    }
    if !rest.split('%').skip(1).all(is_encoded) {
        return Err("must percent-encode each `%` in its password, as `%25`");
    }
    let (credentials, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
    if credentials.contains(['/', '?', '#', '@']) {
        return Err(
            "must have special characters in its password percent-encoded, like `%2F` for \
                    a slash",
        );
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let hosts = place.split('/').next().unwrap_or_default();
    if !hosts.split(',').all(has_port_or_none) {
        return Err(
            "must have a number from 1 to 65535 as its port, and an `@` after the password",
        );
    }
    let mut parameters = query.split('&').filter(|_| !query.is_empty());
    if !parameters.all(|parameter| parameter.split('=').count() == 2) {
        return Err("must have parameters like `name=value`, with `%26` for `&` and `%3D` for `=`");
    }
    Ok(())
}

/// Returns whether a percent sign is followed by the code of a character other than NUL.
fn is_encoded(text: &str) -> bool {
    let digits = text.get(..2).filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()));
    digits.is_some_and(|digits| digits != "00")
}

fn has_port_or_none(host: &str) -> bool {
    // An IPv6 address has colons within brackets.
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    match after_address.split_once(':') {
        None | Some((_, "")) => true,
        Some((_, port)) => port.parse::<u16>().is_ok_and(|port| port > 0),
    }
}

/// Writes the URL without its password.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => f.write_str(&redact_password(url.expose_secret())),
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_libpq_can_parse_is_taken() {
        for good in [
            "postgres://me:h%25u%20sh@db/x",
            "postgres://me@one:5432,two:5433/x?target_session_attrs=any",
            "postgresql://me:hush@[::1]:5432/x?password=h%3Du",
            "postgres://db/x?sslmode=require&sslrootcert=/ca.pem",
            "postgres:///x?host=/run/postgresql",
        ] {
            assert!(good.parse::<Url>().is_ok(), "{good}");
        }
        for bad in [
            "postgres://me:h%ush@db/x",
            "postgres://me:hush%@db/x",
            "postgres://me:hush%4@db/x",
            "postgres://me:h%00sh@db/x",
            "postgres://me:hu sh@db/x",
            "postgres://me:hush/x",
            "postgres://me:hush@db:99999/x",
            "postgres://me:hush@db:0/x",
            "postgres://db/x?password=hu&sh",
            "postgres://db/x?password=hu=sh",
            "postgres://db/x?password=hu%sh",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
    }
}
