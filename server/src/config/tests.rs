//! Which settings are accepted, and what the error for a rejected one says.

use super::*;
use crate::tls;

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
fn every_setting_of_the_defaults_is_read() {
    let (_, settings) = load(None).unwrap();
    let mut printed = Vec::new();
    settings.print(&mut printed).unwrap();
    let printed = String::from_utf8(printed).unwrap();
    for key in printed.lines().map(|line| line.split_once(" = ").unwrap().0) {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        // The other settings of Redis and of mail are used only with a URL.
        let used = match (section, name) {
            ("redis", "ca_file" | "timeout") => "url = 'redis://x'\n",
            ("smtp", "ca_file") => "url = 'smtp://x'\n",
            ("forward_auth", "cookie_domain") => "hosts = 'app.example.com'\n",
            _ => "",
        };
        let before = if section == "mail" { "[smtp]\nurl = 'smtp://x'\n" } else { "" };
        let error = error_of(&format!("{before}{header}{used}{name} = []"));
        assert!(error.starts_with(&format!("`{key}`")), "{key}: {error}");
    }
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
        ("[tokens]\nalgorithm = 'EdDSA'\nrsa_bits = 1024", "tokens.rsa_bits"),
        ("[keys]\npublish_ahead = '3s'", "keys.publish_ahead"),
        ("[forward_auth]\nhosts = 'https://app.example.com'", "forward_auth.hosts"),
        ("[forward_auth]\nhosts = 'app.example.com'", "forward_auth.cookie_domain"),
        (
            "[server]\npublic_url = 'https://auth.example.com'\n\
             [forward_auth]\nhosts = 'app.example.com'\ncookie_domain = 'com'",
            "forward_auth.cookie_domain",
        ),
        (
            "[server]\npublic_url = 'https://auth.example.com'\n\
             [forward_auth]\nhosts = 'app.example.com'\ncookie_domain = 'app.example.com'",
            "forward_auth.cookie_domain",
        ),
        (
            "[server]\npublic_url = 'https://auth.example.com'\n\
             [forward_auth]\nhosts = 'app.example.org'\ncookie_domain = 'example.com'",
            "forward_auth.hosts",
        ),
        (
            "[server]\npublic_url = 'http://auth.example.com'\n\
             [forward_auth]\nhosts = 'app.example.com'\ncookie_domain = 'example.com'",
            "forward_auth.hosts",
        ),
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
        ("[smtp]\nurl = 'http://x'\n[mail]\nfrom = 'a@b.example'", "smtp.url"),
        ("[smtp]\nurl = 'smtp://u@x'\n[mail]\nfrom = 'a@b.example'", "smtp.url"),
        ("[smtp]\nurl = 'smtp://x'", "mail.from"),
        ("[smtp]\nurl = 'smtp://x'\n[mail]\nfrom = 'nowhere'", "mail.from"),
        (
            "[smtp]\nurl = 'smtps://x'\nca_file = '/dev/null'\n[mail]\nfrom = 'a@b.example'",
            "smtp.ca_file",
        ),
        ("[server]\npublic_url = 'auth.example.com'", "server.public_url"),
        ("[tls]\nmode = 'files'\ncertificate = 'none'", "tls.certificate"),
        ("[tls]\nnames = 'not a name'", "tls.names"),
        ("[tls]\nnames = 'a.example, https://b.example'", "tls.names"),
        ("[pages]\nname = ''", "pages.name"),
        ("[pages]\ncolor = 'blue'", "pages.color"),
        ("[pages]\nlogo = '/nowhere'", "pages.logo"),
        ("[pages]\nlogo = '/dev/null'", "pages.logo"),
        ("[login_session]\nidle_lifetime = '31d'", "login_session.idle_lifetime"),
        ("[login_session]\nabsolute_lifetime = '0s'", "login_session.absolute_lifetime"),
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
        ("[rotation]\naccept_ahead_of_database = 'perhaps'", "rotation.accept_ahead_of_database"),
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
        "[mail]\nfrom = 'nowhere'\n[smtp]\nca_file = '/nowhere'",
        "[rotation]\nmode = 'strict'\ngrace_period = '2d'",
        "[limits]\nenabled = false\nregister = 0\ntoken = 0\nrefresh = 0\nsession = 0",
        "[tls]\nmode = 'off'\ncertificate = '/nowhere'\nkey = '/nowhere'",
        "[tls]\nmode = 'off'\nnames = 'not a name'",
        "[keys]\nrotate_after = 'never'\npublish_ahead = '1y'",
        "[forward_auth]\ncookie_domain = 'com'",
        "[server]\npublic_url = 'https://auth.example.com'\n\
         [forward_auth]\nhosts = 'app.example.com:8443'\ncookie_domain = 'example.com'",
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
    assert!(!error_of("[tokens]\nissuer = 'https://me:hush@x'").contains("hush"));
}

#[test]
fn links_begin_with_the_public_url_or_else_with_the_issuer() {
    let issuer = "[tokens]\nissuer = 'https://issuer.example'\n";
    assert_eq!(loaded(issuer).unwrap().public_url, "https://issuer.example");
    let both = format!("{issuer}[server]\npublic_url = 'https://public.example/auth'");
    assert_eq!(loaded(&both).unwrap().public_url, "https://public.example/auth");
}

#[test]
fn password_of_the_smtp_server_is_neither_printed_nor_in_an_error() {
    let path = std::env::temp_dir().join(format!("config-{}.toml", uuid::Uuid::new_v4()));
    let text = "[smtp]\nurl = 'smtp://u:hush@x'\n[mail]\nfrom = 'a@b.example'";
    std::fs::write(&path, text).unwrap();
    let (_, settings) = load(Some(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut printed = Vec::new();
    settings.print(&mut printed).unwrap();
    let printed = String::from_utf8(printed).unwrap();
    assert!(printed.contains("smtp://u:") && !printed.contains("hush"), "{printed}");
    let error = error_of(&text.replace("@x", "@x/path"));
    assert!(error.starts_with("`smtp.url`") && !error.contains("hush"), "{error}");
}
