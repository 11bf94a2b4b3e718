//! Compares the imports of the server and of the client library with the documented order
//! of their modules: a module imports only from modules after it.
#![expect(clippy::unwrap_used, reason = "the helpers of a test panic")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// A path expression or import that leaves a module.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    line: usize,
    module: String,
}

#[test]
fn server_modules_import_only_from_later_modules() {
    let source = root().join("server/src");
    let library = fs::read_to_string(source.join("lib.rs")).unwrap();
    let order: Vec<String> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert_order(&source, &order);
}

#[test]
fn client_modules_import_only_from_later_modules() {
    let source = root().join("client/src");
    let library = fs::read_to_string(source.join("lib.rs")).unwrap();
    // "//! 3. `client`: the client of one thread"
    let order: Vec<String> = library
        .lines()
        .filter_map(|line| line.strip_prefix("//! ")?.split_once(". `"))
        .filter(|(number, _)| number.parse::<usize>().is_ok())
        .filter_map(|(_, name)| Some(name.split_once('`')?.0.to_owned()))
        .collect();
    assert_order(&source, &order);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn assert_order(source: &Path, order: &[String]) {
    assert!(order.len() > 10, "the order is not documented in {}", source.display());
    let rank = |module: &str| order.iter().position(|name| name == module);
    let mut imports = 0;
    let mut wrong = String::new();
    for file in rust_files(source) {
        let module = module_of(source, &file);
        if module == "lib" || module == "main" {
            continue;
        }
        let own = rank(&module);
        let text = fs::read_to_string(&file).unwrap();
        for import in imports_of(&text) {
            imports += 1;
            let is_later = own.is_some() && rank(&import.module) > own;
            if import.module != module && !is_later {
                let place = format!("{}:{}", file.display(), import.line);
                writeln!(wrong, "{place}: `{module}` must not import `{}`", import.module).unwrap();
            }
        }
    }
    assert!(imports > 10, "no imports found in {}", source.display());
    assert!(wrong.is_empty(), "imports against the order of lib.rs:\n{wrong}");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Returns the name of the top module of a file.
fn module_of(source: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(source).unwrap().with_extension("");
    inside.iter().next().unwrap().to_str().unwrap().to_owned()
}

/// Returns the top modules that a text names by `crate::`. A path that leaves a top module
/// by `super::super::` counts as an import of `super`, which has no rank.
fn imports_of(text: &str) -> Vec<Import> {
    let mut imports = Vec::new();
    let code: String = text
        .split_inclusive('\n')
        .map(|line| if line.trim_start().starts_with("//") { "\n" } else { line })
        .collect();
    for (start, _) in code.match_indices("crate::") {
        let line = code[..start].matches('\n').count() + 1;
        let rest = &code[start + "crate::".len()..];
        let modules = match rest.strip_prefix('{') {
            Some(group) => group_members(group),
            None => vec![identifier(rest)],
        };
        imports.extend(modules.into_iter().map(|module| Import { line, module }));
    }
    for (start, _) in code.match_indices("super::super::") {
        let line = code[..start].matches('\n').count() + 1;
        imports.push(Import { line, module: "super".to_owned() });
    }
    imports
}

/// Returns the first identifiers in `a, b::{c, d}, e};`.
fn group_members(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut members = vec![String::new()];
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            letter => members.last_mut().unwrap().push(letter),
        }
    }
    let members = members.iter().map(|member| identifier(member.trim()));
    members.filter(|member| !member.is_empty()).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn imports_are_found_in_groups_and_paths_but_not_in_comments() {
    let text = "\
use crate::clock::{self, Timestamp};
// use crate::ignored;
use crate::{keys, store::{users, sessions}, ids};
fn find() -> crate::crypto::Digest {
    super::super::app::start()
}
";
    let found: Vec<(usize, String)> =
        imports_of(text).into_iter().map(|import| (import.line, import.module)).collect();
    let expected =
        [(1, "clock"), (3, "keys"), (3, "store"), (3, "ids"), (4, "crypto"), (5, "super")];
    assert_eq!(found, expected.map(|(line, module)| (line, module.to_owned())));
}
