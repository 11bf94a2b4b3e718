//! Makes a text of a server safe to show: without secrets and control characters, and short.

/// The longest result, in characters.
const MAX_SHOWN: usize = 200;

/// The longest input, in bytes. The rest is ignored.
const MAX_READ: usize = 4096;

/// The length of a part of a secret that is hidden too, in bytes.
const PART: usize = 12;

/// Replaces a secret.
const REDACTED: &str = "[redacted]";

/// Returns `text` without `secrets` in any encoding and without control characters, truncated
/// to 200 characters.
pub(crate) fn scrub(text: &str, secrets: &[&str]) -> String {
    let mut end = text.len().min(MAX_READ);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    let mut hidden = vec![false; text.len()];
    for secret in secrets.iter().flat_map(|secret| encodings(secret)) {
        hide(text, &secret, &mut hidden);
    }
    let mut shown = String::new();
    let mut count = 0;
    for (at, c) in text.char_indices() {
        if count == MAX_SHOWN {
            shown.push('…');
            break;
        }
        if hidden[at] {
            if at == 0 || !hidden[at - 1] {
                shown.push_str(REDACTED);
                count += 1;
            }
        } else if !c.is_control() {
            shown.push(c);
            count += 1;
        } else if !shown.ends_with(' ') {
            shown.push(' ');
            count += 1;
        }
    }
    shown
}

/// Returns the encodings of a secret in a text: plain, percent-encoded, and as a JSON string.
/// Percent-encoding is that of a form or of a URL, with digits of either case.
fn encodings(secret: &str) -> Vec<String> {
    let form = serde_urlencoded::to_string([("", secret)]).unwrap_or_default();
    let form = form.trim_start_matches('=').to_owned();
    let url = form.replace('+', "%20");
    let json = serde_json::to_string(secret).unwrap_or_default().trim_matches('"').to_owned();
    vec![secret.to_owned(), form.to_lowercase(), url.to_lowercase(), form, url, json]
}

/// Marks each part of `secret` in `text` that is long enough to help an attacker.
fn hide(text: &str, secret: &str, hidden: &mut [bool]) {
    let length = secret.len().min(PART);
    if length == 0 {
        return;
    }
    for part in secret.as_bytes().windows(length) {
        let found = text.as_bytes().windows(length).enumerate();
        for (at, _) in found.filter(|(_, window)| window == &part) {
            hidden[at..at + length].fill(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "mb_rt_secret+with/odd=parts and more";

    #[test]
    fn a_secret_is_hidden_in_every_encoding_and_in_part() {
        let form = serde_urlencoded::to_string([("t", SECRET)]).unwrap();
        let quoted = [
            SECRET.to_owned(),
            form.clone(),
            form.to_lowercase(),
            form.replace('+', "%20"),
            serde_json::json!({ "echo": SECRET }).to_string(),
            SECRET[..20].to_owned(),
            SECRET[8..].to_owned(),
        ];
        for text in quoted {
            let shown = scrub(&format!("unknown token {text}"), &["other", SECRET]);
            assert!(shown.contains(REDACTED), "{shown}");
            for part in ["secret", "parts", "with"] {
                assert!(!shown.contains(part), "{text}: {shown}");
            }
        }
        assert_eq!(scrub("no secret here", &[SECRET, ""]), "no secret here");
    }

    #[test]
    fn control_characters_are_removed_and_long_texts_truncated() {
        assert_eq!(scrub("\x1b[31mred\r\n\x07bell\u{9b}2J", &[]), " [31mred bell 2J");
        let long = scrub(&"é".repeat(10_000), &[]);
        assert_eq!(long.chars().count(), MAX_SHOWN + 1);
        assert!(long.ends_with('…'));
    }
}
