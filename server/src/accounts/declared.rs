//! Users that a file declares: compares them with the database, and applies the difference.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

use diesel::QueryResult;
use secrecy::SecretString;
use serde::Deserialize;

use super::backends::SUBJECT_KIND;
use super::events::AccountEvent;
use super::{
    DisplayName, GroupName, HashError, LoginName, NewUser, Password, Unacceptable, UnusableHash,
    check_groups, check_hash, hash_password, set_groups,
};
use crate::clock;
use crate::crypto::RngError;
use crate::ids::{EventId, UserId};
use crate::sessions::{ClientInfo, Context, Policy};
use crate::store::events::Event;
use crate::store::{Conn, accounts, events, identities, user_groups};

/// How many login names are read at once.
const PAGE: i64 = 500;

/// The content of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Whether accounts that the file does not name are disabled.
    #[serde(default)]
    prune: bool,
    #[serde(default)]
    users: Vec<Entry>,
}

/// A user in the file. A field that is missing is not changed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    display_name: Option<String>,
    admin: Option<bool>,
    disabled: Option<bool>,
    groups: Option<Vec<String>>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
    password_hash: Option<String>,
}

/// A declared user.
struct Declared {
    name: LoginName,
    display_name: Option<DisplayName>,
    is_admin: Option<bool>,
    is_disabled: Option<bool>,
    groups: Option<Vec<GroupName>>,
    password: Option<PasswordSource>,
}

/// Where the first password of an account comes from.
#[derive(Clone)]
enum PasswordSource {
    File(PathBuf),
    Variable(String),
    Hash(String),
}

/// Why a file cannot be applied: a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum DeclaredError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is invalid: {problem}", path.display())]
    Invalid { path: PathBuf, problem: String },
    #[error("the password of {name}: {problem}")]
    Password { name: String, problem: String },
    #[error("the database failed: {0}; apply the file again")]
    Query(#[from] diesel::result::Error),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Randomness(#[from] RngError),
}

/// The users of a file.
pub struct DeclaredUsers {
    users: Vec<Declared>,
    prune: bool,
}

/// A difference between a file and the database.
pub struct Difference {
    /// The login name.
    pub name: String,
    change: Change,
}

enum Change {
    Add(Box<NewUser>, Option<PasswordSource>, Vec<GroupName>),
    SetPassword(UserId, PasswordSource),
    SetDisplayName(UserId, DisplayName),
    SetAdmin(UserId, bool),
    SetGroups(UserId, Vec<GroupName>),
    Disable(UserId),
    Enable(UserId),
}

/// What a change is decided and recorded with.
#[derive(Clone, Copy)]
pub struct ApplyContext<'a> {
    pub policy: &'a Policy,
    pub password_min_length: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.change {
            Change::Add(..) => f.write_str("add"),
            Change::SetPassword(..) => f.write_str("set the password"),
            Change::SetDisplayName(_, name) => {
                write!(f, "set the display name {:?}", name.as_str())
            }
            Change::SetAdmin(_, true) => f.write_str("make administrator"),
            Change::SetAdmin(_, false) => f.write_str("make no administrator"),
            Change::SetGroups(_, groups) => {
                let names: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
                write!(f, "set the groups {names:?}")
            }
            Change::Disable(_) => f.write_str("disable"),
            Change::Enable(_) => f.write_str("enable"),
        }
    }
}

impl DeclaredUsers {
    /// Reads a file. Paths of passwords are relative to its folder.
    pub fn read(path: &Path) -> Result<Self, DeclaredError> {
        let text = fs::read_to_string(path)
            .map_err(|source| DeclaredError::Read { path: path.to_owned(), source })?;
        let invalid = |problem| DeclaredError::Invalid { path: path.to_owned(), problem };
        let file: File = toml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let users = file.users.into_iter().map(|entry| parse(entry, folder));
        let users: Vec<Declared> = users.collect::<Result<_, _>>().map_err(invalid)?;
        let mut names = HashSet::new();
        if let Some(repeated) = users.iter().find(|user| !names.insert(user.name.as_str())) {
            return Err(invalid(format!("{} is declared twice", repeated.name.as_str())));
        }
        Ok(Self { users, prune: file.prune })
    }

    /// Compares the file with the database.
    pub fn compare(&self, conn: &mut Conn) -> QueryResult<Vec<Difference>> {
        let mut differences = Vec::new();
        let mut declared = HashSet::new();
        for user in &self.users {
            let found = identities::find(conn, user.name.as_str())?.map(|found| found.user);
            declared.extend(found);
            let changes = match found {
                None => vec![add(user)],
                Some(id) => compare(conn, user, id)?,
            };
            let name = user.name.as_str();
            differences.extend(
                changes.into_iter().map(|change| Difference { name: name.to_owned(), change }),
            );
        }
        if self.prune {
            prune(conn, &declared, &mut differences)?;
        }
        Ok(differences)
    }
}

fn parse(entry: Entry, folder: &Path) -> Result<Declared, String> {
    let Entry { name, display_name, admin, disabled, groups, .. } = entry;
    let (password_file, password_env, password_hash) =
        (entry.password_file, entry.password_env, entry.password_hash);
    let invalid = |problem: &dyn fmt::Display| format!("user {name:?}: {problem}");
    let parsed = LoginName::parse(&name).map_err(|error| invalid(&error))?;
    let display_name = display_name.as_deref().map(DisplayName::parse).transpose();
    let password = match (password_file, password_env, password_hash) {
        (None, None, None) => None,
        (Some(path), None, None) => Some(PasswordSource::File(folder.join(path))),
        (None, Some(variable), None) => Some(PasswordSource::Variable(variable)),
        (None, None, Some(hash)) => {
            check_hash(&hash).map_err(|error: UnusableHash| invalid(&error))?;
            Some(PasswordSource::Hash(hash))
        }
        _ => {
            let problem = "give one of `password_file`, `password_env` and `password_hash`";
            return Err(invalid(&problem));
        }
    };
    let groups = groups.map(|names| check_groups(&names)).transpose();
    Ok(Declared {
        groups: groups.map_err(|error| invalid(&error))?,
        name: parsed,
        display_name: display_name.map_err(|error| invalid(&error))?,
        is_admin: admin,
        is_disabled: disabled,
        password,
    })
}

fn add(user: &Declared) -> Change {
    let new = NewUser {
        user: UserId::random(),
        name: user.name.clone(),
        display_name: user.display_name.clone(),
        password_hash: None,
        is_admin: user.is_admin.unwrap_or_default(),
        is_disabled: user.is_disabled.unwrap_or_default(),
    };
    Change::Add(Box::new(new), user.password.clone(), user.groups.clone().unwrap_or_default())
}

fn compare(conn: &mut Conn, user: &Declared, id: UserId) -> QueryResult<Vec<Change>> {
    let Some(account) = accounts::find(conn, id)? else { return Ok(Vec::new()) };
    let mut changes = Vec::new();
    if let (None, Some(source)) = (&account.password_hash, &user.password) {
        changes.push(Change::SetPassword(id, source.clone()));
    }
    if let Some(name) = &user.display_name
        && account.display_name.as_deref() != Some(name.as_str())
    {
        changes.push(Change::SetDisplayName(id, name.clone()));
    }
    if let Some(is_admin) = user.is_admin
        && account.is_admin != is_admin
    {
        changes.push(Change::SetAdmin(id, is_admin));
    }
    if let Some(groups) = &user.groups {
        let names: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
        if user_groups::of_user(conn, id)? != names {
            changes.push(Change::SetGroups(id, groups.clone()));
        }
    }
    match (user.is_disabled, account.disabled_at) {
        (Some(true), None) => changes.push(Change::Disable(id)),
        (Some(false), Some(_)) => changes.push(Change::Enable(id)),
        _ => {}
    }
    Ok(changes)
}

/// Adds the accounts with a login name that the file does not declare.
fn prune(
    conn: &mut Conn,
    declared: &HashSet<UserId>,
    differences: &mut Vec<Difference>,
) -> QueryResult<()> {
    let mut after = String::new();
    loop {
        let names = identities::list(conn, &after, PAGE)?;
        let Some(last) = names.last() else { return Ok(()) };
        after.clone_from(&last.name);
        for found in names {
            if found.kind == SUBJECT_KIND || declared.contains(&found.user) {
                continue;
            }
            let account = accounts::find(conn, found.user)?;
            if account.is_some_and(|account| account.disabled_at.is_none()) {
                let change = Change::Disable(found.user);
                differences.push(Difference { name: found.name, change });
            }
        }
    }
}

/// Applies a difference. Returns the number of sessions that ended.
pub fn apply(
    conn: &mut Conn,
    difference: Difference,
    context: ApplyContext<'_>,
) -> Result<usize, DeclaredError> {
    let now = clock::now();
    let client = ClientInfo::command_line();
    let cx = Context { policy: context.policy, client: &client, event: EventId::new(now)?, now };
    let Difference { name, change } = difference;
    let ended = match change {
        Change::Add(mut new, source, groups) => {
            let source = source.map(|source| hash(&source, &new.name, context)).transpose()?;
            new.password_hash = source;
            // Another server may apply the same file, and have added the user.
            super::add(conn, &new, &cx)?;
            if let Some(added) = identities::find(conn, new.name.as_str())? {
                set_groups(conn, added.user, &groups)?;
            }
            None
        }
        Change::SetGroups(user, groups) => {
            set_groups(conn, user, &groups)?;
            None
        }
        Change::SetPassword(user, source) => {
            let name = LoginName::parse(&name).map_err(|error| DeclaredError::Password {
                name: name.clone(),
                problem: error.to_string(),
            })?;
            super::set_password(conn, user, &hash(&source, &name, context)?, &cx)?
        }
        Change::SetDisplayName(user, name) => {
            accounts::set_display_name(conn, user, Some(name.as_str()))?;
            None
        }
        Change::SetAdmin(user, is_admin) => {
            set_admin(conn, user, is_admin, &cx)?;
            None
        }
        Change::Disable(user) => super::disable(conn, user, &cx)?,
        Change::Enable(user) => {
            super::enable(conn, user, &cx)?;
            None
        }
    };
    Ok(ended.map_or(0, |revoked| revoked.ended))
}

/// Gives or takes the role of an administrator.
fn set_admin(conn: &mut Conn, user: UserId, is_admin: bool, cx: &Context<'_>) -> QueryResult<()> {
    conn.write(|conn| {
        if accounts::set_admin(conn, user, is_admin)? {
            let reason = Some(if is_admin { "administrator" } else { "user" });
            let event = cx.user_event(AccountEvent::RoleChanged.as_str(), user);
            events::insert(conn, &Event { reason, ..event })?;
        }
        Ok(())
    })
}

fn hash(
    source: &PasswordSource,
    name: &LoginName,
    context: ApplyContext<'_>,
) -> Result<String, DeclaredError> {
    let failed = |problem| DeclaredError::Password { name: name.as_str().to_owned(), problem };
    let text = match source {
        PasswordSource::Hash(hash) => return Ok(hash.clone()),
        PasswordSource::File(path) => fs::read_to_string(path)
            .map_err(|error| failed(format!("cannot read {}: {error}", path.display())))?,
        PasswordSource::Variable(variable) => {
            env::var(variable).map_err(|_| failed(format!("the variable {variable} is not set")))?
        }
    };
    let text = SecretString::from(text.trim_end_matches(['\r', '\n']));
    let password = Password::choose(&text, context.password_min_length, name);
    Ok(hash_password(&password.map_err(|reason: Unacceptable| failed(reason.message()))?)?)
}
