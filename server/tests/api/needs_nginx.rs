//! Forward authentication with nginx and the configuration of the documentation.
//! `scripts/test` selects the tests by this module's name.

use matchbook_testkit::is_root;

use crate::protected_app::{Proxy, check};

#[actix_rt::test]
#[ignore = "needs nginx: make test"]
async fn nginx_protects_an_application() {
    check(async |world, ports| {
        let folder = world.folder().display().to_string();
        let example = include_str!("../../../docs/examples/forward-auth/nginx.conf");
        let servers = example
            .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{};", ports.proxy))
            .replace("127.0.0.1:5001", &format!("127.0.0.1:{}", ports.matchbook))
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", ports.app))
            // The test speaks HTTP.
            .replace("$scheme://", "https://");
        let servers: String = servers
            .lines()
            .filter(|line| !line.contains("ssl_certificate"))
            .collect::<Vec<_>>()
            .join("\n");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {folder}/nginx-{kind}; "))
            .concat();
        // Without this, nginx would switch to a user that cannot enter the directory.
        let user = if is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; master_process off; {user} worker_processes 1; error_log stderr warn; \
             pid {folder}/nginx.pid; events {{}} http {{ access_log off; {temporary}\n{servers} }}"
        );
        let file = world.folder().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let programs = ["/usr/local/sbin/nginx", "/usr/sbin/nginx", "nginx"];
        let file = file.to_str().unwrap().to_owned();
        Proxy::start(&programs, &["-c", &file, "-e", "stderr"], ports.proxy)
    })
    .await;
}
