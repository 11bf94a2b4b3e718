//! The page of the description, for people: rendered from the document, without JavaScript.

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY,
};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use serde_json::Value;

use super::text::{Paragraph, paragraphs, type_of};
use crate::http::pages::POLICY;
use crate::http::state::State;

const STYLESHEET: &str = include_str!("../../../templates/docs.css");

#[derive(Template)]
#[template(path = "docs.html")]
struct DocsPage {
    title: String,
    version: String,
    description: Vec<Paragraph>,
    groups: Vec<Group>,
    schemes: Vec<Scheme>,
    schemas: Vec<Schema>,
}

/// The operations of a tag.
struct Group {
    name: String,
    description: Vec<Paragraph>,
    operations: Vec<Operation>,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    description: Vec<Paragraph>,
    /// How the request authenticates, each a way.
    security: Vec<String>,
    parameters: Vec<Field>,
    body_description: Vec<Paragraph>,
    body: Vec<Media>,
    responses: Vec<Response>,
}

struct Scheme {
    name: String,
    description: Vec<Paragraph>,
}

/// A parameter, or a member of an object.
struct Field {
    name: String,
    /// Where a parameter is.
    place: String,
    kind: TypeName,
    is_required: bool,
    description: Vec<Paragraph>,
}

struct Media {
    name: String,
    kind: TypeName,
}

struct Response {
    status: String,
    description: Vec<Paragraph>,
    headers: Vec<String>,
    content: Vec<Media>,
}

struct Schema {
    name: String,
    description: Vec<Paragraph>,
    fields: Vec<Field>,
    /// The values of an enumeration.
    values: Vec<String>,
}

/// The name of a type, and the schema that it is or has as its elements.
pub(super) struct TypeName {
    pub(super) before: String,
    pub(super) schema: Option<String>,
    pub(super) after: String,
}

/// Renders the page from the document.
pub(super) fn render(api: &Value) -> Result<String, askama::Error> {
    let page = DocsPage {
        title: text(&api["info"]["title"]),
        version: text(&api["info"]["version"]),
        description: paragraphs(&api["info"]["description"]),
        groups: elements(&api["tags"]).map(|tag| group(tag, &api["paths"])).collect(),
        schemes: members(&api["components"]["securitySchemes"])
            .map(|(name, scheme)| Scheme {
                name: name.clone(),
                description: paragraphs(&scheme["description"]),
            })
            .collect(),
        schemas: members(&api["components"]["schemas"]).map(schema).collect(),
    };
    page.render()
}

fn group(tag: &Value, paths: &Value) -> Group {
    let all = members(paths).flat_map(|(path, item)| {
        members(item).map(move |(method, operation)| (path, method, operation))
    });
    let own = all.filter(|(_, method, operation)| {
        elements(&operation["tags"]).any(|name| *name == tag["name"]) && *method != "head"
    });
    Group {
        name: text(&tag["name"]),
        description: paragraphs(&tag["description"]),
        operations: own.map(|(path, method, value)| operation(path, method, value)).collect(),
    }
}

fn operation(path: &str, method: &str, value: &Value) -> Operation {
    let way = |way: &Value| match members(way).next() {
        Some((name, _)) => name.clone(),
        None => "none".to_owned(),
    };
    Operation {
        id: text(&value["operationId"]),
        method: method.to_uppercase(),
        path: path.to_owned(),
        summary: text(&value["summary"]).trim_end_matches('.').to_owned(),
        description: paragraphs(&value["description"]),
        security: elements(&value["security"]).map(way).collect(),
        parameters: elements(&value["parameters"])
            .map(|parameter| Field {
                name: text(&parameter["name"]),
                place: text(&parameter["in"]),
                kind: type_of(&parameter["schema"]),
                is_required: parameter["required"] == true,
                description: paragraphs(&parameter["description"]),
            })
            .collect(),
        body_description: paragraphs(&value["requestBody"]["description"]),
        body: media(&value["requestBody"]["content"]),
        responses: members(&value["responses"])
            .map(|(status, response)| Response {
                status: status.clone(),
                description: paragraphs(&response["description"]),
                headers: members(&response["headers"]).map(|(name, _)| name.clone()).collect(),
                content: media(&response["content"]),
            })
            .collect(),
    }
}

fn media(content: &Value) -> Vec<Media> {
    members(content)
        .map(|(name, media)| Media { name: name.clone(), kind: type_of(&media["schema"]) })
        .collect()
}

fn schema((name, schema): (&String, &Value)) -> Schema {
    let is_required = |field: &str| elements(&schema["required"]).any(|name| name == field);
    let field = |(name, field): (&String, &Value)| Field {
        name: name.clone(),
        place: String::new(),
        kind: type_of(field),
        is_required: is_required(name),
        description: paragraphs(&field["description"]),
    };
    Schema {
        name: name.clone(),
        description: paragraphs(&schema["description"]),
        fields: members(&schema["properties"]).map(field).collect(),
        values: elements(&schema["enum"]).map(text).collect(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Returns a page that describes the API.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "Documentation",
    operation_id = "showDescription",
    params(("If-None-Match" = Option<String>, Header, description = "The cached version.")),
    responses(
        (
            status = 200,
            description = "The page",
            body = String,
            content_type = "text/html",
            headers(("ETag" = String, description = "The version of the page.")),
        ),
        (status = 304, description = "The cached page is current"),
    )
)]
pub(in crate::http) async fn docs(state: Data<State>, request: HttpRequest) -> HttpResponse {
    let mut response = state.api.page.document("text/html; charset=utf-8").respond(&request);
    for (name, value) in [(CONTENT_SECURITY_POLICY, POLICY), (REFERRER_POLICY, "no-referrer")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns the stylesheet of the page that describes the API.
#[utoipa::path(
    get,
    path = "/docs.css",
    tag = "Documentation",
    operation_id = "getDescriptionStylesheet",
    responses(
        (status = 200, description = "The stylesheet", body = String, content_type = "text/css"),
    )
)]
pub(in crate::http) async fn docs_stylesheet() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/css; charset=utf-8")
        .insert_header((CACHE_CONTROL, "max-age=600"))
        .body(STYLESHEET)
}
