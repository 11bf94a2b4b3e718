//! The texts of the page: descriptions with code in backticks, and the names of types.

use serde_json::Value;

use super::page::TypeName;

/// A paragraph of a description.
pub(super) type Paragraph = Vec<Span>;

/// Text or code.
pub(super) struct Span {
    pub(super) text: String,
    pub(super) is_code: bool,
}

/// Splits a description into paragraphs.
pub(super) fn paragraphs(description: &Value) -> Vec<Paragraph> {
    let text = description.as_str().unwrap_or_default();
    text.split("\n\n").filter(|paragraph| !paragraph.is_empty()).map(spans).collect()
}

fn spans(paragraph: &str) -> Paragraph {
    let parts = paragraph.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(n, part)| Span { text: part.to_owned(), is_code: n % 2 == 1 }).collect()
}

/// Returns the name of the type of a schema.
pub(super) fn type_of(schema: &Value) -> TypeName {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return TypeName { schema: Some(name.to_owned()), ..simple("") };
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let choice = choices.iter().find(|choice| choice["type"] != "null").map(type_of);
        return choice.map_or_else(|| simple("null"), or_null);
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => {
            let TypeName { before, schema, after } = type_of(&schema["items"]);
            TypeName { before: format!("list of {before}"), schema, after }
        }
        Value::String(name) => simple(&with_format(name, schema)),
        Value::Array(names) => {
            let name = names.iter().filter_map(Value::as_str).find(|name| *name != "null");
            or_null(simple(&with_format(name.unwrap_or_default(), schema)))
        }
        _ => simple("any"),
    }
}

fn simple(name: &str) -> TypeName {
    TypeName { before: name.to_owned(), schema: None, after: String::new() }
}

fn or_null(name: TypeName) -> TypeName {
    TypeName { after: format!("{} or null", name.after), ..name }
}

fn with_format(name: &str, schema: &Value) -> String {
    match schema["format"].as_str() {
        Some(format) if !format.starts_with("int") => format!("{name} ({format})"),
        _ => name.to_owned(),
    }
}
