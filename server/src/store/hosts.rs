//! The hosts of a PostgreSQL URL, and the parameters that it lacks.
//!
//! libpq always begins with the first host. While that one does not respond, each new
//! connection would wait for it. Here a connection begins with the host that worked last.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// The parameters of each connection, unless the URL has them: timeouts, also for a peer
/// that has vanished, and a name in `pg_stat_activity`.
const DEFAULTS: [(&str, &str); 5] = [
    // A standby lags: it would accept a session that has ended.
    ("target_session_attrs", "read-write"),
    ("keepalives_idle", "5"),
    ("keepalives_interval", "2"),
    ("keepalives_count", "3"),
    ("application_name", "matchbook"),
];

/// `connect_timeout` in seconds. It includes the authentication. One of several hosts gets
/// the shortest time that libpq knows, so that the next one has its turn.
const CONNECT_TIMEOUT: u64 = 5;
const CONNECT_TIMEOUT_OF_SEVERAL: u64 = 2;

/// `tcp_user_timeout`, if the URL has none.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);
/// The value of a timeout that the URL disables: about the `tcp_user_timeout` of Linux.
const NO_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// The host that worked last in this process, as an index. All connections share it.
static LAST_USED: AtomicUsize = AtomicUsize::new(0);

/// One host of a URL.
pub(super) struct Host {
    /// The host and its port, as in the URL.
    pub(super) name: String,
    url: SecretString,
}

impl Host {
    /// Returns the URL of a connection with this `tcp_user_timeout`.
    pub(super) fn url_with(&self, tcp_user_timeout: Duration) -> SecretString {
        // The last value of a parameter counts.
        let milliseconds = tcp_user_timeout.as_millis();
        format!("{}&tcp_user_timeout={milliseconds}", self.url.expose_secret()).into()
    }
}

/// The hosts of a URL, in its order.
pub(super) struct Hosts {
    all: Vec<Host>,
    /// The `connect_timeout` of the URL, which applies to each address of a host.
    pub(super) connect_timeout: Duration,
    /// The `tcp_user_timeout` of the URL.
    pub(super) tcp_user_timeout: Duration,
}

impl Hosts {
    pub(super) fn of(url: &SecretString) -> Self {
        let url = url.expose_secret();
        let (authority, names) = hosts_of(url);
        let seconds = if names.len() > 1 { CONNECT_TIMEOUT_OF_SEVERAL } else { CONNECT_TIMEOUT };
        let connect_timeout = seconds.to_string();
        let defaults = DEFAULTS.into_iter().chain([("connect_timeout", &*connect_timeout)]);
        let hosts = names.iter().map(|name| {
            let mut url = url.to_owned();
            if let Some(authority) = &authority {
                url.replace_range(authority.clone(), name);
            }
            for (parameter, value) in defaults.clone() {
                if parameter_of(&url, parameter).is_none() {
                    url.push(if url.contains('?') { '&' } else { '?' });
                    url.extend([parameter, "=", value]);
                }
            }
            Host { name: (*name).to_owned(), url: url.into() }
        });
        let number_of = |name| parameter_of(url, name).and_then(|value| value.parse().ok());
        let connect_timeout = match number_of("connect_timeout").unwrap_or(seconds) {
            0 => NO_TIMEOUT,
            seconds => Duration::from_secs(seconds),
        };
        let tcp_user_timeout = match number_of("tcp_user_timeout") {
            None => TCP_USER_TIMEOUT,
            Some(0) => NO_TIMEOUT,
            Some(milliseconds) => Duration::from_millis(milliseconds),
        };
        Self { all: hosts.collect(), connect_timeout, tcp_user_timeout }
    }

    /// Calls `connect` for each host until one succeeds, beginning with the host that
    /// worked last. If that is another one, calls `leave` for the others, each with its error
    /// if it was tried. Returns the errors of all hosts otherwise.
    pub(super) fn try_each<T, E>(
        &self,
        mut connect: impl FnMut(&Host) -> Result<T, E>,
        leave: impl Fn(&Host, Option<&E>),
    ) -> Result<T, Vec<(&Host, E)>> {
        let count = self.all.len();
        for round in 1.. {
            let first = LAST_USED.load(Ordering::Relaxed) % count;
            let mut errors = Vec::new();
            let connected = self.try_from(first, &mut connect, &mut errors);
            let Some((number, connected)) = connected else {
                return Err(errors.into_iter().map(|(failed, e)| (&self.all[failed], e)).collect());
            };
            let now = LAST_USED.load(Ordering::Relaxed) % count;
            if number == first && number != now && round < count {
                // It was frozen, and another connection has left it meanwhile.
                continue;
            }
            if number != now {
                LAST_USED.store(number, Ordering::Relaxed);
                for (other, host) in self.all.iter().enumerate() {
                    if other != number {
                        let error = errors.iter().find(|(failed, _)| *failed == other);
                        leave(host, error.map(|(_, error)| error));
                    }
                }
            }
            return Ok(connected);
        }
        Err(Vec::new())
    }

    /// Calls `connect` for each host until one succeeds, beginning with `first`. Returns the
    /// number of the host, and adds the errors of those before.
    fn try_from<T, E>(
        &self,
        first: usize,
        connect: &mut impl FnMut(&Host) -> Result<T, E>,
        errors: &mut Vec<(usize, E)>,
    ) -> Option<(usize, T)> {
        let count = self.all.len();
        for number in (first..first + count).map(|number| number % count) {
            match connect(&self.all[number]) {
                Ok(connected) => return Some((number, connected)),
                Err(error) => errors.push((number, error)),
            }
        }
        None
    }
}

/// Returns where the hosts are in a URL, and each of them. Hosts or several ports in a
/// parameter, and a URL without hosts, count as one host, which libpq reads.
fn hosts_of(url: &str) -> (Option<std::ops::Range<usize>>, Vec<&str>) {
    let has_ports = parameter_of(url, "port")
        .is_some_and(|ports| ports.contains(',') || ports.to_ascii_lowercase().contains("%2c"));
    let has_hosts = ["host", "hostaddr"].iter().any(|name| parameter_of(url, name).is_some());
    let named_elsewhere = has_hosts || has_ports;
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let start = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let authority = &url[start..end];
    if named_elsewhere || authority.is_empty() {
        return (None, vec![""]);
    }
    (Some(start..end), authority.split(',').collect())
}

/// Returns the value of a parameter, as it is encoded.
fn parameter_of<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = url.split_once('?')?;
    query.split('&').find_map(|parameter| parameter.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(url: &str) -> Vec<String> {
        let hosts = Hosts::of(&url.into());
        let url = |host: &Host| host.url_with(Duration::from_millis(5001)).expose_secret().into();
        hosts.all.iter().map(url).collect()
    }

    fn names(url: &str) -> Vec<String> {
        Hosts::of(&url.into()).all.into_iter().map(|host| host.name).collect()
    }

    #[test]
    fn each_host_of_a_url_becomes_a_url_of_its_own() {
        let several = urls("postgres://me:h%40@one:5432,two,[::1]:5433/x?sslmode=require");
        let starts = [
            "postgres://me:h%40@one:5432/x?sslmode=require&target_session_attrs=read-write&",
            "postgres://me:h%40@two/x?sslmode=require&",
            "postgres://me:h%40@[::1]:5433/x?sslmode=require&",
        ];
        assert_eq!(several.len(), 3);
        for (url, start) in several.iter().zip(starts) {
            assert!(url.starts_with(start), "{url}");
            assert!(url.contains("&connect_timeout=2&"), "{url}");
            assert!(url.ends_with("&tcp_user_timeout=5001"), "{url}");
        }
        assert_eq!(names("postgres://one,two:1"), ["one", "two:1"]);
    }

    #[test]
    fn hosts_that_only_libpq_can_tell_apart_stay_together() {
        for url in [
            "postgres:///x?host=one,two",
            "postgres://one,two/x?hostaddr=10.0.0.1,10.0.0.2",
            "postgres://one,two/x?port=5432,5433",
            "postgres://one,two/x?port=5432%2c5433",
        ] {
            let urls = urls(url);
            assert_eq!(urls.len(), 1, "{urls:?}");
            assert!(urls[0].starts_with(&format!("{url}&")), "{urls:?}");
        }
        assert_eq!(urls("postgres:///x").len(), 1);
        // One port is that of each host.
        assert_eq!(urls("postgres://one,two/x?port=5433").len(), 2);
    }

    #[test]
    fn parameters_of_the_url_take_precedence() {
        let url = "postgres://one,two/x?connect_timeout=9&target_session_attrs=any";
        for url in urls(url) {
            assert_eq!(url.matches("connect_timeout=").count(), 1, "{url}");
            assert_eq!(url.matches("target_session_attrs=").count(), 1, "{url}");
        }
        let timeout = |url: &str| Hosts::of(&url.into()).tcp_user_timeout;
        assert_eq!(timeout("postgres://one/x"), TCP_USER_TIMEOUT);
        assert_eq!(timeout("postgres://one/x?tcp_user_timeout=7000"), Duration::from_secs(7));
        assert_eq!(timeout("postgres://one/x?tcp_user_timeout=0"), NO_TIMEOUT);
        let timeout = |url: &str| Hosts::of(&url.into()).connect_timeout;
        assert_eq!(timeout("postgres://one/x"), Duration::from_secs(5));
        assert_eq!(timeout("postgres://one,two/x"), Duration::from_secs(2));
        assert_eq!(timeout("postgres://one/x?connect_timeout=9"), Duration::from_secs(9));
        assert_eq!(timeout("postgres://one/x?connect_timeout=0"), NO_TIMEOUT);
    }

    /// One test, because all connections of a process share the host that worked last.
    #[test]
    fn connections_begin_with_the_host_that_worked_last_and_leave_the_others() {
        let hosts = Hosts::of(&"postgres://one,two,three/x".into());
        let left = std::cell::RefCell::new(Vec::new());
        let connect_to = |wanted: &'static str, tried: &mut Vec<String>| {
            let connect = |host: &Host| {
                tried.push(host.name.clone());
                if host.name == wanted { Ok(()) } else { Err("refused") }
            };
            let leave = |host: &Host, error: Option<&&str>| {
                left.borrow_mut().push((host.name.clone(), error.is_some()));
            };
            hosts.try_each(connect, leave)
        };
        let mut tried = Vec::new();
        assert!(connect_to("three", &mut tried).is_ok());
        let was_left = |hosts: [(&str, bool); 2]| {
            assert_eq!(left.take(), hosts.map(|(name, has_failed)| (name.to_owned(), has_failed)));
        };
        was_left([("one", true), ("two", true)]);
        tried.clear();
        assert!(connect_to("two", &mut tried).is_ok());
        assert_eq!(tried, ["three", "one", "two"]);
        was_left([("one", true), ("three", true)]);
        assert!(connect_to("two", &mut tried).is_ok());
        assert!(left.take().is_empty());
        let failed = connect_to("none", &mut tried).unwrap_err();
        let failed: Vec<&str> = failed.iter().map(|(host, _)| host.name.as_str()).collect();
        assert_eq!(failed, ["two", "three", "one"]);

        // `two` freezes, another connection finds `one`, and then `two` responds again.
        let mut tried = Vec::new();
        let connect = |host: &Host| {
            tried.push(host.name.clone());
            if tried.len() == 1 {
                LAST_USED.store(0, Ordering::Relaxed);
            }
            Ok::<_, &str>(host.name.clone())
        };
        assert_eq!(hosts.try_each(connect, |_, _| {}).ok().as_deref(), Some("one"));
        assert_eq!(tried, ["two", "one"]);
    }
}
