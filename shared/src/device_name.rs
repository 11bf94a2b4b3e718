//! Names of devices that people recognize, such as "Firefox on Windows".

/// A part of a browser's `User-Agent`, and the name of the browser. The first that matches
/// counts: most browsers also name those that they are compatible with.
const BROWSERS: [(&str, &str); 18] = [
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex Browser"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("Ddg/", "DuckDuckGo"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Epiphany/", "GNOME Web"),
    ("Safari/", "Safari"),
];

/// A part of a browser's `User-Agent`, and the name of the system. The first that matches
/// counts: Android is also a Linux.
const SYSTEMS: [(&str, &str); 9] = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
];

/// The longest name of a program or of its device, in characters.
const MAX_LEN: usize = 60;

/// Returns the name of a browser and its system, or of a program and its device. Returns
/// `None` if the `User-Agent` names neither.
#[must_use]
pub fn device_name(user_agent: &str) -> Option<String> {
    let (kind, device) = if user_agent.starts_with("Mozilla/") {
        let first = |names: &[(&'static str, &'static str)]| {
            names.iter().find(|(part, _)| user_agent.contains(part)).map(|(_, name)| *name)
        };
        (first(&BROWSERS).unwrap_or("A browser").to_owned(), first(&SYSTEMS).map(str::to_owned))
    } else {
        let end = user_agent.find(['/', ' ', '(']).unwrap_or(user_agent.len());
        (shorten(&user_agent[..end])?, comment(user_agent))
    };
    match device {
        Some(device) => Some(format!("{kind} on {device}")),
        None => Some(kind).filter(|kind| kind != "A browser"),
    }
}

/// Returns the first comment (RFC 9110 §5.6.5), or its beginning if it was cut off.
fn comment(user_agent: &str) -> Option<String> {
    let (_, rest) = user_agent.split_once('(')?;
    let mut text = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.extend(chars.next()),
            ')' | ';' => break,
            c => text.push(c),
        }
    }
    shorten(&text)
}

fn shorten(text: &str) -> Option<String> {
    let text = text.trim();
    let short: String = text.chars().filter(|c| !c.is_control()).take(MAX_LEN).collect();
    (!short.is_empty()).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_browsers_are_named_by_browser_and_system() {
        for (user_agent, name) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0",
                "Firefox on Windows",
            ),
            (
                "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
                "Firefox on Linux",
            ),
            (
                "Mozilla/5.0 (Android 14; Mobile; rv:133.0) Gecko/133.0 Firefox/133.0",
                "Firefox on Android",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_7 like Mac OS X) AppleWebKit/605.1.15 \
                 (KHTML, like Gecko) FxiOS/133.0 Mobile/15E148 Safari/605.1.15",
                "Firefox on iPhone",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/131.0.0.0 Safari/537.36",
                "Chrome on Windows",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/131.0.0.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_7 like Mac OS X) AppleWebKit/605.1.15 \
                 (KHTML, like Gecko) CriOS/131.0.6778.73 Mobile/15E148 Safari/604.1",
                "Chrome on iPhone",
            ),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/131.0.0.0 Safari/537.36",
                "Chrome on ChromeOS",
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 HeadlessChrome/131.0.0.0 Safari/537.36",
                "Chrome on Linux",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, \
                 like Gecko) Version/18.1 Safari/605.1.15",
                "Safari on macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 \
                 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1",
                "Safari on iPhone",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 17_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like \
                 Gecko) Version/17.7 Mobile/15E148 Safari/604.1",
                "Safari on iPad",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/131.0.0.0 Mobile Safari/537.36 EdgA/131.0.0.0",
                "Edge on Android",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like \
                 Gecko) Chrome/131.0.0.0 Safari/537.36 OPR/117.0.0.0",
                "Opera on macOS",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SM-S928B) AppleWebKit/537.36 (KHTML, like Gecko) \
                 SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile Safari/537.36",
                "Samsung Internet on Android",
            ),
        ] {
            assert_eq!(device_name(user_agent).as_deref(), Some(name), "{user_agent}");
        }
    }

    #[test]
    fn a_program_is_named_with_its_device() {
        for (user_agent, name) in [
            ("matchbook-client/0.1.0", Some("matchbook-client")),
            ("my-app/1.2 (Zoë’s phone)", Some("my-app on Zoë’s phone")),
            (r"my-app/1.2 (a \(b\))", Some("my-app on a (b)")),
            ("my-app/1.2 (cut off by the ser", Some("my-app on cut off by the ser")),
            ("curl/8.5.0", Some("curl")),
            ("python-requests/2.31", Some("python-requests")),
            ("Mozilla/5.0 (Windows NT 10.0) Unheard/1.0", Some("A browser on Windows")),
            ("Mozilla/5.0", None),
            ("", None),
            (" /()", None),
        ] {
            assert_eq!(device_name(user_agent).as_deref(), name, "{user_agent}");
        }
        assert_eq!(device_name(&"x".repeat(1000)).unwrap().len(), MAX_LEN);
    }
}
