//! Forward authentication with Caddy and the configuration of the documentation.
//! `scripts/test` selects the tests by this module's name.

use crate::protected_app::{Proxy, check};

#[actix_rt::test]
#[ignore = "needs Caddy: make test"]
async fn caddy_protects_an_application() {
    check(async |world, ports| {
        let example = include_str!("../../../docs/examples/forward-auth/Caddyfile");
        // The test speaks HTTP, as a proxy before Caddy that speaks HTTPS with browsers.
        let trusted = "uri /forward-auth?\n\t\t\ttrusted_proxies 127.0.0.1/32";
        let site = example
            .replace("app.example.com {", &format!("http://app.example.com:{} {{", ports.proxy))
            .replace("127.0.0.1:5001", &format!("127.0.0.1:{}", ports.matchbook))
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", ports.app))
            .replace("uri /forward-auth?", trusted);
        let options = "{\n\tadmin off\n\tauto_https off\n}\n";
        let file = world.folder().join("Caddyfile");
        std::fs::write(&file, format!("{options}{site}")).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let arguments = ["run", "--adapter", "caddyfile", "--config", &file];
        Proxy::start(&["caddy"], &arguments, ports.proxy)
    })
    .await;
}
