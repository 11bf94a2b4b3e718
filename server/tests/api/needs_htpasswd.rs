//! A test with Apache's `htpasswd`. `scripts/test` selects it by this module's name.

use std::process::Command;

use serde_json::json;

use crate::support::Server;

#[actix_rt::test]
#[ignore = "needs htpasswd: make test"]
async fn hash_of_htpasswd_logs_in_and_becomes_argon2id() {
    let password = "violet tractor seven hums";
    let output = Command::new("htpasswd").args(["-nbB", "ann", password]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (name, hash) = text.trim().split_once(':').unwrap();
    let server = Server::start();
    server.import(&[json!({ "name": name, "password_hash": hash })], &[]).unwrap();
    assert_eq!(server.try_log_in_as("ann", "violet tractor seven").await.status, 401);
    server.log_in_as("ann", password).await;
    server.log_in_as("ann", password).await;
    let argon2 = "SELECT count(*) AS number FROM accounts WHERE password_hash LIKE '$argon2id$%'";
    assert_eq!(server.number(argon2), 1);
}
