//! The commands for a script, against a real server.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Output, Stdio};

use matchbook_bench::{Launch, World};

fn command(world: &World, server: &str) -> Launch {
    let binary = Path::new(env!("CARGO_BIN_EXE_matchbook-client"));
    Launch::new(binary, world.folder(), "MATCHBOOK_CLIENT").set("server.url", server)
}

fn assert_says_405(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert_eq!(error, "matchbook-client: the server answers 405\n");
}

#[actix_rt::test]
async fn a_script_learns_of_a_refusal_also_where_its_body_cannot_be_printed() {
    let world = World::new();
    let server =
        Path::new(env!("CARGO_BIN_EXE_matchbook-client")).with_file_name("matchbook-server");
    assert!(server.exists(), "build the server first: cargo build -p matchbook-server");
    let server = world.server(&server).start();
    let command = command(&world, server.url());
    assert!(command.run(&["login"]).status.success());
    let refused = ["get", "/logout"];
    assert!(!command.run(&refused).stdout.is_empty(), "there is a body to print");

    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_says_405(&command.command().args(refused).stdout(full).output().unwrap());

    let mut closed = command.command();
    let mut child =
        closed.args(refused).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_says_405(&child.wait_with_output().unwrap());
}
