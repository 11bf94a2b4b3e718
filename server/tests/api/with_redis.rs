//! The cache of active access tokens.

use redis::Commands;

use crate::support::{Server, Tokens, binary, http};

/// A Redis connection, and the two keys of an access token.
fn redis(server: &Server, tokens: &Tokens) -> (redis::Connection, String, String) {
    let url = server.world.redis_url().expect("TEST_REDIS_URL is set");
    let connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let claims = tokens.claims();
    let (sid, jti) = (claims["sid"].as_str().unwrap(), claims["jti"].as_str().unwrap());
    (connection, format!("access:{{{sid}}}:{jti}"), format!("ended:{{{sid}}}"))
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and Redis: make test"]
async fn issued_token_is_cached_until_it_expires() {
    let server = Server::start();
    let tokens = server.log_in().await;
    let (mut redis, access, ended) = redis(&server, &tokens);
    let ttl: i64 = redis.ttl(&access).unwrap();
    assert!((890..=900).contains(&ttl), "{ttl}");
    assert!(!redis.exists::<_, bool>(&ended).unwrap());
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and Redis: make test"]
async fn cached_token_is_active_without_the_database_and_an_evicted_one_is_cached_again() {
    let world = matchbook_testkit::TestEnv::new();
    let (relay, url) = world.database_proxy();
    let process = world
        .server(binary())
        .variable("DATABASE_URL", &url)
        .set("database.acquire_timeout", "300ms")
        .start();
    let server = Server { http: http(&world, &process), process, world };
    let tokens = server.log_in().await;
    let (mut redis, access, _) = redis(&server, &tokens);

    redis.del::<_, ()>(&access).unwrap();
    assert_eq!(server.user(&tokens.access).await, 200);
    assert!(redis.exists::<_, bool>(&access).unwrap(), "read through");

    relay.disconnect();
    assert_eq!(server.user(&tokens.access).await, 200, "Redis knows it");
    redis.del::<_, ()>(&access).unwrap();
    let response = server.http.get_as("/user", &tokens.access).await;
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, "1"),
        "its status is unknown"
    );
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and Redis: make test"]
async fn tombstone_wins_over_a_later_active_entry() {
    let server = Server::strict();
    let tokens = server.log_in().await;
    let (mut redis, access, ended) = redis(&server, &tokens);
    assert_eq!(server.refresh(&tokens.refresh).await.status, 200);
    assert_eq!(server.refresh(&tokens.refresh).await.status, 401);
    let ttl: i64 = redis.ttl(&ended).unwrap();
    assert!((950..=960).contains(&ttl), "{ttl}");
    let epoch: String = redis.get("matchbook:epoch").unwrap();
    redis.set::<_, _, ()>(&access, epoch).unwrap();
    assert_eq!(server.user(&tokens.access).await, 401);
}
