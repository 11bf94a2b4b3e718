//! Holds every package of the dependency tree to the licences that `deny.toml`
//! allows. Run from anywhere in the repository.

use std::process::{Command, ExitCode};

use serde_json::Value;
use spdx::{Expression, LicenseReq};

fn main() -> ExitCode {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let allowed = allowed(&std::fs::read_to_string(format!("{root}/deny.toml")).unwrap());
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let refused: Vec<String> =
        packages.iter().filter_map(|package| refusal(package, &allowed)).collect();
    for line in &refused {
        eprintln!("{line}");
    }
    println!("{} packages, {} refused", packages.len(), refused.len());
    if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The list `licenses.allow`.
fn allowed(deny: &str) -> Vec<String> {
    let deny: toml::Table = deny.parse().unwrap();
    let list = deny["licenses"]["allow"].as_array().unwrap();
    list.iter().map(|licence| licence.as_str().unwrap().to_owned()).collect()
}

/// Why a package may not be depended on.
fn refusal(package: &Value, allowed: &[String]) -> Option<String> {
    let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
    let Some(licence) = package["license"].as_str() else {
        return Some(format!("{name}: no licence in its manifest"));
    };
    // Older manifests write "MIT/Apache-2.0".
    let Ok(expression) = Expression::parse(&licence.replace('/', " OR ")) else {
        return Some(format!("{name}: {licence} cannot be read"));
    };
    let known = |req: &LicenseReq| {
        req.license.id().is_some_and(|id| allowed.iter().any(|name| name == id.name))
    };
    (!expression.evaluate(known)).then(|| format!("{name}: {licence} is not allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(licence: &str) -> bool {
        let package = serde_json::json!({"name": "p", "version": "1", "license": licence});
        refusal(&package, &["MIT".to_owned(), "ISC".to_owned()]).is_some()
    }

    #[test]
    fn one_way_that_is_allowed_is_enough_and_all_that_must_hold_must_be_allowed() {
        assert!(!refused("MIT"));
        assert!(!refused("GPL-3.0-only OR MIT"));
        assert!(!refused("MIT/Apache-2.0"));
        assert!(!refused("MIT AND ISC"));
        assert!(refused("GPL-3.0-only"));
        assert!(refused("MIT AND GPL-3.0-only"));
        assert!(refused("not a licence"));
    }
}
