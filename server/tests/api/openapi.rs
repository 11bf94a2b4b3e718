//! The description of the API: the document, its page, and whether its routes are those of
//! the server.

use matchbook_server::http::openapi::ApiDescription;
use matchbook_server::http::route_table;
use matchbook_testkit::TestResponse;

use crate::support::Server;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[actix_rt::test]
async fn each_path_of_the_route_table_accepts_its_methods_and_no_other() {
    let server = Server::start();
    for (path, methods) in route_table() {
        let path = path.replace("{id}", "08cf607d-7f67-4bd2-8ca0-2d4a731e3b70").replace('{', "");
        let path = path.replace('}', "");
        for method in METHODS {
            let response = TestResponse::of(server.http.request(method, &path).send()).await;
            assert!(response.status < 500, "{method} {path}: {}", response.text);
            let is_allowed = response.status != 405;
            assert_eq!(is_allowed, methods.contains(&method), "{method} {path}: {methods:?}");
            if !is_allowed {
                assert_eq!(response.header("allow"), methods.join(", "), "{method} {path}");
            }
        }
    }
}

#[actix_rt::test]
async fn description_of_the_api_can_be_cached_and_read_by_pages_of_any_origin() {
    let server = Server::start();
    let response = server.http.get("/openapi.json").await;
    assert_eq!(response.status, 200, "{}", response.text);
    let api = ApiDescription::render().unwrap();
    assert!(response.text.as_bytes() == api.json(), "{}", response.text.len());
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("access-control-allow-origin"), "*");
    assert_eq!(response.header("cache-control"), "public, max-age=600");
    for path in ["/openapi.json", "/docs"] {
        let tag = server.http.get(path).await.header("etag").to_owned();
        let request = server.http.request("GET", path).insert_header(("If-None-Match", tag));
        let response = TestResponse::of(request.send()).await;
        assert_eq!((response.status, &*response.text), (304, ""), "{path}");
    }
    let preflight = TestResponse::of(server.http.request("OPTIONS", "/openapi.json").send()).await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-methods"), "GET, HEAD");
}

#[actix_rt::test]
async fn page_of_the_api_names_every_route_and_loads_only_the_stylesheets_of_the_server() {
    let server = Server::start();
    let page = server.http.get("/docs").await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
    for (path, methods) in route_table() {
        for method in methods.into_iter().filter(|method| *method != "HEAD") {
            let summary = format!("<span class=\"method\">{method}</span> <code>{path}</code>");
            assert!(page.text.contains(&summary), "{method} {path} is missing");
        }
    }
    for foreign in ["<script", "style=", "src=", "://"] {
        assert!(!page.text.contains(foreign), "the page has {foreign}");
    }
    let links = page.text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    for link in links {
        if let Some(id) = link.strip_prefix('#') {
            assert!(page.text.contains(&format!("id=\"{id}\"")), "{link} leads nowhere");
        } else {
            assert_eq!(server.http.get(&format!("/{link}")).await.status, 200, "{link}");
        }
    }
}
