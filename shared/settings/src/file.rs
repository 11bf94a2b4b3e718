//! Reads the settings file, and files with one secret.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use config::{FileFormat, Format, Map, Value};
use toml::de::{DeTable, DeValue};

use super::SettingsError;

/// Maximum length of a secret file, in bytes.
const MAX_SECRET_LEN: u64 = 64 * 1024;
/// The permission bits of the group and of others.
const GROUP_AND_OTHERS: u32 = 0o077;

/// A parsed settings file.
pub(super) struct SettingsFile {
    /// The tree of values. The origin of each is the file.
    pub(super) values: Map<String, Value>,
    /// The line of each value, by dotted key.
    pub(super) lines: BTreeMap<String, usize>,
    /// Whether other users can read it.
    pub(super) open_to_others: bool,
}

/// Reads `path`. An error gives the line and the reason, but never quotes the file, which
/// may contain a secret.
pub(super) fn read(path: &Path) -> Result<SettingsFile, SettingsError> {
    let read_error = |error: io::Error| {
        SettingsError(format!("The settings file {} cannot be read: {error}.", path.display()))
    };
    let mut file = File::open(path).map_err(read_error)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(read_error)?;
    let metadata = file.metadata().map_err(read_error)?;

    let parse_error = |line: Option<usize>, reason: &str| {
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let reason = reason.trim_end_matches('.').replace('\n', ", ");
        SettingsError(format!(
            "The settings file {} is not valid: {place}{reason}.",
            path.display()
        ))
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = line_at(error.as_bytes(), error.utf8_error().valid_up_to());
        parse_error(Some(line), "it is not UTF-8")
    })?;
    let table = DeTable::parse(&text).map_err(|error| {
        let line = error.span().map(|span| line_at(text.as_bytes(), span.start));
        parse_error(line, error.message())
    })?;
    let mut lines = BTreeMap::new();
    find_lines("", table.get_ref(), &text, &mut lines)
        .map_err(|(line, reason)| parse_error(Some(line), &reason))?;
    let values = FileFormat::Toml
        .parse(Some(&path.display().to_string()), &text)
        .map_err(|error| parse_error(None, &error.to_string()))?;
    Ok(SettingsFile { values, lines, open_to_others: is_open_to_others(&metadata) })
}

fn line_at(text: &[u8], at: usize) -> usize {
    text.iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// Finds the line of each value. Reports an integer out of range, because `config` would
/// report it without a line.
fn find_lines(
    path: &str,
    table: &DeTable<'_>,
    text: &str,
    lines: &mut BTreeMap<String, usize>,
) -> Result<(), (usize, String)> {
    for (name, value) in table {
        let line = line_at(text.as_bytes(), name.span().start);
        let name = name.get_ref();
        let key = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        match value.get_ref() {
            DeValue::Table(inner) => find_lines(&key, inner, text, lines)?,
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                parsed.map_err(|error| (line, error.to_string()))?;
                lines.insert(key, line);
            }
            _ => {
                lines.insert(key, line);
            }
        }
    }
    Ok(())
}

/// Returns the content of a file with one secret.
pub(super) fn read_secret(path: &str) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    file.take(MAX_SECRET_LEN + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SECRET_LEN {
        return Err(io::Error::other("the file is too long for a secret"));
    }
    if is_open_to_others(&metadata) {
        let problem = format!("other users can read it; close it with `chmod 600 {path}`");
        return Err(io::Error::other(problem));
    }
    Ok(text)
}

/// Returns whether other users can read a file of this user. Files of other owners are
/// exempt: container platforms mount secrets as files of root, which must be readable for
/// others.
#[must_use]
pub fn is_open_to_others(metadata: &Metadata) -> bool {
    metadata.is_file()
        && metadata.mode() & GROUP_AND_OTHERS != 0
        && metadata.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &[u8]) -> String {
        let path = std::env::temp_dir().join(format!("file-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).unwrap();
        let read = read(&path);
        std::fs::remove_file(&path).unwrap();
        read.err().expect("reading fails").to_string()
    }

    #[test]
    fn a_file_error_has_its_line_and_reason_and_quotes_nothing() {
        for (text, line, reason) in [
            (&b"secret = \"hush-hush\n"[..], 1, "invalid basic string"),
            (b"[server]\nworkers = 1\nsecret = hush-hush\n", 3, "quoted"),
            (b"[server]\nworkers = 1\nworkers = 2\n", 3, "duplicate key"),
            (b"[server]\n\n[server]\n", 3, "duplicate key"),
            (b"[server\nworkers = 1\n", 1, "unclosed table"),
            (b"[server]\nworkers 5\n", 2, "expected `=`"),
            (b"[server]\nworkers = 99999999999999999999\n", 2, "number too large"),
            (b"[server]\nworkers = \n", 2, "value"),
            (b"[server]\n# a\nsecret = \"hush \\q hush\"\n", 3, "escape"),
            (b"[log]\nlevel = \"info\"\nformat = \"hush\xff\"\n", 3, "not UTF-8"),
        ] {
            let message = error(text);
            assert!(message.contains(&format!("is not valid: line {line}: ")), "{message}");
            assert!(message.contains(reason), "{reason:?} is not in {message}");
            assert!(!message.contains("hush") && message.lines().count() == 1, "{message}");
        }
    }
}
