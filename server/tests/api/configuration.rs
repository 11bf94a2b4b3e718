//! Invalid settings stop startup with a sentence that names the setting.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use matchbook_testkit::TestEnv;

use crate::support::binary;

#[test]
fn invalid_setting_stops_startup_with_one_sentence() {
    let world = TestEnv::new();
    for (key, value, said) in [
        ("server.adress", "127.0.0.1:1", "did you mean `server.address`?"),
        ("server.address", "here", "must be an IP address and a port"),
        ("server.workers", "many", "`server.workers` = \"many\" (MATCHBOOK__SERVER__WORKERS)"),
        ("server.keep_alive", "0s", "must be between 1 ms and 100 years"),
        ("server.keep_alive", "61m", "`server.keep_alive` = \"61m\""),
        ("server.keep_alive", "2h", "must be at most an hour"),
        ("server.drain", "61m", "must be at most an hour"),
        ("server.drain", "soon", "must be a duration with a unit, like `15s`, or `0s`"),
        ("server.proxy_protocol", "true", "needs `server.trusted_proxies`"),
        ("tokens.access_lifetime", "15", "`tokens.access_lifetime`"),
        ("sessions.idle_lifetime", "1y", "must not be longer than `sessions.absolute_lifetime`"),
        ("tls.mode", "maybe", "`tls.mode`"),
        ("secret", "short", "`secret` (MATCHBOOK__SECRET): must have at least 32 characters"),
        ("database.url", "mysql://me:hush@x/y", "`database.url`"),
    ] {
        let output = world.server(binary()).set(key, value).run(&[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{key}: {error}");
        assert!(error.contains(said), "{key}: {error}");
        assert_eq!(error.lines().count(), 1, "{key}: {error}");
        assert!(!error.contains("hush") && output.stdout.is_empty());
    }
}

#[test]
fn named_settings_file_must_exist_and_be_toml() {
    let world = TestEnv::new();
    let output = world.server(binary()).run(&["--config", "nowhere.toml"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("nowhere.toml cannot be read"), "{error}");

    std::fs::write(world.folder().join("broken.toml"), "secret = \"hush-hush\n").unwrap();
    let output = world.server(binary()).run(&["--config", "broken.toml"]);
    let error = String::from_utf8(output.stderr).unwrap();
    let said = "broken.toml is not valid: line 1: invalid basic string";
    assert!(!output.status.success() && error.contains(said), "{error}");
    assert!(error.lines().count() == 1 && !error.contains("hush"), "{error}");
}

#[test]
fn check_config_prints_effective_settings_and_their_sources() {
    let world = TestEnv::new();
    let file = "[tokens]\naccess_lifetime = '5m'\n[server]\nworkers = 7\n";
    std::fs::write(world.folder().join("matchbook.toml"), file).unwrap();
    write_secret(&world, "hidden", "a-secret-of-more-than-32-characters-hush\n");
    let output = world
        .server(binary())
        .set("server.workers", "3")
        .variable("DATABASE_URL", "postgres://me:hush@db.example/matchbook?sslmode=require")
        .variable("MATCHBOOK__SECRET_FILE", "hidden")
        .run(&["check-config"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = |key: &str| {
        let found = printed.lines().find(|line| line.starts_with(&format!("{key} = ")));
        found.unwrap_or_else(|| panic!("no {key} in\n{printed}")).to_owned()
    };
    assert!(line("tokens.access_lifetime").contains("\"5m\""));
    assert!(line("tokens.access_lifetime").ends_with("# matchbook.toml"));
    assert!(line("server.workers").ends_with("# MATCHBOOK__SERVER__WORKERS"));
    assert!(line("server.workers").contains("\"3\""), "the environment wins over the file");
    assert!(line("tls.mode").ends_with("# default"));
    assert!(line("database.url").contains("postgres://me:********@db.example/matchbook?sslmode="));
    assert!(line("database.url").ends_with("# DATABASE_URL"));
    assert!(line("secret").ends_with("# MATCHBOOK__SECRET_FILE"));
    assert!(!printed.contains("hush"), "{printed}");
    assert_eq!(printed.lines().count(), printed.lines().filter(|l| l.contains(" = ")).count());
}

/// Writes a file that only its owner can read.
fn write_secret(world: &TestEnv, name: &str, text: &str) {
    let path = world.folder().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn secret_file_readable_by_others_stops_startup() {
    let world = TestEnv::new();
    write_secret(&world, "hidden", "a-secret-of-more-than-32-characters-hush");
    let path = world.folder().join("hidden");
    for name in ["MATCHBOOK__SECRET_FILE", "MATCHBOOK__OLD_SECRETS_FILE"] {
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let output = world.server(binary()).variable(name, "hidden").run(&["check-config"]);
            let error = String::from_utf8(output.stderr).unwrap();
            let said = "other users can read it; close it with `chmod 600 hidden`";
            assert!(!output.status.success() && error.contains(said), "{mode:o}: {error}");
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        let output = world.server(binary()).variable(name, "hidden").run(&["check-config"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn empty_variable_is_ignored_and_none_clears_a_file_setting() {
    let world = TestEnv::new();
    let file = "[server]\ntrusted_proxies = '10.0.0.0/8'\n[redis]\nurl = 'rediss://db.example'\n\
                ca_file = 'nowhere.pem'\n";
    std::fs::write(world.folder().join("matchbook.toml"), file).unwrap();
    let launch = world.server(binary());
    let launch = ["server.trusted_proxies", "redis.url", "redis.ca_file"]
        .iter()
        .fold(launch, |launch, key| launch.set(key, ""))
        .variable("REDIS_URL", "");
    let output = launch.run(&["check-config"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("`redis.ca_file` = \"nowhere.pem\""),
        "{error}"
    );

    let output = launch.set("redis.ca_file", "system").run(&["check-config"]);
    let (printed, error) = printed(&output);
    assert!(output.status.success(), "{error}");
    assert!(printed.contains("url = \"rediss://db.example\""), "{printed}");
    let said = "MATCHBOOK__SERVER__TRUSTED_PROXIES is empty, which changes nothing: the settings \
                file sets `server.trusted_proxies`; the word for \"not set\" is \"none\"";
    assert!(error.contains(said), "{error}");

    let launch = world.server(binary()).set("server.trusted_proxies", "none");
    let output = launch.set("redis.url", "none").run(&["check-config"]);
    let (printed, error) = self::printed(&output);
    assert!(output.status.success() && error.is_empty(), "{error}");
    assert!(printed.contains("server.trusted_proxies = \"none\""), "{printed}");
    assert!(printed.contains("redis.url = \"none\""), "{printed}");
}

/// The standard output and standard error of a command.
fn printed(output: &std::process::Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn variable_similar_to_a_setting_is_reported() {
    let world = TestEnv::new();
    let launch = world
        .server(binary())
        .variable("MATCHBOOK_TOKENS_ACCESS_LIFETIME", "5s")
        .variable("MATCHBOOK_CLIENT__SERVER__URL", "http://localhost:1");
    // Only if the environment of the test does not set one.
    let launch =
        if world.redis_url().is_none() { launch.variable("REDIS_URI", "hush") } else { launch };
    let output = launch.run(&["check-config"]);
    let (printed, error) = printed(&output);
    assert!(output.status.success() && printed.contains("tokens.access_lifetime = \"15m\""));
    let said = "MATCHBOOK_TOKENS_ACCESS_LIFETIME in the environment is not a setting and changes \
                nothing: did you mean MATCHBOOK__TOKENS__ACCESS_LIFETIME?";
    assert!(error.contains(said), "{error}");
    assert!(!error.contains("hush") && !error.contains("MATCHBOOK_CLIENT"), "{error}");
    assert_eq!(error.contains("did you mean REDIS_URL?"), world.redis_url().is_none(), "{error}");

    let server = launch.start();
    server.await_log("did you mean MATCHBOOK__TOKENS__ACCESS_LIFETIME?");
    assert!(!server.log().contains("hush"));
}

#[test]
fn unknown_setting_variable_stops_startup() {
    let world = TestEnv::new();
    write_secret(&world, "empty", "\n");
    for (name, value, said) in [
        ("MATCHBOOK__log__format", "json", "write it in capitals"),
        ("MATCHBOOK__SECRET_FILE", "empty", "names empty, which is empty"),
        ("MATCHBOOK__SECRET_FILE", "nowhere", "cannot be read"),
    ] {
        let output = world.server(binary()).variable(name, value).run(&["check-config"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(said), "{name}: {error}");
    }
}

#[test]
fn truncated_generated_secret_stops_startup() {
    let world = TestEnv::new();
    std::fs::create_dir(world.folder().join("data")).unwrap();
    std::fs::write(world.folder().join("data/secret"), "").unwrap();
    let output = world.server(binary()).run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("data/secret holds no secret"), "{error}");
}

#[test]
fn secret_set_twice_stops_startup() {
    let world = TestEnv::new();
    let output = world
        .server(binary())
        .set("secret", "a-secret-of-more-than-thirty-two-characters")
        .variable("MATCHBOOK__SECRET_FILE", "somewhere")
        .run(&["check-config"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("`secret` is set twice"), "{error}");
}
