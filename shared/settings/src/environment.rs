//! The environment: variables that are settings, and those that look like one.

use std::collections::BTreeSet;
use std::env::VarError;

use config::{Map, Value, ValueKind};

use super::file::read_secret;
use super::{ConfigSources, SettingsError};

/// The first word of every variable that is meant for one of our programs.
const FAMILY: &str = "MATCHBOOK";
/// The least likeness, from 0 to 1, of a name that is suggested.
const MIN_LIKENESS: f64 = 0.65;
/// The most edits between a variable and the well-known one that was meant.
const MAX_EDITS: usize = 2;

/// What was found in the environment.
#[derive(Default)]
pub(super) struct Found {
    /// Values by dotted name, each with its variable as origin.
    pub(super) values: Map<String, Value>,
    /// Empty variables, each with the setting that it leaves alone.
    pub(super) empty: Vec<(String, String)>,
    /// Variables that set nothing although they look as if they did.
    pub(super) warnings: Vec<String>,
}

impl ConfigSources {
    /// Reads the variables that are settings. An empty one counts as not set,
    /// as compose files pass it.
    pub(super) fn environment(&self, known: &BTreeSet<String>) -> Result<Found, SettingsError> {
        let mut found = Found::default();
        for (variable, key) in self.aliases {
            self.take(variable, key, &mut found)?;
        }
        let mut names: Vec<String> =
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        names.sort_unstable();
        for variable in &names {
            let own = variable.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix("__"));
            match own {
                Some(rest) => self.take_own(variable, rest, known, &mut found)?,
                None => found.warnings.extend(self.stray(variable, &names, known)),
            }
        }
        Ok(found)
    }

    /// Takes a variable with our prefix, after which comes `rest`.
    fn take_own(
        &self,
        name: &str,
        rest: &str,
        known: &BTreeSet<String>,
        found: &mut Found,
    ) -> Result<(), SettingsError> {
        let key = rest.replace("__", ".").to_lowercase();
        let (key, variable) = match (key.strip_suffix("_file"), name.len().checked_sub(5)) {
            (Some(secret), Some(end)) if self.secrets.contains(&secret) => {
                (secret.to_owned(), &name[..end])
            }
            _ => (key, name),
        };
        if !known.contains(&key) {
            return Err(self.unknown(&key, "the environment", name, known));
        }
        if rest.chars().any(|c| c.is_ascii_lowercase()) {
            return Err(SettingsError(format!(
                "{name} in the environment sets nothing: write it in capitals."
            )));
        }
        self.take(variable, &key, found)
    }

    /// Puts the value of `variable`, or of the file that `variable_FILE` names,
    /// under `key`.
    fn take(&self, variable: &str, key: &str, found: &mut Found) -> Result<(), SettingsError> {
        let direct = read(variable)?;
        let file_variable = format!("{variable}_FILE");
        let file = if self.secrets.contains(&key) { read(&file_variable)? } else { None };
        let given = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
        let (value, origin) = match (direct, file) {
            (Some(direct), Some(file)) if !direct.is_empty() && !file.is_empty() => {
                return Err(SettingsError(format!(
                    "`{key}` is set twice: by {variable} and by {file_variable}; keep one of them."
                )));
            }
            (direct, _) if given(&direct) => (direct.unwrap_or_default(), variable.to_owned()),
            (_, file) if given(&file) => {
                let path = file.unwrap_or_default();
                let text = read_secret(&path).map_err(|error| {
                    SettingsError(format!(
                        "{file_variable} names {path}, which cannot be read: {error}."
                    ))
                })?;
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                if text.is_empty() {
                    return Err(SettingsError(format!(
                        "{file_variable} names {path}, which is empty."
                    )));
                }
                (text, file_variable)
            }
            (direct, file) => {
                let empty = direct.map(|_| variable.to_owned()).or(file.map(|_| file_variable));
                found.empty.extend(empty.map(|variable| (variable, key.to_owned())));
                return Ok(());
            }
        };
        found.values.insert(key.to_owned(), Value::new(Some(&origin), ValueKind::String(value)));
        Ok(())
    }

    /// The warning about a variable that was meant as a setting and is none.
    fn stray(&self, name: &str, names: &[String], known: &BTreeSet<String>) -> Option<String> {
        let is_alias = |name: &str| {
            let name = name.strip_suffix("_FILE").unwrap_or(name);
            self.aliases.iter().any(|(alias, _)| *alias == name)
        };
        let of_other = self
            .others
            .iter()
            .any(|other| name.strip_prefix(other).is_some_and(|rest| rest.starts_with("__")));
        if is_alias(name) || of_other {
            return None;
        }
        let capitals = name.to_uppercase();
        let suggested = if capitals.starts_with(FAMILY) {
            self.nearest_variable(&capitals, known)
        } else {
            let meant = self
                .aliases
                .iter()
                .map(|(alias, _)| *alias)
                .find(|alias| strsim::damerau_levenshtein(&capitals, alias) <= MAX_EDITS)?;
            // Where the well-known one is set, this is somebody else's.
            if names.iter().any(|name| name.strip_suffix("_FILE").unwrap_or(name) == meant) {
                return None;
            }
            Some(meant.to_owned())
        };
        let hint = match suggested {
            Some(variable) => format!("did you mean {variable}?"),
            None => "`check-config` lists all settings.".to_owned(),
        };
        Some(format!("{name} in the environment is not a setting and changes nothing: {hint}"))
    }

    /// The variable that is written most like `name`, which is in capitals.
    fn nearest_variable(&self, name: &str, known: &BTreeSet<String>) -> Option<String> {
        let plain = |name: &str| name.replace('_', "");
        let prefixes = [self.prefix, FAMILY];
        let rest = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let rest = plain(rest);
        let own = known.iter().flat_map(|key| {
            let words = key.replace('.', "__").to_uppercase();
            let file = self.secrets.contains(&key.as_str()).then(|| format!("{words}_FILE"));
            [Some(words), file].into_iter().flatten()
        });
        let candidates = own.map(|words| (plain(&words), format!("{}__{words}", self.prefix)));
        candidates
            .map(|(words, variable)| {
                (strsim::normalized_damerau_levenshtein(&rest, &words), variable)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(likeness, _)| *likeness >= MIN_LIKENESS)
            .map(|(_, variable)| variable)
    }
}

fn read(variable: &str) -> Result<Option<String>, SettingsError> {
    match std::env::var(variable) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(SettingsError(format!("{variable} is not valid UTF-8.")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ConfigSources = ConfigSources {
        defaults: "",
        file: "",
        prefix: "MATCHBOOK",
        others: &["MATCHBOOK_CLIENT"],
        aliases: &[("DATABASE_URL", "database.url"), ("REDIS_URL", "redis.url")],
        secrets: &["secret", "database.url", "redis.url"],
    };
    const CLIENT: ConfigSources = ConfigSources {
        prefix: "MATCHBOOK_CLIENT",
        others: &["MATCHBOOK"],
        aliases: &[],
        secrets: &[],
        ..SERVER
    };

    fn known() -> BTreeSet<String> {
        ["secret", "server.url", "tokens.access_lifetime", "database.url", "redis.url"]
            .map(str::to_owned)
            .into()
    }

    #[test]
    fn a_variable_that_looks_like_a_setting_is_reported_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("MATCHBOOK_TOKENS_ACCESS_LIFETIME", "MATCHBOOK__TOKENS__ACCESS_LIFETIME"),
            ("MATCHBOOK_TOKEN_ACCESS_LIFETIME", "MATCHBOOK__TOKENS__ACCESS_LIFETIME"),
            ("MATCHBOOKTOKENS__ACCESS_LIFETIME", "MATCHBOOK__TOKENS__ACCESS_LIFETIME"),
            ("matchbook__tokens__access_lifetime", "MATCHBOOK__TOKENS__ACCESS_LIFETIME"),
            ("MATCHBOOK_SECRET", "MATCHBOOK__SECRET"),
            ("MATCHBOOK_SECRET_FILE", "MATCHBOOK__SECRET_FILE"),
            ("MATCHBOOK_DATABASE_URI", "MATCHBOOK__DATABASE__URL"),
            ("REDIS_URI", "REDIS_URL"),
            ("redis_url", "REDIS_URL"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("DATABASEURL", "DATABASE_URL"),
        ] {
            let warning = SERVER.stray(name, &[name.to_owned()], &known()).expect(name);
            assert!(warning.starts_with(&format!("{name} in the environment")), "{warning}");
            assert!(warning.ends_with(&format!("did you mean {meant}?")), "{warning}");
        }
        let warning = SERVER.stray("MATCHBOOK_COLOUR", &[], &known()).unwrap();
        assert!(warning.ends_with("`check-config` lists all settings."), "{warning}");
        let warning = CLIENT.stray("MATCHBOOK_SERVER_URL", &[], &known()).unwrap();
        assert!(warning.ends_with("did you mean MATCHBOOK_CLIENT__SERVER__URL?"), "{warning}");
        let warning = CLIENT.stray("MATCHBOOK_CLIENT_SERVER_URL", &[], &known()).unwrap();
        assert!(warning.ends_with("did you mean MATCHBOOK_CLIENT__SERVER__URL?"), "{warning}");
    }

    #[test]
    fn a_variable_of_another_program_is_not_reported() {
        for name in
            ["MATCHBOOK_CLIENT__SERVER__URL", "DATABASE_URL", "REDIS_URL_FILE", "PATH", "URL"]
        {
            assert_eq!(SERVER.stray(name, &[], &known()), None, "{name}");
        }
        assert_eq!(CLIENT.stray("MATCHBOOK__TOKENS__ISSUER", &[], &known()), None);
        assert_eq!(CLIENT.stray("REDIS_URI", &[], &known()), None);
        // Something else reads it: the well-known one is there as well.
        let names = ["REDIS_URI".to_owned(), "REDIS_URL".to_owned()];
        assert_eq!(SERVER.stray("REDIS_URI", &names, &known()), None);
    }
}
