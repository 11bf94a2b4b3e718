//! Changing the server's secret.

use crate::support::{Server, Tokens};

const OLD: &str = "the-secret-before-of-thirty-two-characters";
const NEW: &str = "the-secret-after-it-of-thirty-two-characters";

#[actix_rt::test]
async fn a_listed_old_secret_is_still_good_and_is_replaced_by_the_next_rotation() {
    let mut server = Server::with(|launch| launch.set("secret", OLD));
    let (first, unused) = (server.log_in().await, server.log_in().await);
    let retried = Tokens::of(&server.refresh(&unused.refresh).await);
    assert!(server.process.stop().success());

    let both = |launch: matchbook_bench::Launch| launch.set("secret", NEW).set("old_secrets", OLD);
    let mut server = Server::within(server.world, both);
    server.process.await_log("signing key sealed under the new secret");
    assert_eq!(server.user(&first.access).await, 200);
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    let again = Tokens::of(&server.refresh(&first.refresh).await);
    assert_eq!(again.refresh, second.refresh);
    // Rotated under the old secret, asked for again under the new one.
    let again = Tokens::of(&server.refresh(&unused.refresh).await);
    assert_eq!((again.refresh, again.access), (retried.refresh.clone(), retried.access));
    assert!(server.process.stop().success());

    let server = Server::within(server.world, |launch| launch.set("secret", NEW));
    Tokens::of(&server.refresh(&second.refresh).await);
    let forgotten = server.refresh(&retried.refresh).await;
    assert_eq!(forgotten.status, 401, "it is nobody's token now");
    assert!(forgotten.json().get("reason").is_none());
}

#[actix_rt::test]
async fn a_new_secret_can_be_listed_before_it_is_in_force() {
    let new_first =
        |launch: matchbook_bench::Launch| launch.set("secret", NEW).set("old_secrets", OLD);
    let old_first =
        |launch: matchbook_bench::Launch| launch.set("secret", OLD).set("old_secrets", NEW);
    // One of two servers has changed, the other is about to.
    let here = Server::with(old_first);
    let process = new_first(here.world.server(crate::support::binary())).start();
    let there = crate::support::http(&here.world, &process);
    let first = here.log_in().await;
    let second = there.post("/refresh", &format!("refresh_token={}", first.refresh)).await;
    let second = Tokens::of(&second);
    let again = Tokens::of(&here.refresh(&first.refresh).await);
    assert_eq!((&again.refresh, &again.access), (&second.refresh, &second.access));
    Tokens::of(&here.refresh(&second.refresh).await);
}
