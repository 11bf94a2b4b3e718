//! The settings: defaults, overridden by the file, overridden by the environment. An invalid
//! setting stops the start.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use matchbook_settings::{ConfigSources, Logging, Settings, SettingsError, available_cpus};
use openssl::x509::X509;
use secrecy::SecretString;

use crate::keys::Algorithm;
use crate::proxies::TrustedProxies;
use crate::sessions::{Policy, ReissueRules};
use crate::{keys, limits, secrets, store, tls, token_status};

const SOURCES: ConfigSources = ConfigSources {
    defaults: include_str!("../default.toml"),
    file: "matchbook.toml",
    prefix: "MATCHBOOK",
    others: &["MATCHBOOK_CLIENT"],
    aliases: &[("DATABASE_URL", "database.url"), ("REDIS_URL", "redis.url")],
    secrets: &["secret", "old_secrets", "database.url", "redis.url"],
};

/// The minimum of `keys.publish_ahead`.
const MIN_PUBLISH_AHEAD: Duration = Duration::from_secs(4);

/// All settings, checked. `default.toml` documents them.
pub struct Config {
    pub data_dir: PathBuf,
    /// The configured secret; `None` if the server generates one.
    pub secret: Option<SecretString>,
    pub old_secrets: Vec<SecretString>,
    pub address: SocketAddr,
    /// The number of threads that handle requests.
    pub workers: usize,
    /// The time for which a stopping server waits for requests.
    pub shutdown_timeout: Duration,
    /// The maximum number of open connections.
    pub max_connections: usize,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub proxies: TrustedProxies,
    /// The rate limits; `None` if they are disabled.
    pub limits: Option<limits::Options>,
    /// The address of the metrics, if they are enabled.
    pub metrics: Option<SocketAddr>,
    pub database: store::Options,
    pub redis: Option<token_status::Options>,
    pub tls: tls::Mode,
    /// The signing keys and the claims of access tokens.
    pub keys: keys::Options,
    /// The lifetimes of tokens and sessions, and the rules of rotation.
    pub policy: Policy,
    /// The time for which entries of the audit log are kept.
    pub event_retention: Duration,
    pub log: Logging,
}

/// Reads the settings from `file`, or from `matchbook.toml` if it exists. The error describes
/// the first invalid setting.
pub fn load(file: Option<&Path>) -> Result<(Config, Settings), SettingsError> {
    let settings = SOURCES.load(file)?;
    Ok((check(&settings)?, settings))
}

fn check(settings: &Settings) -> Result<Config, SettingsError> {
    let data_dir = settings
        .path("data_dir")?
        .ok_or_else(|| settings.invalid("data_dir", "must name a folder"))?;
    Ok(Config {
        secret: match settings.optional("secret")? {
            Some(text) => {
                secrets::check(&text).map_err(|problem| settings.invalid("secret", &problem))?;
                Some(text.into())
            }
            None => None,
        },
        old_secrets: settings
            .list("old_secrets")?
            .split_whitespace()
            .map(|text| {
                // A weak secret is permitted here, so that it can be replaced.
                let form = secrets::check_form(text);
                form.map_err(|problem| settings.invalid("old_secrets", &problem))?;
                Ok(text.into())
            })
            .collect::<Result<_, _>>()?,
        address: settings.address("server.address")?,
        workers: settings.threads("server.workers")?,
        shutdown_timeout: settings.whole_seconds("server.shutdown_timeout")?,
        max_connections: max_connections(settings)?,
        proxies: proxies(settings)?,
        limits: limits(settings)?,
        metrics: match settings.get::<String>("metrics.address")?.as_str() {
            "off" => None,
            _ => Some(settings.address("metrics.address")?),
        },
        database: database(settings, &data_dir)?,
        redis: redis(settings)?,
        tls: tls(settings)?,
        keys: keys(settings)?,
        policy: policy(settings)?,
        event_retention: settings.duration("events.retention")?,
        log: settings.logging()?,
        data_dir,
    })
}

fn database(settings: &Settings, data_dir: &Path) -> Result<store::Options, SettingsError> {
    let key = "database.url";
    let url = settings.get::<String>(key)?.replace("{data_dir}", &data_dir.to_string_lossy());
    let pool_size = match settings.get::<u16>("database.pool_size")? {
        0 => u32::try_from(available_cpus() * 2).unwrap_or(u32::MAX).max(4),
        size => size.into(),
    };
    Ok(store::Options {
        url: url.parse().map_err(|problem| settings.invalid(key, problem))?,
        pool_size,
        acquire_timeout: settings.duration("database.acquire_timeout")?,
        max_queue: settings.get("database.max_queue")?,
        query_timeout: settings.duration("database.query_timeout")?,
    })
}

fn proxies(settings: &Settings) -> Result<TrustedProxies, SettingsError> {
    let key = "server.trusted_proxies";
    TrustedProxies::parse(&settings.list(key)?).map_err(|entry| {
        let problem =
            format!("must be addresses or networks, separated by commas; `{entry}` is not one");
        settings.invalid(key, &problem)
    })
}

fn max_connections(settings: &Settings) -> Result<usize, SettingsError> {
    let key = "server.max_connections";
    match settings.get(key)? {
        0 => Err(settings.invalid(key, "must be at least 1")),
        max => Ok(max),
    }
}

fn limits(settings: &Settings) -> Result<Option<limits::Options>, SettingsError> {
    if !settings.get::<bool>("limits.enabled")? {
        return Ok(None);
    }
    let per_minute = |key| {
        NonZeroU32::new(settings.get(key)?)
            .ok_or_else(|| settings.invalid(key, "must be at least 1"))
    };
    Ok(Some(limits::Options {
        register: per_minute("limits.register")?,
        token: per_minute("limits.token")?,
        refresh: per_minute("limits.refresh")?,
        session: per_minute("limits.session")?,
        logout: per_minute("limits.logout")?,
        ready: per_minute("limits.ready")?,
        register_total: per_minute("limits.register_total")?,
        connections: per_minute("limits.connections")?,
    }))
}

fn redis(settings: &Settings) -> Result<Option<token_status::Options>, SettingsError> {
    let Some(url) = settings.optional("redis.url")? else { return Ok(None) };
    let timeout = settings.duration("redis.timeout")?;
    let ca = if url.starts_with("rediss") { settings.ca_file("redis.ca_file")? } else { None };
    let ca = ca.map(|path| {
        let pem = std::fs::read(&path).map_err(|error| {
            settings.invalid("redis.ca_file", &format!("names a file that cannot be read: {error}"))
        })?;
        match X509::stack_from_pem(&pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(pem),
            _ => {
                Err(settings.invalid("redis.ca_file", "names a file without a certificate in PEM"))
            }
        }
    });
    token_status::Options::new(&url, ca.transpose()?, timeout)
        .map(Some)
        .map_err(|problem| settings.invalid("redis.url", &problem.to_string()))
}

fn tls(settings: &Settings) -> Result<tls::Mode, SettingsError> {
    let file = |key| {
        settings
            .path(key)?
            .ok_or_else(|| settings.invalid(key, "must name a file when `tls.mode` is \"files\""))
    };
    match settings.get::<String>("tls.mode")?.as_str() {
        "self-signed" => {
            let names = settings.list("tls.names")?;
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            let names: Vec<String> = names.map(str::to_owned).collect();
            match names.iter().find(|name| !is_host(name)) {
                None => Ok(tls::Mode::SelfSigned { names }),
                Some(name) => {
                    let problem = format!(
                        "must be host names or IP addresses, separated by commas; `{name}` is not one"
                    );
                    Err(settings.invalid("tls.names", &problem))
                }
            }
        }
        "files" => {
            Ok(tls::Mode::Files { certificate: file("tls.certificate")?, key: file("tls.key")? })
        }
        "off" => Ok(tls::Mode::Off),
        _ => Err(settings.invalid("tls.mode", "must be \"self-signed\", \"files\" or \"off\"")),
    }
}

/// Returns whether a certificate can contain the name: an IP address, or a host name in ASCII
/// whose first label may be `*` (RFC 6125 §6.4.3).
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(fits)
    };
    let host = name.strip_prefix("*.").unwrap_or(name);
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && host.split('.').all(is_label))
}

fn keys(settings: &Settings) -> Result<keys::Options, SettingsError> {
    let algorithms =
        [("RS256", None), ("ES256", Some(Algorithm::Es256)), ("EdDSA", Some(Algorithm::EdDsa))];
    let options = keys::Options {
        algorithm: match settings.one_of("tokens.algorithm", &algorithms)? {
            Some(algorithm) => algorithm,
            None => Algorithm::Rs256 { bits: rsa_bits(settings)? },
        },
        publish_ahead: settings.whole_seconds("keys.publish_ahead")?,
        rotate_after: match settings.get::<String>("keys.rotate_after")?.as_str() {
            "never" => None,
            _ => Some(settings.duration("keys.rotate_after")?),
        },
        issuer: settings.base_url("tokens.issuer")?,
        audience: settings
            .optional("tokens.audience")?
            .ok_or_else(|| settings.invalid("tokens.audience", "must not be empty"))?,
        access_lifetime: settings.whole_seconds("tokens.access_lifetime")?,
    };
    // Servers read the keys once a second, and a verifier may fetch the key set from any of them.
    if options.publish_ahead < MIN_PUBLISH_AHEAD {
        let problem = "must be at least 4s: servers read a new key within two seconds";
        return Err(settings.invalid("keys.publish_ahead", problem));
    }
    if options.rotate_after.is_some_and(|after| after <= options.publish_ahead) {
        let problem = "must be longer than `keys.publish_ahead`: the next key is published while this one signs";
        return Err(settings.invalid("keys.rotate_after", problem));
    }
    Ok(options)
}

fn rsa_bits(settings: &Settings) -> Result<u32, SettingsError> {
    let key = "tokens.rsa_bits";
    let bits = settings.get(key)?;
    let known = [2048, 3072, 4096].contains(&bits);
    known.then_some(bits).ok_or_else(|| settings.invalid(key, "must be 2048, 3072 or 4096"))
}

fn policy(settings: &Settings) -> Result<Policy, SettingsError> {
    let policy = Policy {
        access_lifetime: settings.whole_seconds("tokens.access_lifetime")?,
        idle_lifetime: settings.duration("sessions.idle_lifetime")?,
        absolute_lifetime: settings.duration("sessions.absolute_lifetime")?,
        retention: settings.duration("sessions.retention")?,
        reissue: reissue_rules(settings)?,
        accept_ahead_of_database: settings.get("rotation.accept_ahead_of_database")?,
    };
    if policy.access_lifetime > policy.idle_lifetime {
        return Err(settings.invalid(
            "tokens.access_lifetime",
            "must not be longer than `sessions.idle_lifetime`: a session would end before its \
             access token does",
        ));
    }
    if policy.idle_lifetime > policy.absolute_lifetime {
        return Err(settings.invalid(
            "sessions.idle_lifetime",
            "must not be longer than `sessions.absolute_lifetime`",
        ));
    }
    Ok(policy)
}

/// Reads when a rotated token gets the same successor again; `None` in the strict mode.
fn reissue_rules(settings: &Settings) -> Result<Option<ReissueRules>, SettingsError> {
    if settings.one_of("rotation.mode", &[("idempotent", false), ("strict", true)])? {
        return Ok(None);
    }
    let rules = ReissueRules {
        grace_period: settings.duration("rotation.grace_period")?,
        recovery_window: settings.duration("rotation.recovery_window")?,
        same_key_only: settings.get("rotation.same_key_only")?,
    };
    if rules.grace_period > rules.recovery_window {
        return Err(settings.invalid(
            "rotation.grace_period",
            "must not be longer than `rotation.recovery_window`: a request with a key gets at least as long as one without",
        ));
    }
    Ok(Some(rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads a settings file with this text.
    fn loaded(text: &str) -> Result<Config, SettingsError> {
        let path = std::env::temp_dir().join(format!("config-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).unwrap();
        let loaded = load(Some(&path));
        std::fs::remove_file(&path).unwrap();
        loaded.map(|(config, _)| config)
    }

    fn error_of(text: &str) -> String {
        loaded(text).err().expect("it is rejected").to_string()
    }

    #[test]
    fn default_settings_are_valid() {
        let (config, _) = load(None).unwrap();
        assert_eq!(config.address.to_string(), "127.0.0.1:5001");
        assert_eq!(config.policy.access_lifetime, Duration::from_secs(15 * 60));
        assert!(config.redis.is_none() && config.secret.is_none());
    }

    #[test]
    fn invalid_values_are_rejected_with_the_name_of_the_setting() {
        for (text, key) in [
            ("[server]\naddress = 'localhost'", "server.address"),
            ("[server]\nworkers = -1", "server.workers"),
            ("[database]\nurl = 'mysql://x'", "database.url"),
            ("[database]\npool_size = 'big'", "database.pool_size"),
            ("[redis]\nurl = 'http://x'", "redis.url"),
            ("[tls]\nmode = 'on'", "tls.mode"),
            ("[tls]\nmode = 'files'", "tls.certificate"),
            ("[tokens]\nissuer = 'auth.example.com'", "tokens.issuer"),
            ("[tokens]\nissuer = 'https://auth.example.com?x'", "tokens.issuer"),
            ("[tokens]\nalgorithm = 'HS256'", "tokens.algorithm"),
            ("[tokens]\nrsa_bits = 1024", "tokens.rsa_bits"),
            ("[keys]\npublish_ahead = '3s'", "keys.publish_ahead"),
            ("[keys]\nrotate_after = '10m'", "keys.rotate_after"),
            ("[keys]\nrotate_after = 'ever'", "keys.rotate_after"),
            ("[tokens]\naccess_lifetime = 900", "tokens.access_lifetime"),
            ("[tokens]\naccess_lifetime = '1500ms'", "tokens.access_lifetime"),
            ("[tokens]\naccess_lifetime = '31d'", "tokens.access_lifetime"),
            ("[sessions]\nidle_lifetime = '91d'", "sessions.idle_lifetime"),
            ("[sessions]\nabsolute_lifetime = '1000y'", "sessions.absolute_lifetime"),
            ("[server]\ntrusted_proxies = '10.0.0.0/40'", "server.trusted_proxies"),
            ("[limits]\nrefresh = 0", "limits.refresh"),
            ("[limits]\nenabled = 'perhaps'", "limits.enabled"),
            ("[metrics]\naddress = 'here'", "metrics.address"),
            ("[redis]\nurl = 'rediss://x'\nca_file = '/nowhere'", "redis.ca_file"),
            ("[redis]\nurl = 'rediss://x'\nca_file = '/dev/null'", "redis.ca_file"),
            ("[redis]\nurl = 'redis-cluster://'", "redis.url"),
            ("[tls]\nmode = 'files'\ncertificate = 'none'", "tls.certificate"),
            ("[tls]\nnames = 'not a name'", "tls.names"),
            ("[tls]\nnames = 'a.example, https://b.example'", "tls.names"),
            ("[log]\nformat = 'xml'", "log.format"),
            ("[log]\nlevel = 'a=b=c'", "log.level"),
            ("[log]\nlevel = 'warning'", "log.level"),
            ("[log]\nlevel = ''", "log.level"),
            ("[log]\nlevel = '=debug'", "log.level"),
            ("[log]\nlevel = '[request]=debug'", "log.level"),
            ("[log]\nlevel = 'info,matchbook_server=loud'", "log.level"),
            ("[server]\nshutdown_timeout = '500ms'", "server.shutdown_timeout"),
            ("[database]\nurl = 'postgres://me:a/b@db/x'", "database.url"),
            ("secret = 'short'", "secret"),
            ("secret = 'long enough, but with spaces between'", "secret"),
            ("old_secrets = 'short'", "old_secrets"),
            ("[rotation]\nmode = 'lenient'", "rotation.mode"),
            ("[rotation]\nsame_key_only = 'x'", "rotation.same_key_only"),
            (
                "[rotation]\naccept_ahead_of_database = 'perhaps'",
                "rotation.accept_ahead_of_database",
            ),
            ("[rotation]\ngrace_period = '0s'", "rotation.grace_period"),
            ("[rotation]\ngrace_period = '2d'", "rotation.grace_period"),
            ("[rotation]\nrecovery_window = '24'", "rotation.recovery_window"),
            ("[rotation]\nrecovery_window = '1000y'", "rotation.recovery_window"),
            ("[sessions]\nretention = '1000y'", "sessions.retention"),
            ("[events]\nretention = 'ever'", "events.retention"),
            ("[events]\nretention = '300000000y'", "events.retention"),
            ("[database]\nacquire_timeout = '1ns'", "database.acquire_timeout"),
            ("[database]\nurl = 'sqlite://:memory:'", "database.url"),
            ("[database]\nurl = 'sqlite://x.db?mode=ro'", "database.url"),
            ("secrets = 'typo'", "secrets"),
        ] {
            let error = error_of(text);
            assert!(error.starts_with(&format!("`{key}`")), "{text:?} is rejected with: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn unused_settings_are_not_checked() {
        for text in [
            "[redis]\ntimeout = 'never'\nca_file = '/nowhere'",
            "[redis]\nurl = 'redis://x'\nca_file = '/nowhere'",
            "[redis]\nurl = 'redis-cluster://x:1'\nca_file = '/nowhere'",
            "[redis]\nurl = 'rediss://x'\nca_file = 'system'",
            "[rotation]\nmode = 'strict'\ngrace_period = '0s'\nrecovery_window = '1'\nsame_key_only = 'x'",
            "[rotation]\nmode = 'strict'\ngrace_period = '2d'",
            "[tokens]\nalgorithm = 'ES256'\nrsa_bits = 1024",
            "[tokens]\nalgorithm = 'EdDSA'\nrsa_bits = 0",
            "[limits]\nenabled = false\nregister = 0\ntoken = 0\nrefresh = 0\nsession = 0",
            "[tls]\nmode = 'off'\ncertificate = '/nowhere'\nkey = '/nowhere'",
            "[tls]\nmode = 'off'\nnames = 'not a name'",
            "[keys]\nrotate_after = 'never'\npublish_ahead = '1y'",
        ] {
            assert_eq!(loaded(text).err(), None, "{text}");
        }
    }

    #[test]
    fn optional_settings_can_be_unset_by_a_word() {
        let text = "secret = 'none'\nold_secrets = 'none'\n[server]\ntrusted_proxies = 'none'\n\
                    [redis]\nurl = 'none'\nca_file = 'system'\n[tls]\nnames = 'none'";
        for text in [text, &text.replace("none", "").replace("system", "")] {
            let config = loaded(text).unwrap();
            assert!(config.secret.is_none() && config.old_secrets.is_empty());
            assert!(config.redis.is_none());
            assert!(matches!(config.tls, tls::Mode::SelfSigned { names } if names.is_empty()));
        }
    }

    #[test]
    fn password_in_an_invalid_url_is_not_printed() {
        assert!(!error_of("[database]\nurl = 'mysql://me:hush@x'").contains("hush"));
        assert!(!error_of("[redis]\nurl = 'http://me:hush@x'").contains("hush"));
    }
}
