//! Compares the documents with their sources: `docs/configuration.md` is generated from
//! the files of defaults, `server/openapi.json` from the handlers, the examples in
//! `docs/oauth.md` are lines of programs that run, links have a target, and the README stays
//! short.
//!
//! `UPDATE_DOCUMENTS=1 cargo test -p matchbook-server --test documents` writes the generated
//! documents again.
#![expect(clippy::unwrap_used, reason = "the helpers of a test panic")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use matchbook_server::http::openapi::ApiDescription;
use matchbook_server::http::route_table;
use serde_json::Value;

const SERVER_DEFAULTS: &str = "server/default.toml";
const CLIENT_DEFAULTS: &str = "client/app/default.toml";
const CONFIGURATION: &str = "docs/configuration.md";
const API: &str = "server/openapi.json";
const OAUTH: &str = "docs/oauth.md";

/// Starts a line before a block of code in a document, which continues with the file and its
/// regions.
const LINES_OF: &str = "<!-- lines of ";

/// The maximum length of the README, in lines.
const MAX_README_LINES: usize = 130;

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from server/default.toml and the client's default.toml. Edit those, then run
UPDATE_DOCUMENTS=1 cargo test -p matchbook-server --test documents -->

Each value comes from the first of these sources that sets it:

1. the environment: `tokens.access_lifetime` is `MATCHBOOK__TOKENS__ACCESS_LIFETIME`;
2. the settings file: `matchbook.toml` in the working directory, or the file of `--config`;
3. the default.

The server checks all settings at the start.

- An unknown name, a wrong type or an impossible value stops the start with one sentence. It names the setting, its
  source and the reason.
- A variable that only resembles a setting (`MATCHBOOK_SECRET`, `REDIS_URI`) is reported as a warning.
- An empty variable changes nothing. `none` unsets a setting, and `system` selects the CAs of the system.
- A setting that is not used is not checked.
- A secret file that other users can read stops the start.
- Durations carry their unit: `90s`, `15m`, `30d`.

`matchbook-server check-config` prints the settings in force, with secrets masked, and the source of each.
";

const CLIENT_INTRODUCTION: &str = "
## The client app

`matchbook-client` reads `matchbook-client.toml` (or the file of `--config`) and the environment in the same way:
`client.address` is `MATCHBOOK_CLIENT__CLIENT__ADDRESS`. `matchbook-client check-config` prints its settings.
";

/// Settings that share one comment.
struct Group {
    section: String,
    /// Names and defaults.
    settings: Vec<(String, String)>,
    comment: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Parses a file of defaults. A comment belongs to the settings that follow it without
/// another comment; one that a blank line follows is about the file.
fn parse(defaults: &str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut section = String::new();
    let mut comment = String::new();
    let mut continues = false;
    for line in defaults.lines() {
        if let Some(text) = line.strip_prefix('#') {
            // A list of values: each on a line of its own.
            if text.starts_with(" \"") && text.contains("\":") && !comment.is_empty() {
                comment.push_str("<br>");
            }
            comment.push_str(text.trim_start());
            comment.push(' ');
            continues = false;
        } else if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            comment.clear();
            continues = false;
        } else if let Some((name, value)) = line.split_once(" = ") {
            let full =
                if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            let setting = (full, value.trim_matches('"').to_owned());
            match groups.last_mut() {
                Some(group) if continues => group.settings.push(setting),
                _ => groups.push(Group {
                    section: section.clone(),
                    settings: vec![setting],
                    comment: std::mem::take(&mut comment)
                        .split_whitespace()
                        .collect::<Vec<_>>()
                        .join(" ")
                        .replace(" <br>", "<br>"),
                }),
            }
            continues = true;
        } else {
            comment.clear();
            continues = false;
        }
    }
    groups
}

/// Writes a table for each section.
fn tables(groups: &[Group], document: &mut String) {
    let mut section = None;
    for group in groups {
        if section != Some(&group.section) {
            section = Some(&group.section);
            let title = if group.section.is_empty() {
                "General".to_owned()
            } else {
                format!("`{}`", group.section)
            };
            write!(document, "\n### {title}\n\n| setting | default | |\n|---|---|---|\n").unwrap();
        }
        let column = |part: fn(&(String, String)) -> &String| {
            let parts = group.settings.iter().map(|setting| format!("`{}`", part(setting)));
            parts.collect::<Vec<_>>().join("<br>")
        };
        let (names, defaults) = (column(|setting| &setting.0), column(|setting| &setting.1));
        let comment = group.comment.replace('|', "\\|");
        writeln!(document, "| {names} | {defaults} | {comment} |").unwrap();
    }
}

fn configuration() -> String {
    let mut document = format!("{INTRODUCTION}\n## The server\n");
    tables(&parse(&read(SERVER_DEFAULTS)), &mut document);
    document.push_str(CLIENT_INTRODUCTION);
    tables(&parse(&read(CLIENT_DEFAULTS)), &mut document);
    document
}

#[test]
fn the_configuration_document_is_generated_from_the_defaults() {
    assert_generated(CONFIGURATION, &configuration());
}

#[test]
fn the_description_of_the_api_is_generated_from_the_handlers() {
    let api = ApiDescription::render().unwrap();
    assert_generated(API, std::str::from_utf8(api.json()).unwrap());
}

/// Returns the lines of a region of a source, between `docs: NAME` and `docs: end` in comments.
/// A region can have several parts.
fn region(file: &str, name: &str) -> String {
    let source = read(file);
    let mut is_inside = false;
    let mut lines = Vec::new();
    for line in source.lines() {
        match line.split_once(" docs: ") {
            Some((_, marked)) => is_inside = marked == name,
            None if is_inside => lines.push(line),
            None => {}
        }
    }
    assert!(!lines.is_empty(), "{file} has no region {name}");
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let common = lines.iter().filter(|line| !line.is_empty()).map(indent).min().unwrap();
    let lines = lines.iter().map(|line| line.get(common..).unwrap_or(""));
    let text = lines.collect::<Vec<_>>().join("\n");
    format!("{}\n", text.trim_end())
}

/// Replaces the examples in a document by the lines of the programs. Returns how many there are.
fn with_examples(document: &str) -> (String, usize) {
    let (mut text, mut examples) = (String::new(), 0);
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        writeln!(text, "{line}").unwrap();
        let Some(source) = line.strip_prefix(LINES_OF) else { continue };
        let (file, names) = source.trim_end_matches(" -->").split_once(": ").unwrap();
        writeln!(text, "{}", lines.next().unwrap()).unwrap();
        let regions = names.split(", ").map(|name| region(file, name));
        text.push_str(&regions.collect::<Vec<_>>().join("\n"));
        writeln!(text, "```").unwrap();
        lines.find(|line| *line == "```").unwrap();
        examples += 1;
    }
    (text, examples)
}

#[test]
fn the_examples_of_oauth_are_lines_of_programs_that_run() {
    let (text, examples) = with_examples(&read(OAUTH));
    assert!(examples >= 6, "{examples} examples were found");
    assert_generated(OAUTH, &text);
}

/// The operations of the description, as method and path.
fn operations() -> BTreeSet<String> {
    let api = ApiDescription::render().unwrap();
    let api: Value = serde_json::from_slice(api.json()).unwrap();
    let paths = api["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    operations.collect()
}

#[test]
fn every_route_is_described_and_every_described_route_exists() {
    let table = route_table().into_iter();
    let routes: BTreeSet<String> = table
        .flat_map(|(path, methods)| methods.into_iter().map(move |name| format!("{name} {path}")))
        .collect();
    assert!(routes.len() > 40, "{} routes were found", routes.len());
    let operations = operations();
    let missing: Vec<_> = routes.difference(&operations).collect();
    assert!(missing.is_empty(), "add #[utoipa::path] to the handlers, and list them: {missing:?}");
    let invented: Vec<_> = operations.difference(&routes).collect();
    assert!(invented.is_empty(), "the server has no such routes: {invented:?}");
}

#[test]
fn every_operation_has_a_name_of_its_own_and_a_summary() {
    let api = ApiDescription::render().unwrap();
    let api: Value = serde_json::from_slice(api.json()).unwrap();
    let tags: Vec<&Value> =
        api["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut names = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{method} {path}: {name} is the name of another operation");
            let summary = operation["summary"].as_str().unwrap();
            assert!(summary.ends_with('.'), "{method} {path}: {summary}");
            assert!(tags.contains(&&operation["tags"][0]), "{method} {path}: unknown tag");
        }
    }
}

/// Asserts that a document is the one that was generated.
fn assert_generated(document: &str, generated: &str) {
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(root().join(document), generated).unwrap();
    }
    let text = read(document);
    let differs = text
        .lines()
        .zip(generated.lines())
        .find(|(old, new)| old != new)
        .map(|(old, new)| format!("- {old}\n+ {new}"));
    assert!(
        text == generated,
        "{document} is out of date: run `UPDATE_DOCUMENTS=1 cargo test -p matchbook-server \
         --test documents`\n{}",
        differs.unwrap_or_default()
    );
}

#[test]
fn every_setting_has_a_comment() {
    for file in [SERVER_DEFAULTS, CLIENT_DEFAULTS] {
        let groups = parse(&read(file));
        assert!(groups.len() > 10, "{file}: {} groups", groups.len());
        for group in groups {
            assert!(!group.comment.is_empty(), "{file}: {:?} has no comment", group.settings);
        }
    }
}

/// The documents.
fn documents() -> Vec<PathBuf> {
    let markdown = |folder: PathBuf| {
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    };
    let mut documents: Vec<_> = markdown(root()).chain(markdown(root().join("docs"))).collect();
    documents.sort();
    documents
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link} leads nowhere", document.display());
            if !fragment.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line.trim_start_matches('#').trim()) == fragment),
                    "{}: {link} names no heading",
                    document.display()
                );
            }
        }
    }
    assert!(links > 20, "{links} links were found");
}

/// Whether `name` could be a setting: in a known section, and not the name of a file.
fn resembles_setting(name: &str, settings: &[String]) -> bool {
    let Some((section, key)) = name.split_once('.') else { return false };
    let is_file = matches!(key, "json" | "toml" | "md" | "rs" | "pem" | "key");
    let is_word = key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut sections = settings.iter().filter_map(|setting| setting.split_once('.'));
    !is_file && is_word && sections.any(|(known, _)| known == section)
}

#[test]
fn every_setting_that_a_document_names_exists() {
    let names = |file| parse(&read(file)).into_iter().flat_map(|group| group.settings);
    let variable =
        |prefix: &str, name: &str| format!("{prefix}__{}", name.replace('.', "__").to_uppercase());
    let (mut settings, mut variables) = (Vec::new(), Vec::new());
    for (file, prefix) in [(SERVER_DEFAULTS, "MATCHBOOK"), (CLIENT_DEFAULTS, "MATCHBOOK_CLIENT")] {
        for (name, _) in names(file) {
            let name_of_variable = variable(prefix, &name);
            variables.push(format!("{name_of_variable}_FILE"));
            variables.push(name_of_variable);
            settings.push(name);
        }
    }
    let mut found = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        let quoted = quoted.map(|code| code.split([' ', '=']).next().unwrap());
        for name in quoted.filter(|name| resembles_setting(name, &settings)) {
            found += 1;
            let known = settings.iter().any(|setting| setting == name);
            assert!(known, "{}: {name} is not a setting", document.display());
        }
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        for name in words.filter(|word| word.starts_with("MATCHBOOK_") && word.contains("__")) {
            found += 1;
            let known = variables.iter().any(|variable| variable == name);
            assert!(known, "{}: {name} is not a setting", document.display());
        }
    }
    assert!(found > 100, "{found} settings were found");
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= MAX_README_LINES, "README.md has {lines} lines: move some into docs/");
}
