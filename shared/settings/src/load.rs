//! Where settings come from: defaults, then a file, then the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::{NONE, SYSTEM, Settings, SettingsError, file, redact_password, sentence};

/// Where settings come from.
pub struct ConfigSources {
    /// The TOML text that names every setting with its default.
    pub defaults: &'static str,
    /// The file that is read where none is named, if it is there.
    pub file: &'static str,
    /// The prefix of environment variables: `MATCHBOOK` makes
    /// `MATCHBOOK__SERVER__ADDRESS` set `server.address`.
    pub prefix: &'static str,
    /// The prefixes of other programs that may share the environment.
    pub others: &'static [&'static str],
    /// Well-known variables beside them, each with the setting it stands for.
    /// The prefixed variable wins over its alias.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Settings that hold a secret: masked in output, and read from the file
    /// that a variable `…_FILE` names.
    pub secrets: &'static [&'static str],
}

impl ConfigSources {
    /// Reads all layers. `file` must exist when it is given; otherwise the
    /// usual one is read if it is there.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown setting, a variable
    /// that is not UTF-8, or a secret given twice.
    pub fn load(&self, file: Option<&Path>) -> Result<Settings, SettingsError> {
        let defaults = Config::builder()
            .add_source(File::from_str(self.defaults, FileFormat::Toml))
            .build()
            .and_then(|config| config.collect())
            .map_err(|error| {
                SettingsError(format!("The compiled-in defaults are broken: {error}."))
            })?;
        let known: BTreeSet<String> = flatten(&defaults).into_keys().collect();

        let usual = Path::new(self.file);
        let file = file.or_else(|| usual.exists().then_some(usual));
        let mut builder =
            Config::builder().add_source(File::from_str(self.defaults, FileFormat::Toml));
        let mut of_file = BTreeMap::new();
        let mut lines = None;
        let mut warnings = Vec::new();
        if let Some(path) = file {
            let name = path.display().to_string();
            let read = file::read(path)?;
            of_file = flatten(&read.values);
            for key in of_file.keys() {
                if !known.contains(key) {
                    let line = read.lines.get(key).map(|line| format!(", line {line}"));
                    let place = format!("{name}{}", line.unwrap_or_default());
                    return Err(self.unknown(key, &place, key, &known));
                }
            }
            let holds_secret = |key: &&&str| of_file.get(**key).is_some_and(holds_secret);
            if let (true, Some(key)) = (read.open_to_others, self.secrets.iter().find(holds_secret))
            {
                warnings.push(format!(
                    "`{key}` is in {name}, which other users can read: close it with `chmod 600 \
                     {name}`"
                ));
            }
            builder = builder.add_source(Values(read.values));
            lines = Some((name, read.lines));
        }
        let environment = self.environment(&known)?;
        for (variable, key) in environment.empty {
            if of_file.contains_key(&key) {
                let word = if key.ends_with("ca_file") { SYSTEM } else { NONE };
                warnings.push(format!(
                    "{variable} is empty, which changes nothing: the settings file sets `{key}`; \
                     the word for \"not set\" is \"{word}\""
                ));
            }
        }
        warnings.extend(environment.warnings);
        let config = builder
            .add_source(Values(environment.values))
            .build()
            .map_err(|error| SettingsError(sentence(&error.to_string())))?;
        let all = config.collect().map_err(|error| SettingsError(sentence(&error.to_string())))?;
        let in_force = flatten(&all);
        Ok(Settings { config, in_force, file: lines, warnings, secrets: self.secrets })
    }

    pub(super) fn unknown(
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
            Some((likeness, candidate)) if likeness > 0.8 => {
                format!("did you mean `{candidate}`?")
            }
            _ => "`default.toml` in the sources lists all there are.".to_owned(),
        };
        let spelled = if name == key {
            String::new()
        } else {
            format!(" ({}__… makes it `{key}`)", self.prefix)
        };
        SettingsError(format!("`{name}` in {place} is not a setting{spelled}: {hint}"))
    }
}

/// The leaves of a tree of settings under their dotted names.
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

/// Whether a value is a secret, or a URL with a password in it.
fn holds_secret(value: &Value) -> bool {
    match &value.kind {
        ValueKind::String(text) if text.is_empty() || text == NONE => false,
        ValueKind::String(text) if text.contains("://") => {
            redact_password(text).replace(":********@", "@") != *text
        }
        _ => true,
    }
}

/// One layer, each value with its variable or file as origin.
#[derive(Debug, Clone)]
struct Values(Map<String, Value>);

impl Source for Values {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}
