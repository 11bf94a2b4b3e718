//! Loads settings: defaults, then a file, then the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::{NONE, SYSTEM, Settings, SettingsError, file, redact_password, sentence};

/// The sources of settings.
pub struct ConfigSources {
    /// TOML text with every setting and its default.
    pub defaults: &'static str,
    /// The file that is read by default, if it exists.
    pub file: &'static str,
    /// The prefix of environment variables: `MATCHBOOK` makes
    /// `MATCHBOOK__SERVER__ADDRESS` set `server.address`.
    pub prefix: &'static str,
    /// The prefixes of other programs that may share the environment.
    pub others: &'static [&'static str],
    /// Well-known variables without prefix, each with its key. The prefixed variable takes
    /// precedence over its alias.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Keys of secrets. They are masked in output, and a variable `…_FILE` can name a file
    /// with the value.
    pub secrets: &'static [&'static str],
}

impl ConfigSources {
    /// Loads all layers. `file` must exist if it is given. Otherwise the default file is
    /// read if it exists.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown setting, a variable that is not
    /// UTF-8, or a secret that is set twice.
    pub fn load(&self, file: Option<&Path>) -> Result<Settings, SettingsError> {
        let defaults = Config::builder()
            .add_source(File::from_str(self.defaults, FileFormat::Toml))
            .build()
            .and_then(|config| config.collect())
            .map_err(|error| {
                SettingsError(format!("The compiled-in defaults are invalid: {error}."))
            })?;
        let known: BTreeSet<String> = flatten(&defaults).into_keys().collect();

        let default_file = Path::new(self.file);
        let file = file.or_else(|| default_file.exists().then_some(default_file));
        let mut builder =
            Config::builder().add_source(File::from_str(self.defaults, FileFormat::Toml));
        let mut file_values = BTreeMap::new();
        let mut lines = None;
        let mut warnings = Vec::new();
        if let Some(path) = file {
            let name = path.display().to_string();
            let read = file::read(path)?;
            file_values = flatten(&read.values);
            for key in file_values.keys() {
                if !known.contains(key) {
                    let line = read.lines.get(key).map(|line| format!(", line {line}"));
                    let place = format!("{name}{}", line.unwrap_or_default());
                    return Err(self.unknown_key(key, &place, key, &known));
                }
            }
            let holds_secret = |key: &&&str| file_values.get(**key).is_some_and(holds_secret);
            if let (true, Some(key)) = (read.open_to_others, self.secrets.iter().find(holds_secret))
            {
                warnings.push(format!(
                    "`{key}` is in {name}, which other users can read: close it with `chmod 600 \
                     {name}`"
                ));
            }
            builder = builder.add_source(Layer(read.values));
            lines = Some((name, read.lines));
        }
        let environment = self.environment(&known)?;
        for (variable, key) in environment.empty {
            if file_values.contains_key(&key) {
                let word = if key.ends_with("ca_file") { SYSTEM } else { NONE };
                warnings.push(format!(
                    "{variable} is empty, which changes nothing: the settings file sets `{key}`; the word \
                     for \"not set\" is \"{word}\""
                ));
            }
        }
        warnings.extend(environment.warnings);
        let config = builder
            .add_source(Layer(environment.values))
            .build()
            .map_err(|error| SettingsError(sentence(&error.to_string())))?;
        let all = config.collect().map_err(|error| SettingsError(sentence(&error.to_string())))?;
        let effective = flatten(&all);
        Ok(Settings { config, effective, file: lines, warnings, secrets: self.secrets })
    }

    pub(super) fn unknown_key(
        &self,
        key: &str,
        place: &str,
        name: &str,
        known: &BTreeSet<String>,
    ) -> SettingsError {
        let nearest = known
            .iter()
            .map(|candidate| (strsim::jaro_winkler(key, candidate), candidate))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match nearest {
            Some((similarity, candidate)) if similarity > 0.8 => {
                format!("did you mean `{candidate}`?")
            }
            _ => "docs/configuration.md lists all settings.".to_owned(),
        };
        let mapped = if name == key {
            String::new()
        } else {
            format!(" ({}__… makes it `{key}`)", self.prefix)
        };
        SettingsError(format!("`{name}` in {place} is not a setting{mapped}: {hint}"))
    }
}

/// Returns the leaves of a tree of settings by dotted key.
fn flatten(tree: &Map<String, Value>) -> BTreeMap<String, Value> {
    fn walk(path: &str, tree: &Map<String, Value>, leaves: &mut BTreeMap<String, Value>) {
        for (name, value) in tree {
            let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match &value.kind {
                ValueKind::Table(inner) => walk(&key, inner, leaves),
                _ => {
                    leaves.insert(key, value.clone());
                }
            }
        }
    }
    let mut leaves = BTreeMap::new();
    walk("", tree, &mut leaves);
    leaves
}

/// Returns whether a value is a secret or a URL with a password.
fn holds_secret(value: &Value) -> bool {
    match &value.kind {
        ValueKind::String(text) if text.is_empty() || text == NONE => false,
        ValueKind::String(text) if text.contains("://") => {
            redact_password(text).replace(":********@", "@") != *text
        }
        _ => true,
    }
}

/// One layer of values. The origin of each is its variable or file.
#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}
