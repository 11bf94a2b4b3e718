//! Environment variables that are settings, and warnings about similar names.

use std::collections::BTreeSet;
use std::env::VarError;

use config::{Map, Value, ValueKind};

use super::file::read_secret;
use super::{ConfigSources, SettingsError};

/// The prefix of the variables of all Matchbook programs.
const FAMILY: &str = "MATCHBOOK";
/// Minimum similarity, from 0 to 1, of a suggested name.
const MIN_SIMILARITY: f64 = 0.65;
/// Maximum edit distance between a variable and the alias that it is compared with.
const MAX_EDITS: usize = 2;

/// The settings in the environment.
#[derive(Default)]
pub(super) struct EnvSource {
    /// Values by dotted key. The origin of each is its variable.
    pub(super) values: Map<String, Value>,
    /// Empty variables, each with its key. They set nothing.
    pub(super) empty: Vec<(String, String)>,
    /// Warnings about variables that are not settings but have a similar name.
    pub(super) warnings: Vec<String>,
}

impl ConfigSources {
    /// Reads the variables that are settings. An empty variable counts as not set, because
    /// compose files pass unset variables as empty.
    pub(super) fn environment(&self, known: &BTreeSet<String>) -> Result<EnvSource, SettingsError> {
        let mut env = EnvSource::default();
        for (variable, key) in self.aliases {
            self.read_variable(variable, key, &mut env)?;
        }
        let mut names: Vec<String> =
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        names.sort_unstable();
        for variable in &names {
            let own = variable.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix("__"));
            match own {
                Some(rest) => self.read_prefixed(variable, rest, known, &mut env)?,
                None => env.warnings.extend(self.similar_name(variable, &names, known)),
            }
        }
        Ok(env)
    }

    /// Reads a variable with the prefix. `rest` is its name after the prefix.
    fn read_prefixed(
        &self,
        name: &str,
        rest: &str,
        known: &BTreeSet<String>,
        env: &mut EnvSource,
    ) -> Result<(), SettingsError> {
        let key = rest.replace("__", ".").to_lowercase();
        let (key, variable) = match (key.strip_suffix("_file"), name.len().checked_sub(5)) {
            (Some(secret), Some(end)) if self.secrets.contains(&secret) => {
                (secret.to_owned(), &name[..end])
            }
            _ => (key, name),
        };
        if !known.contains(&key) {
            return Err(self.unknown_key(&key, "the environment", name, known));
        }
        if rest.chars().any(|c| c.is_ascii_lowercase()) {
            return Err(SettingsError(format!(
                "{name} in the environment sets nothing: write it in capitals."
            )));
        }
        self.read_variable(variable, &key, env)
    }

    /// Reads the value of `key` from `variable`, or from the file that `variable_FILE`
    /// names.
    fn read_variable(
        &self,
        variable: &str,
        key: &str,
        env: &mut EnvSource,
    ) -> Result<(), SettingsError> {
        let direct = read_utf8(variable)?;
        let file_variable = format!("{variable}_FILE");
        let file = if self.secrets.contains(&key) { read_utf8(&file_variable)? } else { None };
        let is_set = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
        let (value, origin) = match (direct, file) {
            (Some(direct), Some(file)) if !direct.is_empty() && !file.is_empty() => {
                return Err(SettingsError(format!(
                    "`{key}` is set twice, by {variable} and by {file_variable}: remove one of them."
                )));
            }
            (direct, _) if is_set(&direct) => (direct.unwrap_or_default(), variable.to_owned()),
            (_, file) if is_set(&file) => {
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
                env.empty.extend(empty.map(|variable| (variable, key.to_owned())));
                return Ok(());
            }
        };
        env.values.insert(key.to_owned(), Value::new(Some(&origin), ValueKind::String(value)));
        Ok(())
    }

    /// Returns a warning if a variable is not a setting but has a similar name.
    fn similar_name(
        &self,
        name: &str,
        names: &[String],
        known: &BTreeSet<String>,
    ) -> Option<String> {
        let is_alias = |name: &str| {
            let name = name.strip_suffix("_FILE").unwrap_or(name);
            self.aliases.iter().any(|(alias, _)| *alias == name)
        };
        let is_of_other_program = self
            .others
            .iter()
            .any(|other| name.strip_prefix(other).is_some_and(|rest| rest.starts_with("__")));
        if is_alias(name) || is_of_other_program {
            return None;
        }
        let upper = name.to_uppercase();
        let suggested = if upper.starts_with(FAMILY) {
            self.nearest_variable(&upper, known)
        } else {
            let alias = self
                .aliases
                .iter()
                .map(|(alias, _)| *alias)
                .find(|alias| strsim::damerau_levenshtein(&upper, alias) <= MAX_EDITS)?;
            // If the alias is set too, the variable belongs to another program.
            if names.iter().any(|name| name.strip_suffix("_FILE").unwrap_or(name) == alias) {
                return None;
            }
            Some(alias.to_owned())
        };
        let hint = match suggested {
            Some(variable) => format!("did you mean {variable}?"),
            None => "`check-config` lists all settings.".to_owned(),
        };
        Some(format!("{name} in the environment is not a setting and changes nothing: {hint}"))
    }

    /// Returns the variable whose name is most similar to `name`, which is in upper case.
    fn nearest_variable(&self, name: &str, known: &BTreeSet<String>) -> Option<String> {
        let without_underscores = |name: &str| name.replace('_', "");
        let prefixes = [self.prefix, FAMILY];
        let rest = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let rest = without_underscores(rest);
        let own = known.iter().flat_map(|key| {
            let words = key.replace('.', "__").to_uppercase();
            let file = self.secrets.contains(&key.as_str()).then(|| format!("{words}_FILE"));
            [Some(words), file].into_iter().flatten()
        });
        let candidates =
            own.map(|words| (without_underscores(&words), format!("{}__{words}", self.prefix)));
        candidates
            .map(|(words, variable)| {
                (strsim::normalized_damerau_levenshtein(&rest, &words), variable)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
            .map(|(_, variable)| variable)
    }
}

fn read_utf8(variable: &str) -> Result<Option<String>, SettingsError> {
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
    fn a_variable_with_a_similar_name_is_reported_with_a_suggestion() {
        for (name, suggestion) in [
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
            let warning = SERVER.similar_name(name, &[name.to_owned()], &known()).expect(name);
            assert!(warning.starts_with(&format!("{name} in the environment")), "{warning}");
            assert!(warning.ends_with(&format!("did you mean {suggestion}?")), "{warning}");
        }
        let warning = SERVER.similar_name("MATCHBOOK_COLOUR", &[], &known()).unwrap();
        assert!(warning.ends_with("`check-config` lists all settings."), "{warning}");
        let warning = CLIENT.similar_name("MATCHBOOK_SERVER_URL", &[], &known()).unwrap();
        assert!(warning.ends_with("did you mean MATCHBOOK_CLIENT__SERVER__URL?"), "{warning}");
        let warning = CLIENT.similar_name("MATCHBOOK_CLIENT_SERVER_URL", &[], &known()).unwrap();
        assert!(warning.ends_with("did you mean MATCHBOOK_CLIENT__SERVER__URL?"), "{warning}");
    }

    #[test]
    fn a_variable_of_another_program_is_not_reported() {
        for name in
            ["MATCHBOOK_CLIENT__SERVER__URL", "DATABASE_URL", "REDIS_URL_FILE", "PATH", "URL"]
        {
            assert_eq!(SERVER.similar_name(name, &[], &known()), None, "{name}");
        }
        assert_eq!(CLIENT.similar_name("MATCHBOOK__TOKENS__ISSUER", &[], &known()), None);
        assert_eq!(CLIENT.similar_name("REDIS_URI", &[], &known()), None);
        // The alias is set too, so the variable belongs to another program.
        let names = ["REDIS_URI".to_owned(), "REDIS_URL".to_owned()];
        assert_eq!(SERVER.similar_name("REDIS_URI", &names, &known()), None);
    }
}
