//! Clients that a file declares: compares them with the database, and applies the difference.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    Client, ClientKind, InvalidClient, LogoutSettings, check, describe_grace_period,
    parse_grace_period, remove,
};
use crate::clock;
use crate::crypto::{Digest, RngError};
use crate::ids::{ClientId, EventId};
use crate::sessions::{ClientInfo, Context, Policy};
use crate::store::{Conn, clients};
use crate::tokens::{Scope, SecretDigests, client_secret_digest};

/// The minimum length of a declared secret, in bytes: 32 hexadecimal digits have 128 bits.
const MIN_SECRET_LEN: usize = 32;

/// The content of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Whether clients that the file does not name are removed.
    #[serde(default)]
    prune: bool,
    #[serde(default)]
    clients: Vec<Entry>,
}

/// A client in the file. A field that is missing has its default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of a file")]
struct Entry {
    id: String,
    name: String,
    #[serde(rename = "type")]
    kind: Kind,
    secret_file: Option<PathBuf>,
    secret_env: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    first_party: bool,
    require_pkce: Option<bool>,
    #[serde(default)]
    machine: bool,
    #[serde(default)]
    device: bool,
    #[serde(default)]
    post_logout_redirect_uris: Vec<String>,
    backchannel_logout_uri: Option<String>,
    #[serde(default)]
    keep_offline_access: bool,
    grace_period: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Public,
    Confidential,
}

/// Why a file cannot be applied: a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum DeclaredError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is invalid: {problem}", path.display())]
    Invalid { path: PathBuf, problem: String },
    #[error(
        "client {0}: the type differs from the database; remove the client, or declare another id"
    )]
    OtherKind(ClientId),
    #[error("the database failed: {0}; apply the file again")]
    Query(#[from] diesel::result::Error),
    #[error(transparent)]
    Randomness(#[from] RngError),
}

/// The clients of a file.
pub struct DeclaredClients {
    clients: Vec<Client>,
    prune: bool,
}

/// A difference between a file and the database.
pub struct Difference {
    pub id: ClientId,
    change: Change,
}

enum Change {
    Add(Box<Client>),
    /// The client, and the fields that differ.
    Set(Box<Client>, Vec<String>),
    SetSecret(Digest),
    Remove,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.id)?;
        match &self.change {
            Change::Add(_) => f.write_str("add"),
            Change::Set(_, fields) => write!(f, "set {}", fields.join(", ")),
            Change::SetSecret(_) => f.write_str("replace the secret"),
            Change::Remove => f.write_str("remove"),
        }
    }
}

impl DeclaredClients {
    /// Reads a file and the secrets that it names. Paths of secrets are relative to its
    /// folder.
    pub fn read(path: &Path, allow_localhost: bool) -> Result<Self, DeclaredError> {
        let text = fs::read_to_string(path)
            .map_err(|source| DeclaredError::Read { path: path.to_owned(), source })?;
        let invalid = |problem| DeclaredError::Invalid { path: path.to_owned(), problem };
        let file: File = toml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut ids = HashSet::new();
        let mut clients = Vec::new();
        for entry in file.clients {
            let id = entry.id.clone();
            let client = parse(entry, folder, allow_localhost);
            let client = client.map_err(|problem| invalid(format!("client {id:?}: {problem}")))?;
            if !ids.insert(id.clone()) {
                return Err(invalid(format!("{id} is declared twice")));
            }
            clients.push(client);
        }
        Ok(Self { clients, prune: file.prune })
    }

    /// Compares the file with the database.
    pub fn compare(&self, conn: &mut Conn) -> Result<Vec<Difference>, DeclaredError> {
        let mut differences = Vec::new();
        for client in &self.clients {
            let changes = match clients::find(conn, &client.id)? {
                None => vec![Change::Add(Box::new(client.clone()))],
                Some(stored) => compare(client, &stored)?,
            };
            let id = &client.id;
            differences
                .extend(changes.into_iter().map(|change| Difference { id: id.clone(), change }));
        }
        if self.prune {
            let declared: HashSet<&ClientId> = self.clients.iter().map(|it| &it.id).collect();
            let stored = clients::all(conn)?.into_iter().map(|client| client.id);
            let others = stored.filter(|id| !declared.contains(id));
            differences.extend(others.map(|id| Difference { id, change: Change::Remove }));
        }
        Ok(differences)
    }
}

fn parse(entry: Entry, folder: &Path, allow_localhost: bool) -> Result<Client, String> {
    let secret = match (&entry.secret_file, &entry.secret_env) {
        (None, None) => None,
        (Some(path), None) => Some(read_secret_file(&folder.join(path))?),
        (None, Some(variable)) => {
            let value = env::var(variable);
            Some(value.map_err(|_| format!("the variable {variable} is not set"))?)
        }
        (Some(_), Some(_)) => return Err("give one of `secret_file` and `secret_env`".to_owned()),
    };
    let kind = match (entry.kind, secret) {
        (Kind::Public, None) => ClientKind::Public,
        (Kind::Public, Some(_)) => return Err("a public client has no secret".to_owned()),
        (Kind::Confidential, Some(secret)) => ClientKind::Confidential(digests(secret)?),
        (Kind::Confidential, None) => {
            return Err("a confidential client needs `secret_file` or `secret_env`".to_owned());
        }
    };
    let scope = Scope::from_tokens(entry.scopes.iter().map(String::as_str));
    let grace_period = parse_grace_period(entry.grace_period.as_deref().unwrap_or("default"));
    let client = Client {
        id: entry.id.into(),
        name: entry.name,
        kind,
        redirect_uris: entry.redirect_uris,
        scope: scope.map_err(|problem| format!("a scope {problem}"))?,
        audiences: entry.audiences,
        is_first_party: entry.first_party,
        require_pkce: entry.require_pkce.unwrap_or(true),
        is_machine: entry.machine,
        is_device: entry.device,
        logout: LogoutSettings {
            redirect_uris: entry.post_logout_redirect_uris,
            backchannel_uri: entry.backchannel_logout_uri,
            keeps_offline_access: entry.keep_offline_access,
        },
        grace_period: grace_period.map_err(|problem| problem.to_string())?,
        created_at: clock::now(),
    };
    check(&client, allow_localhost).map_err(|problem: InvalidClient| problem.to_string())?;
    Ok(client)
}

fn read_secret_file(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn digests(secret: String) -> Result<SecretDigests, String> {
    let secret = SecretString::from(secret);
    let text = secret.expose_secret();
    if text.len() < MIN_SECRET_LEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "the secret has at least {MIN_SECRET_LEN} printable ASCII characters without spaces: \
             use the output of `openssl rand -hex 32`"
        ));
    }
    Ok(SecretDigests { current: client_secret_digest(&secret), previous: None })
}

fn compare(declared: &Client, stored: &Client) -> Result<Vec<Change>, DeclaredError> {
    let mut changes = Vec::new();
    let (wanted, present) = (fields(declared), fields(stored));
    let differ = wanted.into_iter().zip(present).filter(|(wanted, present)| wanted != present);
    let differ: Vec<String> = differ.map(|(wanted, _)| wanted).collect();
    if !differ.is_empty() {
        changes.push(Change::Set(Box::new(declared.clone()), differ));
    }
    match (declared.kind, stored.kind) {
        (ClientKind::Public, ClientKind::Public) => {}
        (ClientKind::Confidential(wanted), ClientKind::Confidential(present)) => {
            if wanted.current != present.current {
                changes.push(Change::SetSecret(wanted.current));
            }
        }
        _ => return Err(DeclaredError::OtherKind(declared.id.clone())),
    }
    Ok(changes)
}

/// Returns the fields that can be changed, as they are in a file.
fn fields(client: &Client) -> [String; 12] {
    let list = |texts: &mut dyn Iterator<Item = &str>| {
        let mut list = String::new();
        for text in texts {
            let separator = if list.is_empty() { "" } else { ", " };
            let _ = write!(list, "{separator}{text:?}");
        }
        list
    };
    let uris = list(&mut client.redirect_uris.iter().map(String::as_str));
    let audiences = list(&mut client.audiences.iter().map(String::as_str));
    let logout = &client.logout;
    let logout_uris = list(&mut logout.redirect_uris.iter().map(String::as_str));
    // An empty text stands for none.
    let backchannel_uri = logout.backchannel_uri.as_deref().unwrap_or_default();
    [
        format!("name = {:?}", client.name),
        format!("redirect_uris = [{uris}]"),
        format!("scopes = [{}]", list(&mut client.scope.tokens())),
        format!("audiences = [{audiences}]"),
        format!("first_party = {}", client.is_first_party),
        format!("require_pkce = {}", client.require_pkce),
        format!("machine = {}", client.is_machine),
        format!("device = {}", client.is_device),
        format!("post_logout_redirect_uris = [{logout_uris}]"),
        format!("backchannel_logout_uri = {backchannel_uri:?}"),
        format!("keep_offline_access = {}", logout.keeps_offline_access),
        format!("grace_period = {:?}", describe_grace_period(client.grace_period)),
    ]
}

/// Applies a difference. Returns the number of sessions that ended.
pub fn apply(
    conn: &mut Conn,
    difference: Difference,
    policy: &Policy,
) -> Result<usize, DeclaredError> {
    let Difference { id, change } = difference;
    // Another server may apply the same file at the same time, so a change may find itself
    // done.
    match change {
        Change::Add(client) => clients::insert(conn, &client).map(drop)?,
        Change::Set(client, _) => clients::update(conn, &client).map(drop)?,
        Change::SetSecret(digest) => clients::replace_secret(conn, &id, &digest).map(drop)?,
        Change::Remove => {
            let now = clock::now();
            let client = ClientInfo::command_line();
            let cx = Context { policy, client: &client, event: EventId::new(now)?, now };
            return Ok(remove(conn, &id, &cx)?.ended);
        }
    }
    Ok(0)
}
