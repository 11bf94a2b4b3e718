//! The roles of `docs/deployment.md`: one owns the tables, and the server's has rights on rows.

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use matchbook_testkit::{Postgres, TestEnv};

use crate::support::{Server, Tokens, binary};

const DEPLOYMENT: &str = include_str!("../../../../docs/deployment.md");

/// The statements of each block of SQL in the section about roles.
fn documented_sql() -> Vec<Vec<&'static str>> {
    let (_, section) = DEPLOYMENT.split_once("\n### Two roles\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let statements = |block: &'static str| {
        block.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect()
    };
    blocks.map(statements).collect()
}

fn execute(url: &str, statements: &[&str]) {
    let mut conn = PgConnection::establish(url).unwrap();
    for statement in statements {
        conn.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn documented_rights_suffice_for_the_server_and_its_commands() {
    let postgres = Postgres::new();
    let url_of = |role: &str| format!("postgres://{role}@{}/matchbook", postgres.address());
    let (owner, server_role) = (url_of("matchbook_owner"), url_of("matchbook_server"));
    let sql = documented_sql();
    let [as_superuser, as_owner] = &sql[..] else { panic!("two blocks: {sql:?}") };
    execute(&postgres.url(), as_superuser);
    execute(&owner, as_owner);

    let world = TestEnv::new();
    let launch = world.server(binary()).variable("DATABASE_URL", &server_role);
    let refusal = launch.run(&[]);
    let error = String::from_utf8_lossy(&refusal.stderr);
    assert!(!refusal.status.success() && error.contains("permission denied"), "{error}");
    let migration = launch.clone().variable("DATABASE_URL", &owner).run(&["migrate"]);
    assert!(migration.status.success(), "{migration:?}");
    let mut conn = PgConnection::establish(&server_role).unwrap();
    for statement in ["CREATE TABLE more (id int)", "CREATE TEMP TABLE more (id int)"] {
        assert!(conn.batch_execute(statement).is_err(), "{statement}");
    }

    // Neither setting changes the schema now.
    for migrate in ["false", "true"] {
        let mut server = Server::within(TestEnv::new(), |launch| {
            launch
                .variable("DATABASE_URL", &server_role)
                .set("database.migrate", migrate)
                .set("secret", "a-secret-of-more-than-thirty-two-characters")
        });
        let mut tokens = server.log_in().await;
        for _ in 0..3 {
            tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
        }
        assert_eq!(server.user(&tokens.access).await, 200);
        let logout = format!("refresh_token={}", tokens.refresh);
        assert_eq!(server.http.post("/logout", &logout).await.status, 204);
        let name = format!("name-{migrate}");
        server.register(&name, "correct horse battery").await;
        server.log_in_as(&name, "correct horse battery").await;

        let launch = server
            .world
            .server(binary())
            .variable("DATABASE_URL", &server_role)
            .set("secret", "a-secret-of-more-than-thirty-two-characters");
        for command in [
            &["users", "list"][..],
            &["users", "show", &name],
            &["users", "invite", "--admin", &format!("invited-{migrate}")],
            &["backends", "add", &format!("backend-{migrate}")],
            &["keys", if migrate == "false" { "rotate" } else { "list" }],
            &["sessions", "end", "--all"],
        ] {
            let output = launch.run(command);
            assert!(output.status.success(), "{command:?}: {output:?}");
        }
        assert!(server.process.stop().success());
        assert_eq!(server.process.logged("permission denied"), 0, "{}", server.process.log());
    }
}
