//! Removes passwords from connection URLs.

/// Replaces a password.
const REDACTED: &str = "********";

/// Replaces the password in a connection URL with asterisks, in the authority and in
/// parameters.
#[must_use]
pub fn redact_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // A connection string like `host=… password=…`, or an invalid value.
        return if url.contains(['=', '@']) { REDACTED.to_owned() } else { url.to_owned() };
    };
    // The password, if any, ends at the last `@`.
    let (credentials, rest) =
        rest.rsplit_once('@').map_or((None, rest), |(before, after)| (Some(before), after));
    let mut redacted = format!("{scheme}://");
    if let Some(credentials) = credentials {
        let user = credentials.split(':').next().unwrap_or_default();
        if user.contains(['/', '?', '#']) {
            // The `@` is in a parameter, perhaps in its password.
            return redacted + REDACTED;
        }
        for part in [user, ":", REDACTED, "@"] {
            redacted.push_str(part);
        }
    }
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let end = location.find('/').unwrap_or(location.len());
    let (authority, path) = location.split_at(end);
    match authority.split_once(':') {
        // `user:password` without a host.
        Some((user, port)) if credentials.is_none() && port.contains(char::is_alphabetic) => {
            let is_address = authority.starts_with('[') || authority.contains(',');
            redacted.push_str(if is_address { authority } else { user });
            redacted.push_str(if is_address { "" } else { ":********" });
        }
        _ => redacted.push_str(authority),
    }
    redacted.push_str(path);
    for (i, parameter) in query.split('&').enumerate().filter(|_| rest.contains('?')) {
        redacted.push(if i == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            Some((name, _)) if name.contains("password") || name.contains('%') => {
                redacted.push_str("password=********");
            }
            Some(_) => redacted.push_str(parameter),
            None if parameter.is_empty() => {}
            // The rest of a password that contains `&`.
            None => redacted.push_str(REDACTED),
        }
    }
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_replaced_in_every_form_of_a_url() {
        assert_eq!(redact_password("postgres://me:hu?sh@db/x"), "postgres://me:********@db/x");
        assert_eq!(redact_password("postgres://db/x?a=b"), "postgres://db/x?a=b");
        for odd in [
            "postgres://db/x?password=hu@sh",
            "postgres://me@db/x?password=hu&sh",
            "postgres://me@db/x?p%61ssword=hush",
            "postgres://me@db/x?sslpassword=hush",
            "postgres://me:hush/x",
            "postgres://me:a:hush@b@db/x",
            "host=db password=hush",
        ] {
            let redacted = redact_password(odd);
            assert!(!redacted.contains("hu") && !redacted.contains("sh"), "{odd}: {redacted}");
        }
        for plain in ["redis://localhost:6379/0", "https://[::1]:5001", "https://x/?", "none"] {
            assert_eq!(redact_password(plain), plain);
        }
    }
}
